//! HTTPRoute, gateway.networking.k8s.io/v1 and v1beta1: the standard channel of 1.6, plus experimental `retry`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::filter::{HttpFilter, RuleFilters};
use super::http_match::{HttpMatch, every_path};
use super::reference::WeightedRef;
use super::request_route::{NamedRule, RequestRoute};
use super::rule::{BackendSpec, Precedence, RouteSpec, RuleSpec};
use super::session_persistence::SessionSpec;
use super::strict::at;
use super::value::{GepDuration, Integer, List, SectionName};
use crate::model::route::{PathMatch, PathRewrite, Retry, RouteMatch, Timeouts};

/// The `spec` of an HTTPRoute.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(try_from = "RequestRoute<Rule, 1>")]
#[schemars(with = "RequestRoute<Rule, 1>")]
pub(crate) struct HttpRouteSpec(pub(crate) RouteSpec);

impl TryFrom<RequestRoute<Rule, 1>> for HttpRouteSpec {
    type Error = String;

    fn try_from(wire: RequestRoute<Rule, 1>) -> Result<Self, String> {
        let default = || vec![RuleSpec { matches: vec![ranked(every_path())], ..RuleSpec::default() }];
        wire.into_spec(default).map(Self)
    }
}

fn ranked(of: RouteMatch) -> (Precedence, RouteMatch) {
    (Precedence::of_http(&of), of)
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
    matches: Option<List<HttpMatch, 0, 64>>,
    #[serde(default)]
    filters: List<HttpFilter, 0, 16>,
    #[serde(default)]
    backend_refs: List<WeightedRef<List<HttpFilter, 0, 16>>, 0, 16>,
    timeouts: Option<RuleTimeouts>,
    retry: Option<RuleRetry>,
    session_persistence: Option<SessionSpec>,
}

impl TryFrom<WireRule> for Rule {
    type Error = String;

    fn try_from(wire: WireRule) -> Result<Self, String> {
        let WireRule { name, matches, filters, backend_refs, timeouts, retry, session_persistence } = wire;
        // The CRD's default is one match of every path. An explicit empty list matches every path too.
        let List(given) = matches.unwrap_or_else(|| List(vec![HttpMatch(every_path())]));
        let mut matches: Vec<_> = given.into_iter().map(|HttpMatch(of)| ranked(of)).collect();
        let written_matches = matches.len();
        let filters = RuleFilters::of_rule(filters.0)?;
        if filters.redirect.is_some() && !backend_refs.0.is_empty() {
            return Err(at("filters", "RequestRedirect excludes backendRefs"));
        }
        let redirected = filters.redirect.as_ref().and_then(|redirect| redirect.path.as_ref());
        let rewritten = filters.plain.rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref());
        if let Some(PathRewrite::Prefix(_)) = redirected.or(rewritten)
            && !matches!(&matches[..], [(_, RouteMatch { path: PathMatch::Prefix(_), .. })])
        {
            return Err(at("filters", "ReplacePrefixMatch needs exactly one match, of type PathPrefix"));
        }
        if matches.is_empty() {
            matches.push(ranked(every_path()));
        }
        let spec = RuleSpec {
            name: name.as_ref().map(|name| name.0.clone()),
            matches,
            filters,
            backends: BackendSpec::all(backend_refs.0)?,
            timeouts: timeouts.map_or_else(Timeouts::default, |timeouts| timeouts.0),
            retry: retry.map(|retry| retry.0),
            session_persistence: session_persistence.map(|SessionSpec(of)| of),
        };
        Ok(Self(NamedRule { name, written_matches, spec }))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "WireTimeouts")]
#[schemars(with = "WireTimeouts")]
struct RuleTimeouts(Timeouts);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireTimeouts {
    request: Option<GepDuration>,
    backend_request: Option<GepDuration>,
}

impl TryFrom<WireTimeouts> for RuleTimeouts {
    type Error = String;

    fn try_from(WireTimeouts { request, backend_request }: WireTimeouts) -> Result<Self, Self::Error> {
        if let (Some(request), Some(backend)) = (request, backend_request)
            && !request.0.is_zero()
            && backend > request
        {
            return Err(at("backendRequest", "is longer than request"));
        }
        Ok(Self(Timeouts {
            request: request.map(|time| time.0),
            backend_request: backend_request.map(|time| time.0),
        }))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "WireRetry")]
#[schemars(with = "WireRetry")]
struct RuleRetry(Retry);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireRetry {
    #[serde(default)]
    codes: Vec<Integer<400, 599>>,
    /// 0 turns the mesh's default retries off. The CRD's minimum is 1, with which they cannot be turned off.
    attempts: Option<Integer<0, { i32::MAX as i64 }>>,
    backoff: Option<GepDuration>,
}

impl TryFrom<WireRetry> for RuleRetry {
    type Error = String;

    fn try_from(WireRetry { codes, attempts, backoff }: WireRetry) -> Result<Self, String> {
        let mut all: Vec<u16> = codes.iter().filter_map(|code| u16::try_from(code.0).ok()).collect();
        all.sort_unstable();
        if let Some(pair) = all.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(at("codes", format_args!("{} is duplicated", pair[0])));
        }
        let attempts = attempts.map(Integer::as_u32);
        Ok(Self(Retry { codes: all, attempts, backoff: backoff.map(|time| time.0) }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_table;

    const ROUTE: &str =
        "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a}, spec: {@}}";
    const RULE: &str = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a}, spec: {rules: [{@}]}}";

    #[test]
    fn a_route_outside_the_crds_limits_is_refused() {
        let parent = "group: '', kind: Service, name: b";
        let many_matches =
            format!("rules: [{}]", vec!["{matches: [{},{},{},{},{},{},{},{},{}]}"; 15].join(","));
        check_table(
            ROUTE,
            &[
                "parentRefs: [], hostnames: ['*.example.com']",
                "parentRefs: [{group: '', kind: Service, name: b, port: 80}, {group: '', kind: Service, name: b, port: 81}]",
                "parentRefs: [{name: gateway}]",
            ],
            &[
                ("parentRefs: [{}]", "spec.parentRefs[0]", "missing field `name`"),
                ("parentRefs: [{name: b, prot: 80}]", "spec.parentRefs[0].prot", "unknown field"),
                ("parentRefs: [{name: b, port: 0}]", "spec.parentRefs[0].port", "not between"),
                ("parentRefs: [{name: b, kind: 1b}]", "spec.parentRefs[0].kind", "not a kind"),
                ("parentRefs: [{name: b, namespace: B}]", "spec.parentRefs[0].namespace", "DNS label"),
                ("parentRefs: [{name: b, sectionName: B}]", "spec.parentRefs[0].sectionName", "subdomain"),
                (
                    &format!("parentRefs: [{{{parent}}}, {{{parent}}}]"),
                    "spec.parentRefs",
                    "two references to b",
                ),
                (
                    &format!("parentRefs: [{{{parent}}}, {{{parent}, port: 80}}]"),
                    "spec.parentRefs",
                    "all references to b or in none",
                ),
                ("hostnames: [A]", "spec.hostnames[0]", "not a host name"),
                ("useDefaultGateways: All", "spec.useDefaultGateways", "not supported yet"),
                ("rules: []", "spec.rules", "0 items"),
                ("rules: [{name: a}, {name: a}]", "spec.rules", "duplicated"),
                (&many_matches, "spec.rules", "135 matches are more than 128"),
                ("rules: {}", "spec.rules", "invalid type"),
                ("rulez: []", "spec.rulez", "unknown field"),
            ],
        );
    }

    #[test]
    fn a_rule_outside_the_crds_limits_is_refused() {
        check_table(
            RULE,
            &[
                "",
                "backendRefs: [{name: b, port: 80, weight: 0}, {group: g.io, kind: K, name: c}]",
                "timeouts: {request: 10s, backendRequest: 2s}, retry: {codes: [500, 503], attempts: 3, backoff: 100ms}",
                "timeouts: {request: 0s, backendRequest: 2s}, retry: {attempts: 0}",
                "name: first, matches: [{path: {value: /a}}], filters:
                   [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]",
            ],
            &[
                ("backendRefs: [{name: b}]", "spec.rules[0].backendRefs[0]", "port is required"),
                ("backendRefs: [{port: 1}]", "spec.rules[0].backendRefs[0]", "missing field `name`"),
                ("backendRefs: [{name: b, port: x}]", "spec.rules[0].backendRefs[0].port", "invalid type"),
                ("backendRefs: [{name: b, port: 1, weight: -1}]", "spec.rules[0].backendRefs[0].weight", "between"),
                ("backendRefs: [{name: b, port: 1, wait: 1}]", "spec.rules[0].backendRefs[0].wait", "unknown field"),
                ("timeouts: {request: 10}", "spec.rules[0].timeouts.request", "invalid type"),
                ("timeouts: {request: 1.5s}", "spec.rules[0].timeouts.request", "GEP-2257"),
                ("timeouts: {request: 1s, backendRequest: 2s}", "spec.rules[0].timeouts.backendRequest", "longer than"),
                ("retry: {codes: [399]}", "spec.rules[0].retry.codes[0]", "not between"),
                ("retry: {codes: [500, 500]}", "spec.rules[0].retry.codes", "duplicated"),
                ("retry: {attempts: -1}", "spec.rules[0].retry.attempts", "not between"),
                ("retry: {backoff: soon}", "spec.rules[0].retry.backoff", "not a duration"),
                ("sessionPersistence: {idleTimeout: 1s}", "spec.rules[0].sessionPersistence.idleTimeout", "not supported yet"),
                (
                    "backendRefs: [{name: b, port: 1}], filters: [{type: RequestRedirect, requestRedirect: {}}]",
                    "spec.rules[0].filters",
                    "excludes backendRefs",
                ),
                (
                    "matches: [{path: {type: Exact, value: /a}}], filters:
                       [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]",
                    "spec.rules[0].filters",
                    "exactly one match",
                ),
            ],
        );
    }
}
