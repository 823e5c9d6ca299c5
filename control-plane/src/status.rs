//! The state of the mesh for a person: what `/status` says and `outrigger status` shows.

use outrigger_core::identity::SpiffeId;
use serde::{Deserialize, Serialize};

use crate::admin_client::{AdminAddress, AdminError, ask};
use crate::model::endpoint::EndpointHealth;
use crate::model::registration::WorkloadEntry;
use crate::xds::status::StreamStatus;

/// Everything, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The trust domain.
    pub trust_domain: String,
    /// How many services there are.
    pub services: usize,
    /// The proxies that are connected: what each was told, acknowledged and refused.
    pub proxies: Vec<StreamStatus>,
    /// What of the configuration is refused, each with its place and reason.
    pub refusals: Vec<String>,
    /// Fields of accepted cluster objects that are unknown here, and mean nothing.
    #[serde(default)]
    pub ignored_fields: Vec<String>,
    /// Who is registered.
    pub registrations: Vec<RegistrationStatus>,
    /// How many certificates were signed since the start.
    pub certificates_issued: u64,
    /// What is wrong with the control plane itself now.
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
    /// Of one workload.
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

/// Asks a running control plane.
pub async fn fetch(address: &AdminAddress) -> Result<Status, AdminError> {
    let body = ask(address, "/status", None).await?;
    serde_json::from_slice(&body).map_err(|error| AdminError::Failed(address.clone(), error.to_string()))
}
