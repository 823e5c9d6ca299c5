//! GRPCRoute, gateway.networking.k8s.io/v1.
//!
//! A gRPC method is a path, `/<service>/<method>`, so matches of methods become matches of paths.

use schemars::JsonSchema;
use serde::Deserialize;

use super::filter::{GrpcFilter, RuleFilters};
use super::named_match::{NamedMatch, ValueType, first_of_each_name};
use super::reference::WeightedRef;
use super::request_route::{NamedRule, RequestRoute};
use super::rule::{BackendSpec, Precedence, RouteSpec, RuleSpec};
use super::session_persistence::SessionSpec;
use super::strict::at;
use super::value::{List, SectionName, Text, check_regex};
use crate::model::route::{PathMatch, RouteMatch, Timeouts, ValueMatch};

/// The `spec` of a GRPCRoute.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(try_from = "RequestRoute<Rule, 0>")]
#[schemars(with = "RequestRoute<Rule, 0>")]
pub(crate) struct GrpcRouteSpec(pub(crate) RouteSpec);

impl TryFrom<RequestRoute<Rule, 0>> for GrpcRouteSpec {
    type Error = String;

    fn try_from(wire: RequestRoute<Rule, 0>) -> Result<Self, String> {
        wire.into_spec(Vec::new).map(Self)
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "WireRule")]
#[schemars(with = "WireRule")]
struct Rule(NamedRule);

impl From<Rule> for NamedRule {
    fn from(Rule(rule): Rule) -> Self {
        rule
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireRule {
    name: Option<SectionName>,
    #[serde(default)]
    matches: List<Match, 0, 64>,
    #[serde(default)]
    filters: List<GrpcFilter, 0, 16>,
    #[serde(default)]
    backend_refs: List<WeightedRef<List<GrpcFilter, 0, 16>>, 0, 16>,
    session_persistence: Option<SessionSpec>,
}

impl TryFrom<WireRule> for Rule {
    type Error = String;

    fn try_from(wire: WireRule) -> Result<Self, String> {
        let WireRule { name, matches, filters, backend_refs, session_persistence } = wire;
        let mut matches: Vec<_> = matches.0.into_iter().map(|Match(rank, of)| (rank, of)).collect();
        let written_matches = matches.len();
        if matches.is_empty() {
            matches
                .push((Precedence::of_grpc(true, 0, 0, 0), grpc(PathMatch::Prefix("/".into()), Vec::new())));
        }
        let spec = RuleSpec {
            name: name.as_ref().map(|name| name.0.clone()),
            matches,
            filters: RuleFilters::of_rule(filters.0)?,
            backends: BackendSpec::all(backend_refs.0)?,
            timeouts: Timeouts::default(),
            retry: None,
            session_persistence: session_persistence.map(|SessionSpec(of)| of),
        };
        Ok(Self(NamedRule { name, written_matches, spec }))
    }
}

fn grpc(path: PathMatch, headers: Vec<ValueMatch>) -> RouteMatch {
    RouteMatch { path, method: None, headers, query: Vec::new(), grpc: true }
}

#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "WireMatch")]
#[schemars(with = "WireMatch")]
struct Match(Precedence, RouteMatch);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireMatch {
    method: Option<MethodMatch>,
    #[serde(default)]
    headers: List<NamedMatch<Text<4096>>, 0, 16>,
}

impl TryFrom<WireMatch> for Match {
    type Error = String;

    fn try_from(WireMatch { method, headers }: WireMatch) -> Result<Self, String> {
        let headers = first_of_each_name(headers)?;
        let every = || MethodMatch { exact: true, lengths: (0, 0), path: PathMatch::Prefix("/".into()) };
        let MethodMatch { exact, lengths: (service, method), path } = method.unwrap_or_else(every);
        Ok(Self(Precedence::of_grpc(exact, service, method, headers.len()), grpc(path, headers)))
    }
}

/// A match of service and method, as a path.
#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "WireMethodMatch")]
#[schemars(with = "WireMethodMatch")]
struct MethodMatch {
    exact: bool,
    lengths: (usize, usize),
    path: PathMatch,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireMethodMatch {
    #[serde(default)]
    r#type: ValueType,
    service: Option<String>,
    method: Option<String>,
}

impl TryFrom<WireMethodMatch> for MethodMatch {
    type Error = String;

    fn try_from(WireMethodMatch { r#type, service, method }: WireMethodMatch) -> Result<Self, String> {
        if [&service, &method].into_iter().flatten().any(|text| text.len() > 1024) {
            return Err("service or method is longer than 1024 bytes".into());
        }
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let lengths = (length(&service), length(&method));
        let exact = r#type == ValueType::Exact;
        let path = if exact { exact_path(service, method)? } else { regex_path(service, method)? };
        Ok(Self { exact, lengths, path })
    }
}

fn exact_path(service: Option<String>, method: Option<String>) -> Result<PathMatch, String> {
    if let Some(service) = &service
        && !service.strip_prefix('.').unwrap_or(service).split('.').all(is_identifier)
    {
        return Err(at("service", format_args!("{service:?} is not the name of a protobuf service")));
    }
    if let Some(method) = &method
        && !is_identifier(method)
    {
        return Err(at("method", format_args!("{method:?} is not the name of a protobuf method")));
    }
    Ok(match (service, method) {
        (Some(service), Some(method)) => PathMatch::Exact(format!("/{service}/{method}").into()),
        (Some(service), None) => PathMatch::Prefix(format!("/{service}").into()),
        // The name contains no special characters of regular expressions.
        (None, Some(method)) => PathMatch::Regex(format!("/[^/]+/{method}").into()),
        (None, None) => return Err("one or both of service and method must be specified".into()),
    })
}

fn regex_path(service: Option<String>, method: Option<String>) -> Result<PathMatch, String> {
    for (field, expression) in [("service", &service), ("method", &method)] {
        if let Some(expression) = expression {
            check_regex(expression).map_err(|reason| at(field, reason))?;
        }
    }
    if service.is_none() && method.is_none() {
        return Err("one or both of service and method must be specified".into());
    }
    let any = || "[^/]+".into();
    let (service, method) = (service.unwrap_or_else(any), method.unwrap_or_else(any));
    let path = format!("/(?:{service})/(?:{method})");
    check_regex(&path)?;
    Ok(PathMatch::Regex(path.into()))
}

fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_table;
    use super::*;

    const RULE: &str = "{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: a}, spec: {rules: [{@}]}}";

    #[test]
    fn a_rule_outside_the_crds_limits_is_refused() {
        let method = "spec.rules[0].matches[0].method";
        check_table(
            RULE,
            &[
                "",
                "matches: [{method: {service: shop.v1.Cart, method: Add}, headers: [{name: a, value: b}]}]",
                "matches: [{method: {type: RegularExpression, service: 'shop\\..*'}}, {}]",
                "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: b, port: 1}}}]",
            ],
            &[
                ("matches: [{method: {}}]", method, "one or both"),
                ("matches: [{method: {service: a/b}}]", &format!("{method}.service"), "\"a/b\""),
                ("matches: [{method: {method: a.b}}]", &format!("{method}.method"), "\"a.b\""),
                (
                    "matches: [{method: {type: RegularExpression, method: '('}}]",
                    &format!("{method}.method"),
                    "bad regular",
                ),
                ("matches: [{method: {type: RegularExpression}}]", method, "one or both"),
                ("matches: [{path: {}}]", "spec.rules[0].matches[0].path", "unknown field"),
                (
                    "matches: [{headers: [{name: a, value: ''}]}]",
                    "spec.rules[0].matches[0].headers[0].value",
                    "empty",
                ),
                (
                    "filters: [{type: URLRewrite, urlRewrite: {}}]",
                    "spec.rules[0].filters[0]",
                    "a GRPCRoute has no filter of this type",
                ),
                ("timeouts: {}", "spec.rules[0].timeouts", "unknown field"),
                (
                    "sessionPersistence: {type: Header}",
                    "spec.rules[0].sessionPersistence.sessionName",
                    "is required",
                ),
            ],
        );
    }

    #[test]
    fn a_method_is_a_path() {
        let path = |json: &str| serde_json::from_str::<MethodMatch>(json).unwrap().path;
        assert_eq!(path(r#"{"service": "a.B", "method": "C"}"#), PathMatch::Exact("/a.B/C".into()));
        assert_eq!(path(r#"{"service": "a.B"}"#), PathMatch::Prefix("/a.B".into()));
        assert_eq!(path(r#"{"method": "C"}"#), PathMatch::Regex("/[^/]+/C".into()));
        let regex = path(r#"{"type": "RegularExpression", "service": "a|b", "method": "C.*"}"#);
        assert_eq!(regex, PathMatch::Regex("/(?:a|b)/(?:C.*)".into()));
    }
}
