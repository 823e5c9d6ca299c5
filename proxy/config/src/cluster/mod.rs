//! A group of interchangeable endpoints and its policies (`envoy.config.cluster.v3.Cluster`).
//!
//! State that outlives the configuration (ejections, balancer statistics, used capacity) is not here: the data path keeps it
//! by the cluster's name and the endpoint's address.

mod decode;
pub mod dns;
mod balancing;
mod hashing;
mod picking;
mod http_options;
mod session_statuses;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use outrigger_core::Name;
use outrigger_policy::circuit_breaker::CircuitBreakers;
use outrigger_policy::hash_policy::HashPolicies;
use outrigger_policy::health_check::HealthCheck;
use outrigger_policy::hedging::Hedging;
use outrigger_policy::outlier::OutlierDetection;
use outrigger_policy::overload::OverloadMode;
use outrigger_policy::slow_start::SlowStart;

use self::dns::DnsEndpoints;
use crate::endpoint::hashing::Hashing;
use crate::endpoint::{Assignment, EndpointSettings, Endpoints, Transport};

pub(crate) use decode::Compiled;
pub(crate) use http_options::Http2Settings;
pub use session_statuses::SessionStatuses;

/// A cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its name: `cart.shop.svc.cluster.local:80`.
    pub name: Name,
    /// The source of its endpoints.
    pub discovery: Discovery,
    /// A handle to its current endpoints. It outlives snapshots; load the list for each pick.
    pub endpoints: EndpointsHandle,
    /// Timeout for a connection to be ready for requests, including the TLS handshake.
    pub connect_timeout: Duration,
    /// Limits on concurrent use.
    pub breakers: CircuitBreakers,
    /// What is done about overload of the application behind it.
    pub overload: OverloadMode,
    /// When a second attempt of a request begins beside the first one; `None` is never.
    pub hedging: Option<Hedging>,
    /// When endpoints are ejected; `None` is never.
    pub outlier: Option<OutlierDetection>,
    /// How endpoints are checked actively.
    pub health_check: Option<Arc<HealthCheck>>,
    /// When endpoints are used although they fail these checks.
    pub panic: PanicThreshold,
    /// Which endpoints sessions may stay with.
    pub session_statuses: SessionStatuses,
    /// The load balancing policy.
    pub balancing: Balancing,
    /// How an endpoint that is new begins. Not for [`Balancing::Random`] and [`Balancing::Hashing`].
    pub slow_start: Option<SlowStart>,
    /// The hashes of requests, if they are not those of the route. Only for [`Balancing::Hashing`].
    pub hash_policies: HashPolicies,
    /// The protocol of its endpoints.
    pub protocol: UpstreamProtocol,
    /// Settings of its connections.
    pub connections: ConnectionSettings,
}

/// When endpoints are used although they fail active health checks (`CommonLbConfig`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PanicThreshold {
    /// If fewer endpoints pass than this percentage, all are used; 0 is never (`healthy_panic_threshold`).
    pub threshold: f64,
    /// Whether endpoints that were never checked are not used even then (`ignore_new_hosts_until_first_hc`).
    pub ignores_new: bool,
}

impl Default for PanicThreshold {
    fn default() -> Self {
        Self { threshold: 50.0, ignores_new: false }
    }
}

/// The source of a cluster's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    /// The cluster itself.
    Static,
    /// EDS, under this name.
    Eds(Name),
    /// The original destination of the redirected connection, reached over this transport.
    OriginalDestination(Transport),
    /// The addresses of a name, which the data path resolves.
    Dns(Arc<DnsEndpoints>),
}

impl Discovery {
    /// Returns the name of a cluster in DNS.
    pub fn dns(&self) -> Option<&Arc<DnsEndpoints>> {
        match self {
            Self::Dns(dns) => Some(dns),
            _ => None,
        }
    }
}

/// A load balancing policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balancing {
    /// The better of two by latency and requests in flight (`outrigger.lb.v1.PeakEwma`).
    PeakEwma,
    /// The one with the fewest requests in flight among randomly drawn ones.
    LeastRequest {
        /// How many are drawn; at least 2. If there are fewer endpoints, all are compared.
        choices: u32,
    },
    /// Round robin; a weighted random choice if weights differ.
    RoundRobin,
    /// Uniformly random, ignoring weights, as in Envoy.
    Random,
    /// By a hash of the request.
    Hashing(Hashing),
}

/// The protocol of upstream connections. Between sidecars it is always HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// The protocol of the downstream connection.
    AsDownstream,
    /// HTTP/2 if ALPN selects it, else HTTP/1.1.
    Negotiated,
}

/// Settings of upstream connections. `None` is no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// How long a connection may be without requests before it is closed.
    pub idle_timeout: Option<Duration>,
    /// The lifetime after which a connection is closed once its requests are complete.
    pub max_duration: Option<Duration>,
    /// The number of requests after which a connection is closed.
    pub max_requests: Option<u32>,
    /// Maximum number of concurrent streams of an HTTP/2 connection; the endpoint may allow fewer.
    pub max_concurrent_streams: u32,
    /// HTTP/2 flow control window of a stream, in bytes.
    pub initial_stream_window: u32,
    /// HTTP/2 flow control window of a connection, in bytes.
    pub initial_connection_window: u32,
}

/// A handle to a cluster's endpoints, which change without a new snapshot. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct EndpointsHandle(Arc<ArcSwap<Endpoints>>);

impl EndpointsHandle {
    /// Returns the current endpoints. [`Endpoints::version`] tells whether they changed.
    pub fn load(&self) -> Guard<Arc<Endpoints>> {
        self.0.load()
    }

    /// Replaces all endpoints.
    pub fn store(&self, endpoints: Endpoints) {
        self.0.store(Arc::new(endpoints));
    }

    /// Replaces the endpoints by those of `assignment` with the settings of their cluster, unless they are the same. `version` is that
    /// of a changed list.
    pub(crate) fn update(
        &self,
        assignment: &Assignment,
        settings: &EndpointSettings,
        version: impl FnOnce() -> u64,
    ) {
        let before = self.load();
        let (list, overprovisioning) = (assignment.resolve(&before, settings), assignment.overprovisioning);
        let same = before.overprovisioning == overprovisioning
            && before.hashing() == settings.hashing
            && before.list.len() == list.len()
            && before.list.iter().zip(&list).all(|(old, new)| Arc::ptr_eq(old, new));
        if before.version == 0 || !same {
            self.store(Endpoints::new(version(), list, overprovisioning, settings.hashing));
        }
    }

    /// Returns true if both are clones of one handle.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
