//! How routes attach, as the assembled mesh shows it.

use crate::model::mesh_builder::MeshBuilder;
use crate::model::mesh_builder::testing::{route, service};

const TO_CART: &str = "backendRefs: [{name: cart, port: 80}]";

fn shop(more: &[&str]) -> MeshBuilder {
    let mut builder = MeshBuilder::default();
    builder.with(&[&service("catalog", 80, "http"), &service("cart", 80, "http")]).with(more);
    builder
}

fn http(name: &str, rules: &str) -> String {
    route("HTTPRoute", name, "name: catalog", rules)
}

#[test]
fn the_most_specific_match_comes_first() {
    let rules = format!(
        "{{matches: [{{path: {{value: /}}}}, {{path: {{value: /long/prefix}}}}, {{path: {{value: /long}}}}], {TO_CART}}},
         {{matches: [{{path: {{value: /long}}, headers: [{{name: a, value: b}}]}},
                     {{path: {{value: /long}}, method: GET}},
                     {{path: {{value: /long}}, headers: [{{name: a, value: b}}], queryParams: [{{name: a, value: b}}]}},
                     {{path: {{type: Exact, value: /x}}}},
                     {{path: {{type: RegularExpression, value: /long/.*}}}}], {TO_CART}}}"
    );
    let table = shop(&[&http("r", &rules)]).table("catalog", "shop");
    let order: Vec<_> = table.iter().map(|line| &line[17..20]).collect();
    assert_eq!(order, ["1/3", "1/4", "0/1", "1/1", "1/2", "1/0", "0/2", "0/0"]);
}

#[test]
fn ties_go_to_the_older_route_and_then_to_the_first_by_name() {
    let rule = format!("{{{TO_CART}}}");
    let dated = |name: &str, date: &str| {
        let metadata = format!("metadata: {{creationTimestamp: '{date}', name");
        http(name, &rule).replace("metadata: {name", &metadata)
    };
    let builder = shop(&[
        &http("a", &rule),
        &http("b", &rule),
        &dated("y", "2026-01-02T00:00:00Z"),
        &dated("z", "2026-01-01T00:00:00Z"),
    ]);
    let order: Vec<_> = builder.table("catalog", "shop").iter().map(|line| line[15..16].to_owned()).collect();
    assert_eq!(order, ["z", "y", "a", "b"]);
}

#[test]
fn consumer_routes_replace_the_producers_for_their_own_namespace() {
    let rule = format!("{{{TO_CART}}}");
    let own = "{backendRefs: [{name: mine, port: 80}]}";
    let builder =
        shop(&[&http("producer", &rule), &http("consumer.office", own), &service("mine.office", 80, "http")]);
    assert_eq!(builder.table("catalog", "elsewhere"), ["httproute/shop/producer/0/0 1*cart.shop:80"]);
    assert_eq!(builder.table("catalog", "office"), ["httproute/office/consumer/0/0 1*mine.office:80"]);
    assert_eq!(builder.conditions("HTTPRoute office/consumer")[0], "Accepted=True (Accepted)");
}

/// `MeshConsumerRoute` of Gateway API's conformance tests.
#[test]
fn a_consumer_route_leads_to_its_own_parent_without_a_grant() {
    let route = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute,
        metadata: {name: add-header, namespace: office}, spec: {
        parentRefs: [{group: '', kind: Service, name: catalog, namespace: shop}],
        rules: [{filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x, value: y}]}}],
                 backendRefs: [{name: catalog, namespace: shop, port: 80}]}]}}";
    let builder = shop(&[route]);
    assert_eq!(builder.table("catalog", "office"), ["httproute/office/add-header/0/0 1*catalog.shop:80"]);
    assert_eq!(builder.table("catalog", "shop"), [""; 0]);
    assert_eq!(
        builder.conditions("HTTPRoute office/add-header"),
        ["Accepted=True (Accepted)", "ResolvedRefs=True (ResolvedRefs)"]
    );
}

#[test]
fn only_a_producer_route_needs_a_grant() {
    for (namespace, parent, backend, granted) in [
        ("office", "catalog", "cart, namespace: shop", true),
        ("office", "catalog", "old, namespace: archive", true),
        ("office", "catalog", "mine", true),
        ("shop", "catalog", "cart", true),
        ("shop", "catalog", "cart, namespace: shop", true),
        ("shop", "catalog", "old, namespace: archive", false),
        ("shop", "catalog", "mine, namespace: office", false),
    ] {
        for kind in ["HTTPRoute", "GRPCRoute", "TCPRoute"] {
            let rules = format!("{{backendRefs: [{{name: {backend}, port: 80}}]}}");
            let parent = format!("name: {parent}");
            let builder = shop(&[
                &service("catalog", 80, "''"),
                &service("cart", 80, "''"),
                &service("mine.office", 80, "''"),
                &service("old.archive", 80, "''"),
                &route(kind, &format!("r.{namespace}"), &parent, &rules),
            ]);
            let table = builder.table("catalog", namespace);
            assert_eq!(!table[0].contains("RefNotPermitted"), granted, "{kind} {backend}: {table:?}");
            let resolved = &builder.conditions(&format!("{kind} {namespace}/r"))[1];
            assert_eq!(!resolved.contains("RefNotPermitted"), granted, "{resolved}");
        }
    }
}

#[test]
fn a_route_of_two_parents_needs_a_grant_for_the_one_that_it_produces() {
    let both = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute,
        metadata: {name: r, namespace: office}, spec: {parentRefs: [
          {group: '', kind: Service, name: catalog, namespace: shop}, {group: '', kind: Service, name: mine}],
        rules: [{backendRefs: [{name: cart, namespace: shop, port: 80}]}]}}";
    let builder = shop(&[&service("mine.office", 80, "http"), both]);
    assert_eq!(builder.table("catalog", "office"), ["httproute/office/r/0/0 1*cart.shop:80"]);
    let conditions = builder.conditions("HTTPRoute office/r");
    assert!(conditions[1].starts_with("ResolvedRefs=True"), "{conditions:?}");
    assert!(conditions[3].starts_with("ResolvedRefs=False (RefNotPermitted)"), "{conditions:?}");
}

#[test]
fn only_one_kind_of_route_is_active_on_a_port() {
    let rule = format!("{{{TO_CART}}}");
    let tcp =
        |name: &str| route("TCPRoute", name, "name: catalog", "{backendRefs: [{name: stock, port: 9000}]}");
    let mut builder = shop(&[&service("stock", 9000, "tcp"), &tcp("b"), &tcp("a")]);
    assert_eq!(builder.table("catalog", "shop"), ["tcproute/shop/a/0/0 1*stock.shop:9000"]);
    assert_eq!(
        builder.conditions("TCPRoute shop/b")[0],
        "Accepted=False (Conflicted): TCPRoute shop/a is active on every port that this route selects"
    );
    builder.with(&[&http("h", &rule)]);
    assert_eq!(builder.table("catalog", "shop"), ["httproute/shop/h/0/0 1*cart.shop:80"]);
    builder.with(&[&route("GRPCRoute", "g", "name: catalog", &rule)]);
    assert!(builder.table("catalog", "shop")[0].starts_with("grpcroute/shop/g"));
    assert!(builder.conditions("HTTPRoute shop/h")[0].contains("Conflicted"));
    assert!(builder.conditions("TCPRoute shop/a")[0].contains("Conflicted"));
    // Clients of another namespace have a separate table, so the two routes do not conflict.
    builder.with(&[&route("TCPRoute", "t.office", "name: catalog", &rule)]);
    assert_eq!(builder.conditions("TCPRoute office/t")[0], "Accepted=True (Accepted)");
}

#[test]
fn a_parent_that_cannot_accept_the_route_has_a_reason() {
    let rule = format!("{{{TO_CART}}}");
    let external = "{apiVersion: v1, kind: Service, metadata: {name: out, namespace: shop},
        spec: {type: ExternalName, externalName: example.com}}";
    for (parent, condition) in [
        ("name: catalog, port: 80", "Accepted=True (Accepted)"),
        ("name: nobody", "Accepted=False (NoMatchingParent): there is no Service shop/nobody"),
        ("name: catalog, port: 81", "Accepted=False (NoMatchingParent): the Service has no such TCP port"),
        (
            "name: catalog, sectionName: x",
            "Accepted=False (NoMatchingParent): the Service has no such TCP port",
        ),
        (
            "name: stock",
            "Accepted=False (NoMatchingParent): the protocol of the port is not HTTP, by its appProtocol or its name",
        ),
        (
            "name: out",
            "Accepted=False (NoMatchingParent): a Service of type ExternalName cannot be a parent (GEP-1294)",
        ),
    ] {
        let route = route("HTTPRoute", "r", parent, &rule);
        let builder = shop(&[&service("stock", 80, "tcp"), external, &route]);
        assert_eq!(builder.conditions("HTTPRoute shop/r")[0], condition, "{parent}");
    }
    let gateway = http("r", &rule).replace("group: '', kind: Service, ", "");
    assert_eq!(shop(&[&gateway]).conditions("HTTPRoute shop/r"), [""; 0]);
}

#[test]
fn the_service_of_external_authorization_is_resolved_like_a_backend() {
    let grant = "{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant,
        metadata: {name: g, namespace: archive}, spec: {from: [{group: gateway.networking.k8s.io,
        kind: HTTPRoute, namespace: shop}], to: [{group: '', kind: Service}]}}";
    for (protocol, backend, expected) in [
        ("GRPC", "name: auth, port: 80", "True (ResolvedRefs)"),
        ("GRPC", "name: cart, port: 80", "False (UnsupportedProtocol): the protocol of Service shop/cart:80"),
        ("HTTP", "name: cart, port: 80", "True (ResolvedRefs)"),
        ("HTTP", "name: nobody, port: 80", "False (BackendNotFound): there is no Service shop/nobody"),
        ("GRPC", "name: old, namespace: archive, port: 80", "False (RefNotPermitted)"),
    ] {
        let field = protocol.to_ascii_lowercase();
        let auth = format!("protocol: {protocol}, {field}: {{}}, backendRef: {{{backend}}}");
        let rules = format!("{{filters: [{{type: ExternalAuth, externalAuth: {{{auth}}}}}], {TO_CART}}}");
        let services = [service("auth", 80, "grpc"), service("old.archive", 80, "grpc")];
        let mut builder = shop(&[&http("r", &rules), &services[0], &services[1]]);
        let resolved = |builder: &MeshBuilder| builder.conditions("HTTPRoute shop/r")[1].clone();
        let condition = resolved(&builder);
        assert!(condition.starts_with(&format!("ResolvedRefs={expected}")), "{backend}: {condition}");
        builder.with(&[grant]);
        assert_eq!(
            resolved(&builder).contains("=True"),
            !expected.contains("BackendNotFound") && !expected.contains("Unsupported")
        );
    }
}

#[test]
fn a_backend_that_cannot_be_used_keeps_its_share_and_is_named() {
    let grant = "{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant,
        metadata: {name: g, namespace: archive}, spec: {from: [{group: gateway.networking.k8s.io,
        kind: HTTPRoute, namespace: shop}], to: [{group: '', kind: Service, name: old}]}}";
    let external = "{apiVersion: v1, kind: Service, metadata: {name: out, namespace: shop},
        spec: {type: ExternalName, externalName: example.com}}";
    for (backend, expected) in [
        ("name: cart, port: 80", "cart.shop:80"),
        ("name: cart, port: 81", "BackendNotFound"),
        ("name: nobody, port: 80", "BackendNotFound"),
        ("group: g.io, kind: Bucket, name: b", "InvalidKind"),
        ("name: out, port: 80", "InvalidKind"),
        ("name: stock, port: 80", "UnsupportedProtocol"),
        ("name: old, namespace: archive, port: 80", "old.archive:80"),
        ("name: other, namespace: archive, port: 80", "RefNotPermitted"),
        ("name: old, namespace: nowhere, port: 80", "RefNotPermitted"),
    ] {
        let rules =
            format!("{{backendRefs: [{{{backend}, weight: 3}}, {{name: cart, port: 80, weight: 0}}]}}");
        let builder = shop(&[
            &http("r", &rules),
            &service("stock", 80, "tcp"),
            &service("old.archive", 80, "http"),
            &service("other.archive", 80, "http"),
            external,
            grant,
        ]);
        let line = format!("httproute/shop/r/0/0 3*{expected} 0*cart.shop:80");
        assert_eq!(builder.table("catalog", "shop"), [line], "{backend}");
        let conditions = builder.conditions("HTTPRoute shop/r");
        assert_eq!(conditions[0], "Accepted=True (Accepted)");
        let resolved = format!("ResolvedRefs={}", if expected.contains(':') { "True" } else { "False" });
        assert!(
            conditions[1].starts_with(&resolved) && conditions[1].contains("ResolvedRefs"),
            "{conditions:?}"
        );
        assert!(expected.contains(':') || conditions[1].contains(&format!("({expected})")), "{conditions:?}");
    }
}

#[test]
fn a_tcp_route_needs_backends_for_opaque_bytes() {
    for (protocol, expected) in [
        ("tcp", "stock.shop:80"),
        ("", "stock.shop:80"),
        ("http", "UnsupportedProtocol"),
        ("kubernetes.io/h2c", "UnsupportedProtocol"),
        ("grpc", "UnsupportedProtocol"),
    ] {
        let rules = "{backendRefs: [{name: stock, port: 80}, {name: catalog, port: 80}]}";
        let tcp = route("TCPRoute", "r", "name: catalog", rules);
        let builder = shop(&[&service("stock", 80, protocol), &tcp]);
        // The route itself makes its parent port opaque.
        let line = format!("tcproute/shop/r/0/0 1*{expected} 1*catalog.shop:80");
        assert_eq!(builder.table("catalog", "shop"), [line], "{protocol}");
        let conditions = builder.conditions("TCPRoute shop/r");
        assert_eq!(conditions[0], "Accepted=True (Accepted)");
        let refused = format!(
            "ResolvedRefs=False (UnsupportedProtocol): the protocol of Service shop/stock:80 is {}, which does not fit a TCPRoute",
            protocol.replace("kubernetes.io/h2c", "http2")
        );
        let resolved = if expected.contains(':') { "ResolvedRefs=True (ResolvedRefs)" } else { &refused };
        assert_eq!(conditions[1], resolved, "{protocol}");
    }
}

#[test]
fn a_grant_that_is_added_or_removed_changes_the_routes_that_need_it() {
    let grant = "{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant,
        metadata: {name: g, namespace: archive}, spec: {from: [{group: gateway.networking.k8s.io,
        kind: HTTPRoute, namespace: shop}], to: [{group: '', kind: Service}]}}";
    let mut builder = shop(&[
        &service("old.archive", 80, "http"),
        &http("r", "{backendRefs: [{name: old, namespace: archive, port: 80}]}"),
    ]);
    assert!(builder.table("catalog", "shop")[0].ends_with("RefNotPermitted"));
    builder.with(&[grant]);
    assert!(builder.table("catalog", "shop")[0].ends_with("old.archive:80"));
    assert!(builder.conditions("HTTPRoute shop/r")[1].starts_with("ResolvedRefs=True"));
    builder.without(grant);
    assert!(builder.table("catalog", "shop")[0].ends_with("RefNotPermitted"));
}

#[test]
fn a_route_without_rules_has_no_backend_and_mirrors_are_resolved() {
    let bare = http("r", "").replace(", rules: []", "");
    let builder = shop(&[&bare]);
    assert_eq!(builder.table("catalog", "shop"), ["httproute/shop/r/0/0"]);
    let mirror = format!(
        "{{{TO_CART}, filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: no, port: 1}}}}}}]}}"
    );
    let conditions = shop(&[&http("r", &mirror)]).conditions("HTTPRoute shop/r");
    assert_eq!(conditions[1], "ResolvedRefs=False (BackendNotFound): there is no Service shop/no");
    let redirect = "{filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}";
    assert_eq!(shop(&[&http("r", redirect)]).table("catalog", "shop"), ["httproute/shop/r/0/0 redirect"]);
}
