use outrigger_proto::xds::core::address;
use outrigger_proto::xds::endpoint::lb_endpoint;

use super::*;
use crate::model::registration::PodNetwork;

mod policies;

/// The viewer's pod, on a node in a zone.
fn at(node: &str, zone: Option<&str>) -> Registrations {
    let mut all = Registrations::of_cluster();
    all.insert(Arc::new(WorkloadEntry {
        key: shop().workload,
        ports: Vec::new(),
        capture: None,
        mtls: MtlsMode::Strict,
        labels: BTreeMap::new(),
        ready: true,
        draining: false,
        pod: Some(PodNetwork {
            node: Some(node.into()),
            zone: zone.map(Name::from),
            ..PodNetwork::default()
        }),
    }));
    all
}

/// Returns the addresses of each priority for the viewer, of four endpoints in three zones.
fn priorities(traffic: TrafficPolicy, pods: Registrations) -> Vec<Vec<String>> {
    let mut entry = plain(AppProtocol::Http);
    Arc::make_mut(&mut entry.service).traffic = traffic;
    let one = |last: u8, node: &str, zone: &str| Endpoint {
        node: Some(node.into()),
        zone: Some(zone.into()),
        ..endpoint(&format!("10.1.0.{last}:8080"), EndpointHealth::Ready)
    };
    let endpoints = [one(1, "a", "x"), one(2, "b", "x"), one(3, "c", "y"), one(4, "d", "z")];
    entry.endpoints = Arc::new(Endpoints { ports: vec![(80, endpoints.into())] });
    let catalog = catalog(entry.clone());
    catalog.publish(Arc::new(Mesh::from_iter([entry]).with_registrations(pods)));
    by_priority(&catalog)
}

/// Returns the addresses of each priority for the viewer.
fn by_priority(catalog: &Catalog) -> Vec<Vec<String>> {
    let assignment: ClusterLoadAssignment = read(catalog, Kind::Endpoints, CART);
    let mut groups: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for locality in &assignment.endpoints {
        for endpoint in &locality.lb_endpoints {
            let Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else {
                panic!()
            };
            let Some(address::Address::SocketAddress(socket)) = &endpoint.address.as_ref().unwrap().address
            else {
                panic!()
            };
            groups
                .entry(locality.priority)
                .or_default()
                .push(socket.address.rsplit_once('.').unwrap().1.into());
        }
    }
    assert!(groups.keys().copied().eq(0..u32::try_from(groups.len()).unwrap()), "no gaps");
    groups.into_values().collect()
}

#[test]
fn the_endpoints_of_the_own_node_or_zone_come_first_as_the_service_says() {
    use TrafficPolicy::{Cluster, PreferSameNode, PreferSameZone, SameNode};
    for (traffic, node, zone, expected) in [
        (Cluster, "a", Some("x"), vec![vec!["1", "2", "3", "4"]]),
        (PreferSameZone, "a", Some("x"), vec![vec!["1", "2"], vec!["3", "4"]]),
        (PreferSameZone, "a", Some("elsewhere"), vec![vec!["1", "2", "3", "4"]]),
        (PreferSameZone, "a", None, vec![vec!["1", "2", "3", "4"]]),
        (PreferSameNode, "a", Some("x"), vec![vec!["1"], vec!["2"], vec!["3", "4"]]),
        (PreferSameNode, "new", Some("y"), vec![vec!["3"], vec!["1", "2", "4"]]),
        (PreferSameNode, "a", None, vec![vec!["1"], vec!["2", "3", "4"]]),
        (SameNode, "c", Some("y"), vec![vec!["3"]]),
        (SameNode, "new", Some("y"), vec![]),
    ] {
        assert_eq!(priorities(traffic, at(node, zone)), expected, "{traffic:?} from {node} in {zone:?}");
    }
}

#[test]
fn a_client_whose_node_is_not_known_calls_all_endpoints() {
    let all = vec![vec!["1", "2", "3", "4"]];
    for traffic in [TrafficPolicy::SameNode, TrafficPolicy::PreferSameNode, TrafficPolicy::PreferSameZone] {
        assert_eq!(priorities(traffic, Registrations::default()), all, "{traffic:?}");
    }
}

#[test]
fn a_client_that_is_not_registered_is_where_its_node_says() {
    let mut entry = plain(AppProtocol::Http);
    Arc::make_mut(&mut entry.service).traffic = TrafficPolicy::PreferSameZone;
    let in_zone = |address, zone: &str| Endpoint {
        zone: Some(zone.into()),
        ..endpoint(address, EndpointHealth::Ready)
    };
    let endpoints = [in_zone("10.1.0.1:8080", "a"), in_zone("10.1.0.2:8080", "b")];
    entry.endpoints = Arc::new(Endpoints { ports: vec![(80, endpoints.into())] });
    let catalog = Catalog::new(settings());
    catalog.publish(Arc::new(Mesh::from_iter([entry])));
    let priorities = |zone: Option<&str>| {
        let viewer = Viewer { zone: zone.map(Into::into), ..shop() };
        let made = catalog.resource(&viewer, Kind::Endpoints, CART).unwrap();
        made.decode::<ClusterLoadAssignment>().endpoints.iter().map(|zone| zone.priority).collect::<Vec<_>>()
    };
    assert_eq!([priorities(Some("a")), priorities(None), priorities(Some("c"))], [[0, 1], [0, 0], [0, 0]]);
}

#[test]
fn clients_at_different_places_are_not_sent_each_others_endpoints() {
    let mut entry = plain(AppProtocol::Http);
    Arc::make_mut(&mut entry.service).traffic = TrafficPolicy::SameNode;
    let endpoint = Endpoint { node: Some("a".into()), ..endpoint("10.1.0.1:8080", EndpointHealth::Ready) };
    entry.endpoints = Arc::new(Endpoints { ports: vec![(80, [endpoint].into())] });
    let mut pods = at("a", None);
    let other = Viewer { workload: WorkloadKey { instance: "other".into(), ..shop().workload }, ..shop() };
    let entry_of_other = WorkloadEntry {
        key: other.workload.clone(),
        pod: Some(PodNetwork { node: Some("b".into()), ..PodNetwork::default() }),
        ..pods.workload(&shop().workload).unwrap().as_ref().clone()
    };
    pods.insert(Arc::new(entry_of_other));
    let catalog = Catalog::new(settings());
    catalog.publish(Arc::new(Mesh::from_iter([entry]).with_registrations(pods)));
    let count = |viewer: &Viewer| {
        let made = catalog.resource(viewer, Kind::Endpoints, CART).unwrap();
        made.decode::<ClusterLoadAssignment>().endpoints.len()
    };
    assert_eq!((count(&shop()), count(&other), count(&shop())), (1, 0, 1));
}

#[test]
fn a_service_of_both_families_is_called_by_the_first_one_that_has_endpoints() {
    let families = |ipv6_first, addresses: &[&str]| {
        let mut entry = plain(AppProtocol::Http);
        Arc::make_mut(&mut entry.service).ipv6_first = ipv6_first;
        let endpoints: Vec<_> = addresses.iter().map(|at| endpoint(at, EndpointHealth::Ready)).collect();
        entry.endpoints = Arc::new(Endpoints { ports: vec![(80, endpoints.into())] });
        let assignment: ClusterLoadAssignment = read(&catalog(entry), Kind::Endpoints, CART);
        assignment.endpoints.iter().map(|zone| zone.lb_endpoints.len()).sum::<usize>()
    };
    let both = ["10.1.0.1:8080", "[fd00::1]:8080", "[fd00::2]:8080"];
    assert_eq!((families(false, &both), families(true, &both)), (1, 2));
    assert_eq!((families(false, &both[1..]), families(true, &both[..1])), (2, 1));
}

#[test]
fn an_external_ip_leads_to_its_service_unless_it_is_a_cluster_ip() {
    let with_external = |name: &str, cluster_ip: &str, external: &str| {
        let mut entry = plain(AppProtocol::Http);
        let service = Arc::make_mut(&mut entry.service);
        service.key = ServiceKey::new("shop", name);
        service.service_type = ServiceType::ClusterIps(vec![cluster_ip.parse().unwrap()]);
        service.external_ips = vec![external.parse().unwrap()];
        entry
    };
    let catalog = Catalog::new(settings());
    let thief = with_external("a-thief", "10.0.0.2", "10.0.0.1");
    catalog.publish(Arc::new([with_external("cart", "10.0.0.1", "192.0.2.7"), thief].into_iter().collect()));
    for address in ["10.0.0.1:80", "192.0.2.7:80"] {
        let listener: Listener = read(&catalog, Kind::Listener, address);
        let api = listener.api_listener.unwrap().api_listener.unwrap();
        let manager = HttpConnectionManager::decode(api.value.as_slice()).unwrap();
        assert_eq!(manager.stat_prefix, CART, "{address}");
    }
}
