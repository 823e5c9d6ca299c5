//! The preference of a BackendTrafficPolicy.

use super::*;
use crate::model::mesh_builder::MeshBuilder;

/// Endpoints 1 and 2 are in zone x, 3 in y, 4 in z and 5 in none that is known. Endpoint 6 in x is not ready.
const SLICE: &str = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: cart-1, namespace: shop, \
    labels: {kubernetes.io/service-name: cart}}, addressType: IPv4, ports: [{port: 8080}], endpoints: [\
    {addresses: [10.1.0.1], zone: x, nodeName: a}, {addresses: [10.1.0.2], zone: x, nodeName: b}, \
    {addresses: [10.1.0.3], zone: y, nodeName: c}, {addresses: [10.1.0.4], zone: z, nodeName: d}, {addresses: [10.1.0.5]}, \
    {addresses: [10.1.0.6], zone: x, conditions: {ready: false}}]}";

fn policy(locality: &str) -> String {
    format!(
        "{{apiVersion: outrigger.dev/v1alpha1, kind: BackendTrafficPolicy, metadata: {{name: p, namespace: shop}},
           spec: {{targetRefs: [{{group: '', kind: Service, name: cart}}], {locality}}}}}"
    )
}

/// A catalog with a Service that has these fields, and the policy, for a viewer on node `a` in `zone`.
fn with_policy(service: &str, locality: &str, zone: Option<&str>) -> Catalog {
    let service = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: cart, namespace: shop}},
           spec: {{{service} ports: [{{port: 80, appProtocol: http}}]}}}}"
    );
    let mut builder = MeshBuilder::default();
    builder.with(&[&service, SLICE, &policy(locality)]);
    let catalog = Catalog::new(settings());
    catalog.publish(Arc::new(builder.mesh().with_registrations(at("a", zone))));
    catalog
}

#[test]
fn a_policy_comes_before_the_preference_of_the_service() {
    let all = vec![vec!["1", "2", "3", "4", "5"]];
    let prefers = "trafficDistribution: PreferSameZone,";
    for (service, locality, zone, expected) in [
        ("", "locality: {preference: SameZone}", Some("x"), vec![vec!["1", "2"], vec!["3", "4", "5"]]),
        ("", "locality: {preference: SameZone}", None, all.clone()),
        ("", "locality: {preference: SameNode}", Some("x"), vec![vec!["1"], vec!["2"], vec!["3", "4", "5"]]),
        (prefers, "locality: {preference: None}", Some("x"), all.clone()),
        (prefers, "overload: Enforce", Some("x"), vec![vec!["1", "2"], vec!["3", "4", "5"]]),
        ("internalTrafficPolicy: Local,", "locality: {preference: None}", Some("x"), vec![vec!["1"]]),
    ] {
        let mut found = by_priority(&with_policy(service, locality, zone));
        found.iter_mut().for_each(|group| group.sort());
        assert_eq!(found, expected, "{service} {locality} in {zone:?}");
    }
}

#[test]
fn other_zones_follow_in_the_order_for_the_zone_of_the_caller() {
    let order = "failover: [{from: x, to: [z]}, {from: z, to: [y, x]}]";
    for (preference, zone, expected) in [
        ("SameZone", "x", vec![vec!["1", "2"], vec!["4"], vec!["3", "5"]]),
        ("SameZone", "z", vec![vec!["4"], vec!["3"], vec!["1", "2"], vec!["5"]]),
        ("SameZone", "y", vec![vec!["3"], vec!["1", "2", "4", "5"]]),
        ("SameZone", "new", vec![vec!["1", "2", "3", "4", "5"]]),
        ("SameNode", "x", vec![vec!["1"], vec!["2"], vec!["4"], vec!["3", "5"]]),
        ("SameZone, minEndpoints: 2", "x", vec![vec!["1", "2"], vec!["4"], vec!["3", "5"]]),
        ("SameZone, minEndpoints: 3", "x", vec![vec!["1", "2", "4"], vec!["3", "5"]]),
        ("SameZone, minEndpoints: 2", "z", vec![vec!["3", "4"], vec!["1", "2"], vec!["5"]]),
        ("SameZone, minEndpoints: 2", "y", vec![vec!["1", "2", "3", "4", "5"]]),
        ("SameNode, minEndpoints: 3", "x", vec![vec!["1"], vec!["2", "4"], vec!["3", "5"]]),
    ] {
        let locality = format!("locality: {{preference: {preference}, {order}}}");
        let mut found = by_priority(&with_policy("", &locality, Some(zone)));
        found.iter_mut().for_each(|group| group.sort());
        assert_eq!(found, expected, "{preference} in {zone}");
    }
}

#[test]
fn a_zone_with_too_few_endpoints_is_beside_the_next_one_that_has_any() {
    let order = "failover: [{from: x, to: [empty, z]}]";
    let locality = format!("locality: {{preference: SameZone, {order}, minEndpoints: 3}}");
    let mut found = by_priority(&with_policy("", &locality, Some("x")));
    found.iter_mut().for_each(|group| group.sort());
    assert_eq!(found, [vec!["1", "2", "4"], vec!["3", "5"]]);
}

#[test]
fn a_zone_with_too_few_ready_endpoints_is_not_preferred() {
    for (least, zone, groups) in
        [(1, "x", 2), (2, "x", 2), (3, "x", 1), (1, "y", 2), (2, "y", 1), (1, "new", 1)]
    {
        let locality = format!("locality: {{preference: SameZone, minEndpoints: {least}}}");
        let found = by_priority(&with_policy("", &locality, Some(zone)));
        assert_eq!(found.len(), groups, "{least} in {zone}: {found:?}");
    }
}

#[test]
fn the_overprovisioning_factor_is_in_the_assignment() {
    let factor = |locality: &str| {
        let catalog = with_policy("", locality, Some("x"));
        let made: ClusterLoadAssignment = read(&catalog, Kind::Endpoints, CART);
        made.policy.map(|policy| policy.overprovisioning_factor.unwrap().value)
    };
    assert_eq!(factor("locality: {preference: SameZone}"), None);
    assert_eq!(factor("locality: {preference: SameZone, overprovisioningPercent: 100}"), Some(100));
}

#[test]
fn a_changed_policy_changes_the_endpoints_of_its_callers() {
    let mut builder = MeshBuilder::default();
    let service = crate::model::mesh_builder::testing::service("cart", 80, "http");
    builder.with(&[&service, SLICE, &policy("locality: {preference: None}")]);
    let catalog = Catalog::new(settings());
    let publish = |builder: &MeshBuilder| {
        catalog.publish(Arc::new(builder.mesh().with_registrations(at("a", Some("x")))))
    };
    publish(&builder);
    assert_eq!(by_priority(&catalog).len(), 1);
    builder.with(&[&policy("locality: {preference: SameZone}")]);
    let affected = publish(&builder);
    let of_service =
        |(of, _): &&(Dependency, BTreeSet<Kind>)| *of == Dependency::Service(ServiceKey::new("shop", "cart"));
    let (_, kinds) = affected.dependencies.iter().find(of_service).unwrap();
    assert!(kinds.contains(&Kind::Endpoints));
    assert_eq!(by_priority(&catalog).len(), 2, "not the older one, which was kept");
}
