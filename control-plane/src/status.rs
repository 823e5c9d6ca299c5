//! The status page: what `/status` returns and `outrigger status` prints.

use std::collections::BTreeMap;

use outrigger_core::identity::SpiffeId;
use serde::{Deserialize, Serialize};

use crate::admin_client::{AdminAddress, AdminError, ask};
use crate::model::endpoint::{Endpoint, EndpointHealth};
use crate::model::mesh::Mesh;
use crate::model::registration::WorkloadEntry;
use crate::model::service::{AppProtocol, ServiceKey};
pub use crate::xds::status::{ResourceStatus, StreamStatus, TypeStatus};

/// The status of the control plane, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The version of the control plane.
    #[serde(default)]
    pub version: String,
    /// The trust domain.
    pub trust_domain: String,
    /// The number of services.
    pub services: usize,
    /// The connected proxies, with what was sent, acknowledged and rejected.
    pub proxies: Vec<StreamStatus>,
    /// Refusals of the configuration, with origin and reason.
    pub refusals: Vec<String>,
    /// Ignored unknown fields of accepted cluster objects.
    #[serde(default)]
    pub ignored_fields: Vec<String>,
    /// The conditions of routes and policies that are False, or whose message names a part without effect: what is attached to nothing,
    /// conflicts with another one, or needs a Service that cannot be used, or a claim of tokens that are not verified.
    #[serde(default)]
    pub unmet_conditions: Vec<String>,
    /// The registered workloads.
    pub registrations: Vec<RegistrationStatus>,
    /// The endpoints that are not ready, of EndpointSlices and of registered workloads.
    #[serde(default)]
    pub endpoints_not_ready: Vec<EndpointStatus>,
    /// The pods of a cluster that run without the sidecar that they are to have.
    #[serde(default)]
    pub pods_without_sidecar: Vec<PodStatus>,
    /// The number of certificates signed since the start.
    pub certificates_issued: u64,
    /// Current problems of the control plane itself.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// A pod of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodStatus {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl PodStatus {
    /// Returns the number of pods in each namespace that has any.
    pub(crate) fn count_by_namespace(pods: &[Self]) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        pods.iter().for_each(|pod| *counts.entry(pod.namespace.clone()).or_default() += 1);
        counts
    }
}

/// One registered workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationStatus {
    /// Its SPIFFE ID.
    pub identity: String,
    /// The namespace of that identity.
    #[serde(default)]
    pub namespace: String,
    /// Its instance.
    pub instance: String,
    /// `ready`, `not ready` or `draining`.
    pub health: String,
    /// `cart.shop:80 at 10.0.0.5:9000`, one for each service and port; it says if declarations of the protocol contradict each other.
    pub serves: Vec<String>,
}

impl RegistrationStatus {
    /// Returns the status of one workload.
    pub fn of(workload: &WorkloadEntry) -> Self {
        let identity: &SpiffeId = &workload.key.identity;
        let serves = workload.ports.iter().flat_map(|port| {
            let (number, address) = (port.service_port, port.advertised);
            let protocol = match port.protocol {
                Some(AppProtocol::Detect) => " (protocol detected: declarations contradict each other)",
                _ => "",
            };
            port.services.iter().map(move |service| format!("{service}:{number} at {address}{protocol}"))
        });
        Self {
            identity: identity.to_string(),
            namespace: identity.namespace().into(),
            instance: workload.key.instance.to_string(),
            health: health(workload.health()).into(),
            serves: serves.collect(),
        }
    }
}

/// One endpoint of a service port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// The namespace of the service.
    pub namespace: String,
    /// The name of the service.
    pub service: String,
    /// The port of the service.
    pub port: u16,
    /// The address that others connect to.
    pub address: String,
    /// The workload instance, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// `not ready` or `draining`.
    pub health: String,
}

impl EndpointStatus {
    /// Returns every endpoint of a mesh that is not ready, in order of service and address.
    pub(crate) fn not_ready(mesh: &Mesh) -> Vec<Self> {
        let ports = mesh.services().flat_map(|(key, entry)| {
            entry.service.ports.iter().map(move |port| (key, port.number, mesh.endpoints(key, port.number)))
        });
        let not_ready = |endpoint: &Endpoint| endpoint.health != EndpointHealth::Ready;
        ports
            .flat_map(|(key, port, endpoints)| {
                endpoints.into_iter().filter(not_ready).map(move |endpoint| Self::of(key, port, &endpoint))
            })
            .collect()
    }

    fn of(key: &ServiceKey, port: u16, endpoint: &Endpoint) -> Self {
        Self {
            namespace: key.namespace.to_string(),
            service: key.name.to_string(),
            port,
            address: endpoint.address.to_string(),
            instance: endpoint.instance.as_ref().map(ToString::to_string),
            health: health(endpoint.health).into(),
        }
    }
}

fn health(health: EndpointHealth) -> &'static str {
    match health {
        EndpointHealth::Ready => "ready",
        EndpointHealth::NotReady => "not ready",
        EndpointHealth::Draining => "draining",
    }
}

/// Fetches the status of a running control plane.
pub async fn fetch(address: &AdminAddress) -> Result<Status, AdminError> {
    let body = ask(address, "/status", None).await?;
    serde_json::from_slice(&body).map_err(|error| AdminError::Failed(address.clone(), error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::endpoint::{Endpoints, Peer};
    use crate::model::mesh::ServiceEntry;
    use crate::model::service::{AppProtocol, Service, ServiceType};

    #[test]
    fn only_endpoints_that_are_not_ready_are_listed_with_their_service() {
        let endpoint = |port, health| Endpoint {
            address: ([10, 0, 0, 1], port).into(),
            health,
            peer: Peer::Plaintext,
            instance: Some("cart-1".into()),
            version: None,
            zone: None,
            node: None,
            hostname: None,
        };
        let endpoints = [endpoint(1, EndpointHealth::Ready), endpoint(2, EndpointHealth::NotReady)];
        let cart = Service::of_shop("cart", 80, AppProtocol::Http);
        let service = Service { service_type: ServiceType::Headless, ..cart };
        let entry = ServiceEntry {
            service: Arc::new(service),
            endpoints: Arc::new(Endpoints { ports: vec![(80, endpoints.into())] }),
            routes: Arc::default(),
        };
        let [listed] = &EndpointStatus::not_ready(&[entry].into_iter().collect())[..] else { panic!() };
        let EndpointStatus { namespace, service, port, address, instance, health } = listed;
        assert_eq!((namespace.as_str(), service.as_str(), *port), ("shop", "cart", 80));
        assert_eq!((address.as_str(), instance.as_deref()), ("10.0.0.1:2", Some("cart-1")));
        assert_eq!(health, "not ready");
    }
}
