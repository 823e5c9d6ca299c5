//! FaultInjectionPolicies in the inbound listener of a workload.

use outrigger_proto::xds::fault::HttpFault;
use outrigger_proto::xds::fault::fault_abort::ErrorType;
use outrigger_proto::xds::hcm::http_filter;
use outrigger_proto::xds::listener::filter;
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::route::Route;

use super::inbound::serving_from;
use super::*;
use crate::model::mesh_builder::MeshBuilder;
use crate::model::mesh_builder::testing::{route, service};

fn policy(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: outrigger.dev/v1alpha1, kind: FaultInjectionPolicy, metadata: {{name: {name}, namespace: {namespace}}},
           spec: {{{spec}}}}}"
    )
}

fn aborts(status: u16, target: &str) -> String {
    format!("abort: {{httpStatus: {status}, percent: 10}}, targetRefs: [{target}]")
}

const CART: &str = "{group: '', kind: Service, name: cart}";

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

/// The names of the filters before the router, and the faults of the last one.
fn filters(manager: &HttpConnectionManager) -> (Vec<&str>, Option<HttpFault>) {
    let (_, filters) = manager.http_filters.split_last().unwrap();
    let fault = filters.last().map(|last| match &last.config_type {
        Some(http_filter::ConfigType::TypedConfig(any)) => decoded(any),
        other => panic!("{other:?}"),
    });
    (filters.iter().map(|filter| filter.name.as_str()).collect(), fault)
}

fn decoded(any: &Any) -> HttpFault {
    assert!(any.type_url.ends_with("HTTPFault"), "{}", any.type_url);
    HttpFault::decode(any.value.as_slice()).unwrap()
}

fn status(fault: &HttpFault) -> Option<u32> {
    match fault.abort.as_ref()?.error_type {
        Some(ErrorType::HttpStatus(status)) => Some(status),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_fault_is_translated_and_health_checks_get_none() {
    let spec = "delay: {duration: 1s500ms, percent: 7}, abort: {grpcStatus: 14, percent: 100},
        bandwidth: {kibPerSecond: 64, percent: 50}, maxActiveFaults: 3, headers: [{name: X-Fault, value: 'yes'}]";
    let manager = manager(&[&policy("a", "shop", spec)]);
    let (names, fault) = filters(&manager);
    let fault = fault.unwrap();
    assert_eq!(names, ["outrigger.fault"]);
    let (delay, abort, rate) =
        (fault.delay.unwrap(), fault.abort.unwrap(), fault.response_rate_limit.unwrap());
    let shares = [delay.percentage, abort.percentage, rate.percentage];
    assert_eq!(
        shares.map(|share| share.map(|share| (share.numerator, share.denominator))),
        [Some((7, 0)), Some((100, 0)), Some((50, 0))]
    );
    assert_eq!(abort.error_type, Some(ErrorType::GrpcStatus(14)));
    assert_eq!(fault.max_active_faults.map(|most| most.value), Some(3));
    let conditions = fault.headers.iter().map(|of| (of.name.as_str(), of.invert_match));
    assert_eq!(conditions.collect::<Vec<_>>(), [("x-fault", false), ("user-agent", true), (":path", true)]);
    assert!(fault.headers[1..].iter().all(|of| of.treat_missing_header_as_empty));
}

#[test]
fn the_policy_of_the_narrowest_place_applies_and_the_filter_is_the_last_one() {
    let listed = |resources: &[&str]| {
        let manager = manager(resources);
        let (names, fault) = filters(&manager);
        (names.join(" "), fault.as_ref().and_then(status))
    };
    let mesh = policy("mesh", "outrigger-system", "abort: {httpStatus: 500, percent: 1}");
    let all = policy("all", "shop", "abort: {httpStatus: 501, percent: 1}");
    let cart = policy("cart", "shop", &aborts(502, CART));
    let younger = policy("younger", "shop", &aborts(504, CART));
    let elsewhere = policy("a", "office", "abort: {httpStatus: 505, percent: 1}");
    let only = |status| ("outrigger.fault".to_owned(), Some(status));
    assert_eq!(listed(&[&elsewhere]), (String::new(), None));
    assert_eq!(listed(&[&mesh, &elsewhere]), only(500));
    assert_eq!(listed(&[&mesh, &all]), only(501));
    assert_eq!(listed(&[&younger, &mesh, &all, &cart]), only(502));
    let denies = "{apiVersion: outrigger.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {name: a, namespace: shop},
        spec: {action: Deny, rules: [{}]}}";
    assert_eq!(listed(&[&all, denies]).0, "outrigger.authorization.deny outrigger.fault");
}

#[test]
fn a_route_that_is_a_target_has_faults_of_its_own() {
    let rules =
        "{name: pay, matches: [{path: {value: /pay}}]}, {matches: [{path: {value: /x}}]}, {name: rest}";
    let of_route = "group: gateway.networking.k8s.io, kind: HTTPRoute, name: r";
    let resources = [
        route("HTTPRoute", "r", "name: cart", rules),
        policy("rule", "shop", &aborts(502, &format!("{{{of_route}, sectionName: pay}}"))),
        policy("route", "shop", &aborts(504, &format!("{{{of_route}}}"))),
    ];
    let manager = manager(&resources.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(filters(&manager), (vec!["outrigger.fault"], Some(HttpFault::default())));
    let Some(RouteSpecifier::RouteConfig(table)) = &manager.route_specifier else { panic!("{manager:?}") };
    let own = |route: &Route| {
        route.typed_per_filter_config.get("outrigger.fault").and_then(|any| status(&decoded(any)))
    };
    let own: Vec<_> = table.virtual_hosts[0].routes.iter().map(own).collect();
    assert_eq!(own, [Some(502), Some(504), Some(504), None]);
}

#[test]
fn where_it_is_not_known_which_route_applies_none_has_faults_and_requests_pass() {
    let of_route = |name: &str| {
        let target = format!("{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: {name}}}");
        policy(name, "shop", &aborts(503, &target))
    };
    let resources = [
        service("other", 80, "http"),
        route("HTTPRoute", "a", "name: cart", "{}"),
        route("HTTPRoute", "b", "name: other", "{}"),
        of_route("a"),
        of_route("b"),
    ];
    let mut builder = MeshBuilder::default();
    builder.with(&[&service("cart", 80, "http")]);
    builder.with(&resources.iter().map(String::as_str).collect::<Vec<_>>());
    let mut registrations = Registrations::default();
    for entry in inbound::registered(&[9000], false, None).workloads() {
        let mut entry = WorkloadEntry::clone(entry);
        entry.ports[0].services.push(ServiceKey::new("shop", "other"));
        registrations.insert(Arc::new(entry));
    }
    let catalog = catalog(plain(AppProtocol::Detect));
    catalog.publish(Arc::new(builder.mesh().with_registrations(registrations)));
    let listener: Listener = read(&catalog, Kind::Listener, "inbound|127.0.0.1:9000");
    let Some(filter::ConfigType::TypedConfig(any)) = &listener.filter_chains[0].filters[0].config_type else {
        panic!("{listener:?}")
    };
    let manager = HttpConnectionManager::decode(any.value.as_slice()).unwrap();
    assert_eq!(filters(&manager), (vec![], None));
}
