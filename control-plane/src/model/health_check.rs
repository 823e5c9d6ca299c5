//! How callers check the endpoints of a Service: the field `healthCheck` of a BackendTrafficPolicy.

use std::time::Duration;

use outrigger_core::Name;

use super::service::AppProtocol;

/// Active health checks by each caller's sidecar. What is None keeps the mesh's default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is sent and expected.
    pub checker: Checker,
    /// The time between two checks of an endpoint.
    pub interval: Option<Duration>,
    /// The share of the interval that is added to it at random, at most: 0 to 100.
    pub jitter_percent: Option<u32>,
    /// How long one check may take, with the connection.
    pub timeout: Option<Duration>,
    /// After this many checks in a row that pass, an endpoint that failed is used again.
    pub healthy_threshold: Option<u32>,
    /// After this many checks in a row that fail, an endpoint is not used.
    pub unhealthy_threshold: Option<u32>,
    /// The port of the endpoint's address that is checked, if it is not that of the requests.
    pub port: Option<u16>,
    /// If fewer endpoints pass than this percentage, all are used. 0 is never.
    pub panic_threshold: Option<u32>,
}

/// What is sent and expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checker {
    /// A request, whose response must have one of these statuses.
    Http {
        /// Its method.
        method: http::Method,
        /// Its path, with a query or without.
        path: Name,
        /// Its host, if it is not that of the Service.
        host: Option<Name>,
        /// The statuses that pass, from the first to the second, both included. None: 200.
        statuses: Vec<(u16, u16)>,
    },
    /// A connection.
    Tcp {
        /// The bytes that are sent over it.
        send: Option<Vec<u8>>,
        /// The bytes that must be received: each part somewhere after the one before it.
        receive: Vec<Vec<u8>>,
    },
    /// A call of `grpc.health.v1.Health/Check`.
    Grpc {
        /// The service that is asked about. None: the server as a whole.
        service: Option<Name>,
    },
}

impl Checker {
    /// Returns the name of its type, as in YAML.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Http { .. } => "HTTP",
            Self::Tcp { .. } => "TCP",
            Self::Grpc { .. } => "GRPC",
        }
    }

    /// Returns whether it can check a port of this protocol: a sidecar passes requests to an application in its declared protocol only.
    pub fn suits(&self, protocol: AppProtocol) -> bool {
        match self {
            Self::Http { .. } => protocol != AppProtocol::Tcp,
            Self::Grpc { .. } => !matches!(protocol, AppProtocol::Tcp | AppProtocol::Http),
            Self::Tcp { .. } => matches!(protocol, AppProtocol::Tcp | AppProtocol::Detect),
        }
    }
}
