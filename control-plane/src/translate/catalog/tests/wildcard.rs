use super::*;

/// `cart` without a cluster IP, with these endpoints.
pub(super) fn headless(endpoints: &[&str]) -> ServiceEntry {
    let plain = plain(AppProtocol::Http);
    let service = Service { service_type: ServiceType::Headless, ..plain.service.as_ref().clone() };
    let endpoints: Vec<_> = endpoints.iter().map(|at| endpoint(at, EndpointHealth::Ready)).collect();
    let endpoints = Endpoints { ports: vec![(80, endpoints.into())] };
    ServiceEntry { service: Arc::new(service), endpoints: Arc::new(endpoints), ..plain }
}

/// The same service with a cluster IP, by another name: it comes first in order.
fn balanced(endpoints: &[&str]) -> ServiceEntry {
    let entry = headless(endpoints);
    let service_type = ServiceType::ClusterIps(vec!["10.0.0.9".parse().unwrap()]);
    let service =
        Service { key: ServiceKey::new("shop", "basket"), service_type, ..entry.service.as_ref().clone() };
    ServiceEntry { service: Arc::new(service), ..entry }
}

fn all() -> Viewer {
    viewer("shop", Mode::Wildcard)
}

fn names(catalog: &Catalog, kind: Kind) -> BTreeSet<String> {
    let names = catalog.wildcard(&all(), kind);
    for name in &names {
        assert!(catalog.in_wildcard(&all(), kind, name), "{name}");
        assert!(catalog.resource(&all(), kind, name).is_some(), "{name}");
    }
    names.iter().map(ToString::to_string).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn the_endpoints_of_a_headless_service_are_destinations_by_their_addresses() {
    let catalog = catalog(headless(&["10.1.0.1:8080", "10.1.0.2:8080"]));
    assert_eq!(names(&catalog, Kind::Listener), set(&[CART, "10.1.0.1:8080", "10.1.0.2:8080"]));
    let (one, two) = (format!("10.1.0.1:8080@{CART}"), format!("10.1.0.2:8080@{CART}"));
    assert_eq!(names(&catalog, Kind::Cluster), set(&[CART, &one, &two]));
    assert!(!catalog.in_wildcard(&all(), Kind::Listener, "10.1.0.3:8080"));
    assert!(!catalog.in_wildcard(&shop(), Kind::Listener, "10.1.0.1:8080"), "it asks for what it uses");
}

#[test]
fn an_endpoint_that_a_balanced_service_shares_is_that_of_the_headless_service_which_clients_resolve() {
    let endpoints = ["10.1.0.1:8080"];
    let catalog = catalog(headless(&endpoints));
    catalog.publish(Arc::new([headless(&endpoints), balanced(&endpoints)].into_iter().collect()));
    assert!(names(&catalog, Kind::Cluster).contains(&format!("10.1.0.1:8080@{CART}")));
    let balanced = format!("10.1.0.1:8080@{}", CART.replace("cart", "basket"));
    assert!(!catalog.in_wildcard(&all(), Kind::Cluster, &balanced));
}

#[test]
fn an_endpoint_that_is_added_or_removed_affects_its_own_names() {
    let catalog = catalog(headless(&["10.1.0.1:8080"]));
    let affected = catalog.publish(Arc::new([headless(&["10.1.0.2:8080"])].into_iter().collect()));
    let affected_names: BTreeSet<_> =
        affected.names.iter().map(|(kind, name)| (*kind, name.to_string())).collect();
    for address in ["10.1.0.1:8080", "10.1.0.2:8080"] {
        assert!(affected_names.contains(&(Kind::Listener, address.to_owned())), "{affected_names:?}");
        assert!(affected_names.contains(&(Kind::Cluster, format!("{address}@{CART}"))), "{affected_names:?}");
    }
    assert!(affected_names.contains(&(Kind::Cluster, CART.to_owned())));
    assert!(
        !affected_names.contains(&(Kind::Listener, CART.to_owned())),
        "the service's own listener is as it was"
    );
}

#[test]
fn envoys_wildcard_means_no_listeners_because_it_accepts_none_without_an_address() {
    let catalog = catalog(headless(&["10.1.0.1:8080"]));
    let envoy = Viewer { dialect: Dialect::Envoy, ..all() };
    assert_eq!(catalog.wildcard(&envoy, Kind::Listener), []);
    assert!(!catalog.in_wildcard(&envoy, Kind::Listener, CART));
    assert!(!catalog.dependencies(&envoy, Kind::Listener, "*").contains(&Dependency::Mesh));
    assert_eq!(catalog.wildcard(&envoy, Kind::Cluster), catalog.wildcard(&all(), Kind::Cluster));
    // gRPC's clients subscribe to the names of listeners, and accept these.
    assert!(catalog.resource(&envoy, Kind::Listener, CART).is_some());
}
