//! The status page: what `/status` returns and `outrigger status` prints.

use outrigger_core::identity::SpiffeId;
use serde::{Deserialize, Serialize};

use crate::admin_client::{AdminAddress, AdminError, ask};
use crate::model::endpoint::EndpointHealth;
use crate::model::registration::WorkloadEntry;
use crate::xds::status::StreamStatus;

/// The status of the control plane, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
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
    /// The registered workloads.
    pub registrations: Vec<RegistrationStatus>,
    /// The number of certificates signed since the start.
    pub certificates_issued: u64,
    /// Current problems of the control plane itself.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// One registered workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationStatus {
    /// Its SPIFFE ID.
    pub identity: String,
    /// Its instance.
    pub instance: String,
    /// `ready`, `not ready` or `draining`.
    pub health: String,
    /// `cart.shop:80 at 10.0.0.5:9000`, one for each service and port.
    pub serves: Vec<String>,
}

impl RegistrationStatus {
    /// Returns the status of one workload.
    pub fn of(workload: &WorkloadEntry) -> Self {
        let health = match workload.health() {
            EndpointHealth::Ready => "ready",
            EndpointHealth::NotReady => "not ready",
            EndpointHealth::Draining => "draining",
        };
        let identity: &SpiffeId = &workload.key.identity;
        let serves = workload.ports.iter().flat_map(|port| {
            let (number, address) = (port.service_port, port.advertised);
            port.services.iter().map(move |service| format!("{service}:{number} at {address}"))
        });
        Self {
            identity: identity.to_string(),
            instance: workload.key.instance.to_string(),
            health: health.into(),
            serves: serves.collect(),
        }
    }
}

/// Fetches the status of a running control plane.
pub async fn fetch(address: &AdminAddress) -> Result<Status, AdminError> {
    let body = ask(address, "/status", None).await?;
    serde_json::from_slice(&body).map_err(|error| AdminError::Failed(address.clone(), error.to_string()))
}
