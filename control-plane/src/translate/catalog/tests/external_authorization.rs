//! ExternalAuthorizationPolicies in the inbound listener of a workload.

use outrigger_proto::xds::ext_authz::ext_authz::Services;
use outrigger_proto::xds::ext_authz::ext_authz_per_route::Override;
use outrigger_proto::xds::ext_authz::{ExtAuthz, ExtAuthzPerRoute};
use outrigger_proto::xds::hcm::{HttpFilter, http_filter};
use outrigger_proto::xds::listener::filter;
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::route::Route;
use outrigger_proto::xds::{rbac_filter, type_url};

use super::inbound::serving_from;
use super::*;
use crate::model::mesh_builder::MeshBuilder;
use crate::model::mesh_builder::testing::{route, service};

const GRPC: &str = "protocol: GRPC, backendRef: {name: auth, port: 9000}";

fn policy(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: outrigger.dev/v1alpha1, kind: ExternalAuthorizationPolicy,
           metadata: {{name: {name}, namespace: {namespace}}}, spec: {{{spec}}}}}"
    )
}

fn at_rule(name: &str) -> String {
    format!(
        "targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, sectionName: {name}}}]"
    )
}

/// A mesh of the Service `cart`, whose workload is `cart-1`, the Service `auth` and these resources.
fn mesh(protocol: &str, resources: &[&str]) -> MeshBuilder {
    let mut builder = MeshBuilder::default();
    builder.with(&[&service("cart", 80, protocol), &service("auth", 9000, "grpc")]).with(resources);
    builder
}

fn listener(builder: &MeshBuilder) -> Listener {
    read(&serving_from(builder.mesh()), Kind::Listener, "inbound|127.0.0.1:9000")
}

fn manager(builder: &MeshBuilder) -> HttpConnectionManager {
    let listener = listener(builder);
    let Some(filter::ConfigType::TypedConfig(any)) = &listener.filter_chains[0].filters[0].config_type else {
        panic!("{listener:?}")
    };
    HttpConnectionManager::decode(any.value.as_slice()).unwrap()
}

fn config(filter: &HttpFilter) -> &Any {
    let Some(http_filter::ConfigType::TypedConfig(any)) = &filter.config_type else { panic!("{filter:?}") };
    any
}

/// Each filter before the router, by the end of its name; a disabled one in brackets.
fn filters(manager: &HttpConnectionManager) -> Vec<String> {
    let (_, filters) = manager.http_filters.split_last().unwrap();
    let text = |filter: &HttpFilter| {
        let name = filter.name.strip_prefix("outrigger.").unwrap().replace("external-authorization.", "");
        if filter.disabled { format!("({name})") } else { name }
    };
    filters.iter().map(text).collect()
}

fn filter_of(manager: &HttpConnectionManager, at: usize) -> ExtAuthz {
    ExtAuthz::decode(config(&manager.http_filters[at]).value.as_slice()).unwrap()
}

/// What each route overrides, in the order of the filters' names.
fn overrides(manager: &HttpConnectionManager) -> Vec<Vec<String>> {
    let Some(RouteSpecifier::RouteConfig(table)) = &manager.route_specifier else { panic!("{manager:?}") };
    let of_route = |route: &Route| {
        let text = |(name, any): (&String, &Any)| {
            let what = match any.type_url.as_str() {
                type_url::EXT_AUTHZ_PER_ROUTE => {
                    match ExtAuthzPerRoute::decode(any.value.as_slice()).unwrap().r#override {
                        Some(Override::Disabled(true)) => "off",
                        Some(Override::CheckSettings(_)) => "on",
                        other => panic!("{other:?}"),
                    }
                }
                _ => {
                    if denies(any) {
                        "denies"
                    } else {
                        "passes"
                    }
                }
            };
            format!("{} {what}", name.rsplit('.').next().unwrap())
        };
        let mut all: Vec<_> = route.typed_per_filter_config.iter().map(text).collect();
        all.sort();
        all
    };
    table.virtual_hosts[0].routes.iter().map(of_route).collect()
}

/// Whether RBAC of a listener or a route denies everything.
fn denies(any: &Any) -> bool {
    let value = any.value.as_slice();
    let rules = match any.type_url.as_str() {
        type_url::RBAC => rbac_filter::Rbac::decode(value).unwrap().rules,
        type_url::RBAC_PER_ROUTE => {
            rbac_filter::RbacPerRoute::decode(value).unwrap().rbac.and_then(|rbac| rbac.rules)
        }
        other => panic!("{other}"),
    };
    rules.is_some_and(|rules| !rules.policies.is_empty())
}

#[test]
fn the_service_is_asked_after_authorization_and_before_limits() {
    let allow =
        policy("b", "shop", "action: Allow").replace("ExternalAuthorizationPolicy", "AuthorizationPolicy");
    let limit = policy("c", "shop", "local: [{requests: 1, per: Day}]")
        .replace("ExternalAuthorizationPolicy", "RateLimitPolicy");
    let full =
        format!("{GRPC}, timeout: 250ms, failureMode: Open, forwardBody: {{maxSize: 9, allowPartial: true}}");
    let manager = manager(&mesh("http", &[&policy("a", "shop", &full), &allow, &limit]));
    assert_eq!(filters(&manager), ["authorization.allow", "0", "rate_limit.local"]);
    assert_eq!(overrides(&manager), [[""; 0]]);
    let filter = filter_of(&manager, 1);
    assert!(filter.failure_mode_allow);
    let body = filter.with_request_body.unwrap();
    assert_eq!((body.max_request_bytes, body.allow_partial_message), (9, true));
    let Some(Services::GrpcService(service)) = &filter.services else { panic!("{filter:?}") };
    assert_eq!(service.timeout.unwrap().nanos, 250_000_000);
    assert!(format!("{service:?}").contains("\"auth.shop.svc.cluster.local:9000\""), "{service:?}");
}

#[test]
fn an_http_service_chooses_what_the_client_of_a_denied_request_gets() {
    let filter = |http: &str| {
        let spec = GRPC.replace("GRPC", "HTTP") + http;
        let mut builder = mesh("http", &[&policy("a", "shop", &spec)]);
        builder.with(&[&service("auth", 9000, "http")]);
        let filter = filter_of(&manager(&builder), 0);
        assert!(!filter.failure_mode_allow && filter.with_request_body.is_none());
        let Some(Services::HttpService(service)) = filter.services else { panic!("{:?}", filter.services) };
        assert_eq!(service.server_uri.as_ref().unwrap().timeout.unwrap().seconds, 1);
        service.authorization_response.unwrap().allowed_client_headers
    };
    assert_eq!(filter(""), None, "all of them");
    let listed = filter(", http: {allowedClientHeaders: [X-Why]}").unwrap();
    assert!(format!("{listed:?}").contains("\"x-why\""), "{listed:?}");
}

#[test]
fn a_route_has_the_service_of_the_narrowest_policy_or_none() {
    let rules = "{name: pay, matches: [{path: {value: /payments}}]}, {name: health, matches: [{path: {value: /health}}]},
                 {name: same, matches: [{path: {value: /same}}]}, {name: rest}";
    let mesh = mesh(
        "http",
        &[
            &route("HTTPRoute", "r", "name: cart", rules),
            &policy("mesh", "outrigger-system", &GRPC.replace("name: auth", "name: other")),
            &policy("all", "shop", GRPC),
            &policy("pay", "shop", &format!("{GRPC}, timeout: 2s, {}", at_rule("pay"))),
            &policy("health", "shop", &format!("mode: 'Off', {}", at_rule("health"))),
            &policy("same", "shop", &format!("{GRPC}, {}", at_rule("same"))),
        ],
    );
    let manager = manager(&mesh);
    assert_eq!(filters(&manager), ["0", "(1)"], "a configuration is there once, and one not in force is not");
    assert_eq!(overrides(&manager), [vec!["0 off", "1 on"], vec!["0 off"], vec![], vec![]]);
}

#[test]
fn of_a_service_that_cannot_be_used_everything_is_refused_also_if_the_policy_fails_open() {
    let elsewhere = GRPC.replace("{name", "{namespace: office, name");
    let mut in_office = service("auth", 9000, "grpc");
    in_office = in_office.replace("namespace: shop", "namespace: office");
    assert!(in_office.contains("office"));
    for (spec, why) in [
        (GRPC.replace("auth", "auht"), "BackendNotFound): there is no Service shop/auht"),
        (GRPC.replace("9000", "9001"), "BackendNotFound): Service shop/auth has no port 9001"),
        (
            GRPC.replace("{name: auth, port: 9000}", "{name: cart, port: 80}"),
            "UnsupportedProtocol): the protocol of Service shop/cart:80 is http, not gRPC",
        ),
        (
            elsewhere.clone(),
            "RefNotPermitted): no ReferenceGrant in office permits an ExternalAuthorizationPolicy of shop to refer to \
             Service office/auth",
        ),
    ] {
        let open = policy("a", "shop", &format!("{spec}, failureMode: Open"));
        let builder = mesh("http", &[&open, &in_office]);
        let manager = manager(&builder);
        assert_eq!(filters(&manager), ["refused"], "{spec}");
        assert!(denies(config(&manager.http_filters[0])));
        let conditions = builder.conditions("ExternalAuthorizationPolicy shop/a");
        assert_eq!(conditions, ["Accepted=True (Accepted)", &format!("ResolvedRefs=False ({why}")]);
    }
}

#[test]
fn a_grant_or_a_service_that_comes_later_lets_the_policy_ask() {
    let elsewhere = GRPC.replace("{name", "{namespace: office, name");
    let mut builder = mesh("http", &[&policy("a", "shop", &elsewhere)]);
    assert_eq!(filters(&manager(&builder)), ["refused"]);
    let grant = "{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {name: g, namespace: office},
        spec: {from: [{group: outrigger.dev, kind: ExternalAuthorizationPolicy, namespace: shop}], to: [{group: '', kind: Service}]}}";
    builder.with(&[grant]);
    let of_another_group = grant.replace("group: outrigger.dev", "group: gateway.networking.k8s.io");
    builder.with(&[&of_another_group.replace("name: g,", "name: h,")]);
    assert_eq!(filters(&manager(&builder)), ["refused"]);
    let of_office = service("auth", 9000, "grpc").replace("namespace: shop", "namespace: office");
    builder.with(&[&of_office]);
    assert_eq!(filters(&manager(&builder)), ["0"]);
    let conditions = builder.conditions("ExternalAuthorizationPolicy shop/a");
    assert_eq!(conditions, ["Accepted=True (Accepted)", "ResolvedRefs=True (ResolvedRefs)"]);
    builder.without(grant);
    assert_eq!(filters(&manager(&builder)), ["refused"]);
}

#[test]
fn a_service_is_not_asked_about_its_own_questions() {
    let of_itself = GRPC.replace("{name: auth, port: 9000}", "{name: cart, port: 80}");
    let manager = manager(&mesh("grpc", &[&policy("a", "shop", &of_itself)]));
    assert_eq!(filters(&manager), [""; 0]);
}

#[test]
fn a_refused_policy_refuses_everything_except_where_a_narrower_one_applies() {
    let rules = "{name: health, matches: [{path: {value: /health}}]}, {name: pay, matches: [{path: {value: /pay}}]}, {name: rest}";
    let mut builder = mesh(
        "http",
        &[
            &route("HTTPRoute", "r", "name: cart", rules),
            &policy("off", "shop", &format!("mode: 'Off', {}", at_rule("health"))),
            &policy("pay", "shop", &format!("{GRPC}, {}", at_rule("pay"))),
        ],
    );
    builder.with_refused(&policy("bad", "shop", "protocol: GRPC"));
    let manager = manager(&builder);
    assert_eq!(filters(&manager), ["refused", "(0)"]);
    assert!(denies(config(&manager.http_filters[0])));
    assert_eq!(overrides(&manager), [vec!["refused passes"], vec!["0 on", "refused passes"], vec![]]);
    let conditions = builder.conditions("ExternalAuthorizationPolicy shop/bad");
    assert!(conditions[0].starts_with("Accepted=False (Invalid)"), "{conditions:?}");
}

#[test]
fn requests_do_not_pass_as_opaque_bytes_where_a_service_is_asked() {
    let refuses = |protocol: &str, spec: &str| {
        let named = service("cart", 80, protocol).replace("[{port", "[{name: p, port");
        let listener = listener(mesh("", &[]).with(&[&named, &policy("a", "shop", spec)]));
        let opaque = listener.filter_chains.iter().filter(|chain| chain.name.contains("|tcp|"));
        let refused = |chain: &outrigger_proto::xds::listener::FilterChain| {
            chain.filters[0].name == "outrigger.external-authorization.refused"
        };
        let all: Vec<_> = opaque.map(refused).collect();
        assert!(!all.is_empty(), "{listener:?}");
        all.into_iter().all(|refused| refused)
    };
    let port = "targetRefs: [{group: '', kind: Service, name: cart, sectionName: p}]";
    assert!(refuses("", GRPC) && !refuses("", "mode: 'Off'"));
    assert!(!refuses("tcp", GRPC), "it has no requests");
    assert!(refuses("tcp", &format!("{GRPC}, {port}")), "a policy names the port");
}

#[test]
fn two_policies_of_one_target_conflict_and_a_tcp_route_is_none() {
    let of_service = "targetRefs: [{group: '', kind: Service, name: cart}]";
    let of_tcp = "targetRefs: [{group: gateway.networking.k8s.io, kind: TCPRoute, name: t}]";
    let builder = mesh(
        "http",
        &[
            &policy("a", "shop", &format!("{GRPC}, {of_service}")),
            &policy("b", "shop", &format!("mode: 'Off', {of_service}")),
            &route("TCPRoute", "t", "name: auth", "{backendRefs: [{name: auth, port: 9000}]}"),
            &policy("c", "shop", &format!("{GRPC}, {of_tcp}")),
        ],
    );
    assert_eq!(filters(&manager(&builder)), ["0"]);
    let accepted =
        |name: &str| builder.conditions(&format!("ExternalAuthorizationPolicy shop/{name}")).remove(0);
    assert_eq!(accepted("a"), "Accepted=True (Accepted)");
    assert!(accepted("b").starts_with("Accepted=False (Conflicted)"), "{}", accepted("b"));
    assert!(accepted("c").contains("(Invalid): TCPRoute t has no requests"), "{}", accepted("c"));
}
