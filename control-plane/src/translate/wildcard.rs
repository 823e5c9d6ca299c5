//! The names in a wildcard subscription of the whole mesh: the ports of every service by canonical name, and the addresses that
//! clients connect to directly.
//!
//! Cluster IPs are aliases of the canonical listeners. A headless service has none: DNS gives clients the addresses of its
//! endpoints, so each of those is a destination of its own, as it is on demand.

use std::net::SocketAddr;

use outrigger_core::Name;

use super::destination::Target;
use super::listener;
use super::resource::Kind;
use crate::model::mesh::Mesh;
use crate::model::service::{Service, ServiceKey, ServiceType};

/// Returns every name of this kind for clients of a namespace, unordered, possibly with duplicates.
pub(super) fn names(mesh: &Mesh, kind: Kind, viewer: &str, cluster_domain: &str) -> Vec<Name> {
    let services = || mesh.services().map(|(_, entry)| entry.service.as_ref());
    let canonical = services().flat_map(|service| canonical_names(service, cluster_domain));
    let headless = services().filter(|service| service.service_type == ServiceType::Headless);
    let direct = headless.flat_map(|service| direct_names(mesh, &service.key, kind, viewer, cluster_domain));
    canonical.chain(direct).collect()
}

/// Returns the names of the ports of a service. Services outside the mesh have no resources.
pub(super) fn canonical_names(service: &Service, cluster_domain: &str) -> Vec<Name> {
    match service.service_type {
        ServiceType::ExternalName(_) => Vec::new(),
        ServiceType::ClusterIps(_) | ServiceType::Headless => {
            listener::canonical_names(service, cluster_domain).collect()
        }
    }
}

/// Returns the names of the endpoints of a service that clients of a namespace connect to directly: those of a headless service, or
/// shared with one.
pub(super) fn direct_names(
    mesh: &Mesh,
    key: &ServiceKey,
    kind: Kind,
    viewer: &str,
    cluster_domain: &str,
) -> Vec<Name> {
    let ports = mesh.service(key).map(|entry| entry.service.ports.as_slice()).unwrap_or_default();
    let endpoints = ports.iter().flat_map(|port| mesh.endpoints(key, port.number));
    let target = |address| Some((address, direct_target(mesh, address, viewer)?));
    let name = |(address, target): (SocketAddr, Target)| match kind {
        Kind::Listener => address.to_string().into(),
        Kind::Cluster | Kind::Endpoints | Kind::Route => target.name(cluster_domain),
    };
    endpoints.into_iter().filter_map(|endpoint| target(endpoint.address)).map(name).collect()
}

/// Returns true if a name is among [`names`].
pub(super) fn means(mesh: &Mesh, kind: Kind, name: &str, viewer: &str, cluster_domain: &str) -> bool {
    if kind == Kind::Listener
        && let Ok(address) = name.parse::<SocketAddr>()
    {
        return address.to_string() == name && direct_target(mesh, address, viewer).is_some();
    }
    match Target::parse(name, cluster_domain) {
        Some(Target { only: Some(address), service, port }) => {
            let target = Target { only: Some(address), service, port };
            direct_target(mesh, address, viewer) == Some(target)
        }
        Some(Target { only: None, .. }) => true,
        None => false,
    }
}

/// Returns the target of an endpoint's address if clients of a namespace connect to it directly.
fn direct_target(mesh: &Mesh, address: SocketAddr, viewer: &str) -> Option<Target> {
    if mesh.service_by_ip(&address.ip()).is_some() || !mesh.is_dialed_directly(&address, viewer) {
        return None;
    }
    let (service, port) = mesh.service_by_endpoint(&address, viewer)?;
    Some(Target { service, port, only: Some(address) })
}
