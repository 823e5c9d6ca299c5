use std::collections::BTreeMap;
use std::time::Duration;

use outrigger_core::identity::SpiffeId;
use outrigger_core::percentage::Percentage;
use outrigger_proto::xds::cluster::Cluster;
use outrigger_proto::xds::cluster::cluster::{ClusterDiscoveryType, DiscoveryType};
use outrigger_proto::xds::core::HealthStatus;
use outrigger_proto::xds::endpoint::ClusterLoadAssignment;
use outrigger_proto::xds::hcm::HttpConnectionManager;
use outrigger_proto::xds::hcm::http_connection_manager::RouteSpecifier;
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
use crate::model::registration::{Registrations, WorkloadPort};
use crate::model::route::{
    BackendTarget, Cors, Filters, HeaderChanges, InvalidBackend, Mirror, PathMatch, PathRewrite, PortRoutes,
    Redirect, RedirectScheme, Retry, Rewrite, Route, RouteAction, RouteMatch, RouteTable, RouteTarget,
    ServiceRoutes, TcpRoute, Timeouts, ValueMatch, ValuePattern, WeightedBackend,
};
use crate::model::service::{AppProtocol, ServicePort, TargetPort};

const CART: &str = "cart.shop.svc.cluster.local:80";

fn viewer(namespace: &str, mode: Mode) -> Viewer {
    let identity = SpiffeId::parse(&format!("spiffe://cluster.local/ns/{namespace}/sa/cart")).unwrap();
    Viewer { workload: WorkloadKey { identity, instance: "cart-1".into() }, mode }
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
    }
}

/// `cart.shop:80`, with two endpoints of which one is not ready, reachable at 10.0.0.1.
fn cart(protocol: AppProtocol, routes: ServiceRoutes) -> ServiceEntry {
    let key = ServiceKey::new("shop", "cart");
    let port = ServicePort { name: "".into(), number: 80, target: TargetPort::Number(8080), protocol };
    let endpoints = [
        endpoint("10.1.0.1:8080", EndpointHealth::Ready),
        endpoint("10.1.0.2:8080", EndpointHealth::NotReady),
        endpoint("10.1.0.3:8080", EndpointHealth::Draining),
    ];
    ServiceEntry {
        service: Arc::new(Service {
            key,
            reach: Reach::ClusterIps(vec!["10.0.0.1".parse().unwrap()]),
            ports: vec![port],
            service_accounts: Vec::new(),
            publish_not_ready: false,
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

fn catalog(entry: ServiceEntry) -> Catalog {
    let settings = Settings {
        cluster_domain: "cluster.local".into(),
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
    };
    let catalog = Catalog::new(settings);
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

/// What one route of the model becomes on the wire.
fn routed(matches: RouteMatch, action: RouteAction) -> outrigger_proto::xds::route::Route {
    let route = Route { id: "httproute/shop/r/0/0".into(), matches, action: Arc::new(action) };
    let catalog = catalog(cart(AppProtocol::Http, producer(RouteTable::Http(vec![route]))));
    let mut made: RouteConfiguration = read(&catalog, Kind::Route, CART);
    made.virtual_hosts.remove(0).routes.remove(0)
}

fn routed_to(action: RouteAction, path: &str) -> outrigger_proto::xds::route::RouteAction {
    match routed(at(PathMatch::Prefix(path.into())), action).action {
        Some(Action::Route(action)) => action,
        other => panic!("{other:?}"),
    }
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
        assert_eq!(manager.http_filters.last().unwrap().name, "envoy.filters.http.router");
        assert!(listener.default_filter_chain.is_none());
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
            reach: Reach::ExternalName("example.org".into()),
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
    assert_eq!(routes.virtual_hosts[0].routes[0].name, format!("default/{name}"));
}

#[test]
fn opaque_bytes_and_unknown_protocols_have_their_shapes() {
    let tcp: Listener = read(&catalog(plain(AppProtocol::Tcp)), Kind::Listener, "cart:80");
    assert!(tcp.api_listener.is_none() && tcp.default_filter_chain.is_some());
    let detect: Listener = read(&catalog(plain(AppProtocol::Detect)), Kind::Listener, "cart:80");
    assert!(detect.api_listener.is_some() && detect.default_filter_chain.is_some());
    assert_eq!(detect.listener_filters[0].name, "envoy.filters.listener.http_inspector");
    assert!(detect.listener_filters_timeout.is_some());
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
fn a_cluster_that_nobody_serves_trusts_nobody() {
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
fn a_service_without_routes_is_reached_straight_with_the_default_policies() {
    let made: RouteConfiguration = read(&catalog(plain(AppProtocol::Http)), Kind::Route, CART);
    let route = &made.virtual_hosts[0].routes[0];
    assert_eq!((made.name.as_str(), route.name.as_str()), (CART, "default/cart.shop.svc.cluster.local:80"));
    let Some(Action::Route(action)) = &route.action else { panic!("no forwarding") };
    let retry = action.retry_policy.as_ref().unwrap();
    assert_eq!(retry.retry_on, "connect-failure,refused-stream,reset-before-request,idempotent-failure");
    assert_eq!((retry.num_retries.unwrap().value, action.timeout.unwrap().seconds), (2, 0));
}

#[test]
fn matches_become_envoys() {
    let value = |name: &str, value| ValueMatch { name: name.into(), value };
    let matches = RouteMatch {
        path: PathMatch::Prefix("/a".into()),
        method: Some(http::Method::POST),
        headers: vec![
            value("x", ValuePattern::Exact("1".into())),
            value("y", ValuePattern::Regex("a+".into())),
        ],
        query: vec![value("q", ValuePattern::Exact("2".into()))],
        grpc: true,
    };
    let made = routed(matches, forward(vec![backend(1)])).r#match.unwrap();
    assert_eq!(made.path_specifier, Some(PathSpecifier::PathSeparatedPrefix("/a".into())));
    let headers: Vec<_> = made.headers.iter().map(|header| header.name.as_str()).collect();
    assert_eq!(headers, [":method", "x", "y"]);
    assert_eq!((made.query_parameters[0].name.as_str(), made.grpc.is_some()), ("q", true));
    let path = |path| routed(at(path), forward(vec![backend(1)])).r#match.unwrap().path_specifier.unwrap();
    assert_eq!(path(PathMatch::Prefix("/".into())), PathSpecifier::Prefix("/".into()));
    assert_eq!(path(PathMatch::Exact("/svc/method".into())), PathSpecifier::Path("/svc/method".into()));
    assert!(matches!(path(PathMatch::Regex("/a.*".into())), PathSpecifier::SafeRegex(_)));
}

#[test]
fn the_share_of_an_invalid_backend_is_answered_500() {
    let action = routed_to(forward(vec![backend(9), invalid(1), backend(0)]), "/");
    assert_eq!(action.cluster_not_found_response_code, 2);
    let Some(ClusterSpecifier::WeightedClusters(all)) = action.cluster_specifier else { panic!("no shares") };
    let shares: Vec<_> = all.clusters.iter().map(|c| (c.name.as_str(), c.weight.unwrap().value)).collect();
    assert_eq!(shares, [(CART, 9), ("outrigger.invalid-backend", 1)]);
    for none in [vec![], vec![invalid(1)], vec![backend(0)], vec![backend(0), invalid(1)]] {
        let Some(Action::DirectResponse(answer)) =
            routed(at(PathMatch::Prefix("/".into())), forward(none)).action
        else {
            panic!("forwarded")
        };
        assert_eq!(answer.status, 500);
    }
}

#[test]
fn headers_change_on_the_route_and_for_one_backend() {
    let changes = HeaderChanges {
        set: vec![("s".into(), "1".into())],
        add: vec![("a".into(), "2".into())],
        remove: vec!["r".into()],
    };
    let filters =
        Filters { request_headers: changes.clone(), response_headers: changes, ..Filters::default() };
    let special = WeightedBackend { filters: filters.clone(), ..backend(1) };
    let action = RouteAction { filters, ..forward(vec![special]) };
    let route = routed(at(PathMatch::Prefix("/".into())), action);
    let actions = |options: &[outrigger_proto::xds::core::HeaderValueOption]| -> Vec<_> {
        options.iter().map(|option| (option.header.clone().unwrap().key, option.append_action)).collect()
    };
    let expected = [("s".to_owned(), 2), ("a".to_owned(), 0)];
    assert_eq!(actions(&route.request_headers_to_add), expected);
    assert_eq!(
        (actions(&route.response_headers_to_add), &route.response_headers_to_remove[..]),
        (expected.to_vec(), &["r".to_owned()][..])
    );
    let Some(Action::Route(action)) = route.action else { panic!("not forwarded") };
    let Some(ClusterSpecifier::WeightedClusters(all)) = action.cluster_specifier else { panic!("no share") };
    assert_eq!(actions(&all.clusters[0].request_headers_to_add), expected);
}

#[test]
fn a_prefix_is_rewritten_by_path_elements() {
    let rewrite = |prefix: &str, path: &str| {
        let rewrite = Rewrite { hostname: Some("h".into()), path: Some(PathRewrite::Prefix(prefix.into())) };
        let filters = Filters { rewrite: Some(rewrite), ..Filters::default() };
        routed_to(RouteAction { filters, ..forward(vec![backend(1)]) }, path)
    };
    assert_eq!(rewrite("/new", "/old").prefix_rewrite, "/new");
    assert_eq!(rewrite("/new/", "/old").prefix_rewrite, "/new");
    assert_eq!(rewrite("/new", "/").prefix_rewrite, "/new/");
    let gone = rewrite("/", "/old.x").regex_rewrite.unwrap();
    assert_eq!((gone.pattern.unwrap().regex.as_str(), gone.substitution.as_str()), (r"^/old\.x/*", "/"));
}

#[test]
fn a_whole_path_is_replaced_literally() {
    let rewrite = Rewrite { hostname: None, path: Some(PathRewrite::Full(r"/a\1".into())) };
    let filters = Filters { rewrite: Some(rewrite), ..Filters::default() };
    let made = routed_to(RouteAction { filters, ..forward(vec![backend(1)]) }, "/").regex_rewrite.unwrap();
    assert_eq!((made.pattern.unwrap().regex.as_str(), made.substitution.as_str()), ("^.*$", r"/a\\1"));
}

#[test]
fn a_redirect_names_what_changes() {
    let redirect = Redirect {
        scheme: Some(RedirectScheme::Https),
        hostname: Some("example.org".into()),
        path: Some(PathRewrite::Full("/there".into())),
        port: None,
        status: 308,
    };
    let action = RouteAction { target: RouteTarget::Redirect(redirect), ..forward(Vec::new()) };
    let Some(Action::Redirect(made)) = routed(at(PathMatch::Prefix("/".into())), action).action else {
        panic!("no redirect")
    };
    assert_eq!(
        (made.host_redirect.as_str(), made.port_redirect, made.response_code),
        ("example.org", 443, 4)
    );
    let path = redirect_action::PathRewriteSpecifier::PathRedirect("/there".into());
    assert_eq!(made.path_rewrite_specifier, Some(path));
}

#[test]
fn mirrors_timeouts_and_retries_stand_on_the_action() {
    let target = BackendTarget { service: ServiceKey::new("shop", "cart"), port: 80 };
    let mirror = |target| Mirror { target, share: Percentage::from_millionths(250_000).unwrap() };
    let mirrors = vec![mirror(Ok(target)), mirror(Err(InvalidBackend::BackendNotFound))];
    let action = RouteAction {
        filters: Filters { mirrors, ..Filters::default() },
        timeouts: Timeouts {
            request: Some(Duration::from_secs(3)),
            backend_request: Some(Duration::from_millis(500)),
        },
        retry: Some(Retry { codes: vec![503], attempts: Some(4), backoff: Some(Duration::from_millis(10)) }),
        ..forward(vec![backend(1)])
    };
    let made = routed_to(action, "/");
    assert_eq!(made.request_mirror_policies.len(), 1);
    let share = made.request_mirror_policies[0].runtime_fraction.as_ref().unwrap().default_value.unwrap();
    assert_eq!((share.numerator, made.timeout.unwrap().seconds), (250_000, 3));
    let retry = made.retry_policy.unwrap();
    assert!(retry.retry_on.ends_with(",retriable-status-codes"));
    assert_eq!((retry.num_retries.unwrap().value, &retry.retriable_status_codes[..]), (4, &[503][..]));
    assert_eq!(retry.per_try_timeout.unwrap().nanos, 500_000_000);
    assert_eq!(retry.retry_back_off.unwrap().max_interval.unwrap().nanos, 100_000_000);
}

#[test]
fn cors_is_the_routes_own_config_and_puts_the_filter_into_the_listener() {
    let cors = Cors {
        allow_origins: vec!["https://*.example.org".into(), "https://a.org".into(), "*".into()],
        allow_credentials: true,
        allow_methods: vec!["GET".into(), "PUT".into()],
        allow_headers: vec!["x".into()],
        expose_headers: Vec::new(),
        max_age: Duration::from_secs(5),
    };
    let filters = Filters { cors: Some(cors), ..Filters::default() };
    let action = Arc::new(RouteAction { filters, ..forward(vec![backend(1)]) });
    let route = Route { id: "r".into(), matches: at(PathMatch::Prefix("/".into())), action };
    let catalog = catalog(cart(AppProtocol::Http, producer(RouteTable::Http(vec![route]))));
    let listener: Listener = read(&catalog, Kind::Listener, "cart:80");
    let filters: Vec<_> = manager(&listener).http_filters.into_iter().map(|filter| filter.name).collect();
    assert_eq!(filters, ["envoy.filters.http.cors", "envoy.filters.http.router"]);
    let made: RouteConfiguration = read(&catalog, Kind::Route, CART);
    let any = &made.virtual_hosts[0].routes[0].typed_per_filter_config["envoy.filters.http.cors"];
    let policy = outrigger_proto::xds::cors::CorsPolicy::decode(any.value.as_slice()).unwrap();
    assert_eq!((policy.allow_methods.as_str(), policy.max_age.as_str()), ("GET,PUT", "5"));
    assert_eq!(policy.allow_origin_string_match.len(), 3);
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
    assert!(Arc::ptr_eq(&shop.1, &other.1), "the same for all who see the same");
}

fn registered(listen: &[u16], original_destination: bool, protocol: Option<AppProtocol>) -> Registrations {
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let port = |listen: &u16| WorkloadPort {
        services: vec![ServiceKey::new("shop", "cart")],
        service_port: 80,
        protocol,
        advertised: address(*listen),
        listen: address(if original_destination { 15006 } else { *listen }),
        application: address(listen + 1000),
        original_destination,
    };
    let mut all = Registrations::default();
    all.insert(Arc::new(WorkloadEntry {
        key: shop().workload,
        ports: listen.iter().map(port).collect(),
        labels: BTreeMap::new(),
        ready: true,
        draining: false,
    }));
    all
}

fn serving(registrations: Registrations) -> Catalog {
    let catalog = catalog(plain(AppProtocol::Detect));
    let mesh: Mesh = [plain(AppProtocol::Detect)].into_iter().collect();
    catalog.publish(Arc::new(mesh.with_registrations(registrations)));
    catalog
}

#[test]
fn a_workload_sees_its_own_inbound_side_and_nobody_elses() {
    let catalog = serving(registered(&[9000], false, None));
    let name = "inbound|127.0.0.1:9000";
    assert_eq!(catalog.wildcard(&shop(), Kind::Listener), [name.into()]);
    assert_eq!(catalog.wildcard(&shop(), Kind::Cluster), ["inbound|127.0.0.1:10000".into()]);
    let listener: Listener = read(&catalog, Kind::Listener, name);
    assert!(listener.address.is_some() && listener.use_original_dst.is_none());
    let chains: Vec<_> = listener
        .filter_chains
        .iter()
        .map(|chain| {
            let alpn = &chain.filter_chain_match.as_ref().unwrap().application_protocols;
            (chain.name.as_str(), alpn.join(","), chain.transport_socket.is_some())
        })
        .collect();
    assert_eq!(
        chains,
        [
            ("inbound|80|http|cart.shop", "h2,http/1.1".to_owned(), true),
            ("inbound|80|tcp|cart.shop", "outrigger-tcp".to_owned(), true),
        ]
    );
    let cluster: Cluster = read(&catalog, Kind::Cluster, "inbound|127.0.0.1:10000");
    assert_eq!(
        cluster.cluster_discovery_type,
        Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32))
    );
    assert!(cluster.load_assignment.is_some() && cluster.outlier_detection.is_none());
    let mut other = shop();
    other.workload.instance = "cart-2".into();
    assert!(catalog.resource(&other, Kind::Listener, name).is_none());
    assert!(catalog.wildcard(&other, Kind::Listener).is_empty());
}

#[test]
fn redirected_connections_are_told_apart_by_destination_port() {
    let catalog = serving(registered(&[9000, 9001], true, Some(AppProtocol::Grpc)));
    let listener: Listener = read(&catalog, Kind::Listener, "inbound|127.0.0.1:15006");
    assert!(listener.use_original_dst.unwrap().value);
    let ports: Vec<_> = listener
        .filter_chains
        .iter()
        .map(|chain| chain.filter_chain_match.as_ref().unwrap().destination_port.unwrap().value)
        .collect();
    assert_eq!(ports, [10000, 10001]);
    let cluster: Cluster = read(&catalog, Kind::Cluster, "inbound|127.0.0.1:10000");
    let original = ClusterDiscoveryType::Type(DiscoveryType::OriginalDst as i32);
    assert_eq!((cluster.cluster_discovery_type, cluster.load_assignment), (Some(original), None));
}

#[test]
fn a_wildcard_viewer_sees_every_service_by_its_canonical_name() {
    let catalog = serving(registered(&[9000], false, None));
    let all = viewer("shop", Mode::Wildcard);
    assert_eq!(catalog.wildcard(&all, Kind::Listener), ["inbound|127.0.0.1:9000".into(), CART.into()]);
    assert!(catalog.in_wildcard(&all, Kind::Cluster, CART));
    assert!(!catalog.in_wildcard(&all, Kind::Listener, "cart:80"), "an alias is asked for by name");
    assert!(!catalog.in_wildcard(&shop(), Kind::Cluster, CART));
    assert!(catalog.wildcard(&all, Kind::Endpoints).is_empty());
}

#[test]
fn a_resource_is_made_once_and_again_only_when_what_it_shows_changed() {
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
