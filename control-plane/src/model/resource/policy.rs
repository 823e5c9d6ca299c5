//! What every policy of `outrigger.dev/v1alpha1` has: the targets that it is attached to (GEP-713).
//!
//! A target is in the policy's own namespace. A policy without targets applies to its namespace.

use std::collections::BTreeMap;
use std::sync::Arc;

use outrigger_core::Name;
use schemars::JsonSchema;
use serde::Deserialize;

use super::external_auth::AuthorizerSpec;
use super::needed::Needed;
use super::strict::at;
use super::value::{Group, KindName, List, ObjectName, SectionName};
use super::{Kind, ResourceId};
use crate::model::authentication::{Authentication, Issuer, SecretRef};
use crate::model::authorization::Authorization;
use crate::model::backend_traffic::BackendTraffic;
use crate::model::fault_injection::FaultInjection;
use crate::model::gateway_traffic::GatewayTraffic;
use crate::model::rate_limit::{GlobalLimit, RateLimit};

/// A decoded policy of any kind.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PolicySpec {
    pub(crate) targets: Vec<TargetRef>,
    pub(crate) rules: PolicyRules,
}

/// What a policy means, by kind.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum PolicyRules {
    Authentication(Arc<Authentication>),
    Authorization(Arc<Authorization>),
    BackendTraffic(Arc<BackendTraffic>),
    GatewayTraffic(Arc<GatewayTraffic>),
    ExternalAuthorization(AuthorizerSpec),
    FaultInjection(Arc<FaultInjection>),
    RateLimit(Arc<RateLimit>),
}

impl PolicySpec {
    /// Returns true if it stands for a policy that was refused.
    pub(crate) fn stands_in(&self) -> bool {
        match &self.rules {
            PolicyRules::Authentication(spec) => spec.stands_in,
            PolicyRules::Authorization(spec) => spec.stands_in,
            PolicyRules::BackendTraffic(_) | PolicyRules::GatewayTraffic(_) => false,
            PolicyRules::ExternalAuthorization(spec) => *spec == AuthorizerSpec::StandIn,
            PolicyRules::FaultInjection(_) => false,
            PolicyRules::RateLimit(_) => false,
        }
    }

    /// Returns the Services that a policy of this namespace needs: those that are asked about requests, or that have keys.
    pub(crate) fn needs(&self, namespace: &Name) -> Vec<Needed> {
        match &self.rules {
            PolicyRules::Authentication(spec) => {
                let one = |(at, issuer): (usize, &Issuer)| {
                    let (service, port) = issuer.keys.service(namespace)?;
                    let field = format!("spec.jwt.issuers[{at}].keys.service");
                    Some(Needed { service, port, field, gets_grpc: false, needs_grant: false })
                };
                spec.issuers.iter().enumerate().filter_map(one).collect()
            }
            PolicyRules::RateLimit(spec) => {
                let one = |global: &GlobalLimit| {
                    let (service, field) = (&global.service, "spec.global.service".into());
                    let (service, port) = (service.key(namespace), service.port);
                    Needed { service, port, field, gets_grpc: true, needs_grant: false }
                };
                spec.global.iter().map(one).collect()
            }
            PolicyRules::ExternalAuthorization(spec) => spec.needs(namespace).into_iter().collect(),
            PolicyRules::Authorization(_) | PolicyRules::FaultInjection(_) => Vec::new(),
            PolicyRules::BackendTraffic(_) | PolicyRules::GatewayTraffic(_) => Vec::new(),
        }
    }
}

impl PolicySpec {
    /// Returns the meaning of an AuthenticationPolicy. Returns None for other kinds.
    pub(crate) fn authentication(&self) -> Option<&Arc<Authentication>> {
        if let PolicyRules::Authentication(spec) = &self.rules { Some(spec) } else { None }
    }

    /// Returns the Secrets with API keys that a policy of this namespace refers to, in its order.
    pub(crate) fn secrets(&self, namespace: &Name) -> Vec<ResourceId> {
        let Some(spec) = self.authentication() else { return Vec::new() };
        let all = spec.api_keys.iter().flat_map(|keys| &keys.secrets);
        let id = |SecretRef { namespace: of, name }: &SecretRef| ResourceId {
            kind: Kind::Secret,
            namespace: of.as_ref().unwrap_or(namespace).clone(),
            name: name.clone(),
        };
        all.map(id).collect()
    }
}

/// A target that a policy names. Whether it exists is not known yet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TargetRef {
    /// A Service, or one of its ports by name.
    Service { name: Name, section: Option<Name> },
    /// A route, or one of its rules by name.
    Route { kind: Kind, name: Name, section: Option<Name> },
    /// The pods with these labels, at least one.
    Pods(BTreeMap<Name, Name>),
    /// A Gateway, which the mesh does not have yet.
    Gateway { name: Name, section: Option<Name> },
}

/// The field `targetRefs`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(try_from = "List<OneTarget, 0, 16>")]
#[schemars(with = "List<OneTarget, 0, 16>")]
pub(super) struct TargetRefs(pub(super) Vec<TargetRef>);

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireTarget {
    group: Group,
    kind: KindName,
    name: Option<ObjectName>,
    section_name: Option<SectionName>,
    selector: Option<Selector>,
}

#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Selector {
    match_labels: BTreeMap<String, String>,
}

impl TryFrom<List<OneTarget, 0, 16>> for TargetRefs {
    type Error = String;

    fn try_from(List(all): List<OneTarget, 0, 16>) -> Result<Self, String> {
        distinct(all.into_iter().map(|OneTarget(target)| target)).map(Self)
    }
}

/// Returns the targets of a policy, or an error that names the first one that repeats another.
pub(super) fn distinct(all: impl Iterator<Item = TargetRef>) -> Result<Vec<TargetRef>, String> {
    let mut targets = Vec::new();
    for (index, target) in all.enumerate() {
        if targets.contains(&target) {
            return Err(format!("target {index} is the same as another one"));
        }
        targets.push(target);
    }
    Ok(targets)
}

#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "WireTarget")]
#[schemars(with = "WireTarget")]
struct OneTarget(TargetRef);

impl TryFrom<WireTarget> for OneTarget {
    type Error = String;

    fn try_from(wire: WireTarget) -> Result<Self, String> {
        target(wire).map(Self).map_err(|(field, reason)| at(field, reason))
    }
}

/// Returns the target, or the field in error and the reason.
fn target(wire: WireTarget) -> Result<TargetRef, (&'static str, String)> {
    let WireTarget { group, kind, name, section_name, selector } = wire;
    let (group, kind, section) = (&*group.0, &*kind.0, section_name.map(|name| name.0));
    if (group, kind) == ("", "Pod") {
        if name.is_some() || section.is_some() {
            return Err(("name", "a pod is selected by its labels: write selector".into()));
        }
        let selector = selector.ok_or(("selector", "is missing".to_owned()))?;
        let labels: BTreeMap<Name, Name> =
            selector.match_labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        return match labels.is_empty() {
            true => Err((
                "selector.matchLabels",
                "is empty: a policy without targetRefs applies to all pods of its namespace".into(),
            )),
            false => Ok(TargetRef::Pods(labels)),
        };
    }
    if selector.is_some() {
        return Err(("selector", "selects pods: write kind: Pod".into()));
    }
    let name = name.ok_or(("name", "is missing".to_owned()))?.0;
    let of_gateway = group == "gateway.networking.k8s.io";
    let routes = [Kind::HttpRoute, Kind::GrpcRoute, Kind::TcpRoute];
    if let Some(kind) = routes.into_iter().find(|one| of_gateway && one.name() == kind) {
        return Ok(TargetRef::Route { kind, name, section });
    }
    match (of_gateway, kind) {
        (true, "Gateway") => Ok(TargetRef::Gateway { name, section }),
        (false, "Service") if group.is_empty() => Ok(TargetRef::Service { name, section }),
        _ => Err((
            "kind",
            format!(
                "{kind} of group {group:?} cannot be a target: write Service or Pod of group \"\", or HTTPRoute, GRPCRoute or \
                 TCPRoute of gateway.networking.k8s.io"
            ),
        )),
    }
}

/// Returns what stands for a policy that is refused and has no good version: it denies everything at its targets, or in its namespace if
/// those cannot be read. Returns None for kinds that do not fail closed, and for a policy that only audits.
pub(super) fn stand_in(kind: Kind, document: &serde_json::Value) -> Option<PolicySpec> {
    let rules = match kind {
        Kind::AuthenticationPolicy => PolicyRules::Authentication(Authentication::stand_in().into()),
        Kind::AuthorizationPolicy
            if document.pointer("/spec/action").is_some_and(|action| action == "Audit") =>
        {
            return None;
        }
        Kind::AuthorizationPolicy => PolicyRules::Authorization(Authorization::stand_in().into()),
        Kind::ExternalAuthorizationPolicy => PolicyRules::ExternalAuthorization(AuthorizerSpec::StandIn),
        _ => return None,
    };
    let targets = document.pointer("/spec/targetRefs").map(|targets| serde_json::from_value(targets.clone()));
    let TargetRefs(targets) = targets.and_then(Result::ok).unwrap_or_default();
    Some(PolicySpec { targets, rules })
}

impl Kind {
    /// Returns what is said about a refused resource of this kind that has no good version, and that something stands for.
    pub(crate) fn stand_in_notice(self) -> &'static str {
        match self {
            Self::Secret => {
                "no version of it was ever accepted: until one is, the policies that refer to it have no keys of it"
            }
            _ => "no version of it was ever accepted: until one is, what it is attached to denies everything",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_table;

    #[test]
    fn a_target_is_a_service_a_route_or_selected_pods() {
        let gateway = "group: gateway.networking.k8s.io";
        check_table(
            "{apiVersion: outrigger.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {name: a}, \
              spec: {action: Allow, targetRefs: [@]}}",
            &[
                "",
                "{group: '', kind: Service, name: a}",
                "{group: '', kind: Service, name: a, sectionName: http}, {group: '', kind: Service, name: a}",
                &format!("{{{gateway}, kind: HTTPRoute, name: a, sectionName: pay}}"),
                &format!("{{{gateway}, kind: Gateway, name: a}}"),
                "{group: '', kind: Pod, selector: {matchLabels: {app: a}}}",
            ],
            &[
                ("{kind: Service, name: a}", "spec.targetRefs[0]", "missing field `group`"),
                ("{group: '', kind: Service}", "spec.targetRefs[0].name", "is missing"),
                ("{group: '', kind: Servce, name: a}", "spec.targetRefs[0].kind", "cannot be a target"),
                (
                    "{group: '', kind: Pod, selector: {matchLabels: {}}}",
                    "spec.targetRefs[0].selector.matchLabels",
                    "is empty",
                ),
                ("{group: '', kind: Pod, name: a}", "spec.targetRefs[0].name", "by its labels"),
                (
                    "{group: '', kind: Service, name: a, selector: {matchLabels: {a: b}}}",
                    "spec.targetRefs[0].selector",
                    "kind: Pod",
                ),
                (
                    "{group: '', kind: Service, name: a}, {group: '', kind: Service, name: a}",
                    "spec.targetRefs",
                    "the same",
                ),
                (
                    "{group: '', kind: Service, name: a, namespace: b}",
                    "spec.targetRefs[0].namespace",
                    "unknown field",
                ),
            ],
        );
    }
}
