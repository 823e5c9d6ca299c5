//! HTTPRoute, gateway.networking.k8s.io/v1 and v1beta1: the standard channel of 1.6, plus experimental `retry`.

use outrigger_core::Name;
use serde::Deserialize;

use super::filter::{HttpFilter, RuleFilters, refuse_repeated};
use super::reference::{ParentRefs, WeightedRef};
use super::rule::{BackendSpec, Precedence, RouteSpec, RuleSpec};
use super::value::{
    GepDuration, HeaderName, HeaderValue, Hostname, Integer, List, SectionName, Unsupported, check_regex,
};
use crate::model::route::{PathMatch, PathRewrite, Retry, RouteMatch, Timeouts, ValueMatch, ValuePattern};

/// The `spec` of an HTTPRoute.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "WireSpec")]
pub(crate) struct HttpRouteSpec(pub(crate) RouteSpec);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireSpec {
    #[serde(default)]
    parent_refs: ParentRefs,
    /// Checked and not used: GEP-1294 forbids a mesh to infer anything from it.
    #[serde(default)]
    hostnames: List<Hostname, 0, 16>,
    rules: Option<List<Rule, 1, 16>>,
    use_default_gateways: Option<Unsupported>,
}

impl TryFrom<WireSpec> for HttpRouteSpec {
    type Error = String;

    fn try_from(wire: WireSpec) -> Result<Self, String> {
        let WireSpec { parent_refs: parents, hostnames: _, rules, use_default_gateways: None } = wire;
        let default =
            || vec![Rule { name: None, spec: RuleSpec { matches: every_path(), ..RuleSpec::default() } }];
        let rules = rules.map_or_else(default, |List(rules)| rules);
        check_rules(rules.iter().map(|rule| (&rule.name, &rule.spec)))?;
        Ok(Self(RouteSpec { parents, rules: rules.into_iter().map(|rule| rule.spec).collect() }))
    }
}

/// What holds across the rules of one route: names once, and at most 128 matches.
pub(super) fn check_rules<'a>(
    rules: impl Iterator<Item = (&'a Option<SectionName>, &'a RuleSpec)> + Clone,
) -> Result<(), String> {
    refuse_repeated(rules.clone().filter_map(|(name, _)| name.as_ref().map(|name| &name.0)))
        .map_err(|reason| format!("rules: name {reason}"))?;
    let matches: usize = rules.map(|(_, rule)| rule.matches.len()).sum();
    if matches > 128 {
        return Err(format!("rules: {matches} matches are more than 128"));
    }
    Ok(())
}

fn every_path() -> Vec<(Precedence, RouteMatch)> {
    let every = RouteMatch {
        path: PathMatch::Prefix("/".into()),
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
        grpc: false,
    };
    vec![(Precedence::of_http(&every), every)]
}

#[derive(Deserialize)]
#[serde(try_from = "WireRule")]
struct Rule {
    name: Option<SectionName>,
    spec: RuleSpec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireRule {
    name: Option<SectionName>,
    #[serde(default)]
    matches: List<Match, 0, 64>,
    #[serde(default)]
    filters: List<HttpFilter, 0, 16>,
    #[serde(default)]
    backend_refs: List<WeightedRef<HttpFilter>, 0, 16>,
    timeouts: Option<RuleTimeouts>,
    retry: Option<RuleRetry>,
    session_persistence: Option<Unsupported>,
}

impl TryFrom<WireRule> for Rule {
    type Error = String;

    fn try_from(wire: WireRule) -> Result<Self, String> {
        let WireRule { name, matches, filters, backend_refs, timeouts, retry, session_persistence: None } =
            wire;
        let mut matches: Vec<_> =
            matches.0.into_iter().map(|Match(of)| (Precedence::of_http(&of), of)).collect();
        if matches.is_empty() {
            matches = every_path();
        }
        let filters = RuleFilters::of_rule(filters.0)?;
        if filters.redirect.is_some() && !backend_refs.0.is_empty() {
            return Err("filters: RequestRedirect excludes backendRefs".into());
        }
        let redirected = filters.redirect.as_ref().and_then(|redirect| redirect.path.as_ref());
        let rewritten = filters.plain.rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref());
        if let Some(PathRewrite::Prefix(_)) = redirected.or(rewritten)
            && !matches!(&matches[..], [(_, RouteMatch { path: PathMatch::Prefix(_), .. })])
        {
            return Err("filters: ReplacePrefixMatch needs exactly one match, of type PathPrefix".into());
        }
        let spec = RuleSpec {
            matches,
            filters,
            backends: BackendSpec::all(backend_refs.0)?,
            timeouts: timeouts.map_or_else(Timeouts::default, |timeouts| timeouts.0),
            retry: retry.map(|retry| retry.0),
        };
        Ok(Self { name, spec })
    }
}

#[derive(Deserialize)]
#[serde(try_from = "WireMatch")]
struct Match(RouteMatch);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireMatch {
    path: Option<Path>,
    method: Option<Method>,
    #[serde(default)]
    headers: List<HeaderMatch, 0, 16>,
    #[serde(default)]
    query_params: List<QueryMatch, 0, 16>,
}

impl TryFrom<WireMatch> for Match {
    type Error = String;

    fn try_from(WireMatch { path, method, headers, query_params }: WireMatch) -> Result<Self, String> {
        let headers = headers.0.into_iter().map(|header| header.0).collect();
        let query: Vec<_> = query_params.0.into_iter().map(|param| param.0).collect();
        refuse_repeated(query.iter().map(|param| &param.name)).map_err(|e| format!("queryParams: {e}"))?;
        Ok(Self(RouteMatch {
            path: path.map_or_else(|| PathMatch::Prefix("/".into()), |Path(path)| path),
            method: method.map(Method::into),
            headers: first_of_each_name(headers)?,
            query,
            grpc: false,
        }))
    }
}

/// Refuses a header named twice as the CRD does. Names that differ in case alone are one header, and "only the first
/// entry with an equivalent name MUST be considered for a match" (`HTTPHeaderMatch.name`).
pub(super) fn first_of_each_name(headers: Vec<ValueMatch>) -> Result<Vec<ValueMatch>, String> {
    refuse_repeated(headers.iter().map(|header| &header.name)).map_err(|e| format!("headers: {e}"))?;
    let mut all: Vec<ValueMatch> = Vec::new();
    for header in headers {
        let name: Name = header.name.to_ascii_lowercase().into();
        if all.iter().all(|other| other.name != name) {
            all.push(ValueMatch { name, value: header.value });
        }
    }
    Ok(all)
}

#[derive(Deserialize)]
#[serde(try_from = "WirePath")]
struct Path(PathMatch);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WirePath {
    #[serde(default)]
    r#type: PathType,
    value: Option<String>,
}

#[derive(Default, Deserialize)]
enum PathType {
    Exact,
    #[default]
    PathPrefix,
    RegularExpression,
}

impl TryFrom<WirePath> for Path {
    type Error = String;

    fn try_from(WirePath { r#type, value }: WirePath) -> Result<Self, String> {
        let value = value.unwrap_or_else(|| "/".into());
        if value.len() > 1024 {
            return Err("value is longer than 1024 bytes".into());
        }
        if let PathType::RegularExpression = r#type {
            check_regex(&value)?;
            return Ok(Self(PathMatch::Regex(value.into())));
        }
        check_path(&value)?;
        Ok(Self(match r#type {
            PathType::Exact => PathMatch::Exact(value.into()),
            // "/a/" and "/a" are one prefix: "a trailing slash is ignored" (`HTTPPathMatch`).
            _ => PathMatch::Prefix(match value.trim_end_matches('/') {
                "" => "/".into(),
                prefix => prefix.into(),
            }),
        }))
    }
}

/// The CRD's rules for a path that is no expression: absolute, of path characters, already normal.
fn check_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err(format!("value {path:?} does not start with '/'"));
    }
    for part in ["//", "/./", "/../", "%2f", "%2F", "#"] {
        if path.contains(part) {
            return Err(format!("value {path:?} contains {part:?}"));
        }
    }
    if path.ends_with("/..") || path.ends_with("/.") {
        return Err(format!("value {path:?} ends with a dot segment"));
    }
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let hex = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_hexdigit());
        let legal = match byte {
            b'%' => hex(bytes.next()) && hex(bytes.next()),
            byte => byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&byte),
        };
        if !legal {
            return Err(format!("value {path:?} has a character that a path cannot have"));
        }
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
}

impl From<Method> for http::Method {
    fn from(method: Method) -> Self {
        match method {
            Method::Get => Self::GET,
            Method::Head => Self::HEAD,
            Method::Post => Self::POST,
            Method::Put => Self::PUT,
            Method::Delete => Self::DELETE,
            Method::Connect => Self::CONNECT,
            Method::Options => Self::OPTIONS,
            Method::Trace => Self::TRACE,
            Method::Patch => Self::PATCH,
        }
    }
}

/// How the values of headers, parameters and gRPC methods are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
pub(super) enum ValueType {
    #[default]
    Exact,
    RegularExpression,
}

impl ValueType {
    /// Makes the pattern; fails on an expression that does not compile.
    pub(super) fn pattern(self, value: Name) -> Result<ValuePattern, String> {
        Ok(match self {
            Self::Exact => ValuePattern::Exact(value),
            Self::RegularExpression => {
                check_regex(&value).map_err(|error| format!("value: {error}"))?;
                ValuePattern::Regex(value)
            }
        })
    }
}

#[derive(Deserialize)]
#[serde(try_from = "WireHeaderMatch")]
struct HeaderMatch(ValueMatch);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireHeaderMatch {
    #[serde(default)]
    r#type: ValueType,
    name: HeaderName,
    value: HeaderValue,
}

impl TryFrom<WireHeaderMatch> for HeaderMatch {
    type Error = String;

    fn try_from(WireHeaderMatch { r#type, name, value }: WireHeaderMatch) -> Result<Self, String> {
        Ok(Self(ValueMatch { name: name.0, value: r#type.pattern(value.0)? }))
    }
}

#[derive(Deserialize)]
#[serde(try_from = "WireQueryMatch")]
struct QueryMatch(ValueMatch);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireQueryMatch {
    #[serde(default)]
    r#type: ValueType,
    name: HeaderName,
    value: String,
}

impl TryFrom<WireQueryMatch> for QueryMatch {
    type Error = String;

    fn try_from(WireQueryMatch { r#type, name, value }: WireQueryMatch) -> Result<Self, String> {
        if !matches!(value.len(), 1..=1024) {
            return Err("value is empty or longer than 1024 bytes".into());
        }
        Ok(Self(ValueMatch { name: name.0, value: r#type.pattern(value.into())? }))
    }
}

#[derive(Deserialize)]
#[serde(try_from = "WireTimeouts")]
struct RuleTimeouts(Timeouts);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireTimeouts {
    request: Option<GepDuration>,
    backend_request: Option<GepDuration>,
}

impl TryFrom<WireTimeouts> for RuleTimeouts {
    type Error = &'static str;

    fn try_from(WireTimeouts { request, backend_request }: WireTimeouts) -> Result<Self, Self::Error> {
        if let (Some(request), Some(backend)) = (request, backend_request)
            && !request.0.is_zero()
            && backend > request
        {
            return Err("backendRequest is longer than request");
        }
        Ok(Self(Timeouts {
            request: request.map(|time| time.0),
            backend_request: backend_request.map(|time| time.0),
        }))
    }
}

#[derive(Deserialize)]
#[serde(try_from = "WireRetry")]
struct RuleRetry(Retry);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireRetry {
    #[serde(default)]
    codes: Vec<Integer<400, 599>>,
    attempts: Option<Integer<1, { u32::MAX as i64 }>>,
    backoff: Option<GepDuration>,
}

impl TryFrom<WireRetry> for RuleRetry {
    type Error = String;

    fn try_from(WireRetry { codes, attempts, backoff }: WireRetry) -> Result<Self, String> {
        let mut all: Vec<u16> = codes.iter().filter_map(|code| u16::try_from(code.0).ok()).collect();
        all.sort_unstable();
        if let Some(pair) = all.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("codes: {} is there twice", pair[0]));
        }
        let attempts = attempts.map(Integer::as_u32);
        Ok(Self(Retry { codes: all, attempts, backoff: backoff.map(|time| time.0) }))
    }
}
