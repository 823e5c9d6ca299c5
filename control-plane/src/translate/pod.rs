//! A port of a pod that no Service has, which a client calls by the pod's address.
//!
//! It is translated like an endpoint of a headless service that has this one port, so that it is called with mTLS, and retried.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::destination::Target;
use crate::model::endpoint::{Endpoint, EndpointHealth, Endpoints, Peer};
use crate::model::mesh::{Mesh, ServiceEntry};
use crate::model::registration::WorkloadEntry;
use crate::model::service::{AppProtocol, Service, ServiceKey, ServicePort, ServiceType, TargetPort};

/// Returns the target of a port of a pod. Returns None unless the pod has a sidecar that captures the port.
pub(super) fn target(mesh: &Mesh, address: SocketAddr) -> Option<Target> {
    let pod = mesh.registrations().pod(&address.ip())?;
    let captured = !pod.pod.as_ref()?.uncaptured.contains(&address.port());
    captured.then(|| Target { service: key(pod, address.ip()), port: address.port(), only: Some(address) })
}

/// Returns a mesh that has such a target alone. Returns None if the target is not of this kind.
pub(super) fn mesh_of(mesh: &Mesh, of: &Target) -> Option<Mesh> {
    let address = of.only?;
    if target(mesh, address).as_ref() != Some(of) {
        return None;
    }
    let pod = mesh.registrations().pod(&address.ip())?;
    let declared = pod.ports.iter().find(|port| port.application.port() == address.port());
    let protocol = declared.and_then(|port| port.protocol).unwrap_or(AppProtocol::Detect);
    let service = Service {
        key: of.service.clone(),
        service_type: ServiceType::Headless,
        ports: vec![ServicePort {
            name: "".into(),
            number: of.port,
            target: TargetPort::Number(of.port),
            protocol,
        }],
        service_accounts: Vec::new(),
        overload: Default::default(),
        publish_not_ready: true,
        selector: std::collections::BTreeMap::new(),
        external_ips: Vec::new(),
        ipv6_first: false,
        traffic: crate::model::service::TrafficPolicy::Cluster,
    };
    let endpoint = Endpoint {
        address,
        health: EndpointHealth::Ready,
        peer: Peer::Sidecar(pod.key.identity.clone()),
        instance: Some(pod.key.instance.clone()),
        version: None,
        zone: None,
        node: None,
        hostname: None,
    };
    let endpoints = Endpoints { ports: vec![(of.port, [endpoint].into())] };
    let entry =
        ServiceEntry { service: Arc::new(service), endpoints: Arc::new(endpoints), routes: Arc::default() };
    Some([entry].into_iter().collect())
}

/// Returns the name that stands for the pod, as in the DNS records of pods. No Service has it: their names begin with a letter.
fn key(pod: &WorkloadEntry, ip: IpAddr) -> ServiceKey {
    ServiceKey::new(pod.key.identity.namespace(), ip.to_string().replace(['.', ':'], "-"))
}
