//! The inbound side of a workload, and what `*` means.

use outrigger_proto::xds::core::transport_socket::ConfigType;
use outrigger_proto::xds::hcm::http_connection_manager::ForwardClientCertDetails;
use outrigger_proto::xds::listener::{FilterChain, filter};
use outrigger_proto::xds::metadata;
use outrigger_proto::xds::protobuf::value;
use outrigger_proto::xds::tls::UpstreamTlsContext;
use outrigger_proto::xds::upstream_http::HttpProtocolOptions;
use outrigger_proto::xds::upstream_http::http_protocol_options::UpstreamProtocolOptions;
use outrigger_proto::xds::upstream_http::http_protocol_options::explicit_http_config::ProtocolConfig;

use super::*;
use crate::model::service::Overload;

pub(super) fn registered(
    listen: &[u16],
    original_destination: bool,
    protocol: Option<AppProtocol>,
) -> Registrations {
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let port = |listen: &u16| WorkloadPort {
        services: vec![ServiceKey::new("shop", "cart")],
        service_port: 80,
        protocol,
        advertised: address(*listen),
        listen: address(if original_destination { 15006 } else { *listen }),
        application: address(listen + 1000),
        original_destination,
        mtls: None,
    };
    let mut all = Registrations::default();
    all.insert(Arc::new(WorkloadEntry {
        key: shop().workload,
        ports: listen.iter().map(port).collect(),
        labels: BTreeMap::new(),
        capture: None,
        mtls: MtlsMode::Strict,
        ready: true,
        draining: false,
        pod: None,
    }));
    all
}

/// A catalog of this mesh, in which `cart-1` serves `cart:80` at its port 10000.
pub(super) fn serving_from(mesh: Mesh) -> Catalog {
    let catalog = catalog(plain(AppProtocol::Detect));
    catalog.publish(Arc::new(mesh.with_registrations(registered(&[9000], false, None))));
    catalog
}

fn serving(registrations: Registrations) -> Catalog {
    let catalog = catalog(plain(AppProtocol::Detect));
    let mesh: Mesh = [plain(AppProtocol::Detect)].into_iter().collect();
    catalog.publish(Arc::new(mesh.with_registrations(registrations)));
    catalog
}

/// What the HTTP chain of a listener does with `x-forwarded-client-cert`, and whether it has the caller's URI.
fn tells_caller(listener: &Listener) -> (ForwardClientCertDetails, bool) {
    let filter = listener.filter_chains[0].filters.last().unwrap();
    let Some(filter::ConfigType::TypedConfig(any)) = &filter.config_type else { panic!("{filter:?}") };
    let manager = HttpConnectionManager::decode(any.value.as_slice()).unwrap();
    let details = manager.set_current_client_cert_details.as_ref();
    (manager.forward_client_cert_details(), details.is_some_and(|details| details.uri))
}

#[test]
fn a_service_says_what_its_sidecars_do_about_overload() {
    for mode in [Overload::Enforce, Overload::Observe, Overload::Off] {
        let mut entry = plain(AppProtocol::Http);
        entry.service = Arc::new(Service { overload: mode, ..Service::clone(&entry.service) });
        let catalog = catalog(plain(AppProtocol::Http));
        let mesh: Mesh = [entry].into_iter().collect();
        catalog.publish(Arc::new(mesh.with_registrations(registered(&[9000], false, None))));
        let cluster: Cluster = read(&catalog, Kind::Cluster, "inbound|127.0.0.1:10000");
        let fields = &cluster.metadata.unwrap().filter_metadata[metadata::OVERLOAD].fields;
        let value = fields[metadata::MODE].kind.clone();
        assert_eq!(value, Some(value::Kind::StringValue(mode.name().into())));
        // A client's sidecar knows nothing of it.
        let cluster: Cluster = read(&catalog, Kind::Cluster, "cart.shop.svc.cluster.local:80");
        assert!(cluster.metadata.is_none_or(|of| !of.filter_metadata.contains_key(metadata::OVERLOAD)));
    }
}

#[test]
fn a_workload_sees_only_its_own_inbound_resources() {
    let catalog = serving(registered(&[9000], false, None));
    let name = "inbound|127.0.0.1:9000";
    assert_eq!(catalog.wildcard(&shop(), Kind::Listener), [name.into()]);
    let clusters = ["inbound|127.0.0.1:10000".into(), "inbound|127.0.0.1:10000|h2c".into()];
    assert_eq!(catalog.wildcard(&shop(), Kind::Cluster), clusters);
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
    assert_eq!(tells_caller(&listener), (ForwardClientCertDetails::SanitizeSet, true));
    let older = Viewer { forwards_client_certificates: false, ..shop() };
    let of_older: Listener = catalog.resource(&older, Kind::Listener, name).unwrap().decode();
    assert_eq!(tells_caller(&of_older), (ForwardClientCertDetails::Sanitize, false));
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
fn redirected_connections_are_matched_by_destination_port() {
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

/// The registration of a pod that serves `cart:80` at its port 8080, and its port 9090, which no service has.
fn pod(mode: MtlsMode, monitoring: Option<MtlsMode>, protocol: Option<AppProtocol>) -> Registrations {
    let mut all = Registrations::default();
    let address = |port| SocketAddr::from(([10, 1, 0, 9], port));
    let capture = SocketAddr::from(([0, 0, 0, 0], 15006));
    let port = |number| WorkloadPort {
        services: Vec::new(),
        service_port: number,
        protocol,
        advertised: address(number),
        listen: capture,
        application: address(number),
        original_destination: true,
        mtls: None,
    };
    let cart =
        WorkloadPort { services: vec![ServiceKey::new("shop", "cart")], service_port: 80, ..port(8080) };
    all.insert(Arc::new(WorkloadEntry {
        key: shop().workload,
        ports: vec![cart.clone(), WorkloadPort { mtls: monitoring, ..port(9090) }, cart],
        capture: Some(capture),
        mtls: mode,
        labels: BTreeMap::new(),
        ready: true,
        draining: false,
        pod: None,
    }));
    all
}

/// The chains of the capture listener: name, transport protocol, server names, application protocols, and whether TLS is
/// terminated.
fn chains(catalog: &Catalog) -> Vec<(String, String, bool)> {
    let listener: Listener = read(catalog, Kind::Listener, "inbound|0.0.0.0:15006");
    let criteria = |chain: &FilterChain| {
        let of = chain.filter_chain_match.clone().unwrap();
        let port = of.destination_port.map_or(String::new(), |port| port.value.to_string());
        let all =
            [port, of.transport_protocol, of.server_names.join(","), of.application_protocols.join(",")];
        all.join(" ").trim().to_owned()
    };
    let chains = listener.filter_chains.iter();
    chains.map(|chain| (chain.name.clone(), criteria(chain), chain.transport_socket.is_some())).collect()
}

fn expected(rows: &[(&str, &str, bool)]) -> Vec<(String, String, bool)> {
    rows.iter().map(|(name, criteria, tls)| ((*name).into(), (*criteria).into(), *tls)).collect()
}

#[test]
fn a_strict_pod_serves_every_port_by_mtls_alone() {
    let catalog = serving(pod(MtlsMode::Strict, None, None));
    assert_eq!(
        chains(&catalog),
        expected(&[
            ("inbound|80|http|cart.shop", "8080   h2,http/1.1", true),
            ("inbound|80|tcp|cart.shop", "8080   outrigger-tcp", true),
            ("inbound|9090|http|undeclared", "9090   h2,http/1.1", true),
            ("inbound|9090|tcp|undeclared", "9090   outrigger-tcp", true),
            ("inbound|*|http|undeclared", "h2,http/1.1", true),
            ("inbound|*|tcp|undeclared", "outrigger-tcp", true),
        ])
    );
    let listener: Listener = read(&catalog, Kind::Listener, "inbound|0.0.0.0:15006");
    assert!(listener.use_original_dst.unwrap().value && listener.listener_filters.is_empty());
    assert!(!listener.continue_on_listener_filters_timeout);
}

#[test]
fn a_permissive_port_serves_sidecars_by_mtls_and_others_in_plain_text_or_by_tls_of_the_application() {
    let catalog = serving(pod(MtlsMode::Strict, Some(MtlsMode::Permissive), Some(AppProtocol::Detect)));
    let permissive = expected(&[
        ("inbound|9090|http|undeclared", "9090  *.mtls.outrigger.internal h2,http/1.1", true),
        ("inbound|9090|tcp|undeclared", "9090  *.mtls.outrigger.internal outrigger-tcp", true),
        ("inbound|9090|tls-passthrough|undeclared", "9090 tls", false),
        ("inbound|9090|plaintext-http|undeclared", "9090 raw_buffer  http/1.0,http/1.1", false),
        ("inbound|9090|plaintext-h2c|undeclared", "9090 raw_buffer  h2c", false),
        ("inbound|9090|plaintext-tcp|undeclared", "9090 raw_buffer", false),
    ]);
    assert_eq!(chains(&catalog)[2..8], permissive[..]);
    let listener: Listener = read(&catalog, Kind::Listener, "inbound|0.0.0.0:15006");
    let filters: Vec<_> = listener.listener_filters.iter().map(|filter| filter.name.as_str()).collect();
    assert_eq!(filters, ["envoy.filters.listener.tls_inspector", "envoy.filters.listener.http_inspector"]);
    assert!(listener.continue_on_listener_filters_timeout);
    let cluster: Cluster = read(&catalog, Kind::Cluster, CART);
    let tls = &cluster.transport_socket_matches[0].transport_socket;
    let Some(ConfigType::TypedConfig(any)) = tls.clone().unwrap().config_type else { panic!("{tls:?}") };
    let context = UpstreamTlsContext::decode(any.value.as_slice()).unwrap();
    assert_eq!(context.sni, "cart.shop.svc.cluster.local.mtls.outrigger.internal");
}

#[test]
fn a_declared_protocol_needs_no_detection_on_a_permissive_port() {
    for (protocol, expected) in [
        (AppProtocol::Http, &["http", "tls-passthrough", "plaintext-http"][..]),
        (AppProtocol::Grpc, &["http", "tls-passthrough", "plaintext-http"]),
        (AppProtocol::Tcp, &["tcp", "tls-passthrough", "plaintext-tcp"]),
    ] {
        let catalog = serving(pod(MtlsMode::Permissive, None, Some(protocol)));
        let all = chains(&catalog);
        let kinds = all.iter().filter(|(name, ..)| name.starts_with("inbound|80|"));
        let kinds: Vec<_> = kinds.map(|(name, ..)| name.split('|').nth(2).unwrap()).collect();
        assert_eq!(kinds, expected, "{protocol:?}");
    }
}

#[test]
fn the_application_of_a_pod_is_dialled_at_the_original_destination_by_the_protocol_that_it_speaks() {
    let catalog = serving(pod(MtlsMode::Permissive, None, None));
    let names = catalog.wildcard(&shop(), Kind::Cluster);
    let expected = [
        "inbound|10.1.0.9:8080",
        "inbound|10.1.0.9:8080|h2c",
        "inbound|10.1.0.9:9090",
        "inbound|10.1.0.9:9090|h2c",
        "inbound|undeclared",
        "inbound|undeclared|h2c",
    ];
    assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), expected);
    for name in expected {
        let cluster: Cluster = read(&catalog, Kind::Cluster, name);
        let original = ClusterDiscoveryType::Type(DiscoveryType::OriginalDst as i32);
        assert_eq!(
            (cluster.cluster_discovery_type, cluster.load_assignment),
            (Some(original), None),
            "{name}"
        );
        let (_, options) = cluster.typed_extension_protocol_options.iter().next().unwrap();
        let options = HttpProtocolOptions::decode(options.value.as_slice()).unwrap();
        let Some(UpstreamProtocolOptions::ExplicitHttpConfig(config)) = options.upstream_protocol_options
        else {
            panic!("{name}: {options:?}")
        };
        let is_http2 = matches!(config.protocol_config, Some(ProtocolConfig::Http2ProtocolOptions(_)));
        assert_eq!(is_http2, name.ends_with("|h2c"), "{name}");
    }
    let declared = serving(pod(MtlsMode::Permissive, None, Some(AppProtocol::Http)));
    assert!(declared.resource(&shop(), Kind::Cluster, "inbound|10.1.0.9:8080|h2c").is_none());
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
    assert!(!catalog.in_wildcard(&all, Kind::Listener, "10.1.0.1:8080"), "it has a cluster IP to go by");
}

#[test]
fn a_tcp_route_opens_the_opaque_side_of_a_port_that_speaks_http() {
    let catalog = serving(registered(&[9000], false, Some(AppProtocol::Http)));
    let chains = |catalog: &Catalog| -> Vec<String> {
        let listener: Listener = read(catalog, Kind::Listener, "inbound|127.0.0.1:9000");
        listener.filter_chains.into_iter().map(|chain| chain.name).collect()
    };
    assert_eq!(chains(&catalog), ["inbound|80|http|cart.shop"]);
    let route = TcpRoute { id: "tcproute/shop/r/0/0".into(), backends: vec![backend(1)] };
    let routed = cart(AppProtocol::Detect, producer(RouteTable::Tcp(route)));
    let mesh: Mesh = [routed].into_iter().collect();
    let registrations = registered(&[9000], false, Some(AppProtocol::Http));
    let affected = catalog.publish(Arc::new(mesh.with_registrations(registrations)));
    assert_eq!(affected.inbound[0].0, shop().workload);
    assert_eq!(chains(&catalog), ["inbound|80|http|cart.shop", "inbound|80|tcp|cart.shop"]);
}
