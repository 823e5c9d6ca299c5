//! The RequestMirror filter of HTTPRoute and GRPCRoute (GEP-3171 for its share).

use outrigger_core::percentage::Percentage;
use schemars::JsonSchema;
use serde::Deserialize;

use super::reference::BackendRef;
use super::strict::at;
use super::value::Integer;

/// A mirror whose backend is not resolved yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MirrorSpec {
    pub(crate) backend: BackendRef,
    pub(crate) share: Percentage,
}

/// The fields of a mirror, checked.
#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "Fields")]
#[schemars(with = "Fields")]
pub(super) struct WireMirror(pub(super) MirrorSpec);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Fields {
    backend_ref: BackendRef,
    percent: Option<Integer<0, 100>>,
    fraction: Option<Fraction>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fraction {
    numerator: Integer<0, { i32::MAX as i64 }>,
    denominator: Option<Integer<1, { i32::MAX as i64 }>>,
}

impl TryFrom<Fields> for WireMirror {
    type Error = String;

    fn try_from(wire: Fields) -> Result<Self, String> {
        let Fields { backend_ref: backend, percent, fraction } = wire;
        let (part, whole) = match (percent, fraction) {
            (Some(_), Some(_)) => return Err("percent and fraction exclude each other".into()),
            (Some(Integer(percent)), None) => (percent, 100),
            (None, Some(Fraction { numerator, denominator })) => {
                (numerator.0, denominator.map_or(100, |denominator| denominator.0))
            }
            (None, None) => (1, 1),
        };
        if part > whole {
            return Err(at("fraction", "the numerator is greater than the denominator"));
        }
        // Rounded to the nearest millionth.
        let millionths = (part * 1_000_000 + whole / 2) / whole;
        let share = u32::try_from(millionths).ok().and_then(|parts| Percentage::from_millionths(parts).ok());
        Ok(Self(MirrorSpec { backend, share: share.unwrap_or(Percentage::ALL) }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_table;
    use super::*;

    #[test]
    fn a_mirror_outside_the_crds_limits_is_refused() {
        let at = |field: &str| format!("spec.rules[0].filters[0].requestMirror{field}");
        let to = "backendRef: {name: b, port: 1}";
        check_table(
            "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a}, spec: {rules: [
                {filters: [{type: RequestMirror, requestMirror: {@}}]}]}}",
            &[to, &format!("{to}, fraction: {{numerator: 1, denominator: 3}}")],
            &[
                ("", &at(""), "missing field `backendRef`"),
                (&format!("{to}, percent: 101"), &at(".percent"), "not between"),
                (&format!("{to}, percent: 1, fraction: {{numerator: 1}}"), &at(""), "exclude"),
                (&format!("{to}, fraction: {{numerator: 101}}"), &at(".fraction"), "greater"),
                (
                    &format!("{to}, fraction: {{numerator: 1, denominator: 0}}"),
                    &at(".fraction.denominator"),
                    "not between",
                ),
            ],
        );
    }

    #[test]
    fn a_share_is_exact_to_one_in_a_million() {
        let share = |json: &str| {
            let json = format!(r#"{{"backendRef": {{"name": "b", "port": 1}}{json}}}"#);
            serde_json::from_str::<WireMirror>(&json).unwrap().0.share.millionths()
        };
        assert_eq!(share(""), 1_000_000);
        assert_eq!(share(r#", "percent": 7"#), 70_000);
        assert_eq!(share(r#", "fraction": {"numerator": 2, "denominator": 3}"#), 666_667);
    }
}
