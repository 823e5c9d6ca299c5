//! The policies about the callers of Services: which of them apply to a port, and which Services a change affects.
//!
//! The policy of a port comes before that of its Service, and they are not merged. A retry limit or the sessions of a BackendTrafficPolicy come
//! before those of an XBackendTrafficPolicy.

use std::collections::{BTreeMap, BTreeSet};

use super::backend_traffic::{BackendTraffic, RetryBudget};
use super::gateway_traffic::GatewayTraffic;
use super::policy::{NamespacePolicies, Place, Policy};
use super::service::ServiceKey;
use super::session_persistence::SessionPersistence;

/// The policies about the callers of a service port.
#[derive(Debug, Clone, Copy, Default)]
pub struct CallerPolicies<'a> {
    /// The BackendTrafficPolicy.
    pub traffic: Option<&'a BackendTraffic>,
    /// The retry budget of the XBackendTrafficPolicy, which applies if the other policy has no retry limit.
    pub retry_budget: Option<&'a RetryBudget>,
    /// How sessions are kept, as either of them says.
    pub session_persistence: Option<&'a SessionPersistence>,
}

impl<'a> CallerPolicies<'a> {
    /// Finds the policies of a port among those of the namespace of its Service.
    pub(super) fn of(policies: &'a NamespacePolicies, service: &ServiceKey, port: u16) -> Self {
        let traffic = narrowest(&policies.backend_traffic, service, port);
        let gateway = narrowest(&policies.gateway_traffic, service, port);
        let sessions = traffic.and_then(|traffic| traffic.session_persistence.as_ref());
        Self {
            traffic,
            retry_budget: gateway.and_then(|gateway| gateway.retry_budget.as_ref()),
            session_persistence: sessions
                .or_else(|| gateway.and_then(|gateway| gateway.session_persistence.as_ref())),
        }
    }
}

/// Returns the policy of the port, or else that of the whole Service. Each target has one at most.
fn narrowest<'a, S>(policies: &'a [Policy<S>], service: &ServiceKey, port: u16) -> Option<&'a S> {
    let has = |place: &Place, of: Option<u16>| matches!(place, Place::Service { service: key, port } if key == service && *port == of);
    let find = |of| policies.iter().find(|policy| policy.places.iter().any(|place| has(place, of)));
    find(Some(port)).or_else(|| find(None)).map(|policy| &*policy.spec)
}

/// Returns the Services of a namespace whose callers have other policies than in the older version.
pub(super) fn changed(old: Option<&NamespacePolicies>, new: Option<&NamespacePolicies>) -> Vec<ServiceKey> {
    let [old, new] = [old, new].map(|policies| policies.map(by_service).unwrap_or_default());
    let services: BTreeSet<_> = old.keys().chain(new.keys()).copied().collect();
    services.into_iter().filter(|service| old.get(service) != new.get(service)).cloned().collect()
}

/// What policies say about a Service, or about one of its ports.
#[derive(Debug, PartialEq)]
enum Setting<'a> {
    Traffic(Option<u16>, &'a BackendTraffic),
    Gateway(Option<u16>, &'a GatewayTraffic),
}

fn by_service(policies: &NamespacePolicies) -> BTreeMap<&ServiceKey, Vec<Setting<'_>>> {
    let traffic = places(&policies.backend_traffic).map(|(key, port, of)| (key, Setting::Traffic(port, of)));
    let gateway = places(&policies.gateway_traffic).map(|(key, port, of)| (key, Setting::Gateway(port, of)));
    let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (service, setting) in traffic.chain(gateway) {
        all.entry(service).or_default().push(setting);
    }
    all
}

/// Returns the Services, or ports of them, that each policy is attached to.
fn places<S>(policies: &[Policy<S>]) -> impl Iterator<Item = (&ServiceKey, Option<u16>, &S)> {
    policies.iter().flat_map(|policy| {
        policy.places.iter().filter_map(|place| match place {
            Place::Service { service, port } => Some((service, *port, &*policy.spec)),
            _ => None,
        })
    })
}

#[cfg(test)]
mod tests {
    use crate::model::backend_traffic::LoadBalancer;
    use crate::model::mesh_builder::MeshBuilder;
    use crate::model::mesh_builder::testing::service;
    use crate::model::service::ServiceKey;

    fn policy(name: &str, targets: &str, spec: &str) -> String {
        format!(
            "{{apiVersion: outrigger.dev/v1alpha1, kind: BackendTrafficPolicy, metadata: {{name: {name}, namespace: shop}},
               spec: {{targetRefs: [{targets}], {spec}}}}}"
        )
    }

    fn retry_constraint(name: &str, percent: u32) -> String {
        format!(
            "{{apiVersion: gateway.networking.x-k8s.io/v1alpha1, kind: XBackendTrafficPolicy, metadata: {{name: {name}, namespace: shop}},
               spec: {{targetRefs: [{CART}], retryConstraint: {{budget: {{percent: {percent}}}}}}}}}"
        )
    }

    const CART: &str = "{group: '', kind: Service, name: cart}";
    const CART_GRPC: &str = "{group: '', kind: Service, name: cart, sectionName: grpc}";

    fn cart() -> String {
        service("cart", 80, "http").replace("[{port: 80", "[{name: grpc, port: 81}, {name: http, port: 80")
    }

    fn balancer(builder: &MeshBuilder, port: u16) -> Option<LoadBalancer> {
        builder.mesh().caller_policies(&ServiceKey::new("shop", "cart"), port).traffic?.load_balancer.clone()
    }

    fn percent(builder: &MeshBuilder) -> Option<u32> {
        builder.mesh().caller_policies(&ServiceKey::new("shop", "cart"), 80).retry_budget?.percent
    }

    #[test]
    fn the_policy_of_a_port_comes_first_and_is_not_merged() {
        let mut builder = MeshBuilder::default();
        builder.with(&[
            &cart(),
            &policy("all", CART, "loadBalancer: {type: RoundRobin}, connectTimeout: 5s"),
            &policy("port", CART_GRPC, "loadBalancer: {type: Random}"),
        ]);
        assert_eq!(balancer(&builder, 80), Some(LoadBalancer::RoundRobin));
        assert_eq!(balancer(&builder, 81), Some(LoadBalancer::Random));
        let mesh = builder.mesh();
        assert_eq!(
            mesh.caller_policies(&ServiceKey::new("shop", "cart"), 81).traffic.unwrap().connect_timeout,
            None
        );
        assert!(mesh.caller_policies(&ServiceKey::new("shop", "other"), 80).traffic.is_none());
        builder.without(&policy("port", CART_GRPC, "overload: Disabled"));
        assert_eq!(balancer(&builder, 81), Some(LoadBalancer::RoundRobin));
    }

    #[test]
    fn of_two_policies_with_one_target_the_first_applies() {
        let mut builder = MeshBuilder::default();
        builder.with(&[
            &cart(),
            &policy("b", CART, "loadBalancer: {type: RoundRobin}"),
            &policy("a", CART, "loadBalancer: {type: Random}"),
        ]);
        assert_eq!(balancer(&builder, 80), Some(LoadBalancer::Random));
        let conflicted = builder.conditions("BackendTrafficPolicy shop/b");
        assert_eq!(
            conflicted,
            ["Accepted=False (Conflicted): BackendTrafficPolicy a is older and has the same target"]
        );
        builder.without(&policy("a", CART, "overload: Disabled"));
        assert_eq!(balancer(&builder, 80), Some(LoadBalancer::RoundRobin));
        assert_eq!(builder.conditions("BackendTrafficPolicy shop/b"), ["Accepted=True (Accepted)"]);
    }

    #[test]
    fn a_retry_limit_comes_before_that_of_gateway_api() {
        let mut builder = MeshBuilder::default();
        let without_limit = policy("a", CART, "loadBalancer: {type: Random}");
        builder.with(&[&cart(), &retry_constraint("x", 50), &without_limit]);
        assert_eq!(percent(&builder), Some(50));
        assert_eq!(builder.conditions("XBackendTrafficPolicy shop/x"), ["Accepted=True (Accepted)"]);
        builder.with(&[&policy("a", CART, "limits: {maxRetries: 3}")]);
        assert_eq!(percent(&builder), None);
        assert_eq!(
            builder.conditions("XBackendTrafficPolicy shop/x"),
            [
                "Accepted=False (Conflicted): BackendTrafficPolicy a has the same target and limits its retries"
            ]
        );
    }

    #[test]
    fn a_policy_that_is_conflicted_does_not_have_its_target() {
        let mut builder = MeshBuilder::default();
        let constraint = "retryConstraint: {budget: {percent: 50}}";
        let sessions = retry_constraint("y", 50).replace(constraint, "sessionPersistence: {sessionName: s}");
        builder.with(&[&cart(), &policy("a", CART, "limits: {maxRetries: 3}"), &retry_constraint("x", 50)]);
        builder.with(&[&sessions]);
        assert_eq!(builder.conditions("XBackendTrafficPolicy shop/y"), ["Accepted=True (Accepted)"]);
    }

    #[test]
    fn only_the_services_whose_callers_have_other_policies_are_changed() {
        let mut builder = MeshBuilder::default();
        let other = "{group: '', kind: Service, name: other}";
        let random = "loadBalancer: {type: Random}";
        builder.with(&[&cart(), &service("other", 80, "http"), &policy("b", other, random)]);
        let changes = |builder: &mut MeshBuilder, yaml: &str| {
            let old = builder.mesh();
            builder.with(&[yaml]);
            let changed = builder.mesh().changes(&old);
            assert!(changed.services.is_empty() && changed.endpoints.is_empty() && changed.routes.is_empty());
            changed.callers
        };
        let cart = [ServiceKey::new("shop", "cart")];
        assert_eq!(changes(&mut builder, &policy("a", CART, random)), cart);
        assert_eq!(changes(&mut builder, &policy("a", CART, random)), []);
        assert_eq!(changes(&mut builder, &policy("a", CART, "overload: Disabled")), cart);
        assert_eq!(changes(&mut builder, &retry_constraint("x", 1)), cart);
        assert_eq!(changes(&mut builder, &retry_constraint("x", 2)), cart);
    }

    #[test]
    fn a_service_without_callers_in_the_mesh_cannot_have_a_policy() {
        let mut builder = MeshBuilder::default();
        let away = "{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, \
                    spec: {type: ExternalName, externalName: example.com}}";
        builder.with(&[away, &policy("a", CART, "overload: Disabled")]);
        let conditions = builder.conditions("BackendTrafficPolicy shop/a");
        assert_eq!(
            conditions,
            ["Accepted=False (Invalid): Service cart is outside of the mesh (ExternalName)"]
        );
    }

    #[test]
    fn a_policy_of_gateway_api_for_another_implementation_has_no_effect_and_no_status() {
        let mut builder = MeshBuilder::default();
        let theirs = retry_constraint("x", 1).replace("group: ''", "group: example.com");
        builder.with(&[&cart(), &theirs]);
        assert_eq!(percent(&builder), None);
        assert!(builder.conditions("XBackendTrafficPolicy shop/x").is_empty());
    }
}
