//! The wire format that HTTPRoute and GRPCRoute share: parents, hostnames, and rules that may have names.

use schemars::JsonSchema;
use serde::Deserialize;

use super::reference::ParentRefs;
use super::rule::{RouteSpec, RuleSpec};
use super::strict::at;
use super::value::{Hostname, List, SectionName, Unsupported, refuse_repeated};

/// The `spec`, with rules of type `R`. A list of rules has at least `MIN`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", bound = "R: Deserialize<'de>")]
#[schemars(bound = "R: JsonSchema")]
pub(super) struct RequestRoute<R, const MIN: usize> {
    #[serde(default)]
    parent_refs: ParentRefs,
    /// Validated and ignored: GEP-1294 forbids a mesh to infer anything from it.
    #[serde(default, rename = "hostnames")]
    _hostnames: List<Hostname, 0, 16>,
    rules: Option<List<R, MIN, 16>>,
    #[schemars(skip)]
    use_default_gateways: Option<Unsupported>,
}

/// A rule with its name, to which policies attach.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NamedRule {
    pub(super) name: Option<SectionName>,
    /// The number of matches that count towards the CRD's limit: with the CRD's defaults, without ours.
    pub(super) written_matches: usize,
    pub(super) spec: RuleSpec,
}

impl<R: Into<NamedRule>, const MIN: usize> RequestRoute<R, MIN> {
    /// Returns the route, with the rules `default` if it has none. Returns an error for a duplicate name and for more than 128
    /// matches, as the CRDs do.
    pub(super) fn into_spec(self, default: impl FnOnce() -> Vec<RuleSpec>) -> Result<RouteSpec, String> {
        let Self { parent_refs: parents, _hostnames: _, rules, use_default_gateways: None } = self;
        let Some(List(rules)) = rules else { return Ok(RouteSpec { parents, rules: default() }) };
        let rules: Vec<NamedRule> = rules.into_iter().map(R::into).collect();
        refuse_repeated(rules.iter().filter_map(|rule| rule.name.as_ref().map(|name| &name.0)))
            .map_err(|reason| at("rules", format_args!("name {reason}")))?;
        let matches: usize = rules.iter().map(|rule| rule.written_matches).sum();
        if matches > 128 {
            return Err(at("rules", format_args!("{matches} matches are more than 128")));
        }
        Ok(RouteSpec { parents, rules: rules.into_iter().map(|rule| rule.spec).collect() })
    }
}
