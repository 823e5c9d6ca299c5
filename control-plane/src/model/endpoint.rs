//! The endpoints of a service: where its instances listen and in what state they are.

use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_core::Name;
use outrigger_core::identity::SpiffeId;

/// The endpoints of one service, by service port. What EndpointSlices say; registered workloads stand beside them
/// and `Mesh::endpoints` brings the two together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// The service port and its endpoints, both in order of number and address.
    pub ports: Vec<(u16, Arc<[Endpoint]>)>,
}

impl Endpoints {
    /// The endpoints of one service port.
    pub fn of_port(&self, number: u16) -> &[Endpoint] {
        self.ports.iter().find(|(port, _)| *port == number).map_or(&[], |(_, endpoints)| endpoints)
    }
}

/// One instance of a service on one of its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where others connect to: of its sidecar if there is one, else of the application.
    pub address: SocketAddr,
    /// Whether it takes requests.
    pub health: EndpointHealth,
    /// Whether a sidecar is there, and who it must prove to be.
    pub peer: Peer,
    /// The workload instance, when known.
    pub instance: Option<Name>,
    /// The version of the workload (label `app.kubernetes.io/version`, else `version`), when known.
    pub version: Option<Name>,
    /// The zone, when known.
    pub zone: Option<Name>,
}

/// Whether an endpoint takes requests (`EndpointConditions` of discovery.k8s.io/v1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointHealth {
    /// Ready: takes new requests.
    Ready,
    /// No longer ready, terminating and still serving: finishes what it has, and takes new requests only where no
    /// endpoint is ready (KEP-1669).
    Draining,
    /// Not ready, or terminating and no longer serving: takes nothing.
    NotReady,
}

/// What is on the other end of a connection to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// The application itself, in plaintext.
    Plaintext,
    /// A sidecar, with mutual TLS, that must prove this identity.
    Sidecar(SpiffeId),
}

impl Peer {
    /// The identity that a sidecar there must prove.
    pub fn identity(&self) -> Option<&SpiffeId> {
        match self {
            Self::Plaintext => None,
            Self::Sidecar(identity) => Some(identity),
        }
    }
}
