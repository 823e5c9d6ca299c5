use std::collections::BTreeMap;
use std::time::Duration;

use outrigger_core::identity::{SpiffeId, TrustDomain};
use outrigger_core::percentage::Percentage;
use outrigger_proto::xds::cluster::{Cluster, cluster::ClusterDiscoveryType, cluster::DiscoveryType};
use outrigger_proto::xds::core::HealthStatus;
use outrigger_proto::xds::endpoint::ClusterLoadAssignment;
use outrigger_proto::xds::hcm::{HttpConnectionManager, http_connection_manager::RouteSpecifier};
use outrigger_proto::xds::listener::Listener;
use outrigger_proto::xds::protobuf::value::Kind as Field;
use outrigger_proto::xds::route::route::Action;
use outrigger_proto::xds::route::route_action::ClusterSpecifier;
use outrigger_proto::xds::route::route_match::PathSpecifier;
use outrigger_proto::xds::route::{RouteConfiguration, redirect_action};
use prost::Message;

use super::*;
use crate::model::endpoint::{Endpoint, EndpointHealth, Endpoints, Peer};
use crate::model::mesh::ServiceEntry;
use crate::model::registration::{MtlsMode, Registrations, WorkloadPort};
use crate::model::route::{
    BackendTarget, Cors, Filters, HeaderChanges, InvalidBackend, Mirror, PathMatch, PathRewrite, PortRoutes,
    Redirect, RedirectScheme, Retry, Rewrite, Route, RouteAction, RouteMatch, RouteTable, RouteTarget,
    ServiceRoutes, TcpRoute, Timeouts, ValueMatch, ValuePattern, WeightedBackend,
};
use crate::model::service::AppProtocol;
use crate::translate::scope::Dialect;

mod authentication;
mod authorization;
mod callers;
mod dns;
mod external_auth;
mod external_authorization;
mod faults;
mod inbound;
mod location;
mod pods;
mod rate_limits;
mod routes;
mod sessions;
mod wildcard;

const CART: &str = "cart.shop.svc.cluster.local:80";

fn viewer(namespace: &str, mode: Mode) -> Viewer {
    let identity = SpiffeId::parse(&format!("spiffe://cluster.local/ns/{namespace}/sa/cart")).unwrap();
    let workload = WorkloadKey { identity, instance: "cart-1".into() };
    Viewer { workload, mode, dialect: Dialect::Outrigger, zone: None, forwards_client_certificates: true }
}

fn shop() -> Viewer {
    viewer("shop", Mode::OnDemand)
}

fn endpoint(address: &str, health: EndpointHealth) -> Endpoint {
    let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
    Endpoint {
        address: address.parse().unwrap(),
        health,
        peer: Peer::Sidecar(identity),
        instance: Some("cart-1".into()),
        version: Some("v1".into()),
        zone: None,
        node: None,
        hostname: None,
    }
}

/// `cart.shop:80`, with two endpoints of which one is not ready, reachable at 10.0.0.1.
fn cart(protocol: AppProtocol, routes: ServiceRoutes) -> ServiceEntry {
    let endpoints = [
        endpoint("10.1.0.1:8080", EndpointHealth::Ready),
        endpoint("10.1.0.2:8080", EndpointHealth::NotReady),
        endpoint("10.1.0.3:8080", EndpointHealth::Draining),
    ];
    ServiceEntry {
        service: Arc::new(Service {
            service_type: ServiceType::ClusterIps(vec!["10.0.0.1".parse().unwrap()]),
            ..Service::of_shop("cart", 8080, protocol)
        }),
        endpoints: Arc::new(Endpoints { ports: vec![(80, endpoints.into())] }),
        routes: Arc::new(routes),
    }
}

fn plain(protocol: AppProtocol) -> ServiceEntry {
    cart(protocol, ServiceRoutes::default())
}

fn producer(table: RouteTable) -> ServiceRoutes {
    let routes = PortRoutes { producer: Some(Arc::new(table)), consumers: BTreeMap::new() };
    ServiceRoutes { ports: vec![(80, routes)] }
}

fn settings() -> MeshSettings {
    let trust_domain = TrustDomain::parse("cluster.local").unwrap();
    MeshSettings { cluster_domain: "cluster.local".into(), trust_domain }
}

fn catalog(entry: ServiceEntry) -> Catalog {
    let catalog = Catalog::new(settings());
    catalog.publish(Arc::new([entry].into_iter().collect()));
    catalog
}

fn read<M: Message + Default>(catalog: &Catalog, kind: Kind, name: &str) -> M {
    catalog.resource(&shop(), kind, name).unwrap().decode()
}

fn manager(listener: &Listener) -> HttpConnectionManager {
    let any = listener.api_listener.as_ref().unwrap().api_listener.as_ref().unwrap();
    HttpConnectionManager::decode(any.value.as_slice()).unwrap()
}

fn forward(backends: Vec<WeightedBackend>) -> RouteAction {
    RouteAction {
        target: RouteTarget::Forward(backends),
        filters: Filters::default(),
        timeouts: Timeouts::default(),
        retry: None,
        session_persistence: None,
    }
}

fn backend(weight: u32) -> WeightedBackend {
    let target = BackendTarget { service: ServiceKey::new("shop", "cart"), port: 80 };
    WeightedBackend { weight, target: Ok(target), filters: Filters::default() }
}

fn invalid(weight: u32) -> WeightedBackend {
    WeightedBackend { target: Err(InvalidBackend::BackendNotFound), ..backend(weight) }
}

fn at(path: PathMatch) -> RouteMatch {
    RouteMatch { path, method: None, headers: Vec::new(), query: Vec::new(), grpc: false }
}

#[test]
fn every_spelling_of_a_destination_is_a_listener_of_that_name_with_the_same_routes() {
    let catalog = catalog(plain(AppProtocol::Http));
    for name in ["cart:80", "cart.shop:80", "cart.shop.svc:80", CART, "10.0.0.1:80"] {
        let listener: Listener = read(&catalog, Kind::Listener, name);
        assert_eq!((listener.name.as_str(), &listener.address), (name, &None));
        let manager = manager(&listener);
        let Some(RouteSpecifier::Rds(rds)) = manager.route_specifier else { panic!("no RDS") };
        assert_eq!((rds.route_config_name.as_str(), manager.stat_prefix.as_str()), (CART, CART));
        let http1 = manager.http_protocol_options.unwrap();
        assert!(http1.accept_http_10 && http1.default_host_for_http_10 == CART);
        let named =
            &listener.metadata.as_ref().unwrap().filter_metadata["outrigger.destination"].fields["name"];
        assert_eq!(named.kind, Some(Field::StringValue(CART.into())));
        assert_eq!(manager.http_filters.last().unwrap().name, "envoy.filters.http.router");
        assert!(listener.default_filter_chain.is_none());
    }
}

#[test]
fn the_canonical_listener_has_the_services_addresses_as_aliases() {
    let catalog = catalog(plain(AppProtocol::Http));
    let aliases = |name| catalog.resource(&shop(), Kind::Listener, name).unwrap().aliases.clone();
    assert_eq!(aliases(CART), ["10.0.0.1:80".into()]);
    assert!(aliases("cart:80").is_empty() && aliases("10.0.0.1:80").is_empty());
}

#[test]
fn only_our_own_proxy_gets_its_extensions() {
    let catalog = catalog(plain(AppProtocol::Http));
    let envoy = Viewer { dialect: Dialect::Envoy, ..shop() };
    // Twice, so that the second time is from the cache.
    for (viewer, policies, idempotent) in
        [(shop(), 2, true), (envoy.clone(), 1, false), (shop(), 2, true), (envoy, 1, false)]
    {
        let cluster: Cluster = catalog.resource(&viewer, Kind::Cluster, CART).unwrap().decode();
        assert_eq!(cluster.load_balancing_policy.unwrap().policies.len(), policies);
        let routes: RouteConfiguration = catalog.resource(&viewer, Kind::Route, CART).unwrap().decode();
        let Some(Action::Route(action)) = &routes.virtual_hosts[0].routes[0].action else {
            panic!("{routes:?}")
        };
        let retried = &action.retry_policy.as_ref().unwrap().retry_on;
        assert_eq!(retried.contains("idempotent-failure"), idempotent, "{retried}");
    }
}

#[test]
fn what_does_not_exist_has_no_resource() {
    let catalog = catalog(plain(AppProtocol::Http));
    for name in ["cart:81", "web:80", "cart.other:80", "10.0.0.2:80", "*", "inbound|10.1.0.1:8080", ""] {
        assert!(catalog.resource(&shop(), Kind::Listener, name).is_none(), "{name}");
    }
    assert!(catalog.resource(&viewer("other", Mode::OnDemand), Kind::Listener, "cart:80").is_none());
    assert!(catalog.resource(&shop(), Kind::Cluster, "cart:80").is_none());
    let external = ServiceEntry {
        service: Arc::new(Service {
            service_type: ServiceType::ExternalName("example.org".into()),
            ..plain(AppProtocol::Http).service.as_ref().clone()
        }),
        ..plain(AppProtocol::Http)
    };
    catalog.publish(Arc::new([external].into_iter().collect()));
    assert!(catalog.resource(&shop(), Kind::Listener, "cart:80").is_none());
}

#[test]
fn an_address_of_one_endpoint_is_a_destination_of_its_own() {
    let catalog = catalog(plain(AppProtocol::Http));
    let listener: Listener = read(&catalog, Kind::Listener, "10.1.0.2:8080");
    let name = "10.1.0.2:8080@cart.shop.svc.cluster.local:80";
    assert_eq!(manager(&listener).stat_prefix, name);
    let assignment: ClusterLoadAssignment = read(&catalog, Kind::Endpoints, name);
    assert_eq!(assignment.endpoints[0].lb_endpoints.len(), 1);
    let cluster: Cluster = read(&catalog, Kind::Cluster, name);
    assert!(cluster.outlier_detection.is_none());
    let routes: RouteConfiguration = read(&catalog, Kind::Route, name);
    assert_eq!(routes.virtual_hosts[0].routes[0].name, "default");
}

#[test]
fn listeners_for_opaque_bytes_and_unknown_protocols() {
    let tcp: Listener = read(&catalog(plain(AppProtocol::Tcp)), Kind::Listener, "cart:80");
    assert!(tcp.api_listener.is_none() && tcp.default_filter_chain.is_some());
    let detect: Listener = read(&catalog(plain(AppProtocol::Detect)), Kind::Listener, "cart:80");
    assert!(detect.api_listener.is_some() && detect.default_filter_chain.is_some());
    assert_eq!(detect.listener_filters[0].name, "envoy.filters.listener.http_inspector");
    assert!(detect.listener_filters_timeout.is_some());
}

#[test]
fn a_route_for_requests_makes_a_port_of_unknown_protocol_http_alone() {
    let routed = cart(AppProtocol::Detect, producer(RouteTable::Http(vec![])));
    let listener: Listener = read(&catalog(routed), Kind::Listener, "cart:80");
    assert!(listener.api_listener.is_some() && listener.default_filter_chain.is_none());
    assert!(listener.listener_filters.is_empty());
}

#[test]
fn a_tcp_route_shares_connections_and_has_no_http_side() {
    let route =
        TcpRoute { id: "tcproute/shop/r/0/0".into(), backends: vec![backend(9), invalid(1), backend(0)] };
    let catalog = catalog(cart(AppProtocol::Detect, producer(RouteTable::Tcp(route))));
    let listener: Listener = read(&catalog, Kind::Listener, "cart:80");
    assert!(listener.api_listener.is_none());
    assert!(catalog.resource(&shop(), Kind::Route, CART).is_none());
    let filter = &listener.default_filter_chain.unwrap().filters[0];
    let Some(outrigger_proto::xds::listener::filter::ConfigType::TypedConfig(any)) = &filter.config_type
    else {
        panic!("no config")
    };
    let proxy = outrigger_proto::xds::tcp_proxy::TcpProxy::decode(any.value.as_slice()).unwrap();
    let Some(outrigger_proto::xds::tcp_proxy::tcp_proxy::ClusterSpecifier::WeightedClusters(all)) =
        proxy.cluster_specifier
    else {
        panic!("no shares")
    };
    let shares: Vec<_> = all.clusters.iter().map(|share| (share.name.as_str(), share.weight)).collect();
    assert_eq!(shares, [(CART, 9), ("outrigger.invalid-backend", 1)]);
}

#[test]
fn a_cluster_has_the_defaults_and_the_identities_of_its_endpoints() {
    let cluster: Cluster = read(&catalog(plain(AppProtocol::Grpc)), Kind::Cluster, CART);
    assert_eq!(cluster.cluster_discovery_type, Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)));
    assert!(cluster.outlier_detection.is_some() && cluster.circuit_breakers.is_some());
    assert_eq!(cluster.typed_extension_protocol_options.len(), 1);
    let names: Vec<_> = cluster.transport_socket_matches.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["outrigger-mtls", "plaintext"]);
    let bytes = format!("{:?}", String::from_utf8_lossy(&cluster.encode_to_vec()));
    assert!(bytes.contains("spiffe://cluster.local/ns/shop/sa/cart") && !bytes.contains("nobody"));
}

#[test]
fn a_cluster_without_identities_accepts_none() {
    let entry = ServiceEntry { endpoints: Arc::default(), ..plain(AppProtocol::Http) };
    let cluster: Cluster = read(&catalog(entry), Kind::Cluster, CART);
    let bytes = String::from_utf8_lossy(&cluster.encode_to_vec()).into_owned();
    assert!(bytes.contains("spiffe://cluster.local/ns/shop/sa/nobody.outrigger.invalid"));
}

#[test]
fn endpoints_carry_state_and_identity_and_encode_to_the_same_bytes_every_time() {
    let first = catalog(plain(AppProtocol::Http));
    let assignment: ClusterLoadAssignment = read(&first, Kind::Endpoints, CART);
    let [locality] = &assignment.endpoints[..] else { panic!("one zone") };
    let health: Vec<_> = locality.lb_endpoints.iter().map(|endpoint| endpoint.health_status).collect();
    assert_eq!(health, [HealthStatus::Healthy as i32, HealthStatus::Draining as i32]);
    let metadata = &locality.lb_endpoints[0].metadata.as_ref().unwrap().filter_metadata;
    let field = |of: &str, key: &str| match &metadata[of].fields[key].kind {
        Some(Field::StringValue(text)) => text.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(field("envoy.transport_socket_match", "outrigger"), "mtls");
    assert_eq!(field("outrigger.workload", "spiffe_id"), "spiffe://cluster.local/ns/shop/sa/cart");
    assert_eq!(field("outrigger.workload", "instance"), "cart-1");
    let version = |catalog: &Catalog| catalog.resource(&shop(), Kind::Endpoints, CART).unwrap().version;
    for _ in 0..16 {
        assert_eq!(version(&catalog(plain(AppProtocol::Http))), version(&first));
    }
}

#[test]
fn endpoints_that_drain_are_the_last_resort() {
    use EndpointHealth::{Draining, NotReady, Ready};
    let states = |publish_not_ready: bool, health: &[EndpointHealth]| {
        let mut entry = plain(AppProtocol::Http);
        Arc::make_mut(&mut entry.service).publish_not_ready = publish_not_ready;
        let at = |(n, health): (usize, &EndpointHealth)| endpoint(&format!("10.1.0.{}:8080", n + 1), *health);
        let endpoints: Vec<_> = health.iter().enumerate().map(at).collect();
        entry.endpoints = Arc::new(Endpoints { ports: vec![(80, endpoints.into())] });
        let assignment: ClusterLoadAssignment = read(&catalog(entry), Kind::Endpoints, CART);
        let endpoints = assignment.endpoints.iter().flat_map(|zone| &zone.lb_endpoints);
        endpoints.map(|endpoint| HealthStatus::try_from(endpoint.health_status).unwrap()).collect::<Vec<_>>()
    };
    let (healthy, draining) = (HealthStatus::Healthy, HealthStatus::Draining);
    for (publish_not_ready, health, expected) in [
        (false, vec![Ready, Draining, NotReady], vec![healthy, draining]),
        (false, vec![Draining, Draining, NotReady], vec![healthy, healthy]),
        (false, vec![Draining], vec![healthy]),
        (false, vec![NotReady, NotReady], vec![]),
        (true, vec![NotReady, Draining], vec![healthy, draining]),
        (true, vec![Draining, Draining], vec![healthy, healthy]),
    ] {
        assert_eq!(states(publish_not_ready, &health), expected, "{publish_not_ready} {health:?}");
    }
}

#[test]
fn a_service_without_routes_has_one_route_with_the_default_policies() {
    let made: RouteConfiguration = read(&catalog(plain(AppProtocol::Http)), Kind::Route, CART);
    let route = &made.virtual_hosts[0].routes[0];
    assert_eq!((made.name.as_str(), route.name.as_str()), (CART, "default"));
    let Some(Action::Route(action)) = &route.action else { panic!("no forwarding") };
    let retry = action.retry_policy.as_ref().unwrap();
    assert_eq!(retry.retry_on, "connect-failure,refused-stream,reset-before-request,idempotent-failure");
    assert_eq!((retry.num_retries.unwrap().value, action.timeout.unwrap().seconds), (2, 0));
}

#[test]
fn consumer_routes_are_for_their_namespace_alone() {
    let route = |id: &str| Route {
        id: id.into(),
        matches: at(PathMatch::Prefix("/".into())),
        action: Arc::new(forward(vec![backend(1)])),
    };
    let table = |id| Arc::new(RouteTable::Http(vec![route(id)]));
    let routes = PortRoutes {
        producer: Some(table("producer")),
        consumers: BTreeMap::from([("web".into(), table("consumer"))]),
    };
    let catalog = catalog(cart(AppProtocol::Http, ServiceRoutes { ports: vec![(80, routes)] }));
    let seen = |namespace| {
        let resource = catalog.resource(&viewer(namespace, Mode::OnDemand), Kind::Route, CART).unwrap();
        let made: RouteConfiguration = resource.decode();
        (made.virtual_hosts[0].routes[0].name.clone(), resource)
    };
    let (shop, web, other) = (seen("shop"), seen("web"), seen("other"));
    assert_eq!((shop.0.as_str(), web.0.as_str(), other.0.as_str()), ("producer", "consumer", "producer"));
    assert!(Arc::ptr_eq(&shop.1, &other.1), "shared by all viewers with the same input");
}

#[test]
fn a_resource_is_translated_again_only_if_its_input_changed() {
    let catalog = catalog(plain(AppProtocol::Http));
    let kinds = |catalog: &Catalog| {
        Kind::ALL.map(|kind| {
            catalog.resource(&shop(), kind, if kind == Kind::Listener { "cart:80" } else { CART }).unwrap()
        })
    };
    let before = kinds(&catalog);
    let entry = ServiceEntry { endpoints: Arc::default(), ..plain(AppProtocol::Http) };
    let affected = catalog.publish(Arc::new([entry].into_iter().collect()));
    let service = Dependency::Service(ServiceKey::new("shop", "cart"));
    let (_, touched) = affected.dependencies.iter().find(|(on, _)| *on == service).unwrap();
    assert_eq!(*touched, BTreeSet::from(ENDPOINT_KINDS));
    let after = kinds(&catalog);
    let same: Vec<_> = before.iter().zip(&after).map(|(a, b)| Arc::ptr_eq(a, b)).collect();
    assert_eq!(same, [false, false, true, true]);
}

#[test]
fn a_change_reaches_every_name_by_which_the_service_is_known() {
    let catalog = catalog(plain(AppProtocol::Http));
    let affected = catalog.publish(Arc::new(Mesh::default()));
    let on: Vec<_> = affected.dependencies.iter().map(|(on, _)| on).collect();
    for name in ["cart:80", CART, "10.0.0.1:80", "10.1.0.1:8080"] {
        let dependencies = catalog.dependencies(&shop(), Kind::Listener, name);
        assert!(dependencies.iter().any(|dependency| on.contains(&dependency)), "{name}");
        assert!(catalog.resource(&shop(), Kind::Listener, name).is_none());
    }
    assert_eq!(affected.names.len(), 2, "one cluster and one listener by canonical name");
}
