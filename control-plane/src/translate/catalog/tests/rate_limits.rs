//! RateLimitPolicies in the inbound listener of a workload.

use outrigger_proto::xds::hcm::http_filter;
use outrigger_proto::xds::listener::filter;
use outrigger_proto::xds::local_ratelimit::LocalRateLimit;
use outrigger_proto::xds::metadata_key::MetadataKey;
use outrigger_proto::xds::metadata_key::metadata_key::path_segment::Segment;
use outrigger_proto::xds::ratelimit::RateLimit as GlobalRateLimit;
use outrigger_proto::xds::route::rate_limit::Action;
use outrigger_proto::xds::route::rate_limit::action::ActionSpecifier;
use outrigger_proto::xds::route::route::Action as RouteTo;
use outrigger_proto::xds::route::{self, header_matcher::HeaderMatchSpecifier};

use super::inbound::serving_from;
use super::*;
use crate::model::mesh_builder::MeshBuilder;
use crate::model::mesh_builder::testing::{route as route_document, service};

fn policy(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: outrigger.dev/v1alpha1, kind: RateLimitPolicy, metadata: {{name: {name}, namespace: shop}},
           spec: {{{spec}}}}}"
    )
}

fn global(service: &str, more: &str) -> String {
    format!(
        "global: {{service: {{name: {service}, port: 80}}, descriptors: [{{by: [{{caller: {{}}}}]}}]{more}}}"
    )
}

/// The connection manager of `cart-1` with these resources besides the Service `cart`.
fn manager(resources: &[&str]) -> HttpConnectionManager {
    let mut builder = MeshBuilder::default();
    builder.with(&[&service("cart", 80, "http")]).with(resources);
    let listener: Listener = read(&serving_from(builder.mesh()), Kind::Listener, "inbound|127.0.0.1:9000");
    let Some(filter::ConfigType::TypedConfig(any)) = &listener.filter_chains[0].filters[0].config_type else {
        panic!("{listener:?}")
    };
    HttpConnectionManager::decode(any.value.as_slice()).unwrap()
}

fn config<M: Message + Default>(manager: &HttpConnectionManager, at: usize) -> M {
    let filter = &manager.http_filters[at];
    let Some(http_filter::ConfigType::TypedConfig(any)) = &filter.config_type else { panic!("{filter:?}") };
    M::decode(any.value.as_slice()).unwrap()
}

fn names(manager: &HttpConnectionManager) -> Vec<&str> {
    let (_, filters) = manager.http_filters.split_last().unwrap();
    filters.iter().map(|filter| filter.name.trim_start_matches("outrigger.")).collect()
}

/// The limits of the local filter: `shop/a/0 caller= 5/60s, 5 at once`.
fn limits(manager: &HttpConnectionManager) -> Vec<String> {
    let filter: LocalRateLimit = config(manager, 0);
    let text = |limit: &outrigger_proto::xds::common_ratelimit::LocalRateLimitDescriptor| {
        let bucket = limit.token_bucket.as_ref().unwrap();
        let entries: Vec<_> =
            limit.entries.iter().map(|entry| format!("{}={}", entry.key, entry.value)).collect();
        let (per_fill, interval) = (bucket.tokens_per_fill.unwrap().value, bucket.fill_interval.unwrap());
        let rate = format!("{per_fill}/{}s, {} at once", interval.seconds, bucket.max_tokens);
        format!("{} {rate}", entries.join(" "))
    };
    filter.descriptors.iter().map(text).collect()
}

/// The stage and the keys of each descriptor that a route makes: `0 limit=shop/a/0 caller`.
fn descriptors(manager: &HttpConnectionManager) -> Vec<Vec<String>> {
    let Some(RouteSpecifier::RouteConfig(table)) = &manager.route_specifier else { panic!("{manager:?}") };
    let of_route = |route: &route::Route| -> Vec<String> {
        let Some(RouteTo::Route(action)) = &route.action else { panic!("{route:?}") };
        let of_limit = |limit: &route::RateLimit| {
            let actions: Vec<_> = limit.actions.iter().map(action_text).collect();
            format!("{} {}", limit.stage.unwrap().value, actions.join(" "))
        };
        action.rate_limits.iter().map(of_limit).collect()
    };
    table.virtual_hosts[0].routes.iter().map(of_route).collect()
}

fn action_text(action: &Action) -> String {
    match action.action_specifier.as_ref().unwrap() {
        ActionSpecifier::GenericKey(key) if key.default_value.is_empty() => {
            format!("{}={}", key.descriptor_key, key.descriptor_value)
        }
        ActionSpecifier::GenericKey(key) => {
            format!("{}={}|{}", key.descriptor_key, key.descriptor_value, key.default_value)
        }
        ActionSpecifier::RequestHeaders(of) => format!("{}={{{}}}", of.descriptor_key, of.header_name),
        ActionSpecifier::HeaderValueMatch(of) => {
            let matcher = &of.headers[0];
            let Some(HeaderMatchSpecifier::StringMatch(text)) = &matcher.header_match_specifier else {
                panic!("{matcher:?}")
            };
            format!(
                "{}={} if {}~{:?}",
                of.descriptor_key, of.descriptor_value, matcher.name, text.match_pattern
            )
        }
        ActionSpecifier::Metadata(of) => {
            let MetadataKey { key, path } = of.metadata_key.as_ref().unwrap();
            assert_eq!((of.source, key.as_str()), (0, "envoy.filters.http.jwt_authn"));
            let segments: Vec<_> = path.iter().map(|one| one.segment.clone().unwrap()).collect();
            let names = segments.iter().map(|one| match one {
                Segment::Key(key) => key.as_str(),
                Segment::Index(_) => panic!("{one:?}"),
            });
            let names: Vec<_> = names.collect();
            format!("{}={}|{}", of.descriptor_key, names.join("/"), of.default_value)
        }
        ActionSpecifier::RemoteAddress(_) => "remote_address".into(),
        ActionSpecifier::MaskedRemoteAddress(of) => format!(
            "masked_remote_address /{} /{}",
            of.v4_prefix_mask_len.unwrap().value,
            of.v6_prefix_mask_len.unwrap().value
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_a_policy_there_is_no_filter_and_no_descriptor() {
    let manager = manager(&[]);
    assert_eq!((names(&manager), descriptors(&manager)), (vec![], vec![vec![]]));
}

#[test]
fn every_limit_has_the_descriptor_that_its_requests_make() {
    let manager = manager(&[&policy(
        "a",
        "local: [{requests: 10, per: Second, burst: 20}, {requests: 5, per: Minute, by: [{caller: {}}, {header: {name: X-A}}]},
           {requests: 1, per: Day, by: [{path: {value: /p.q}}, {address: {}}, {address: {ipv4PrefixLength: 24}}]},
           {requests: 2, per: Hour, by: [{claim: {name: sub}}, {claim: {path: [realm, name]}}]}]",
    )]);
    assert_eq!(names(&manager), ["rate_limit.local"]);
    assert_eq!(
        limits(&manager),
        [
            "limit=shop/a/0 10/1s, 20 at once",
            "limit=shop/a/1 caller= x-a= 5/60s, 5 at once",
            "limit=shop/a/2 path=/p.q remote_address= masked_remote_address= 1/86400s, 1 at once",
            "limit=shop/a/3 claim.sub= claim.realm.name= 2/3600s, 2 at once",
        ]
    );
    let [route] = &descriptors(&manager)[..] else { panic!("one route") };
    let [first, second, third, fourth] = &route[..] else { panic!("{route:?}") };
    assert_eq!(first, "0 limit=shop/a/0");
    assert_eq!(second, "0 limit=shop/a/1 caller=%DOWNSTREAM_PEER_URI_SAN%|anonymous x-a={x-a}");
    assert!(third.starts_with("0 limit=shop/a/2 path=/p.q if :path~"), "{third}");
    assert!(third.contains(r#""/p\\.q([/?].*)?""#), "{third}");
    assert!(third.ends_with("remote_address masked_remote_address /24 /128"), "{third}");
    let claims = "claim.sub=claims/sub|anonymous claim.realm.name=claims/realm/name|anonymous";
    assert_eq!(*fourth, format!("0 limit=shop/a/3 {claims}"));
    let filter: LocalRateLimit = config(&manager, 0);
    assert!(filter.token_bucket.is_none(), "requests without a limit need no token");
}

#[test]
fn a_route_makes_the_descriptors_of_its_own_policies_beside_those_of_the_port() {
    let rules = "{name: pay, matches: [{path: {value: /pay}}]}, {name: rest}";
    let target =
        "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, sectionName: pay}]";
    let manager = manager(&[
        &route_document("HTTPRoute", "r", "name: cart", rules),
        &policy("all", "local: [{requests: 9, per: Second}]"),
        &policy("pay", &format!("local: [{{requests: 1, per: Second}}], {target}")),
    ]);
    assert_eq!(
        limits(&manager),
        ["limit=shop/all/0 9/1s, 9 at once", "limit=shop/pay/0 1/1s, 1 at once"],
        "each is in the listener once"
    );
    let expected = [vec!["0 limit=shop/all/0", "0 limit=shop/pay/0"], vec!["0 limit=shop/all/0"]];
    assert_eq!(descriptors(&manager), expected);
}

#[test]
fn each_service_is_asked_by_a_filter_with_a_stage_of_its_own() {
    let manager = manager(&[
        &service("limits", 80, "kubernetes.io/h2c"),
        &policy("a", &global("limits", "")),
        &policy("b", &global("limits", ", domain: other, timeout: 1s, failureMode: Closed")),
        &policy("c", &global("limits", "")),
    ]);
    assert_eq!(names(&manager), ["rate_limit.global.1", "rate_limit.global.2"]);
    let [first, second]: [GlobalRateLimit; 2] = [0, 1].map(|at| config(&manager, at));
    assert_eq!((&*first.domain, first.stage, first.failure_mode_deny), ("shop", 1, false));
    assert_eq!((&*second.domain, second.stage, second.failure_mode_deny), ("other", 2, true));
    assert!(format!("{first:?}").contains("\"limits.shop.svc.cluster.local:80\""), "{first:?}");
    let caller = |stage| format!("{stage} caller=%DOWNSTREAM_PEER_URI_SAN%|anonymous");
    assert_eq!(descriptors(&manager), [[caller(1), caller(2), caller(1)]]);
}

#[test]
fn a_service_is_not_asked_about_its_own_questions() {
    let manager = manager(&[&service("limits", 80, "kubernetes.io/h2c"), &policy("a", &global("cart", ""))]);
    assert_eq!(names(&manager), [""; 0]);
    assert_eq!(descriptors(&manager), [[""; 0]]);
}

#[test]
fn a_service_of_another_protocol_is_asked_so_that_the_failure_mode_decides() {
    let closed = global("limits", ", failureMode: Closed");
    let manager = manager(&[&service("limits", 80, "http"), &policy("a", &closed)]);
    assert_eq!(names(&manager), ["rate_limit.global.1"]);
}

#[test]
fn a_service_that_does_not_exist_is_not_asked_until_it_does() {
    let mut builder = MeshBuilder::default();
    let both = format!("local: [{{requests: 1, per: Second}}], {}", global("limits", ""));
    builder.with(&[&service("cart", 80, "http"), &policy("a", &both)]);
    let catalog = serving_from(builder.mesh());
    let filters = |catalog: &Catalog| {
        let listener: Listener = read(catalog, Kind::Listener, "inbound|127.0.0.1:9000");
        let Some(filter::ConfigType::TypedConfig(any)) = &listener.filter_chains[0].filters[0].config_type
        else {
            panic!("{listener:?}")
        };
        HttpConnectionManager::decode(any.value.as_slice()).unwrap().http_filters.len()
    };
    assert_eq!(filters(&catalog), 2, "the local limit and the router");
    let conditions = builder.conditions("RateLimitPolicy shop/a");
    assert_eq!(
        conditions,
        ["Accepted=True (Accepted)", "ResolvedRefs=False (BackendNotFound): there is no Service shop/limits"]
    );
    builder.with(&[&service("limits", 80, "kubernetes.io/h2c")]);
    let registrations = inbound::registered(&[9000], false, None);
    let affected = catalog.publish(Arc::new(builder.mesh().with_registrations(registrations)));
    assert!(affected.inbound.iter().any(|(workload, _)| *workload == shop().workload), "{affected:?}");
    assert_eq!(filters(&catalog), 3);
    let conditions = builder.conditions("RateLimitPolicy shop/a");
    assert_eq!(conditions, ["Accepted=True (Accepted)", "ResolvedRefs=True (ResolvedRefs)"]);
}

#[test]
fn a_tcp_route_has_no_requests_to_limit() {
    let target = "targetRefs: [{group: gateway.networking.k8s.io, kind: TCPRoute, name: t}]";
    let mut builder = MeshBuilder::default();
    builder.with(&[
        &service("cart", 80, "tcp"),
        &route_document("TCPRoute", "t", "name: cart", "{backendRefs: [{name: cart, port: 80}]}"),
        &policy("a", &format!("local: [{{requests: 1, per: Second}}], {target}")),
    ]);
    let conditions = builder.conditions("RateLimitPolicy shop/a");
    assert_eq!(
        conditions,
        ["Accepted=False (Invalid): TCPRoute t has no requests, to which RateLimitPolicy applies"]
    );
}
