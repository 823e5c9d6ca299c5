//! The CORS filter of HTTPRoute (GEP-1767).

use std::time::Duration;

use outrigger_core::Name;
use schemars::JsonSchema;
use serde::Deserialize;

use super::strict::at;
use super::value::{HeaderName, Integer, List, refuse_repeated};
use crate::model::route::Cors;

/// The filter's fields, checked.
#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "WireCorsFields")]
#[schemars(with = "WireCorsFields")]
pub(super) struct WireCors(pub(super) Cors);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireCorsFields {
    #[serde(default)]
    allow_origins: List<Origin, 0, 64>,
    #[serde(default)]
    allow_credentials: bool,
    #[serde(default)]
    allow_methods: List<CorsMethod, 0, 9>,
    #[serde(default)]
    allow_headers: List<HeaderName, 0, 64>,
    #[serde(default)]
    expose_headers: List<HeaderName, 0, 64>,
    max_age: Option<Integer<1, { i32::MAX as i64 }>>,
}

impl TryFrom<WireCorsFields> for WireCors {
    type Error = String;

    fn try_from(wire: WireCorsFields) -> Result<Self, String> {
        let WireCorsFields {
            allow_origins,
            allow_credentials,
            allow_methods,
            allow_headers,
            expose_headers,
            max_age,
        } = wire;
        let cors = Cors {
            allow_origins: allow_origins.0.into_iter().map(|origin| origin.0).collect(),
            allow_credentials,
            allow_methods: allow_methods.0.into_iter().map(|method| method.0).collect(),
            allow_headers: allow_headers.0.into_iter().map(|header| header.0).collect(),
            expose_headers: expose_headers.0.into_iter().map(|header| header.0).collect(),
            max_age: Duration::from_secs(max_age.map_or(5, |age| u64::from(age.as_u32()))),
        };
        for (field, values, alone) in [
            ("allowOrigins", &cors.allow_origins, true),
            ("allowMethods", &cors.allow_methods, true),
            ("allowHeaders", &cors.allow_headers, true),
            ("exposeHeaders", &cors.expose_headers, false),
        ] {
            refuse_repeated(values.iter()).map_err(|reason| at(field, reason))?;
            if alone && values.len() > 1 && values.iter().any(|value| &**value == "*") {
                return Err(at(field, "'*' excludes every other value"));
            }
        }
        Ok(Self(cors))
    }
}

/// `*`, or `http(s)://` with a host that may begin with `*.`, or be `*`, and a port.
#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
struct Origin(Name);

impl TryFrom<String> for Origin {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text != "*" && (text.len() > 253 || !is_origin(&text)) {
            return Err(format!("{text:?} is not an origin such as https://*.example.com:8443"));
        }
        Ok(Self(text.into()))
    }
}

fn is_origin(text: &str) -> bool {
    let Some(host) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) else {
        return false;
    };
    let (host, port) = host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port)));
    let label = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let digits = |port: &str| matches!(port.len(), 1..=5) && port.bytes().all(|b| b.is_ascii_digit());
    (host == "*" || host.strip_prefix("*.").unwrap_or(host).split('.').all(label)) && port.is_none_or(digits)
}

#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
struct CorsMethod(Name);

impl TryFrom<String> for CorsMethod {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "*"];
        if !known.contains(&text.as_str()) {
            return Err(format!("{text:?} is none of {}", known.join(", ")));
        }
        Ok(Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_table;

    #[test]
    fn cors_outside_the_crds_limits_is_refused() {
        let cors = |field: &str| format!("spec.rules[0].filters[0].cors{field}");
        check_table(
            "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a},
              spec: {rules: [{filters: [{type: CORS, cors: {@}}]}]}}",
            &[
                "",
                "allowOrigins: ['*'], allowMethods: ['*'], allowHeaders: ['*'], exposeHeaders: ['*', a]",
                "allowOrigins: ['https://*.example.com:8443', 'http://*'], allowCredentials: true, maxAge: 60",
            ],
            &[
                ("allowOrigins: ['*', 'http://a']", &cors(".allowOrigins"), "'*' excludes"),
                ("allowOrigins: [example.com]", &cors(".allowOrigins[0]"), "not an origin"),
                ("allowOrigins: ['http://a/b']", &cors(".allowOrigins[0]"), "not an origin"),
                ("allowOrigins: ['http://a', 'http://a']", &cors(".allowOrigins"), "duplicated"),
                ("allowMethods: [get]", &cors(".allowMethods[0]"), "none of GET"),
                ("allowHeaders: ['a b']", &cors(".allowHeaders[0]"), "not a header name"),
                ("allowCredentials: 1", &cors(".allowCredentials"), "invalid type"),
                ("maxAge: 0", &cors(".maxAge"), "not between"),
                ("alowOrigins: []", &cors(".alowOrigins"), "unknown field"),
            ],
        );
    }
}
