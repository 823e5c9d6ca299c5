//! ExternalAuthorizationPolicy, outrigger.dev/v1alpha1: a service decides about requests.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::external_auth::{AuthorizerSpec, ExternalAuthSpec, Grpc, Http, Protocol, auth_protocol};
use super::policy::{PolicyRules, PolicySpec, TargetRefs};
use super::reference::BackendRef;
use super::strict::at;
use super::value::{GepDuration, Integer};
use crate::model::route::AuthCheck;

/// The longest time that a service may take: a request whose caller has gone waits for no longer.
const LONGEST: Duration = Duration::from_secs(60);

/// The `spec` of an ExternalAuthorizationPolicy.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(try_from = "WireSpec")]
#[schemars(with = "WireSpec")]
pub(crate) struct ExternalAuthorizationPolicySpec(pub(crate) PolicySpec);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireSpec {
    #[serde(default)]
    target_refs: TargetRefs,
    #[serde(default)]
    mode: Mode,
    backend_ref: Option<BackendRef>,
    protocol: Option<Protocol>,
    grpc: Option<Grpc>,
    http: Option<Http>,
    forward_body: Option<ForwardBody>,
    failure_mode: Option<FailureMode>,
    timeout: Option<GepDuration>,
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
enum Mode {
    #[default]
    Required,
    Off,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ForwardBody {
    // The proxy keeps no more of a body (`with_request_body.max_request_bytes`).
    max_size: Integer<1, 4_194_304>,
    #[serde(default)]
    allow_partial: bool,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
enum FailureMode {
    Closed,
    Open,
}

impl TryFrom<WireSpec> for ExternalAuthorizationPolicySpec {
    type Error = String;

    fn try_from(wire: WireSpec) -> Result<Self, String> {
        let WireSpec {
            target_refs,
            mode,
            backend_ref,
            protocol,
            grpc,
            http,
            forward_body,
            failure_mode,
            timeout,
        } = wire;
        let spec = match mode {
            Mode::Off => {
                let bare = backend_ref.is_none() && protocol.is_none() && grpc.is_none() && http.is_none();
                if !bare || forward_body.is_some() || failure_mode.is_some() || timeout.is_some() {
                    return Err(at("mode", "is Off, which excludes all fields but targetRefs"));
                }
                AuthorizerSpec::Off
            }
            Mode::Required => {
                let (Some(backend), Some(protocol)) = (backend_ref, protocol) else {
                    return Err("names no service: write backendRef and protocol, or mode: Off".into());
                };
                if !backend.is_service() {
                    return Err(at("backendRef.kind", "is not Service of group \"\""));
                }
                let check = AuthCheck {
                    protocol: auth_protocol(protocol, grpc, http)?,
                    longest_body: forward_body.as_ref().map_or(0, |of| of.max_size.as_u32()),
                    may_be_cut: forward_body.is_some_and(|of| of.allow_partial),
                    timeout: timeout.map(in_range).transpose()?,
                    fails_open: matches!(failure_mode, Some(FailureMode::Open)),
                };
                AuthorizerSpec::Ask(ExternalAuthSpec { backend, check })
            }
        };
        let rules = PolicyRules::ExternalAuthorization(spec);
        Ok(Self(PolicySpec { targets: target_refs.0, rules }))
    }
}

fn in_range(GepDuration(timeout): GepDuration) -> Result<Duration, String> {
    match timeout.is_zero() || timeout > LONGEST {
        true => Err(at("timeout", "is not between 1ms and 60s")),
        false => Ok(timeout),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_table, read};
    use super::super::{Body, PolicySpec};
    use super::*;
    use crate::model::external_authorization::ExternalAuthorization;
    use crate::model::route::AuthProtocol;

    const POLICY: &str = "{apiVersion: outrigger.dev/v1alpha1, kind: ExternalAuthorizationPolicy, \
                          metadata: {name: a, namespace: shop}, spec: {@}}";
    const TO: &str = "backendRef: {name: auth, port: 9000}";

    fn meaning(spec: &str) -> ExternalAuthorization {
        let decoded = read(&POLICY.replace('@', spec));
        let Some(Body::Policy(PolicySpec { rules: PolicyRules::ExternalAuthorization(of), .. })) =
            decoded[0].resource().map(|resource| &resource.body)
        else {
            panic!("{decoded:?}")
        };
        of.resolved(&"shop".into(), None)
    }

    #[test]
    fn a_policy_fails_closed_unless_it_says_otherwise() {
        let ExternalAuthorization::Ask(bare) = meaning(&format!("protocol: GRPC, {TO}")) else { panic!() };
        assert_eq!(bare.target.unwrap().service.to_string(), "auth.shop");
        let expected = AuthCheck {
            protocol: AuthProtocol::Grpc { allowed_headers: Vec::new() },
            longest_body: 0,
            may_be_cut: false,
            timeout: None,
            fails_open: false,
        };
        assert_eq!(bare.check, expected);
        let full = "protocol: HTTP, backendRef: {namespace: office, name: auth, port: 9000}, failureMode: Open, timeout: 1m,
            http: {path: /check/, allowedHeaders: [A], allowedResponseHeaders: [B], allowedClientHeaders: [C]},
            forwardBody: {maxSize: 4194304, allowPartial: true}";
        let ExternalAuthorization::Ask(full) = meaning(full) else { panic!() };
        assert_eq!(full.target.unwrap().service.to_string(), "auth.office");
        assert_eq!((full.check.longest_body, full.check.may_be_cut), (4_194_304, true));
        assert_eq!((full.check.timeout, full.check.fails_open), (Some(LONGEST), true));
        let AuthProtocol::Http(http) = full.check.protocol else { panic!() };
        let names =
            [http.allowed_headers, http.allowed_response_headers, http.allowed_client_headers].concat();
        assert_eq!((&*http.path_prefix, names), ("/check", vec!["a".into(), "b".into(), "c".into()]));
        assert_eq!(meaning("mode: 'Off'"), ExternalAuthorization::Off);
    }

    #[test]
    fn what_names_no_service_and_what_is_out_of_range_is_refused() {
        let with = |more: &str| format!("protocol: HTTP, {TO}, {more}");
        let refused = [
            (String::new(), "spec", "names no service"),
            (TO.into(), "spec", "names no service"),
            ("protocol: GRPC".into(), "spec", "names no service"),
            (format!("mode: 'Off', {TO}"), "spec.mode", "excludes all fields"),
            ("mode: 'Off', timeout: 1s".into(), "spec.mode", "excludes all fields"),
            (
                format!("protocol: GRPC, {}", TO.replace("name", "kind: Secret, name")),
                "spec.backendRef.kind",
                "is not Service",
            ),
            (format!("protocol: GRPC, {TO}, http: {{}}"), "spec", "goes with the field grpc"),
            (with("grpc: {}"), "spec", "goes with the field http"),
            (with("http: {path: check}"), "spec.http.path", "does not start"),
            (with("http: {allowedClientHeaders: [a, A]}"), "spec.http.allowedClientHeaders", "duplicate"),
            (with("forwardBody: {}"), "spec.forwardBody", "missing field `maxSize`"),
            (with("forwardBody: {maxSize: 0}"), "spec.forwardBody.maxSize", "not between 1"),
            (with("forwardBody: {maxSize: 4194305}"), "spec.forwardBody.maxSize", "not between 1"),
            (with("timeout: 0s"), "spec.timeout", "not between 1ms and 60s"),
            (with("timeout: 61s"), "spec.timeout", "not between 1ms and 60s"),
            (with("failureMode: Ajar"), "spec.failureMode", "unknown value"),
            (with("failOpen: true"), "spec.failOpen", "unknown field"),
        ];
        let refused: Vec<_> =
            refused.iter().map(|(spec, field, why)| (spec.as_str(), *field, *why)).collect();
        check_table(POLICY, &[&with("timeout: 1ms"), "mode: 'Off'"], &refused);
    }
}
