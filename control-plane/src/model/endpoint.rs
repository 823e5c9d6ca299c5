//! The endpoints of a service: where its instances listen and in what state they are.

use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_core::Name;
use outrigger_core::identity::SpiffeId;

/// The endpoints of one service from its EndpointSlices, by service port. `Mesh::endpoints` adds those of registered
/// workloads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// The service port and its endpoints, both in order of number and address.
    pub ports: Vec<(u16, Arc<[Endpoint]>)>,
}

impl Endpoints {
    /// Returns the endpoints of one service port.
    pub fn of_port(&self, number: u16) -> &[Endpoint] {
        self.ports.iter().find(|(port, _)| *port == number).map_or(&[], |(_, endpoints)| endpoints)
    }
}

/// One instance of a service on one of its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The address that others connect to: of its sidecar if there is one, else of the application.
    pub address: SocketAddr,
    /// Whether it gets requests.
    pub health: EndpointHealth,
    /// Whether it has a sidecar, and the identity that the sidecar must prove.
    pub peer: Peer,
    /// The workload instance, when known.
    pub instance: Option<Name>,
    /// The version of the workload (label `app.kubernetes.io/version`, else `version`), when known.
    pub version: Option<Name>,
    /// The zone, when known.
    pub zone: Option<Name>,
    /// The node, when known.
    pub node: Option<Name>,
    /// The name by which DNS has it, before that of the service: `db-0` of `db-0.db.shop`.
    pub hostname: Option<Name>,
}

/// Whether an endpoint gets requests (`EndpointConditions` of discovery.k8s.io/v1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointHealth {
    /// Ready: gets new requests.
    Ready,
    /// Terminating and still serving: finishes its requests, and gets new ones only if no endpoint is ready (KEP-1669).
    Draining,
    /// Not ready, or terminating and no longer serving: gets no requests.
    NotReady,
}

/// What is on the other end of a connection to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// The application itself, in plaintext.
    Plaintext,
    /// A sidecar, with mutual TLS, that must prove this identity.
    Sidecar(SpiffeId),
    /// The pod of an EndpointSlice's `targetRef`: `Mesh::endpoints` looks up whether it has a sidecar.
    Pod,
}

impl Peer {
    /// Returns the identity that its sidecar must prove. Returns None if it has no sidecar.
    pub fn identity(&self) -> Option<&SpiffeId> {
        match self {
            Self::Plaintext | Self::Pod => None,
            Self::Sidecar(identity) => Some(identity),
        }
    }
}
