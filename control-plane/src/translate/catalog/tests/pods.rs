use super::wildcard::headless;
use super::*;
use crate::model::registration::PodNetwork;

const DIRECT: &str = "10.1.0.9:9102@10-1-0-9.shop.svc.cluster.local:9102";

/// The pod `web-1` of `shop`, which does not capture port 1.
fn pods() -> Registrations {
    let mut all = Registrations::of_cluster();
    let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap();
    all.insert(Arc::new(WorkloadEntry {
        key: WorkloadKey { identity, instance: "web-1".into() },
        ports: Vec::new(),
        capture: Some("0.0.0.0:15006".parse().unwrap()),
        mtls: MtlsMode::Strict,
        labels: BTreeMap::new(),
        ready: true,
        draining: false,
        pod: Some(PodNetwork {
            ips: vec!["10.1.0.9".parse().unwrap()],
            uncaptured: BTreeSet::from([1]),
            ..PodNetwork::default()
        }),
    }));
    all.set_plain_pod(&"shop".into(), &"plain".into(), "10.1.0.8".parse().unwrap(), true);
    all
}

#[test]
fn a_pod_that_is_called_by_its_address_is_called_with_mtls_though_no_service_has_the_port() {
    let catalog = Catalog::new(settings());
    catalog.publish(Arc::new(Mesh::default().with_registrations(pods())));
    let listener: Listener = read(&catalog, Kind::Listener, "10.1.0.9:9102");
    assert!(listener.api_listener.is_some() && listener.default_filter_chain.is_some(), "it is detected");
    let cluster: Cluster = read(&catalog, Kind::Cluster, DIRECT);
    assert!(format!("{cluster:?}").contains("outrigger-mtls") && cluster.outlier_detection.is_none());
    let assignment: ClusterLoadAssignment = read(&catalog, Kind::Endpoints, DIRECT);
    assert!(format!("{assignment:?}").contains("spiffe://cluster.local/ns/shop/sa/web"));
    assert!(catalog.resource(&shop(), Kind::Route, DIRECT).is_some());
    for passed in ["10.1.0.9:1", "10.1.0.8:9102", "10.1.0.7:9102"] {
        assert!(catalog.resource(&shop(), Kind::Listener, passed).is_none(), "{passed}");
    }
    for invented in [DIRECT.replace("shop", "other"), DIRECT.replace("@10-", "@11-")] {
        assert!(catalog.resource(&shop(), Kind::Cluster, &invented).is_none(), "{invented}");
    }
}

#[test]
fn a_pod_that_comes_or_goes_affects_every_resource_of_its_address() {
    let catalog = Catalog::new(settings());
    catalog.publish(Arc::default());
    let ip = Dependency::Ip("10.1.0.9".parse().unwrap());
    for mesh in [Mesh::default().with_registrations(pods()), Mesh::default()] {
        let affected = catalog.publish(Arc::new(mesh));
        assert!(affected.dependencies.contains(&(ip.clone(), BTreeSet::from(Kind::ALL))), "{affected:?}");
    }
    for (kind, name) in [(Kind::Listener, "10.1.0.9:9102"), (Kind::Endpoints, DIRECT)] {
        assert!(catalog.dependencies(&shop(), kind, name).contains(&ip), "{name}");
    }
}

/// Returns the clusters of the routes of one endpoint.
fn clusters(catalog: &Catalog, name: &str) -> Vec<String> {
    let made: RouteConfiguration = read(catalog, Kind::Route, name);
    let clusters = made.virtual_hosts[0].routes.iter().map(|route| match &route.action {
        Some(Action::Route(action)) => match action.cluster_specifier.clone() {
            Some(ClusterSpecifier::Cluster(cluster)) => cluster,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    });
    clusters.collect()
}

#[test]
fn the_routes_of_a_headless_service_apply_to_its_endpoints_and_keep_the_one_that_was_called() {
    let route = |path: &str, service: &str| Route {
        id: service.into(),
        matches: at(PathMatch::Prefix(path.into())),
        action: Arc::new(forward(vec![WeightedBackend {
            weight: 1,
            target: Ok(BackendTarget { service: ServiceKey::new("shop", service), port: 80 }),
            filters: Filters::default(),
        }])),
    };
    let table = RouteTable::Http(vec![route("/own", "cart"), route("/other", "canary")]);
    let entry = ServiceEntry { routes: Arc::new(producer(table)), ..headless(&["10.1.0.1:8080"]) };
    let only = format!("10.1.0.1:8080@{CART}");
    let catalog = catalog(entry.clone());
    assert_eq!(clusters(&catalog, &only), [only.clone(), "canary.shop.svc.cluster.local:80".into()]);
    let mut balanced = entry;
    Arc::make_mut(&mut balanced.service).service_type = ServiceType::ClusterIps(Vec::new());
    catalog.publish(Arc::new([balanced].into_iter().collect()));
    assert_eq!(clusters(&catalog, &only), std::slice::from_ref(&only));
}

#[test]
fn an_instance_of_a_headless_service_is_called_by_its_name_wherever_it_moves() {
    let db = |address: &str| {
        let mut entry = headless(&[]);
        let named = |name: &str, address: &str| Endpoint {
            hostname: Some(name.into()),
            ..endpoint(address, EndpointHealth::Ready)
        };
        let endpoints = [named("cart-0", address), named("cart-1", "10.1.0.2:8080")];
        entry.endpoints = Arc::new(Endpoints { ports: vec![(80, endpoints.into())] });
        entry
    };
    let name = "cart-0.cart.shop:80";
    let leads_to = |catalog: &Catalog| {
        let listener: Listener = read(catalog, Kind::Listener, name);
        let api = listener.api_listener.unwrap().api_listener.unwrap();
        HttpConnectionManager::decode(api.value.as_slice()).unwrap().stat_prefix
    };
    let catalog = catalog(db("10.1.0.1:8080"));
    assert_eq!(leads_to(&catalog), format!("10.1.0.1:8080@{CART}"));
    let affected = catalog.publish(Arc::new([db("10.1.0.7:8080")].into_iter().collect()));
    assert_eq!(leads_to(&catalog), format!("10.1.0.7:8080@{CART}"));
    let cart = Dependency::Service(ServiceKey::new("shop", "cart"));
    let kinds = affected.dependencies.into_iter().find(|(dependency, _)| *dependency == cart).unwrap().1;
    assert!(
        kinds.contains(&Kind::Listener)
            && catalog.dependencies(&shop(), Kind::Listener, name).contains(&cart)
    );
    assert!(catalog.resource(&shop(), Kind::Listener, "cart-7.cart.shop:80").is_none());
}
