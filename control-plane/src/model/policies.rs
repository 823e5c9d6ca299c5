//! Attaches policies to their targets (GEP-713), and judges them: where each applies, and the conditions of its status.
//!
//! It is the same for every kind. Of a kind that is not merged, the oldest policy of a target wins; the others are conflicted.

use std::collections::BTreeMap;
use std::sync::Arc;

use outrigger_core::Name;

use super::both_kinds::OfBothKinds;
use super::gateway_traffic::GatewayTraffic;
use super::inventory::{Inventory, seniority};
use super::needed_secret;
use super::needed_service::{self, unresolved};
use super::policy::{NamespacePolicies, Place, Policy, PolicyName};
use super::policy_targets::{NotAttached, places};
use super::resource::policy::{PolicyRules, PolicySpec, TargetRef};
use super::resource::reference::ParentRef;
use super::resource::value::{Group, KindName, ObjectName, SectionName};
use super::resource::{Kind, Metadata, ResourceId};
use super::route::InvalidBackend;
use super::status::{CONFLICTED, Condition, ConditionKind, ParentStatus, RouteStatus};

/// Returns the active policies of a namespace, and the status of each.
pub(super) fn of_namespace(
    inventory: &Inventory,
    namespace: &Name,
) -> (NamespacePolicies, Vec<(ResourceId, RouteStatus)>) {
    let mut all: Vec<_> = inventory.policies(namespace).collect();
    // Kinds in their order: what a BackendTrafficPolicy sets, an XBackendTrafficPolicy does not.
    all.sort_by(|(a, _), (b, _)| (a.id.kind, seniority(a)).cmp(&(b.id.kind, seniority(b))));
    let (mut active, mut statuses, mut taken) = (NamespacePolicies::default(), Vec::new(), Taken::default());
    let mut of_both_kinds = OfBothKinds::default();
    for (metadata, spec) in all {
        let merged = metadata.id.kind.is_merged();
        let mut attached = attach(inventory, metadata, &spec.targets, merged, &mut taken);
        for (target, found) in attached.iter_mut().filter(|(_, found)| found.is_ok()) {
            if let Some(message) = of_both_kinds.judge(metadata, &spec.rules, target.as_ref()) {
                taken.remove(&(metadata.id.kind, target.clone()));
                *found = Err(NotAttached { reason: CONFLICTED, message });
            }
        }
        let places = attached.iter().filter_map(|(_, place)| place.clone().ok()).flatten().collect();
        statuses.push((metadata.id.clone(), status(inventory, metadata, spec, attached)));
        let name = PolicyName { namespace: namespace.clone(), name: metadata.id.name.clone() };
        let unusable = unresolved(inventory, metadata, spec).first().map(|unresolved| unresolved.why);
        match &spec.rules {
            PolicyRules::Authentication(of) => {
                let of = needed_service::mark_missing(inventory, metadata, spec, of);
                let (of, _) = needed_secret::resolved(inventory, metadata, spec, &of);
                active.authentication.push(policy(name, places, &of));
            }
            PolicyRules::Authorization(of) => active.authorization.push(policy(name, places, of)),
            PolicyRules::BackendTraffic(of) => active.backend_traffic.push(policy(name, places, of)),
            PolicyRules::GatewayTraffic(of) if **of == GatewayTraffic::default() => {}
            PolicyRules::GatewayTraffic(of) => active.gateway_traffic.push(policy(name, places, of)),
            PolicyRules::ExternalAuthorization(of) => {
                let of = Arc::new(of.resolved(namespace, unusable));
                active.external_authorization.push(policy(name, places, &of));
            }
            PolicyRules::FaultInjection(of) => active.fault_injection.push(policy(name, places, of)),
            // A listener would wait for the cluster of a Service that does not exist. One of another protocol fails, for which the policy has a
            // failure mode.
            PolicyRules::RateLimit(of)
                if unusable.is_some_and(|why| why != InvalidBackend::UnsupportedProtocol) =>
            {
                active.rate_limit.push(policy(name, places, &Arc::new(of.without_global())));
            }
            PolicyRules::RateLimit(of) => active.rate_limit.push(policy(name, places, of)),
        }
    }
    (active, statuses)
}

fn policy<S>(name: PolicyName, places: Vec<Place>, spec: &Arc<S>) -> Policy<S> {
    Policy { name, places, spec: Arc::clone(spec), unasked: Vec::new() }
}

/// The policies by kind and target, of those kinds of which one applies. None is the namespace.
type Taken = BTreeMap<(Kind, Option<TargetRef>), ResourceId>;

type Attached = (Option<TargetRef>, Result<Vec<Place>, NotAttached>);

/// Finds the places of each target of a policy; None is its namespace. If the policies of a target are not `merged`, the first one that
/// comes here applies.
fn attach(
    inventory: &Inventory,
    metadata: &Metadata,
    targets: &[TargetRef],
    merged: bool,
    taken: &mut Taken,
) -> Vec<Attached> {
    let mut one = |target: Option<&TargetRef>| {
        let found = match target {
            None => Ok(vec![Place::Namespace]),
            Some(target) => places(inventory, metadata, target),
        };
        let place = (metadata.id.kind, target.cloned());
        let found = match (found, taken.get(&place)) {
            (Ok(_), Some(winner)) if !merged => {
                let message = format!("{} {} is older and has the same target", winner.kind, winner.name);
                Err(NotAttached { reason: CONFLICTED, message })
            }
            (found, _) => found,
        };
        if found.is_ok() {
            taken.insert(place, metadata.id.clone());
        }
        (target.cloned(), found)
    };
    match targets {
        [] if metadata.id.kind.concerns_callers() => Vec::new(),
        [] => vec![one(None)],
        targets => targets.iter().map(|target| one(Some(target))).collect(),
    }
}

/// Returns the status: one entry for each target, and one for the namespace if pods are selected.
fn status(
    inventory: &Inventory,
    metadata: &Metadata,
    spec: &PolicySpec,
    attached: Vec<Attached>,
) -> RouteStatus {
    let mut parents: Vec<ParentStatus> = Vec::new();
    let resolved = needed_service::condition(inventory, metadata, spec);
    for (target, outcome) in attached {
        let parent = ancestor(metadata, target.as_ref());
        if parents.iter().any(|other| other.parent == parent) {
            continue;
        }
        let (status, reason, message) = match outcome {
            _ if spec.stands_in() => (false, "Invalid", metadata.id.kind.stand_in_notice().into()),
            Ok(_) => (true, "Accepted", String::new()),
            Err(NotAttached { reason, message }) => (false, reason, message),
        };
        let (kind, observed_generation) = (ConditionKind::Accepted, metadata.generation);
        let accepted = Condition { kind, status, reason, message, observed_generation };
        parents.push(ParentStatus {
            parent,
            conditions: [accepted].into_iter().chain(resolved.clone()).collect(),
        });
    }
    RouteStatus { parents }
}

/// Returns the reference of an entry in the status.
pub(super) fn ancestor(metadata: &Metadata, target: Option<&TargetRef>) -> ParentRef {
    let gateway = "gateway.networking.k8s.io";
    let (group, kind, name, section) = match target {
        None | Some(TargetRef::Pods(_)) => ("", "Namespace", &metadata.id.namespace, None),
        Some(TargetRef::Service { name, section }) => ("", "Service", name, section.clone()),
        Some(TargetRef::Route { kind, name, section }) => (gateway, kind.name(), name, section.clone()),
        Some(TargetRef::Gateway { name, section }) => (gateway, "Gateway", name, section.clone()),
    };
    ParentRef {
        group: Group(group.into()),
        kind: KindName(kind.into()),
        namespace: None,
        name: ObjectName(name.clone()),
        port: None,
        section_name: section.map(SectionName),
    }
}

#[cfg(test)]
mod tests {
    use super::super::mesh_builder::MeshBuilder;
    use super::super::mesh_builder::testing::{route, service};
    use super::*;
    use crate::model::authorization::Authorization;

    fn policy(name: &str, spec: &str) -> String {
        let (name, namespace) = name.split_once('.').unwrap_or((name, "shop"));
        format!(
            "{{apiVersion: outrigger.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {{name: {name}, namespace: {namespace}}},
               spec: {{action: Allow, {spec}}}}}"
        )
    }

    fn to(kind: &str, name: &str, more: &str) -> String {
        let group = if kind == "Service" { "''" } else { "gateway.networking.k8s.io" };
        format!("targetRefs: [{{group: {group}, kind: {kind}, name: {name}{more}}}]")
    }

    /// The places of each policy of `shop`, by name.
    fn active(builder: &MeshBuilder) -> Vec<String> {
        let policies = builder.mesh().policies::<Authorization>(&"shop".into()).to_vec();
        let text = |policy: &Policy<_>| {
            let places: Vec<_> = policy.places.iter().map(ToString::to_string).collect();
            format!("{} {}", policy.name.name, places.join(" + "))
        };
        policies.iter().map(text).collect()
    }

    #[test]
    fn a_policy_applies_to_what_its_targets_mean() {
        let rules = "{name: pay, matches: [{path: {value: /pay}}]}, {name: rest}";
        let mut builder = MeshBuilder::default();
        builder.with(&[
            &service("payments", 80, "http"),
            &route("HTTPRoute", "r", "name: payments", rules),
            &route("TCPRoute", "t", "name: payments", "{backendRefs: [{name: payments, port: 80}]}"),
            &policy("a", ""),
            &policy("b", &to("Service", "payments", "")),
            &policy("c", &to("HTTPRoute", "r", ", sectionName: rest")),
            &policy("d", &to("TCPRoute", "t", "")),
            &policy("e", "targetRefs: [{group: '', kind: Pod, selector: {matchLabels: {app: x}}}]"),
        ]);
        let expected = [
            "a namespace",
            "b Service payments",
            "c route httproute/shop/r, rules [1]",
            "d Service payments, port 80",
            "e pods app=x",
        ];
        assert_eq!(active(&builder), expected);
        for name in ["a", "b", "c", "d", "e"] {
            let accepted = builder.conditions(&format!("AuthorizationPolicy shop/{name}"));
            assert_eq!(accepted, ["Accepted=True (Accepted)"]);
        }
    }

    #[test]
    fn of_policies_that_are_not_merged_the_first_one_of_a_target_applies() {
        let (inventory, mut taken) = (Inventory::default(), Taken::new());
        let pods = |app: &str| TargetRef::Pods([("app".into(), app.into())].into());
        let mut conflicted = |name: &str, targets: &[TargetRef], merged| -> Vec<bool> {
            let metadata = super::super::mesh_builder::testing::resource(&policy(name, "")).metadata.clone();
            let attached = attach(&inventory, &metadata, targets, merged, &mut taken);
            attached
                .into_iter()
                .map(|(_, found)| found.is_err_and(|why| why.reason == "Conflicted"))
                .collect()
        };
        assert_eq!(conflicted("a", &[pods("x")], false), [false]);
        assert_eq!(conflicted("b", &[pods("x"), pods("y")], false), [true, false]);
        assert_eq!(conflicted("c", &[], false), [false]);
        assert_eq!(conflicted("d", &[], false), [true]);
        assert_eq!(conflicted("e", &[pods("x")], true), [false]);
    }

    #[test]
    fn a_target_that_does_not_exist_is_reported_until_it_does() {
        let mut builder = MeshBuilder::default();
        builder.with(&[&policy("a", &to("Service", "payments", ""))]);
        let conditions = |builder: &MeshBuilder| builder.conditions("AuthorizationPolicy shop/a");
        assert_eq!(
            conditions(&builder),
            ["Accepted=False (TargetNotFound): there is no Service shop/payments"]
        );
        assert_eq!(active(&builder), ["a "]);
        builder.with(&[&service("payments", 80, "http")]);
        assert_eq!(conditions(&builder), ["Accepted=True (Accepted)"]);
        assert_eq!(active(&builder), ["a Service payments"]);
        builder.without(&service("payments", 80, "http"));
        assert_eq!(active(&builder), ["a "]);
        builder.without(&policy("a", ""));
        assert!(active(&builder).is_empty());
    }

    #[test]
    fn a_section_that_does_not_exist_and_what_is_not_ours_are_reported() {
        let mut builder = MeshBuilder::default();
        builder.with(&[
            &service("payments", 80, "http"),
            &service("other.office", 80, "http"),
            &route("HTTPRoute", "r", "name: payments", "{name: pay}"),
            &route("HTTPRoute", "foreign.office", "name: payments", "{}"),
            &policy("port", &to("Service", "payments", ", sectionName: grpc")),
            &policy("rule", &to("HTTPRoute", "r", ", sectionName: refund")),
            &policy("gateway", &to("Gateway", "edge", "")),
            &policy("foreign.office", &to("HTTPRoute", "foreign", "")),
        ]);
        for (id, condition) in [
            ("shop/port", "Accepted=False (TargetNotFound): Service payments has no port named grpc"),
            ("shop/rule", "Accepted=False (TargetNotFound): HTTPRoute r has no rule named refund"),
            (
                "shop/gateway",
                "Accepted=False (Invalid): Gateway edge: policies of Gateways are not supported yet",
            ),
            (
                "office/foreign",
                "Accepted=False (Invalid): HTTPRoute foreign is attached to no Service of namespace office",
            ),
        ] {
            assert_eq!(builder.conditions(&format!("AuthorizationPolicy {id}")), [condition]);
        }
        assert!(active(&builder).iter().all(|policy| policy.ends_with(' ')), "{:?}", active(&builder));
    }
}
