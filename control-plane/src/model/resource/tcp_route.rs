//! TCPRoute, gateway.networking.k8s.io/v1 (standard since 1.6) and v1alpha2.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::reference::{ParentRefs, WeightedRef};
use super::rule::{BackendSpec, RouteSpec, RuleSpec};
use super::value::{List, SectionName, Unsupported};
use crate::model::route::Filters;

/// The `spec` of a TCPRoute.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(from = "WireSpec")]
#[schemars(with = "WireSpec")]
pub(crate) struct TcpRouteSpec(pub(crate) RouteSpec);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireSpec {
    #[serde(default)]
    parent_refs: ParentRefs,
    rules: List<WireRule, 1, 1>,
    #[schemars(skip)]
    use_default_gateways: Option<Unsupported>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireRule {
    name: Option<SectionName>,
    backend_refs: List<WeightedRef<Unfiltered>, 1, 16>,
}

/// The field `filters`, which a backend of a TCPRoute does not have.
#[derive(Debug)]
struct Unfiltered;

impl JsonSchema for Unfiltered {
    fn schema_name() -> Cow<'static, str> {
        "Unfiltered".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "not": {} })
    }
}

impl<'de> Deserialize<'de> for Unfiltered {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("a TCPRoute has no filters"))
    }
}

impl From<WireSpec> for TcpRouteSpec {
    fn from(wire: WireSpec) -> Self {
        let WireSpec { parent_refs: parents, rules, use_default_gateways: None } = wire;
        let backend = |WeightedRef { reference, weight, filters: _ }| BackendSpec {
            reference,
            weight,
            filters: Filters::default(),
        };
        let rule = |rule: WireRule| RuleSpec {
            name: rule.name.map(|name| name.0),
            backends: rule.backend_refs.0.into_iter().map(backend).collect(),
            ..RuleSpec::default()
        };
        Self(RouteSpec { parents, rules: rules.0.into_iter().map(rule).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_table;

    #[test]
    fn a_tcp_route_has_one_rule_with_backends_and_no_filters() {
        check_table(
            "{apiVersion: gateway.networking.k8s.io/v1, kind: TCPRoute, metadata: {name: a}, spec: {@}}",
            &["rules: [{name: r, backendRefs: [{name: b, port: 1, weight: 3}]}]"],
            &[
                ("", "spec", "missing field `rules`"),
                ("rules: [{}]", "spec.rules[0]", "missing field `backendRefs`"),
                ("rules: [{backendRefs: []}]", "spec.rules[0].backendRefs", "0 items"),
                (
                    "rules: [{backendRefs: [{name: b, port: 1}]}, {backendRefs: [{name: b, port: 1}]}]",
                    "spec.rules",
                    "2 items",
                ),
                (
                    "rules: [{backendRefs: [{name: b, port: 1, filters: []}]}]",
                    "spec.rules[0].backendRefs[0].filters",
                    "no filters",
                ),
                (
                    "rules: [{backendRefs: [{name: b, port: 1}], matches: []}]",
                    "spec.rules[0].matches",
                    "unknown field",
                ),
            ],
        );
    }
}
