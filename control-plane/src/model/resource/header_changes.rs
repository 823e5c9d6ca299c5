//! The RequestHeaderModifier and ResponseHeaderModifier filters, of rules and of backends.

use outrigger_core::Name;
use schemars::JsonSchema;
use serde::Deserialize;

use super::strict::at;
use super::value::{HeaderName, HeaderValue, List, refuse_repeated};
use crate::model::route::HeaderChanges;

/// The fields of a modifier, checked.
#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "Fields")]
#[schemars(with = "Fields")]
pub(super) struct WireHeaderChanges(pub(super) HeaderChanges);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    set: NamedValues,
    #[serde(default)]
    add: NamedValues,
    #[serde(default)]
    remove: List<HeaderName, 0, 16>,
}

impl TryFrom<Fields> for WireHeaderChanges {
    type Error = String;

    fn try_from(Fields { set, add, remove }: Fields) -> Result<Self, String> {
        refuse_repeated(remove.0.iter().map(|name| &name.0)).map_err(|reason| at("remove", reason))?;
        let remove: Vec<_> = remove.0.iter().map(HeaderName::lower).collect();
        for (field, name) in [("set", &set.0), ("add", &add.0)]
            .into_iter()
            .flat_map(|(field, all)| all.iter().map(move |(name, _)| (field, name)))
            .chain(remove.iter().map(|name| ("remove", name)))
        {
            if NOT_MODIFIABLE.contains(&&**name) {
                return Err(at(field, format_args!("{name:?} may not be changed by a header modifier")));
            }
        }
        Ok(Self(HeaderChanges { set: set.0, add: add.0, remove }))
    }
}

/// Headers that frame a message, belong to one connection, or name the destination (which URLRewrite changes). The data plane
/// rejects a route that changes them, and with it all routes of the service, so they are refused here.
pub(super) const NOT_MODIFIABLE: [&str; 9] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "upgrade",
    "trailer",
    "keep-alive",
    "proxy-connection",
    "http2-settings",
];

/// Headers with one value each. The CRD refuses duplicate names. Names that differ only in case are one header, of which the
/// first counts (`HTTPHeaderFilter.set`).
#[derive(Default, Deserialize, JsonSchema)]
#[serde(try_from = "List<WireNamedValue, 0, 16>")]
#[schemars(with = "List<WireNamedValue, 0, 16>")]
struct NamedValues(Vec<(Name, Name)>);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireNamedValue {
    name: HeaderName,
    value: HeaderValue,
}

impl TryFrom<List<WireNamedValue, 0, 16>> for NamedValues {
    type Error = String;

    fn try_from(List(wire): List<WireNamedValue, 0, 16>) -> Result<Self, String> {
        refuse_repeated(wire.iter().map(|item| &item.name.0))?;
        let mut all: Vec<(Name, Name)> = Vec::new();
        for WireNamedValue { name, value } in wire {
            if all.iter().all(|(other, _)| *other != name.lower()) {
                all.push((name.lower(), value.0));
            }
        }
        Ok(Self(all))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_table;

    #[test]
    fn changes_outside_the_crds_limits_are_refused() {
        let at = |field: &str| format!("spec.rules[0].filters[0].requestHeaderModifier.{field}");
        check_table(
            "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a}, spec: {rules: [
                {filters: [{type: RequestHeaderModifier, requestHeaderModifier: {@}}]}]}}",
            &["set: [{name: a, value: b}], add: [{name: A, value: c}], remove: [d]"],
            &[
                ("set: [{name: a, value: b}, {name: a, value: c}]", &at("set"), "duplicated"),
                ("add: [{name: a, value: ''}]", &at("add[0].value"), "not a header value"),
                ("remove: ['a:b']", &at("remove[0]"), "not a header name"),
                ("remove: [a, a]", &at("remove"), "\"a\" is duplicated"),
                ("set: [{name: Host, value: b}]", &at("set"), "\"host\" may not be changed"),
                ("remove: [Transfer-Encoding]", &at("remove"), "\"transfer-encoding\" may not be changed"),
            ],
        );
    }
}
