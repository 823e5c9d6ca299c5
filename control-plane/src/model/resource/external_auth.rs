//! The ExternalAuth filter of HTTPRoute (GEP-1494), and what it has in common with an ExternalAuthorizationPolicy.

use outrigger_core::Name;
use schemars::JsonSchema;
use serde::Deserialize;

use super::needed::Needed;
use super::path::check_path;
use super::reference::BackendRef;
use super::strict::at;
use super::value::{HeaderName, Integer, List, refuse_repeated};
use crate::model::external_authorization::ExternalAuthorization;
use crate::model::route::{AuthCheck, AuthProtocol, BackendTarget, ExternalAuth, HttpAuth, InvalidBackend};
use crate::model::service::ServiceKey;

/// External authorization whose service is not resolved yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ExternalAuthSpec {
    pub(crate) backend: BackendRef,
    pub(crate) check: AuthCheck,
}

/// The meaning of an ExternalAuthorizationPolicy whose service is not resolved yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum AuthorizerSpec {
    Off,
    Ask(ExternalAuthSpec),
    StandIn,
}

impl AuthorizerSpec {
    /// Returns the service that decides, for a policy of this namespace.
    pub(super) fn needs(&self, namespace: &Name) -> Option<Needed> {
        let Self::Ask(spec) = self else { return None };
        Some(Needed {
            service: spec.service(namespace),
            port: spec.backend.port?,
            field: "spec.backendRef".into(),
            gets_grpc: matches!(spec.check.protocol, AuthProtocol::Grpc { .. }),
            needs_grant: spec.backend.namespace.as_ref().is_some_and(|of| of != namespace),
        })
    }

    /// Returns the meaning. `unusable` says why the service cannot be used. `namespace` is that of the policy.
    pub(crate) fn resolved(
        &self,
        namespace: &Name,
        unusable: Option<InvalidBackend>,
    ) -> ExternalAuthorization {
        match self {
            Self::Off => ExternalAuthorization::Off,
            Self::StandIn => ExternalAuthorization::StandIn,
            Self::Ask(spec) => {
                let service = spec.service(namespace);
                let target = match (unusable, spec.backend.port) {
                    (None, Some(port)) => Ok(BackendTarget { service, port }),
                    (why, _) => Err(why.unwrap_or(InvalidBackend::InvalidKind)),
                };
                ExternalAuthorization::Ask(ExternalAuth { target, check: spec.check.clone() })
            }
        }
    }
}

impl ExternalAuthSpec {
    fn service(&self, namespace: &Name) -> ServiceKey {
        let namespace = self.backend.namespace.as_ref().unwrap_or(namespace);
        ServiceKey { namespace: namespace.clone(), name: self.backend.name.clone() }
    }
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
    http: Option<HttpOfFilter>,
    forward_body: Option<ForwardBody>,
}

/// The form in which a service is asked.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
pub(super) enum Protocol {
    #[serde(rename = "HTTP")]
    Http,
    #[serde(rename = "GRPC")]
    Grpc,
}

/// What a service that is asked by gRPC sees.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Grpc {
    #[serde(default)]
    allowed_headers: Names,
}

/// How a service is asked over HTTP: the field `http` of a policy.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Http {
    path: Option<String>,
    #[serde(default)]
    allowed_headers: Names,
    #[serde(default)]
    allowed_response_headers: Names,
    #[serde(default)]
    allowed_client_headers: Names,
}

/// The field `http` of the filter, which has no `allowedClientHeaders`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct HttpOfFilter {
    path: Option<String>,
    #[serde(default)]
    allowed_headers: Names,
    #[serde(default)]
    allowed_response_headers: Names,
}

impl From<HttpOfFilter> for Http {
    fn from(of: HttpOfFilter) -> Self {
        let HttpOfFilter { path, allowed_headers, allowed_response_headers } = of;
        Self { path, allowed_headers, allowed_response_headers, ..Self::default() }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ForwardBody {
    max_size: Option<Integer<0, { u16::MAX as i64 }>>,
}

/// Names of headers.
type Names = List<HeaderName, 0, 64>;

impl TryFrom<Fields> for WireExternalAuth {
    type Error = String;

    fn try_from(wire: Fields) -> Result<Self, String> {
        let Fields { protocol, backend_ref: backend, grpc, http, forward_body } = wire;
        match protocol {
            Protocol::Grpc if grpc.is_none() => return Err(GRPC_ALONE.into()),
            Protocol::Http if http.is_none() => return Err(HTTP_ALONE.into()),
            _ => {}
        }
        let check = AuthCheck {
            protocol: auth_protocol(protocol, grpc, http.map(Into::into))?,
            longest_body: forward_body.and_then(|of| of.max_size).map_or(0, Integer::as_u32),
            may_be_cut: false,
            timeout: None,
            // "This filter MUST fail closed" (GEP-1494).
            fails_open: false,
        };
        Ok(Self(ExternalAuthSpec { backend, check }))
    }
}

const GRPC_ALONE: &str = "protocol GRPC goes with the field grpc, and only with it";
const HTTP_ALONE: &str = "protocol HTTP goes with the field http, and only with it";

/// Returns how a service is asked. An absent `grpc` or `http` has no fields.
pub(super) fn auth_protocol(
    protocol: Protocol,
    grpc: Option<Grpc>,
    http: Option<Http>,
) -> Result<AuthProtocol, String> {
    match (protocol, grpc, http) {
        (Protocol::Grpc, grpc, None) => {
            let allowed_headers = names("grpc.allowedHeaders", grpc.unwrap_or_default().allowed_headers)?;
            Ok(AuthProtocol::Grpc { allowed_headers })
        }
        (Protocol::Http, None, http) => decode_http(http.unwrap_or_default()).map(AuthProtocol::Http),
        (Protocol::Grpc, ..) => Err(GRPC_ALONE.into()),
        (Protocol::Http, ..) => Err(HTTP_ALONE.into()),
    }
}

fn decode_http(http: Http) -> Result<HttpAuth, String> {
    let Http { path, allowed_headers, allowed_response_headers, allowed_client_headers } = http;
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
        allowed_client_headers: names("http.allowedClientHeaders", allowed_client_headers)?,
    })
}

/// Returns the names in lower case, or an error if the list, a set, has one twice.
fn names(field: &str, List(names): Names) -> Result<Vec<Name>, String> {
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
