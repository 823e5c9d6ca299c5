//! The inbound side of a workload, and what `*` means.

use super::*;

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
fn a_workload_sees_only_its_own_inbound_resources() {
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
