use outrigger_proto::xds::dns::dns_table::dns_endpoint::EndpointConfig;
use outrigger_proto::xds::dns_filter::DnsFilterConfig;
use outrigger_proto::xds::dns_filter::dns_filter_config::server_context_config::ConfigSource;
use outrigger_proto::xds::listener::listener_filter;

use super::wildcard::headless;
use super::*;

/// Returns the addresses of a host, and the name that the table has it by.
fn resolve(catalog: &Catalog, host: &str) -> Option<(String, Vec<String>)> {
    let made = catalog.resource(&shop(), Kind::Listener, &format!("dns|{host}"))?;
    let mut listener: Listener = made.decode();
    assert_eq!((listener.name.as_str(), listener.address), (&*made.name, None));
    let filter = listener.listener_filters.pop().unwrap();
    let Some(listener_filter::ConfigType::TypedConfig(any)) = filter.config_type else { panic!() };
    let config = DnsFilterConfig::decode(any.value.as_slice()).unwrap();
    let Some(ConfigSource::InlineDnsTable(mut table)) = config.server_config.unwrap().config_source else {
        panic!()
    };
    let domain = table.virtual_domains.pop().unwrap();
    assert_eq!(domain.answer_ttl.map(|ttl| ttl.seconds), Some(30));
    let Some(endpoint) = domain.endpoint else { return Some((domain.name, vec![])) };
    let Some(EndpointConfig::AddressList(list)) = endpoint.endpoint_config else { panic!() };
    assert!(!list.address.is_empty(), "Envoy refuses an empty list");
    Some((domain.name, list.address))
}

fn of_type(service_type: ServiceType) -> ServiceEntry {
    let entry = plain(AppProtocol::Http);
    let service = Service { service_type, ..entry.service.as_ref().clone() };
    ServiceEntry { service: Arc::new(service), ..entry }
}

#[test]
fn every_name_of_a_service_resolves_to_its_cluster_ips() {
    let ips = ["10.0.0.1", "fd00::1"].map(|ip| ip.parse().unwrap());
    let catalog = catalog(of_type(ServiceType::ClusterIps(ips.into())));
    for host in ["cart", "cart.shop", "cart.shop.svc", "cart.shop.svc.cluster.local"] {
        let expected = (host.to_owned(), vec!["10.0.0.1".to_owned(), "fd00::1".to_owned()]);
        assert_eq!(resolve(&catalog, host), Some(expected));
    }
    let elsewhere = viewer("other", Mode::OnDemand);
    assert!(catalog.resource(&elsewhere, Kind::Listener, "dns|cart").is_none());
    assert!(catalog.resource(&elsewhere, Kind::Listener, "dns|cart.shop").is_some());
}

#[test]
fn a_headless_service_resolves_to_its_ready_endpoints_and_an_instance_to_its_own() {
    let mut entry = headless(&["10.1.0.1:8080", "10.1.0.2:8080"]);
    let mut endpoints = entry.endpoints.of_port(80).to_vec();
    endpoints[0].hostname = Some("cart-0".into());
    endpoints.push(endpoint("10.1.0.3:8080", EndpointHealth::NotReady));
    entry.endpoints = Arc::new(Endpoints { ports: vec![(80, endpoints.into())] });
    let catalog = catalog(entry);
    assert_eq!(resolve(&catalog, "cart.shop").unwrap().1, ["10.1.0.1", "10.1.0.2"]);
    assert_eq!(resolve(&catalog, "cart-0.cart.shop.svc").unwrap().1, ["10.1.0.1"]);
    assert_eq!(resolve(&catalog, "cart-1.cart.shop.svc"), None);
}

#[test]
fn a_headless_service_or_instance_that_is_not_ready_has_a_table_without_addresses() {
    let unready = |ports| {
        let mut entry = headless(&[]);
        entry.endpoints = Arc::new(Endpoints { ports });
        entry
    };
    let catalog = catalog(unready(vec![]));
    assert_eq!(resolve(&catalog, "cart.shop").unwrap().1, [""; 0]);
    assert_eq!(resolve(&catalog, "cart-0.cart.shop.svc"), None);
    let mut endpoint = endpoint("10.1.0.1:8080", EndpointHealth::NotReady);
    endpoint.hostname = Some("cart-0".into());
    catalog.publish(Arc::new([unready(vec![(80, [endpoint].into())])].into_iter().collect()));
    for host in ["cart", "cart.shop.svc", "cart-0.cart.shop.svc", "cart-0.cart.shop.svc.cluster.local"] {
        assert_eq!(resolve(&catalog, host), Some((host.to_owned(), vec![])));
    }
}

#[test]
fn a_name_that_the_mesh_does_not_have_is_not_resolved() {
    let others =
        ["other", "cart.other", "cart.example.com", "cart.svc", "cart.shop.", "CART", "", "dns|cart"];
    let catalog = catalog(plain(AppProtocol::Http));
    assert!(others.iter().all(|host| resolve(&catalog, host).is_none()));
    assert!(catalog.resource(&shop(), Kind::Cluster, "dns|cart").is_none());
    let external = of_type(ServiceType::ExternalName("example.com".into()));
    catalog.publish(Arc::new([external].into_iter().collect()));
    assert_eq!(resolve(&catalog, "cart"), None, "a name outside of the mesh");
}

#[test]
fn a_host_is_sent_again_when_its_service_or_the_endpoints_of_a_headless_one_change() {
    let catalog = catalog(headless(&["10.1.0.1:8080"]));
    let dependency = Dependency::Service(ServiceKey::new("shop", "cart"));
    for host in ["cart", "cart.shop", "cart-0.cart.shop.svc.cluster.local"] {
        let name = format!("dns|{host}");
        assert_eq!(catalog.dependencies(&shop(), Kind::Listener, &name), std::slice::from_ref(&dependency));
    }
    assert_eq!(catalog.dependencies(&shop(), Kind::Listener, "dns|example.co.uk.com"), []);
    for next in [headless(&["10.1.0.2:8080"]), plain(AppProtocol::Http)] {
        let affected = catalog.publish(Arc::new([next].into_iter().collect()));
        let woken = affected.dependencies.iter().find(|(of, _)| *of == dependency);
        assert!(woken.is_some_and(|(_, kinds)| kinds.contains(&Kind::Listener)));
    }
}
