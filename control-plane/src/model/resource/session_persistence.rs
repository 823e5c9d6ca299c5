//! The field `sessionPersistence` of HTTPRoute and GRPCRoute rules, of BackendTrafficPolicy and of XBackendTrafficPolicy (GEP-1619).
//!
//! What the mesh cannot keep is refused by name: a session that ends when it was idle, one that ends although its cookie does not, and one of
//! limited time in a header.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::strict::at;
use super::value::{GepDuration, HeaderName, Unsupported};
use crate::model::session_persistence::SessionPersistence;

/// The longest name of a session, as in the CRDs.
const LONGEST_NAME: usize = 128;

/// Headers that sessions cannot be kept in: they frame a message, belong to one connection, or have a meaning of their own.
const RESERVED: [&str; 16] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// A decoded `sessionPersistence`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(try_from = "WireSession")]
#[schemars(with = "WireSession")]
pub(super) struct SessionSpec(pub(super) SessionPersistence);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireSession {
    /// The name of a cookie is a token, as that of a header.
    session_name: Option<HeaderName>,
    r#type: Option<WireType>,
    absolute_timeout: Option<GepDuration>,
    #[schemars(skip)]
    idle_timeout: Option<Unsupported>,
    cookie_config: Option<WireCookie>,
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
enum WireType {
    #[default]
    Cookie,
    Header,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireCookie {
    lifetime_type: Option<WireLifetime>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
enum WireLifetime {
    #[default]
    Session,
    Permanent,
}

impl TryFrom<WireSession> for SessionSpec {
    type Error = String;

    fn try_from(wire: WireSession) -> Result<Self, String> {
        let WireSession {
            session_name: name,
            r#type: kind,
            absolute_timeout,
            idle_timeout: None,
            cookie_config,
        } = wire;
        if name.as_ref().is_some_and(|HeaderName(name)| name.len() > LONGEST_NAME) {
            return Err(at("sessionName", format_args!("is longer than {LONGEST_NAME} bytes")));
        }
        match kind.unwrap_or_default() {
            WireType::Cookie => {
                let lifetime = cookie_config.and_then(|cookie| cookie.lifetime_type).unwrap_or_default();
                let max_age = max_age(lifetime, absolute_timeout)?;
                Ok(Self(SessionPersistence::Cookie { name: name.map(|name| name.0), max_age }))
            }
            WireType::Header => {
                if cookie_config.is_some() {
                    return Err(at("cookieConfig", "has an effect with type Cookie only"));
                }
                if absolute_timeout.is_some() {
                    return Err(at("absoluteTimeout", "is not supported yet with type Header"));
                }
                let missing = "is required with type Header: clients send the header of this name again";
                let name = name.ok_or_else(|| at("sessionName", missing))?.lower();
                if RESERVED.contains(&&*name) || name.starts_with("x-outrigger-") {
                    return Err(at(
                        "sessionName",
                        format_args!("{name} is a header with a meaning of its own"),
                    ));
                }
                Ok(Self(SessionPersistence::Header(name)))
            }
        }
    }
}

/// Returns the lifetime of a cookie. None is the session of the client.
fn max_age(lifetime: WireLifetime, timeout: Option<GepDuration>) -> Result<Option<Duration>, String> {
    match (lifetime, timeout.map(|timeout| timeout.0)) {
        (WireLifetime::Session, None) => Ok(None),
        (WireLifetime::Session, Some(_)) => Err(at(
            "absoluteTimeout",
            "is not supported yet with a cookie of lifetimeType Session: write lifetimeType Permanent",
        )),
        (WireLifetime::Permanent, None) => {
            Err(at("absoluteTimeout", "must be specified when cookie lifetimeType is Permanent"))
        }
        (WireLifetime::Permanent, Some(time)) if time.as_secs() == 0 => {
            Err(at("absoluteTimeout", "is shorter than a second"))
        }
        // The lifetime of a cookie is in seconds.
        (WireLifetime::Permanent, Some(time)) => Ok(Some(Duration::from_secs(time.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_table;
    use super::*;

    fn session(json: &str) -> SessionPersistence {
        serde_json::from_str::<SessionSpec>(json).unwrap().0
    }

    #[test]
    fn a_session_is_kept_in_a_cookie_or_in_a_header() {
        let cookie = |name: Option<&str>, seconds: Option<u64>| SessionPersistence::Cookie {
            name: name.map(Into::into),
            max_age: seconds.map(Duration::from_secs),
        };
        for (json, expected) in [
            ("{}", cookie(None, None)),
            (r#"{"type": "Cookie", "sessionName": "A", "cookieConfig": {}}"#, cookie(Some("A"), None)),
            (
                r#"{"absoluteTimeout": "1h1500ms", "cookieConfig": {"lifetimeType": "Permanent"}}"#,
                cookie(None, Some(3601)),
            ),
            (r#"{"type": "Header", "sessionName": "X-A"}"#, SessionPersistence::Header("x-a".into())),
        ] {
            assert_eq!(session(json), expected, "{json}");
        }
    }

    #[test]
    fn what_cannot_be_kept_is_refused_by_name() {
        let of = |field: &str| format!("spec.sessionPersistence.{field}");
        let long = format!("sessionName: {}", "a".repeat(129));
        check_table(
            "{apiVersion: outrigger.dev/v1alpha1, kind: BackendTrafficPolicy, metadata: {name: a}, \
              spec: {targetRefs: [{group: '', kind: Service, name: b}], sessionPersistence: {@}}}",
            &["", "type: Header, sessionName: x-a", "cookieConfig: {lifetimeType: Session}"],
            &[
                ("idleTimeout: 1m", &of("idleTimeout"), "not supported yet"),
                ("absoluteTimeout: 1h", &of("absoluteTimeout"), "not supported yet with a cookie"),
                (
                    "type: Header, sessionName: a, absoluteTimeout: 1h",
                    &of("absoluteTimeout"),
                    "with type Header",
                ),
                ("cookieConfig: {lifetimeType: Permanent}", &of("absoluteTimeout"), "must be specified"),
                (
                    "cookieConfig: {lifetimeType: Permanent}, absoluteTimeout: 999ms",
                    &of("absoluteTimeout"),
                    "shorter than a second",
                ),
                ("type: Header", &of("sessionName"), "is required"),
                ("type: Header, sessionName: Cookie", &of("sessionName"), "a meaning of its own"),
                ("type: Header, sessionName: a, cookieConfig: {}", &of("cookieConfig"), "type Cookie only"),
                ("sessionName: 'a b'", &of("sessionName"), "not a header name"),
                (&long, &of("sessionName"), "longer than 128"),
                ("type: URL", &of("type"), "unknown value"),
                ("cookieConfig: {lifetimeType: Forever}", &of("cookieConfig.lifetimeType"), "unknown value"),
                ("name: a", &of("name"), "unknown field"),
            ],
        );
    }
}
