//! Bulkheads: how much of a cluster may be in use at once (`envoy.config.cluster.v3.CircuitBreakers`).
//!
//! Users were promised these limits for the process, so that the counters are atomics that all workers share. Limits
//! come with every call, counters stay: an update of the limits neither forgives nor forgets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use outrigger_proto::xds::{cluster, core};

use crate::field::{Unusable, number, unsupported};
use crate::retry_budget::RetryBudget;

/// A cluster's limits.
#[derive(Debug, Clone)]
pub struct CircuitBreakers {
    /// Connections, of all endpoints together.
    pub max_connections: u32,
    /// Requests that wait for a connection.
    pub max_pending_requests: u32,
    /// Requests in flight, retries included.
    pub max_requests: u32,
    /// How many requests may be retries.
    pub retries: RetryBudget,
}

impl CircuitBreakers {
    /// Reads the thresholds of default priority; absent fields mean Envoy's defaults of 1024 each, and 3 retries.
    pub fn decode(wire: Option<cluster::CircuitBreakers>) -> Result<Self, Unusable> {
        let cluster::CircuitBreakers { thresholds, per_host_thresholds } = wire.unwrap_or_default();
        unsupported("per_host_thresholds", !per_host_thresholds.is_empty())?;
        let mut default = None;
        for (at, threshold) in thresholds.into_iter().enumerate() {
            // Routes of high priority are refused, so that thresholds for them have nothing to bound.
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
            track_remaining: _, // gauges of what remains: our metrics always have what is used and the limit
            max_connection_pools: _, // pools are few here (one per endpoint and worker), and idle ones are closed
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

/// What of a cluster is in use now. One for each cluster name, in the data path, for the life of the process.
#[derive(Debug, Default)]
pub struct InUse {
    connections: AtomicU32,
    pending: AtomicU32,
    requests: AtomicU32,
}

/// What a [`Room`] is taken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// A connection.
    Connection,
    /// A place in the queue for a connection.
    Pending,
    /// A request in flight.
    Request,
}

impl InUse {
    /// Takes room for one more, or refuses when `limits` are reached. The room comes back when the guard is dropped.
    pub fn take(self: &Arc<Self>, limits: &CircuitBreakers, resource: Resource) -> Option<Room> {
        let limit = match resource {
            Resource::Connection => limits.max_connections,
            Resource::Pending => limits.max_pending_requests,
            Resource::Request => limits.max_requests,
        };
        let counter = self.counter(resource);
        // The count publishes nothing else, so that relaxed order is enough; the limit itself is exact.
        counter
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| (used < limit).then(|| used + 1))
            .ok()
            .map(|_| Room { of: self.clone(), resource })
    }

    /// How many are in use now.
    pub fn used(&self, resource: Resource) -> u32 {
        self.counter(resource).load(Ordering::Relaxed)
    }

    fn counter(&self, resource: Resource) -> &AtomicU32 {
        match resource {
            Resource::Connection => &self.connections,
            Resource::Pending => &self.pending,
            Resource::Request => &self.requests,
        }
    }
}

/// Room that was taken. Dropping it gives it back.
#[derive(Debug)]
#[must_use = "dropping it gives the room back"]
pub struct Room {
    of: Arc<InUse>,
    resource: Resource,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.of.counter(self.resource).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::xds::protobuf;

    use super::*;

    fn limits(max_requests: u32) -> CircuitBreakers {
        let max_requests = Some(protobuf::UInt32Value { value: max_requests });
        let thresholds = vec![cluster::circuit_breakers::Thresholds { max_requests, ..Default::default() }];
        CircuitBreakers::decode(Some(cluster::CircuitBreakers { thresholds, ..Default::default() })).unwrap()
    }

    #[test]
    fn absent_limits_are_those_of_envoy() {
        let limits = CircuitBreakers::decode(None).unwrap();
        assert_eq!(
            (limits.max_connections, limits.max_pending_requests, limits.max_requests),
            (1024, 1024, 1024)
        );
    }

    #[test]
    fn room_comes_back_when_its_guard_is_dropped() {
        let in_use = Arc::new(InUse::default());
        let first = in_use.take(&limits(1), Resource::Request);
        assert!(first.is_some() && in_use.take(&limits(1), Resource::Request).is_none());
        assert!(in_use.take(&limits(1), Resource::Connection).is_some());
        drop(first);
        assert_eq!(in_use.used(Resource::Request), 0);
        assert!(in_use.take(&limits(1), Resource::Request).is_some());
    }

    #[test]
    fn a_lower_limit_does_not_forget_what_is_in_use() {
        let in_use = Arc::new(InUse::default());
        let _two = [in_use.take(&limits(2), Resource::Request), in_use.take(&limits(2), Resource::Request)];
        assert!(in_use.take(&limits(1), Resource::Request).is_none());
    }

    #[test]
    fn limits_for_each_host_are_refused_by_field() {
        let per_host_thresholds = vec![Default::default()];
        let wire = cluster::CircuitBreakers { per_host_thresholds, ..Default::default() };
        assert_eq!(CircuitBreakers::decode(Some(wire)).unwrap_err().field, "per_host_thresholds");
    }
}
