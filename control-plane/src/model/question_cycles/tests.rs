//! Which questions are not asked.

use super::*;
use crate::model::mesh_builder::MeshBuilder;
use crate::model::mesh_builder::testing::{route, service};
use crate::model::service::ServiceKey;

fn policy(kind: &str, name: &str, targets: &str, asks: &str) -> String {
    let (name, namespace) = name.split_once('.').unwrap_or((name, "shop"));
    format!(
        "{{apiVersion: outrigger.dev/v1alpha1, kind: {kind}, metadata: {{name: {name}, namespace: {namespace}}},
           spec: {{targetRefs: [{targets}], {asks}}}}}"
    )
}

fn decided(name: &str, targets: &str, by: &str) -> String {
    let asks = format!("protocol: GRPC, backendRef: {{name: {by}, port: 80}}");
    policy("ExternalAuthorizationPolicy", name, targets, &asks)
}

fn off(name: &str, targets: &str) -> String {
    policy("ExternalAuthorizationPolicy", name, targets, "mode: 'Off'")
}

fn limited(name: &str, targets: &str, by: &str) -> String {
    let asks =
        format!("global: {{service: {{name: {by}, port: 80}}, descriptors: [{{by: [{{caller: {{}}}}]}}]}}");
    policy("RateLimitPolicy", name, targets, &asks)
}

fn to(service: &str) -> String {
    format!("{{group: '', kind: Service, name: {service}}}")
}

fn mesh(policies: &[&str]) -> MeshBuilder {
    let mut builder = MeshBuilder::default();
    for name in ["app", "judge", "jury", "limits"] {
        builder.with(&[&service(name, 80, "grpc")]);
    }
    builder.with(policies);
    builder
}

/// The questions of policies that are not asked, and about which ports.
fn unasked(builder: &MeshBuilder) -> Vec<String> {
    let mesh = builder.mesh();
    let mut all = Vec::new();
    let mut add = |name: &PolicyName, ports: &[BackendTarget]| {
        let port = |BackendTarget { service, port }: &BackendTarget| {
            format!("{name} {}/{}:{port}", service.namespace, service.name)
        };
        all.extend(ports.iter().map(port));
    };
    for namespace in ["office", "outrigger-system", "shop"].map(Name::from) {
        let decisions = mesh.policies::<ExternalAuthorization>(&namespace);
        decisions.iter().for_each(|policy| add(&policy.name, &policy.unasked));
        let limits = mesh.policies::<RateLimit>(&namespace);
        limits.iter().for_each(|policy| add(&policy.name, &policy.unasked));
    }
    all
}

#[test]
fn the_limit_of_a_cycle_is_not_asked_for() {
    let (authorized, limit) = (decided("a", "", "judge"), limited("l", "", "limits"));
    let mut builder = mesh(&[&authorized, &limit]);
    assert_eq!(unasked(&builder), ["shop/l shop/judge:80"]);
    assert_eq!(
        builder.conditions("RateLimitPolicy shop/l")[1],
        "ResolvedRefs=False (QuestionCycle): the answers about requests to shop/judge:80 would need questions that lead back to it: \
         its global limits do not apply there"
    );
    assert!(builder.conditions("ExternalAuthorizationPolicy shop/a")[1].starts_with("ResolvedRefs=True"));
    builder.with(&[&off("o", &to("limits"))]);
    assert_eq!(unasked(&builder), [""; 0], "the service of limits is asked without authorization");
    assert!(builder.conditions("RateLimitPolicy shop/l")[1].starts_with("ResolvedRefs=True"));
    builder.without(&off("o", ""));
    assert_eq!(unasked(&builder).len(), 1);
    let two = [limited("x", &to("limits"), "judge"), limited("y", &to("judge"), "limits")];
    let builder = mesh(&two.each_ref().map(String::as_str));
    assert_eq!(unasked(&builder), ["shop/x shop/limits:80", "shop/y shop/judge:80"]);
}

#[test]
fn where_all_of_a_cycle_is_authorization_none_is_asked_for() {
    let (all, of_judge) = (decided("all", "", "judge"), decided("b", &to("judge"), "jury"));
    let mut builder = mesh(&[&all, &of_judge]);
    assert_eq!(unasked(&builder), ["shop/all shop/jury:80", "shop/b shop/judge:80"]);
    assert_eq!(
        builder.conditions("ExternalAuthorizationPolicy shop/all")[1],
        "ResolvedRefs=False (QuestionCycle): the answers about requests to shop/jury:80 would need questions that lead back to it: they \
         are refused"
    );
    builder.with(&[&off("o", &to("jury"))]);
    assert_eq!(unasked(&builder), [""; 0]);
    let longer = mesh(&[
        &decided("a", &to("app"), "judge"),
        &of_judge,
        &decided("c", &to("jury"), "limits"),
        &decided("d", &to("limits"), "judge"),
    ]);
    let expected = ["shop/b shop/judge:80", "shop/c shop/jury:80", "shop/d shop/limits:80"];
    assert_eq!(unasked(&longer), expected, "app asks, since no answer depends on it");
}

#[test]
fn a_cycle_through_namespaces_is_found_from_either_end() {
    let asks = |policy: String, namespace: &str| {
        let asked = format!("{{namespace: {namespace}, name: ");
        let policy = policy.replace("service: {name: ", &format!("service: {asked}"));
        policy.replace("backendRef: {name: ", &format!("backendRef: {asked}"))
    };
    let here = asks(limited("here", &to("judge"), "counter"), "office");
    let there = asks(limited("there.office", "", "judge"), "shop");
    let counter = service("counter.office", 80, "grpc");
    for order in [[&here, &there, &counter], [&counter, &there, &here], [&there, &counter, &here]] {
        let mut builder = mesh(&order.map(String::as_str));
        assert_eq!(unasked(&builder), ["office/there office/counter:80", "shop/here shop/judge:80"]);
        builder.without(&there);
        assert_eq!(unasked(&builder), [""; 0]);
    }
    let of_mesh = asks(decided("all.outrigger-system", "", "judge"), "shop");
    let grant = "{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {name: g, namespace: shop},
        spec: {from: [{group: outrigger.dev, kind: ExternalAuthorizationPolicy, namespace: outrigger-system}], to: [{group: '', kind: Service}]}}";
    let builder = mesh(&[&of_mesh, grant, &decided("b", &to("judge"), "jury")]);
    assert_eq!(unasked(&builder), ["outrigger-system/all shop/jury:80", "shop/b shop/judge:80"]);
}

#[test]
fn what_is_not_known_is_no_cycle() {
    let pods = "{group: '', kind: Pod, selector: {matchLabels: {app: jury}}}";
    let (all, of_judge) = (decided("all", "", "judge"), decided("b", &to("judge"), "jury"));
    assert_eq!(unasked(&mesh(&[&all, &of_judge, &off("o", pods)])), [""; 0]);
    let of_route = "{group: gateway.networking.k8s.io, kind: GRPCRoute, name: r}";
    let routed = route("GRPCRoute", "r", "name: jury", "{backendRefs: [{name: jury, port: 80}]}");
    assert_eq!(unasked(&mesh(&[&routed, &all, &of_judge, &off("o", of_route)])), [""; 0]);
    assert_eq!(unasked(&mesh(&[&routed, &all, &of_judge])).len(), 2, "the route is no target");
}

/// A search from each question would take hours here.
#[test]
fn the_cycles_of_many_namespaces_are_found_at_once() {
    let port =
        |name: &str, at: usize| BackendTarget { service: ServiceKey::new(format!("n{at}"), name), port: 80 };
    let question = |kind, at: usize, about: &str, asked: BackendTarget| Question {
        policy: (kind, PolicyName { namespace: format!("n{at}").into(), name: asked.service.name.clone() }),
        about: port(about, at),
        asked,
    };
    let count = 20_000;
    // Each namespace has a cycle of its judge and its limits, and its limits lead to the judge of the next one.
    let questions: Vec<_> = (0..count)
        .flat_map(|at| {
            [
                question(Kind::ExternalAuthorizationPolicy, at, "limits", port("judge", at)),
                question(Kind::RateLimitPolicy, at, "judge", port("limits", at)),
                question(Kind::RateLimitPolicy, at, "limits", port("judge", at + 1)),
            ]
        })
        .collect();
    let unasked = super::unasked(&questions);
    assert_eq!(unasked.len(), count);
    for (at, ((kind, policy), about)) in unasked.iter().enumerate() {
        assert_eq!((*kind, &*policy.name), (Kind::RateLimitPolicy, "limits"), "{at}");
        assert_eq!(about.len(), 1);
        assert_eq!((&about[0].service.namespace, &*about[0].service.name), (&policy.namespace, "judge"));
    }
}

/// Returns the questions that are not asked about the judge, who decides in a namespace as `asks` says, because of a limit of the namespace with
/// these descriptors.
fn unasked_for(asks: &str, descriptors: &str) -> Vec<String> {
    let decided = policy("ExternalAuthorizationPolicy", "a", "", asks);
    let limit = format!("global: {{service: {{name: limits, port: 80}}, descriptors: [{descriptors}]}}");
    let mut builder = mesh(&[&decided, &policy("RateLimitPolicy", "l", "", &limit)]);
    if asks.contains("HTTP") {
        builder.with(&[&service("judge", 80, "http")]);
    }
    unasked(&builder)
}

#[test]
fn a_limit_that_cannot_count_the_questions_is_on_no_cycle() {
    let grpc = "protocol: GRPC, backendRef: {name: judge, port: 80}";
    let http = |how: &str| format!("protocol: HTTP, http: {{{how}}}, backendRef: {{name: judge, port: 80}}");
    let below = http("path: /check, allowedHeaders: [x-tenant]");
    let path = |r#type: &str, value: &str| format!("{{by: [{{path: {{type: {type}, value: {value}}}}}]}}");
    let header = |name: &str| format!("{{by: [{{caller: {{}}}}, {{header: {{name: {name}}}}}]}}");
    for (asks, descriptors, is_counted) in [
        (grpc, "{by: [{caller: {}}]}".to_owned(), true),
        (grpc, header("x-tenant"), false),
        (grpc, header("authorization"), false),
        (grpc, header("X-Request-ID"), true),
        (grpc, header("x-forwarded-client-cert"), true),
        (grpc, format!("{}, {{by: [{{address: {{}}}}]}}", header("x-tenant")), true),
        (grpc, path("Exact", "/pay"), false),
        (grpc, path("Exact", "/envoy.service.auth.v3.Authorization/Check"), true),
        (grpc, path("PathPrefix", "/envoy.service.auth.v3.Authorization"), true),
        (grpc, path("PathPrefix", "/envoy.service"), false),
        (grpc, path("PathPrefix", "/"), true),
        (grpc, path("RegularExpression", "/pay"), true),
        (grpc, path("Exact", "/pay") + ", " + &header("x-tenant"), false),
        (&below, header("x-tenant"), true),
        (&below, header("x-other"), false),
        (&below, header("authorization"), true),
        (&below, path("Exact", "/pay"), false),
        (&below, path("Exact", "/check/pay"), true),
        (&below, path("PathPrefix", "/check"), true),
        (&below, path("PathPrefix", "/"), true),
        (&below, path("PathPrefix", "/pay"), false),
        (&http(""), path("Exact", "/pay"), true),
    ] {
        let expected: &[&str] = if is_counted { &["shop/l shop/judge:80"] } else { &[] };
        assert_eq!(unasked_for(asks, &descriptors), expected, "{asks} {descriptors}");
    }
}

#[test]
fn a_limit_counts_the_fields_that_a_service_adds_to_a_question() {
    let limit = limited("l", "", "limits").replace("{caller: {}}", "{header: {name: x-tenant}}");
    let (all, off) = (decided("a", "", "judge"), off("o", &to("jury")));
    assert_eq!(unasked(&mesh(&[&all, &off, &limit])), [""; 0]);
    let of_judge = decided("b", &to("judge"), "jury");
    assert_eq!(unasked(&mesh(&[&all, &off, &limit, &of_judge])), ["shop/l shop/judge:80"]);
}
