//! A group of endpoints that are called alike (`envoy.config.cluster.v3.Cluster`).
//!
//! State that outlives config (ejections, balances, what is in use) is kept by the data path under the cluster's name and the
//! endpoint's address, not here.

mod decode;
mod balancing;
mod http_options;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use outrigger_core::Name;
use outrigger_policy::circuit_breaker::CircuitBreakers;
use outrigger_policy::outlier::OutlierDetection;

use crate::endpoint::{Endpoints, Transport};

pub(crate) use decode::Compiled;
pub(crate) use http_options::Http2Settings;

/// A cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its name: `cart.shop.svc.cluster.local:80`.
    pub name: Name,
    /// Where its endpoints come from.
    pub discovery: Discovery,
    /// Its endpoints of the moment. The handle outlives snapshots; take the list at each pick.
    pub endpoints: EndpointsHandle,
    /// From the first packet to a connection that can carry a request, the TLS handshake included.
    pub connect_timeout: Duration,
    /// Bounds on its use.
    pub breakers: CircuitBreakers,
    /// When endpoints are ejected; `None` for never.
    pub outlier: Option<OutlierDetection>,
    /// How an endpoint is picked.
    pub balancing: Balancing,
    /// What is spoken with its endpoints.
    pub protocol: UpstreamProtocol,
    /// How its connections are kept.
    pub connections: ConnectionSettings,
}

/// Where a cluster's endpoints come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    /// The cluster itself.
    Static,
    /// EDS, under this name.
    Eds(Name),
    /// The address that the connection was made to before it was redirected; the transport says how it is called.
    OriginalDestination(Transport),
}

/// How an endpoint is picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balancing {
    /// The better of two by latency and requests in flight (`outrigger.lb.v1.PeakEwma`).
    PeakEwma,
    /// The one with fewer requests in flight, of so many drawn.
    LeastRequest {
        /// How many are drawn; at least 2. More than there are: all are looked at.
        choices: u32,
    },
    /// In turn; drawn by weight where weights differ.
    RoundRobin,
    /// Any, whatever their weights, as in Envoy.
    Random,
}

/// What is spoken with endpoints. Between sidecars it is HTTP/2, whatever this says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// What the client speaks.
    AsDownstream,
    /// HTTP/2 where ALPN says so, else HTTP/1.1.
    Negotiated,
}

/// How connections to endpoints are kept. `None` is no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// Closed after so long without a request.
    pub idle_timeout: Option<Duration>,
    /// Closed after so long, once its requests are done.
    pub max_duration: Option<Duration>,
    /// Closed after so many requests.
    pub max_requests: Option<u32>,
    /// Streams of one HTTP/2 connection at a time, where the endpoint allows more.
    pub max_concurrent_streams: u32,
    /// HTTP/2 flow control window of a stream, in bytes.
    pub initial_stream_window: u32,
    /// HTTP/2 flow control window of a connection, in bytes.
    pub initial_connection_window: u32,
}

/// A cluster's endpoints, which change without a new snapshot. Clones see the same.
#[derive(Debug, Clone, Default)]
pub struct EndpointsHandle(Arc<ArcSwap<Endpoints>>);

impl EndpointsHandle {
    /// The endpoints of this moment. Compare [`Endpoints::version`] to see whether they changed.
    pub fn load(&self) -> Guard<Arc<Endpoints>> {
        self.0.load()
    }

    /// Replaces them all.
    pub fn store(&self, endpoints: Endpoints) {
        self.0.store(Arc::new(endpoints));
    }

    /// Whether both are one handle.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
