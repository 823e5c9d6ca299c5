//! What a change of resources rebuilds, and what it shares.

mod routes;

use super::testing::{resource, route, service};
use super::*;
use crate::model::service::ServiceKey;
use proptest::prelude::*;

fn slice(name: &str, service: &str, ips: &str, conditions: &str) -> String {
    let endpoints: Vec<_> =
        ips.split(' ').map(|ip| format!("{{addresses: [{ip}], conditions: {conditions}}}")).collect();
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}, namespace: shop,
           labels: {{kubernetes.io/service-name: {service}}}}}, addressType: IPv4, ports: [{{port: 8080}}],
           endpoints: [{}]}}",
        endpoints.join(", ")
    )
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("shop", name)
}

#[test]
fn slices_of_a_service_add_up_and_the_better_health_counts() {
    let mut builder = MeshBuilder::default();
    builder.with(&[
        &service("cart", 80, "http"),
        &slice("cart-1", "cart", "10.0.0.2 10.0.0.1", "{ready: false}"),
        &slice("cart-2", "cart", "10.0.0.2 10.0.0.3", "{ready: true}"),
        &slice("other", "nobody", "10.0.0.9", "{}"),
    ]);
    let mesh = builder.mesh();
    let all: Vec<_> = mesh
        .endpoints(&key("cart"), 80)
        .iter()
        .map(|endpoint| format!("{} {:?}", endpoint.address, endpoint.health))
        .collect();
    assert_eq!(all, ["10.0.0.1:8080 NotReady", "10.0.0.2:8080 Ready", "10.0.0.3:8080 Ready"]);
    let address = "10.0.0.3:8080".parse().unwrap();
    assert_eq!(mesh.service_by_endpoint(&address, "shop"), Some((key("cart"), 80)));
    builder.without(&slice("cart-2", "cart", "10.0.0.3", "{}"));
    assert_eq!(builder.mesh().service_by_endpoint(&address, "shop"), None);
    assert_eq!(builder.mesh().endpoints(&key("cart"), 80).len(), 2);
}

#[test]
fn a_change_touches_its_service_and_no_other() {
    let mut builder = MeshBuilder::default();
    let rule = "{backendRefs: [{name: catalog-v1, port: 80}]}";
    builder.with(&[
        &service("cart", 80, "http"),
        &service("catalog", 80, "http"),
        &service("catalog-v1", 80, "http"),
        &slice("cart-1", "cart", "10.0.0.1", "{}"),
        &route("HTTPRoute", "catalog", "name: catalog", rule),
    ]);
    let changes = |builder: &mut MeshBuilder, yaml: &str| {
        let old = builder.mesh();
        builder.with(&[yaml]);
        let changed = builder.mesh().changes(&old);
        [changed.services, changed.endpoints, changed.routes]
    };
    let none = Vec::<ServiceKey>::new;
    let moved = slice("cart-1", "cart", "10.0.0.2", "{}");
    assert_eq!(changes(&mut builder, &moved), [none(), vec![key("cart")], none()]);
    assert_eq!(changes(&mut builder, &moved), [none(), none(), none()]);
    let split =
        route("HTTPRoute", "catalog", "name: catalog", &rule.replace("port: 80", "port: 80, weight: 2"));
    assert_eq!(changes(&mut builder, &split), [none(), none(), vec![key("catalog")]]);
    let other_port = service("catalog-v1", 81, "http");
    let changed = changes(&mut builder, &other_port);
    assert_eq!(changed, [vec![key("catalog-v1")], none(), vec![key("catalog")]]);
    assert_eq!(builder.table("catalog", "shop"), ["httproute/shop/catalog/0/0 2*BackendNotFound"]);
}

#[test]
fn a_cluster_ip_belongs_to_the_first_claimant_by_name() {
    let with_ip = |name: &str| service(name, 80, "http").replace("spec: {", "spec: {clusterIP: 10.1.0.1, ");
    let mut builder = MeshBuilder::default();
    let ip = "10.1.0.1".parse().unwrap();
    builder.with(&[&with_ip("b"), &with_ip("a")]);
    assert_eq!(builder.mesh().service_by_ip(&ip), Some(&key("a")));
    builder.without(&with_ip("a"));
    assert_eq!(builder.mesh().service_by_ip(&ip), Some(&key("b")));
    builder.with(&[&service("b", 80, "http")]);
    assert_eq!(builder.mesh().service_by_ip(&ip), None);
}

#[test]
fn an_update_of_one_of_many_services_shares_everything_that_it_does_not_change() {
    let mut builder = MeshBuilder::default();
    let services: Vec<_> = (0..1_000).map(|n| resource(&service(&format!("s{n}"), 80, "http"))).collect();
    builder.apply(services.into_iter().map(|service| (service.metadata.id.clone(), Some(service))));
    let updates: Vec<_> =
        (0..10).map(|n| resource(&slice(&format!("s{n}-1"), &format!("s{n}"), "10.0.0.1", "{}"))).collect();
    for update in updates {
        let old = builder.mesh();
        builder.apply([(update.metadata.id.clone(), Some(update))]);
        let new = builder.mesh();
        assert_eq!(new.changes(&old).endpoints.len(), 1);
        let copied = new.services().filter(|(key, entry)| {
            let was = old.service(key).unwrap();
            !Arc::ptr_eq(&entry.endpoints, &was.endpoints)
                || !Arc::ptr_eq(&entry.service, &was.service)
                || !Arc::ptr_eq(&entry.routes, &was.routes)
        });
        assert_eq!(copied.count(), 1, "what did not change is shared");
    }
}

#[test]
fn an_update_among_ten_thousand_services_is_the_only_change() {
    let mut builder = MeshBuilder::default();
    let services = (0..10_000).map(|n| resource(&service(&format!("s{n}"), 80, "http")));
    builder.apply(services.map(|service| (service.metadata.id.clone(), Some(service))));
    for n in 0..100 {
        let old = builder.mesh();
        builder.with(&[&slice(&format!("s{n}-1"), &format!("s{n}"), "10.0.0.1", "{}")]);
        let new = builder.mesh();
        assert_eq!(new.changes(&old).endpoints, [key(&format!("s{n}"))]);
    }
}

#[test]
fn the_active_routes_of_a_service_are_found_once_for_all_its_routes() {
    let mut builder = MeshBuilder::default();
    builder.with(&[&service("catalog", 80, "http"), &service("cart", 80, "http")]);
    let rule = "{backendRefs: [{name: cart, namespace: shop, port: 80}]}";
    let names =
        (0..200).map(|n| format!("r{n}.{}", if n % 2 == 0 { "shop".into() } else { format!("n{n}") }));
    let routes: Vec<_> = names.map(|name| route("HTTPRoute", &name, "name: catalog", rule)).collect();
    let before = attachment::looks();
    builder.with(&routes.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(attachment::looks() - before, 1);
    assert_eq!(builder.table("catalog", "n1"), ["httproute/n1/r1/0/0 1*cart.shop:80"]);
    assert_eq!(builder.table("catalog", "elsewhere").len(), 100);
}

/// Resources that depend on each other in every way: backends, parents, conflicts, grants, slices.
fn entangled() -> Vec<String> {
    let backend = |name: &str| {
        format!("{{backendRefs: [{{name: {name}, port: 80}}, {{name: far, namespace: archive, port: 80}}]}}")
    };
    vec![
        service("cart", 80, "http"),
        service("catalog", 80, "http"),
        service("far.archive", 80, "http"),
        service("stock", 80, "tcp"),
        slice("cart-1", "cart", "10.0.0.1 10.0.0.2", "{}"),
        slice("cart-2", "cart", "10.0.0.2", "{ready: false}"),
        route("HTTPRoute", "a", "name: catalog", &backend("cart")),
        route("HTTPRoute", "b", "name: catalog", &backend("nowhere")),
        route("HTTPRoute", "c.elsewhere", "name: catalog", &backend("cart")),
        route("TCPRoute", "d", "name: catalog", &backend("stock")),
        route("GRPCRoute", "e", "name: cart", &backend("stock")),
        route("HTTPRoute", "f", "name: stock", &backend("cart")),
        "{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {name: g, namespace: archive},
          spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}],
          to: [{group: '', kind: Service}]}}".into(),
    ]
}

fn picture(builder: &MeshBuilder) -> (Vec<String>, Statuses) {
    let mesh = builder.mesh();
    let mut entries: Vec<_> = mesh.services().map(|(_, entry)| format!("{entry:?}")).collect();
    entries.sort_unstable();
    (entries, builder.statuses())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_order_of_resources_means_nothing(
        order in Just((0..13usize).collect::<Vec<_>>()).prop_shuffle(),
        again in proptest::collection::vec(0..13usize, 0..6),
    ) {
        let all = entangled();
        let mut expected = MeshBuilder::default();
        expected.with(&all.iter().map(String::as_str).collect::<Vec<_>>());
        let mut one_by_one = MeshBuilder::default();
        for at in &order {
            one_by_one.with(&[&all[*at]]);
        }
        // Removing a resource and adding it again makes no difference either.
        for at in &again {
            one_by_one.without(&all[*at]);
        }
        for at in &again {
            one_by_one.with(&[&all[*at]]);
        }
        prop_assert_eq!(picture(&one_by_one), picture(&expected));
    }
}

#[test]
fn a_service_of_keys_that_does_not_exist_is_reported_until_it_does() {
    let issuer =
        |of: &str| format!("{{issuer: {of}, keys: {{service: {{name: {of}, port: 80, path: /keys}}}}}}");
    let policy = format!(
        "{{apiVersion: outrigger.dev/v1alpha1, kind: AuthenticationPolicy, metadata: {{name: a, namespace: shop}},
           spec: {{jwt: {{issuers: [{}, {}]}}}}}}",
        issuer("idp"),
        issuer("sso")
    );
    let mut builder = MeshBuilder::default();
    builder.with(&[&service("sso", 81, "http"), &service("idp.other", 80, "http"), &policy]);
    let conditions = |builder: &MeshBuilder| builder.conditions("AuthenticationPolicy shop/a").remove(1);
    let missing = "there is no Service shop/idp; Service shop/sso has no port 80";
    assert_eq!(conditions(&builder), format!("ResolvedRefs=False (BackendNotFound): {missing}"));
    let findings: Vec<_> = builder.findings().iter().map(|found| found.problem.to_string()).collect();
    assert_eq!(findings.len(), 2, "{findings:?}");
    for (finding, field) in
        findings.iter().zip(["issuers[0].keys.service.name", "issuers[1].keys.service.port"])
    {
        assert!(finding.contains(&format!("spec.jwt.{field}")), "{finding}");
    }
    builder.with(&[&service("idp", 80, "http"), &service("sso", 80, "http")]);
    assert_eq!(conditions(&builder), "ResolvedRefs=True (ResolvedRefs)");
    assert!(builder.findings().is_empty());
}
