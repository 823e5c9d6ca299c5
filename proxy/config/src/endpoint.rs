//! One address of a cluster and what is known of it (`envoy.config.endpoint.v3.ClusterLoadAssignment`).

use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_core::Name;
use outrigger_core::identity::SpiffeId;

use crate::tls::UpstreamTls;

/// The endpoints of a cluster, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Endpoints {
    /// Changes with every change; 0 before the first assignment has come.
    pub version: u64,
    /// The endpoints. Those that did not change are shared with the list before.
    pub list: Box<[Arc<Endpoint>]>,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub address: SocketAddr,
    /// What the control plane says of its health.
    pub health: HealthStatus,
    /// Its weight within its locality; at least 1.
    pub weight: u32,
    /// Its locality's weight; `None` where localities have none.
    pub locality_weight: Option<u32>,
    /// Its locality.
    pub locality: Locality,
    /// 0 first; higher numbers when those before have no healthy endpoints.
    pub priority: u32,
    /// How it is called.
    pub transport: Transport,
    /// The identity that this very endpoint must show, where known.
    pub identity: Option<SpiffeId>,
    /// The workload instance behind it.
    pub instance: Option<Name>,
    /// The version of the workload.
    pub workload_version: Option<Name>,
}

/// What the control plane says of an endpoint's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthStatus {
    /// It gets requests.
    Healthy,
    /// It gets requests when no healthy one is left.
    Degraded,
    /// It finishes what it has and gets nothing new.
    Draining,
    /// It gets nothing.
    Unhealthy,
}

/// Where an endpoint is. Empty where unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// Region.
    pub region: Name,
    /// Zone.
    pub zone: Name,
    /// Sub-zone.
    pub sub_zone: Name,
}

/// How an endpoint is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// In the clear.
    Plain,
    /// Over TLS.
    Tls(Arc<UpstreamTls>),
}

impl Endpoint {
    /// Who the peer must be, exactly: the endpoint's own identity where it is known and the cluster may be it, else any
    /// that the cluster may be. `None` in the clear. An empty list lets nobody in.
    pub fn expected_peers(&self) -> Option<Arc<[SpiffeId]>> {
        let Transport::Tls(tls) = &self.transport else { return None };
        Some(match &self.identity {
            None => tls.peers.clone(),
            Some(identity) => tls.peers.iter().filter(|peer| *peer == identity).cloned().collect(),
        })
    }
}
