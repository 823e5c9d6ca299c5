//! Relaying of opaque bytes (`envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`).

use std::time::Duration;

use outrigger_core::Name;
use outrigger_policy::weighted_cluster::WeightedClusters;

/// A TCP proxy.
#[derive(Debug, Clone)]
pub struct TcpProxy {
    /// What it is called in records and metrics: the canonical destination.
    pub stat_prefix: Name,
    /// Where connections go.
    pub clusters: WeightedClusters,
    /// A connection without a byte in either direction. `None` is no limit.
    pub idle_timeout: Option<Duration>,
    /// The life of a connection. `None` is no limit.
    pub max_duration: Option<Duration>,
    /// Tries to connect, the first included; at least 1.
    pub max_connect_attempts: u32,
}
