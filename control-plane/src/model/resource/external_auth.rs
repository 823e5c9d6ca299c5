//! The ExternalAuth filter of HTTPRoute (GEP-1494).

use schemars::JsonSchema;
use serde::Deserialize;

use super::path::check_path;
use super::reference::BackendRef;
use super::strict::at;
use super::value::{HeaderName, Integer, List, refuse_repeated};
use crate::model::route::{AuthProtocol, HttpAuth};

/// External authorization whose service is not resolved yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ExternalAuthSpec {
    pub(crate) backend: BackendRef,
    pub(crate) protocol: AuthProtocol,
    /// The longest body of a request that the service sees, in bytes. 0 is none.
    pub(crate) longest_body: u32,
}

/// The fields of the filter, checked.
#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "Fields")]
#[schemars(with = "Fields")]
pub(super) struct WireExternalAuth(pub(super) ExternalAuthSpec);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Fields {
    protocol: Protocol,
    backend_ref: BackendRef,
    grpc: Option<Grpc>,
    http: Option<Http>,
    forward_body: Option<ForwardBody>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
enum Protocol {
    #[serde(rename = "HTTP")]
    Http,
    #[serde(rename = "GRPC")]
    Grpc,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Grpc {
    #[serde(default)]
    allowed_headers: Names,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Http {
    path: Option<String>,
    #[serde(default)]
    allowed_headers: Names,
    #[serde(default)]
    allowed_response_headers: Names,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ForwardBody {
    max_size: Option<Integer<0, { u16::MAX as i64 }>>,
}

type Names = List<HeaderName, 0, 64>;

impl TryFrom<Fields> for WireExternalAuth {
    type Error = String;

    fn try_from(wire: Fields) -> Result<Self, String> {
        let Fields { protocol, backend_ref: backend, grpc, http, forward_body } = wire;
        let protocol = match (protocol, grpc, http) {
            (Protocol::Grpc, Some(Grpc { allowed_headers }), None) => {
                AuthProtocol::Grpc { allowed_headers: names("grpc.allowedHeaders", allowed_headers)? }
            }
            (Protocol::Http, None, Some(http)) => AuthProtocol::Http(decode_http(http)?),
            (Protocol::Grpc, ..) => {
                return Err("protocol GRPC goes with the field grpc, and only with it".into());
            }
            (Protocol::Http, ..) => {
                return Err("protocol HTTP goes with the field http, and only with it".into());
            }
        };
        let longest_body = forward_body.and_then(|of| of.max_size).map_or(0, Integer::as_u32);
        Ok(Self(ExternalAuthSpec { backend, protocol, longest_body }))
    }
}

fn decode_http(Http { path, allowed_headers, allowed_response_headers }: Http) -> Result<HttpAuth, String> {
    let path = path.unwrap_or_default();
    if path.len() > 1024 {
        return Err(at("http.path", "is longer than 1024 bytes"));
    }
    if !path.is_empty() {
        check_path(&path).map_err(|reason| at("http.path", format_args!("{path:?} {reason}")))?;
    }
    Ok(HttpAuth {
        // What follows it begins with a slash.
        path_prefix: path.trim_end_matches('/').into(),
        allowed_headers: names("http.allowedHeaders", allowed_headers)?,
        allowed_response_headers: names("http.allowedResponseHeaders", allowed_response_headers)?,
    })
}

/// Returns the names in lower case, or an error if the list, a set, has one twice.
fn names(field: &str, List(names): Names) -> Result<Vec<outrigger_core::Name>, String> {
    let names: Vec<_> = names.iter().map(HeaderName::lower).collect();
    refuse_repeated(names.iter()).map_err(|reason| at(field, reason))?;
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_table;

    #[test]
    fn external_authorization_outside_the_crds_limits_is_refused() {
        let at = |field: &str| format!("spec.rules[0].filters[0].externalAuth{field}");
        let to = "backendRef: {name: auth, port: 9000}";
        let http = format!("protocol: HTTP, {to}");
        let many = vec!["a"; 65].join(", ");
        check_table(
            "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a}, spec: {rules: [
                {filters: [{type: ExternalAuth, externalAuth: {@}}]}]}}",
            &[
                &format!("protocol: GRPC, {to}, grpc: {{}}"),
                &format!("protocol: GRPC, {to}, grpc: {{allowedHeaders: [Authorization, cookie]}}"),
                &format!("{http}, http: {{}}, forwardBody: {{}}"),
                &format!("{http}, http: {{path: /check/, allowedHeaders: [a], allowedResponseHeaders: [B]}}"),
                &format!("{http}, http: {{}}, forwardBody: {{maxSize: 65535}}"),
            ],
            &[
                ("protocol: HTTP, http: {}", &at(""), "missing field `backendRef`"),
                (&format!("{to}, http: {{}}"), &at(""), "missing field `protocol`"),
                (&format!("protocol: TCP, {to}"), &at(".protocol"), "unknown value"),
                (&http, &at(""), "goes with the field http"),
                (&format!("{http}, grpc: {{}}"), &at(""), "goes with the field http"),
                (&format!("{http}, http: {{}}, grpc: {{}}"), &at(""), "goes with the field http"),
                (&format!("protocol: GRPC, {to}, http: {{}}"), &at(""), "goes with the field grpc"),
                (&format!("{http}, http: {{path: check}}"), &at(".http.path"), "does not start"),
                (&format!("{http}, http: {{path: '/a?b'}}"), &at(".http.path"), "invalid in a path"),
                (&format!("{http}, http: {{allowedHeaders: ['a b']}}"), &at(".http.allowedHeaders[0]"), ""),
                (
                    &format!("{http}, http: {{allowedHeaders: [{many}]}}"),
                    &at(".http.allowedHeaders"),
                    "items",
                ),
                (
                    &format!("{http}, http: {{allowedResponseHeaders: [a, A]}}"),
                    &at(".http.allowedResponseHeaders"),
                    "duplicate",
                ),
                (
                    &format!("{http}, http: {{}}, forwardBody: {{maxSize: 65536}}"),
                    &at(".forwardBody.maxSize"),
                    "not between",
                ),
                (&format!("{http}, http: {{timeout: 1s}}"), &at(".http.timeout"), "unknown field"),
            ],
        );
    }
}
