//! Forwarding of opaque bytes (`envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`).

use std::time::Duration;

use outrigger_core::Name;
use outrigger_policy::field::{Unusable, duration, non_empty, number, required, unsupported_any};
use outrigger_policy::hash_policy::HashPolicies;
use outrigger_policy::weighted_cluster::WeightedClusters;
use outrigger_proto::xds::tcp_proxy as wire_tcp;

/// A TCP proxy.
#[derive(Debug, Clone)]
pub struct TcpProxy {
    /// The destination that records and metrics name; see [`crate::http_manager::HttpConnectionManager::destination`].
    pub destination: Option<Name>,
    /// The clusters that connections are forwarded to.
    pub clusters: WeightedClusters,
    /// The hashes of connections, for clusters that pick endpoints by them.
    pub hash_policies: HashPolicies,
    /// Closes a connection after this time without a byte in either direction. `None` is no limit.
    pub idle_timeout: Option<Duration>,
    /// The lifetime of a connection. `None` is no limit.
    pub max_duration: Option<Duration>,
    /// Connect attempts, including the first; at least 1.
    pub max_connect_attempts: u32,
}

impl TcpProxy {
    /// Decodes a TCP proxy filter.
    #[allow(deprecated)]
    pub(crate) fn decode(wire: wire_tcp::TcpProxy) -> Result<Self, Unusable> {
        use wire_tcp::tcp_proxy::ClusterSpecifier;
        let wire_tcp::TcpProxy {
            stat_prefix,
            on_demand,
            metadata_match,
            idle_timeout,
            downstream_idle_timeout,
            upstream_idle_timeout,
            // Access logs are configured by the proxy's flags.
            access_log: _,
            access_log_flush_interval: _,
            flush_access_log_on_connected: _,
            access_log_options: _,
            max_connect_attempts,
            // Backoff between connect attempts: each goes to another endpoint at once.
            backoff_options: _,
            hash_policy,
            tunneling_config,
            max_downstream_connection_duration,
            // Spreads out closings; connections that began at different times are spread out already.
            max_downstream_connection_duration_jitter_percentage: _,
            proxy_protocol_tlvs,
            proxy_protocol_tlv_merge_policy: _, // applies only with TLVs
            upstream_connect_mode,
            max_early_data_bytes: _, // applies only with the mode
            // Draining closes connections at its deadline regardless.
            check_drain_close: _,
            cluster_specifier,
        } = wire;
        unsupported_any(&[
            ("on_demand", on_demand.is_some()),
            ("metadata_match", metadata_match.is_some()),
            ("downstream_idle_timeout", downstream_idle_timeout.is_some()),
            ("upstream_idle_timeout", upstream_idle_timeout.is_some()),
            ("tunneling_config", tunneling_config.is_some()),
            ("proxy_protocol_tlvs", !proxy_protocol_tlvs.is_empty()),
            ("upstream_connect_mode", upstream_connect_mode != 0),
        ])?;
        let clusters = match required("cluster", cluster_specifier)? {
            ClusterSpecifier::Cluster(name) => WeightedClusters::one(non_empty("cluster", name)?)?,
            ClusterSpecifier::WeightedClusters(wire) => {
                WeightedClusters::decode_tcp(wire).map_err(|bad| bad.within("weighted_clusters"))?
            }
        };
        non_empty("stat_prefix", stat_prefix)?; // required as in Envoy, but not used
        let limit = |value: Duration| (!value.is_zero()).then_some(value);
        let max_connect_attempts = number(max_connect_attempts).unwrap_or(1);
        if max_connect_attempts == 0 {
            return Err(Unusable::new("max_connect_attempts", "must be at least 1"));
        }
        Ok(Self {
            destination: None,
            clusters,
            hash_policies: HashPolicies::decode_tcp(hash_policy)?,
            idle_timeout: duration("idle_timeout", idle_timeout)?
                .map_or(Some(Duration::from_secs(3600)), limit),
            max_duration: duration("max_downstream_connection_duration", max_downstream_connection_duration)?
                .and_then(limit),
            max_connect_attempts,
        })
    }
}
