//! `/clusters`: every cluster, with its endpoints, their health as reported and as observed, and their load.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::endpoint::{Endpoint, HealthStatus, Transport};
use outrigger_config::snapshot::Snapshot;
use outrigger_core::Name;
use outrigger_dataplane::metrics::{ClusterTotals, Totals};
use outrigger_dataplane::{ApplicationLoad, EndpointLoad};
use serde_json::{Value, json};

/// Returns the page. `ejected` are the endpoints that this proxy has ejected, `loads` the load of each endpoint per worker, `applications` the requests
/// of those whose overload is watched.
pub(crate) fn clusters(
    snapshot: &Snapshot,
    totals: &Totals,
    ejected: &[(Name, SocketAddr)],
    loads: &[EndpointLoad],
    applications: &[ApplicationLoad],
) -> Value {
    let ejected: HashSet<_> = ejected.iter().map(|(name, address)| (name, *address)).collect();
    let mut busy: HashMap<_, Load> = HashMap::new();
    for load in loads {
        busy.entry((&load.cluster, load.address)).or_default().add(load);
    }
    let mut clusters: Vec<_> = snapshot.clusters.iter().collect();
    clusters.sort_by_key(|(name, _)| *name);
    let none = ClusterTotals::default();
    let one = |name: &Name, endpoints: &[Arc<Endpoint>]| {
        let of = |endpoint: &Endpoint| {
            let key = (name, endpoint.address);
            entry(endpoint, ejected.contains(&key), busy.get(&key).copied().unwrap_or_default())
        };
        json!({
            "name": &**name,
            "endpoints": endpoints.iter().map(|endpoint| of(endpoint)).collect::<Vec<_>>(),
            "overload": overload(applications, name),
            "use": used(totals.clusters.get(name).unwrap_or(&none), ejections(totals, name)),
        })
    };
    clusters.into_iter().map(|(name, cluster)| one(name, &cluster.endpoints.load().list)).collect()
}

/// The load of an endpoint over all workers.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    active: u64,
    /// The highest latency that a worker reports.
    latency: Option<Duration>,
}

impl Load {
    fn add(&mut self, of: &EndpointLoad) {
        self.active += u64::from(of.active);
        self.latency = self.latency.max(of.latency);
    }
}

fn entry(endpoint: &Endpoint, ejected: bool, load: Load) -> Value {
    json!({
        "address": endpoint.address,
        "health": match endpoint.health {
            HealthStatus::Healthy => "healthy",
            HealthStatus::Degraded => "degraded",
            HealthStatus::Draining => "draining",
            HealthStatus::Unhealthy => "unhealthy",
        },
        "ejected": ejected,
        "active_requests": load.active,
        "latency_ewma_ms": load.latency.map(|latency| latency.as_micros() as f64 / 1e3),
        "weight": endpoint.weight,
        "priority": endpoint.priority,
        "tls": !matches!(endpoint.transport, Transport::Plain),
        "spiffe_id": endpoint.identity.as_ref().map(|id| id.as_str()),
        "instance": endpoint.instance.as_deref(),
        "version": endpoint.workload_version.as_deref(),
    })
}

/// Returns the limit and the requests of a cluster's application, or null if its overload is not watched.
fn overload(applications: &[ApplicationLoad], cluster: &Name) -> Value {
    let of = applications.iter().find(|of| of.cluster == *cluster);
    of.map(|of| json!({ "limit": of.limit, "in_flight": of.in_flight, "waiting": of.waiting })).into()
}

/// Returns the number of ejections of a cluster, by kind.
fn ejections(totals: &Totals, cluster: &Name) -> Value {
    let of = totals.ejections.iter().filter(|((name, _), _)| name == cluster);
    of.map(|((_, kind), count)| ((*kind).to_owned(), Value::from(*count))).collect()
}

fn used(totals: &ClusterTotals, ejections: Value) -> Value {
    let ClusterTotals {
        attempts,
        retries,
        hedges,
        hedges_won,
        budget_exhausted,
        overflow,
        overload_waits,
        overload_refused,
        connections_open,
        connections_active,
        connections_idle,
        pending,
        connections_total,
        connect_failed,
        tls_ok,
        tls_failed,
        checks_passed,
        checks_failed,
        failing_checks,
        panics,
        sessions_new,
        sessions_kept,
        sessions_moved,
    } = totals;
    json!({
        "attempts": attempts,
        "retries": retries,
        "hedges": hedges,
        "hedges_won": hedges_won,
        "retry_budget_exhausted": budget_exhausted,
        "overflow": overflow,
        "overload_waits": overload_waits,
        "overload_refused": overload_refused,
        "ejections": ejections,
        "connections_open": connections_open,
        "connections_active": connections_active,
        "connections_idle": connections_idle,
        "requests_pending": pending,
        "connections_opened": connections_total,
        "connect_failures": connect_failed,
        "tls_handshakes": tls_ok,
        "tls_failures": tls_failed,
        "health_checks_passed": checks_passed,
        "health_checks_failed": checks_failed,
        "endpoints_failing_checks": failing_checks,
        "panics": panics,
        "sessions_new": sessions_new,
        "sessions_kept": sessions_kept,
        "sessions_moved": sessions_moved,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_application_whose_overload_is_watched_has_a_limit() {
        let of = |limit| [ApplicationLoad { cluster: "a".into(), limit, in_flight: 3, waiting: 2 }];
        let expected = json!({ "limit": 8, "in_flight": 3, "waiting": 2 });
        assert_eq!(overload(&of(Some(8)), &"a".into()), expected);
        assert_eq!(overload(&of(None), &"a".into())["limit"], Value::Null);
        assert_eq!(overload(&of(None), &"b".into()), Value::Null);
    }

    #[test]
    fn an_endpoint_is_as_busy_as_all_workers_together_and_as_slow_as_the_slowest_says() {
        let of = |active, milliseconds| EndpointLoad {
            cluster: "cart".into(),
            address: "10.0.0.1:80".parse().unwrap(),
            active,
            latency: Some(Duration::from_millis(milliseconds)),
        };
        let mut load = Load::default();
        [of(2, 5), of(1, 9), EndpointLoad { latency: None, ..of(4, 0) }].iter().for_each(|of| load.add(of));
        assert_eq!((load.active, load.latency), (7, Some(Duration::from_millis(9))));
    }
}
