//! The addresses of a host name, for the DNS answerer of a proxy: a Listener without an address whose filter is Envoy's DNS filter.
//!
//! A proxy requests `dns|cart.shop` when a client asks for that name. A service resolves to its cluster IPs, a headless service to
//! its ready endpoints; without an address, the name exists all the same. Names outside the mesh (ExternalName included) have no
//! resource: the proxy forwards their queries.

use std::collections::BTreeSet;
use std::net::IpAddr;

use outrigger_proto::xds::core::TrafficDirection;
use outrigger_proto::xds::dns::DnsTable;
use outrigger_proto::xds::dns::dns_table::dns_endpoint::EndpointConfig;
use outrigger_proto::xds::dns::dns_table::{AddressList, DnsEndpoint, DnsVirtualDomain};
use outrigger_proto::xds::dns_filter::DnsFilterConfig;
use outrigger_proto::xds::dns_filter::dns_filter_config::ServerContextConfig;
use outrigger_proto::xds::dns_filter::dns_filter_config::server_context_config::ConfigSource;
use outrigger_proto::xds::listener::{Listener, ListenerFilter, listener_filter};
use outrigger_proto::xds::{extension, type_url};

use super::defaults::DNS_TTL;
use super::destination::Host;
use super::scope::Scope;
use super::wire::{any, duration};
use crate::model::endpoint::{Endpoint, EndpointHealth};
use crate::model::mesh::Mesh;
use crate::model::service::{ServiceKey, ServiceType};

/// Translates the resource `name` of a host. Returns None if the mesh does not have the host.
pub(super) fn listener(scope: Scope<'_>, name: &str, host: &str) -> Option<Listener> {
    let addresses = match Host::parse(host, scope.viewer.namespace(), scope.domain())? {
        Host::Service(key) => addresses_of(scope.mesh, &key)?,
        Host::Instance(key, hostname) => {
            instances(scope.mesh, &key, |endpoint| endpoint.hostname.as_ref() == Some(&hostname))?
        }
    };
    Some(answering(name, host, addresses))
}

fn addresses_of(mesh: &Mesh, key: &ServiceKey) -> Option<BTreeSet<IpAddr>> {
    match &mesh.service(key)?.service.service_type {
        ServiceType::ClusterIps(ips) => Some(ips.iter().copied().collect()),
        ServiceType::Headless => Some(instances(mesh, key, |_| true).unwrap_or_default()),
        ServiceType::ExternalName(_) => None,
    }
}

/// Returns the addresses of those wanted endpoints of a headless service that are ready, as DNS has them. Returns None if there is no
/// wanted endpoint.
fn instances(mesh: &Mesh, key: &ServiceKey, wanted: impl Fn(&Endpoint) -> bool) -> Option<BTreeSet<IpAddr>> {
    let service = &mesh.service(key)?.service;
    if service.service_type != ServiceType::Headless {
        return None;
    }
    let endpoints = service.ports.iter().flat_map(|port| mesh.endpoints(key, port.number));
    let wanted: Vec<_> = endpoints.filter(wanted).collect();
    let published =
        |endpoint: &&Endpoint| service.publish_not_ready || endpoint.health == EndpointHealth::Ready;
    let ready = || wanted.iter().filter(published).map(|endpoint| endpoint.address.ip()).collect();
    (!wanted.is_empty()).then(ready)
}

fn answering(name: &str, host: &str, addresses: BTreeSet<IpAddr>) -> Listener {
    let address: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
    // An `AddressList` may not be empty.
    let endpoint = (!address.is_empty()).then_some(DnsEndpoint {
        endpoint_config: Some(EndpointConfig::AddressList(AddressList { address })),
    });
    let domain = DnsVirtualDomain { name: host.into(), endpoint, answer_ttl: duration(DNS_TTL) };
    let table = DnsTable { virtual_domains: vec![domain], ..Default::default() };
    let filter = DnsFilterConfig {
        stat_prefix: host.into(),
        server_config: Some(ServerContextConfig { config_source: Some(ConfigSource::InlineDnsTable(table)) }),
        case_insensitive: true,
        ..Default::default()
    };
    Listener {
        name: name.into(),
        traffic_direction: TrafficDirection::Outbound as i32,
        listener_filters: vec![ListenerFilter {
            name: extension::DNS_FILTER.into(),
            config_type: Some(listener_filter::ConfigType::TypedConfig(any(type_url::DNS_FILTER, &filter))),
            ..Default::default()
        }],
        ..Default::default()
    }
}
