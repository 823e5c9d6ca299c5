//! Which claims are reported, and where.

use super::*;
use crate::model::mesh_builder::MeshBuilder;
use crate::model::mesh_builder::testing::{resource, route, service};
use crate::model::resource::Body;

fn policy(kind: &str, name: &str, targets: &str, spec: &str) -> String {
    let (name, namespace) = name.split_once('.').unwrap_or((name, "shop"));
    format!(
        "{{apiVersion: outrigger.dev/v1alpha1, kind: {kind}, metadata: {{name: {name}, namespace: {namespace}}},
           spec: {{targetRefs: [{targets}], {spec}}}}}"
    )
}

fn limit(name: &str, targets: &str) -> String {
    policy("RateLimitPolicy", name, targets, "local: [{requests: 1, per: Day, by: [{claim: {name: sub}}]}]")
}

/// A policy that verifies tokens.
fn tokens(name: &str, targets: &str) -> String {
    let keys =
        r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    let spec = format!("jwt: {{issuers: [{{issuer: 'https://i', keys: {{inline: '{keys}'}}}}]}}");
    policy("AuthenticationPolicy", name, targets, &spec)
}

fn off(name: &str, targets: &str) -> String {
    policy("AuthenticationPolicy", name, targets, "mode: 'Off'")
}

/// A mesh with Services, of which two may select the same pods and one has no selector, and with routes.
fn mesh() -> MeshBuilder {
    let selecting = |name: &str, labels: &str| {
        service(name, 80, "http").replace("spec: {", &format!("spec: {{selector: {{{labels}}}, "))
    };
    let mut builder = MeshBuilder::default();
    builder.with(&[
        &selecting("cart", "app: cart").replace("[{port: 80", "[{port: 81, name: b}, {name: a, port: 80"),
        &service("plain", 80, "http"),
        &selecting("reviews", "app: reviews"),
        &selecting("canary", "app: reviews, version: v2"),
        &selecting("stock", "app: stock"),
        &route("HTTPRoute", "r", "name: cart", "{name: pay, matches: [{path: {value: /pay}}]}, {name: rest}"),
        &route("HTTPRoute", "s", "name: cart", "{matches: [{path: {value: /s}}]}"),
        &route("HTTPRoute", "a", "name: cart, sectionName: a", "{matches: [{path: {value: /a}}]}"),
        &route("GRPCRoute", "p", "name: plain", "{}"),
    ]);
    builder
}

const CART: &str = "{group: '', kind: Service, name: cart}";
const A: &str = "{group: '', kind: Service, name: cart, sectionName: a}";
const B: &str = "{group: '', kind: Service, name: cart, sectionName: b}";
const REVIEWS: &str = "{group: '', kind: Service, name: reviews}";
const CANARY: &str = "{group: '', kind: Service, name: canary}";
const STOCK: &str = "{group: '', kind: Service, name: stock}";
const PODS: &str = "{group: '', kind: Pod, selector: {matchLabels: {app: reviews}}}";
const R: &str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}";
const PAY: &str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, sectionName: pay}";
const REST: &str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, sectionName: rest}";
const OF_A: &str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: a}";
const OF_PLAIN: &str = "{group: gateway.networking.k8s.io, kind: GRPCRoute, name: p}";
const PLAIN: &str = "{group: '', kind: Service, name: plain}";
const S: &str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: s}";

#[test]
fn tokens_are_verified_where_the_places_of_the_policies_have_requests_in_common() {
    let verified = |of_limit: &str, policies: &[String]| {
        let mut builder = mesh();
        builder.with(&policies.iter().map(String::as_str).collect::<Vec<_>>());
        builder.with(&[&limit("l", of_limit)]);
        builder.conditions("RateLimitPolicy shop/l") == ["Accepted=True (Accepted)"]
    };
    for (of_limit, of_tokens, expected) in [
        ("", "", true),
        (CART, "", true),
        (R, "", true),
        ("", S, true),
        (CART, CART, true),
        (CART, REVIEWS, false),
        (CART, STOCK, false),
        (A, CART, true),
        (CART, A, true),
        (A, B, false),
        (CART, R, true),
        (PAY, CART, true),
        (STOCK, R, false),
        (R, STOCK, false),
        (R, PAY, true),
        (PAY, R, true),
        (PAY, PAY, true),
        (PAY, REST, false),
        (R, S, false),
        (REVIEWS, CANARY, true),
        (CANARY, REVIEWS, true),
        (REVIEWS, STOCK, false),
        (REVIEWS, PODS, true),
        (PODS, CANARY, true),
        (PODS, STOCK, false),
        (PODS, R, true),
        (R, A, true),
        (OF_A, A, true),
        (OF_A, B, true),
        // Any workload may register for a Service without a selector.
        (STOCK, PLAIN, true),
        (PLAIN, STOCK, true),
        (OF_PLAIN, STOCK, true),
        (STOCK, OF_PLAIN, true),
    ] {
        assert_eq!(verified(of_limit, &[tokens("t", of_tokens)]), expected, "{of_limit} {of_tokens}");
        assert!(!verified(of_limit, &[off("t", of_tokens)]), "{of_limit} {of_tokens}");
    }
    // Of the policies for the whole target, the narrowest is in force.
    assert!(!verified(CART, &[tokens("t", ""), off("o", CART)]));
    assert!(verified(CART, &[off("o", ""), tokens("t", CART)]));
    assert!(!verified(R, &[tokens("t", CART), off("o", R)]));
    assert!(verified(CART, &[tokens("t", ""), off("o", R)]));
    assert!(verified(CART, &[off("o", CART), tokens("t", R)]));
    // Where all policies say the same.
    assert!(verified(CART, &[tokens("t", ""), tokens("u", STOCK)]));
    assert!(!verified(CART, &[off("o", ""), off("p", STOCK)]));
    // A port has all requests of a route only if no other port has some.
    assert!(verified(R, &[tokens("t", ""), off("o", A)]));
    assert!(verified(OF_A, &[tokens("t", ""), off("o", B)]));
    assert!(!verified(OF_A, &[tokens("t", ""), off("o", A)]));
    assert!(!verified(R, &[tokens("t", ""), off("o", CART)]));
}

#[test]
fn the_status_follows_the_policies_of_the_namespace_and_of_the_mesh() {
    let mut builder = mesh();
    builder.with(&[&limit("l", &format!("{CART}, {STOCK}")), &limit("all.outrigger-system", "")]);
    let message = |at: &str| {
        format!(
            "Accepted=True (Accepted): spec.local[0].by[0].claim: no request has the claim \"sub\", since no \
             AuthenticationPolicy verifies tokens at {at}: the limit does not distinguish requests by it"
        )
    };
    let accepted = || "Accepted=True (Accepted)".to_owned();
    let own = |builder: &MeshBuilder| builder.conditions("RateLimitPolicy shop/l");
    let of_mesh = |builder: &MeshBuilder| builder.conditions("RateLimitPolicy outrigger-system/all");
    assert_eq!(own(&builder), [message("Service cart"), message("Service stock")]);
    assert_eq!(of_mesh(&builder), [message("any place of the mesh")]);
    let listed: Vec<_> =
        builder.statuses().values().flat_map(|status| status.unmet().collect::<Vec<_>>()).collect();
    let expected = ["Service cart", "Service stock"].map(|target| format!("{target}: {}", message(target)));
    assert!(expected.iter().all(|line| listed.contains(line)), "{listed:?}");

    builder.with(&[&tokens("t", CART)]);
    assert_eq!(own(&builder), [accepted(), message("Service stock")]);
    assert_eq!(of_mesh(&builder), [accepted()]);

    builder.without(&tokens("t", CART)).with(&[&tokens("t.outrigger-system", "")]);
    assert_eq!(own(&builder), [accepted(), accepted()]);
    builder.without(&tokens("t.outrigger-system", ""));
    assert_eq!(own(&builder), [message("Service cart"), message("Service stock")]);

    // A refused policy is reported as such. Until it is corrected, everything is denied.
    builder.with_refused(&policy("AuthenticationPolicy", "t", CART, "jwt: 1"));
    assert_eq!(own(&builder), [accepted(), message("Service stock")]);
}

#[test]
fn each_use_of_a_claim_is_named() {
    let fields = |kind: &str, spec: &str| -> Vec<_> {
        let resource = resource(&policy(kind, "p", "", spec));
        let Body::Policy(spec) = &resource.body else { panic!("{resource:?}") };
        used(spec).into_iter().map(|claim| (claim.field, claim.name)).collect()
    };
    let claim = "{claim: {path: [a, b]}}";
    let global = format!(
        "global: {{service: {{name: l, port: 1}}, descriptors: [{{by: [{{caller: {{}}}}]}}, {{by: [{claim}]}}]}}"
    );
    assert_eq!(
        fields(
            "RateLimitPolicy",
            &format!("local: [{{requests: 1, per: Day, by: [{{caller: {{}}}}, {claim}]}}], {global}")
        ),
        [
            ("spec.local[0].by[1].claim".to_owned(), "a.b".to_owned()),
            ("spec.global.descriptors[1].by[0].claim".to_owned(), "a.b".to_owned()),
        ]
    );
    assert_eq!(
        fields(
            "AuthorizationPolicy",
            "action: Deny, rules: [{}, {from: [{namespaces: [a]}, {claims: [{name: c, values: [x]}]}]}]"
        ),
        [("spec.rules[1].from[1].claims[0]".to_owned(), "c".to_owned())]
    );
    assert_eq!(fields("AuthenticationPolicy", "mode: 'Off'"), []);
}
