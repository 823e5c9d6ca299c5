//! Circuit breakers: limits on the concurrent use of a cluster (`envoy.config.cluster.v3.CircuitBreakers`).
//!
//! The limits are per process. The data path enforces them, and shares the capacity between peers.

use outrigger_proto::xds::{cluster, core};

use crate::field::{Unusable, number, unsupported};
use crate::retry_budget::RetryBudget;

/// A cluster's limits.
#[derive(Debug, Clone)]
pub struct CircuitBreakers {
    /// Connections to all endpoints together.
    pub max_connections: u32,
    /// Requests that wait for a connection.
    pub max_pending_requests: u32,
    /// Requests in flight, retries included.
    pub max_requests: u32,
    /// How many requests may be retries.
    pub retries: RetryBudget,
}

impl CircuitBreakers {
    /// Decodes the thresholds of default priority. Absent fields have Envoy's defaults: 1024 each, and 3 retries.
    pub fn decode(wire: Option<cluster::CircuitBreakers>) -> Result<Self, Unusable> {
        let cluster::CircuitBreakers { thresholds, per_host_thresholds } = wire.unwrap_or_default();
        unsupported("per_host_thresholds", !per_host_thresholds.is_empty())?;
        let mut default = None;
        for (at, threshold) in thresholds.into_iter().enumerate() {
            // Routes of high priority are rejected, so thresholds for them have no effect.
            if threshold.priority == core::RoutingPriority::Default as i32 && default.is_none() {
                default = Some(
                    Self::threshold(threshold).map_err(|bad| bad.within(format_args!("thresholds[{at}]")))?,
                );
            }
        }
        default.map_or_else(|| Self::threshold(Default::default()), Ok)
    }

    fn threshold(wire: cluster::circuit_breakers::Thresholds) -> Result<Self, Unusable> {
        let cluster::circuit_breakers::Thresholds {
            priority: _, // read by the caller
            max_connections,
            max_pending_requests,
            max_requests,
            max_retries,
            retry_budget,
            track_remaining: _, // gauges of the remaining capacity: our metrics always have the usage and the limit
            max_connection_pools: _, // there is one pool per endpoint and worker, and idle ones are closed
        } = wire;
        let retries = match retry_budget {
            Some(budget) => RetryBudget::decode(budget).map_err(|bad| bad.within("retry_budget"))?,
            None => RetryBudget::fixed(number(max_retries).unwrap_or(3)),
        };
        Ok(Self {
            max_connections: number(max_connections).unwrap_or(1024),
            max_pending_requests: number(max_pending_requests).unwrap_or(1024),
            max_requests: number(max_requests).unwrap_or(1024),
            retries,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_limits_are_those_of_envoy() {
        let limits = CircuitBreakers::decode(None).unwrap();
        assert_eq!(
            (limits.max_connections, limits.max_pending_requests, limits.max_requests),
            (1024, 1024, 1024)
        );
    }

    #[test]
    fn limits_for_each_host_are_refused_by_field() {
        let per_host_thresholds = vec![Default::default()];
        let wire = cluster::CircuitBreakers { per_host_thresholds, ..Default::default() };
        assert_eq!(CircuitBreakers::decode(Some(wire)).unwrap_err().field, "per_host_thresholds");
    }
}
