//! `/clusters`: every cluster, its endpoints with what the control plane and this proxy think of their health, its use.

use std::net::SocketAddr;

use outrigger_config::endpoint::{Endpoint, HealthStatus, Transport};
use outrigger_config::snapshot::Snapshot;
use outrigger_core::Name;
use outrigger_dataplane::metrics::{ClusterTotals, Totals};
use serde_json::{Value, json};

/// The page. `ejected` are the endpoints that this proxy does not use for a while.
pub(crate) fn clusters(snapshot: &Snapshot, totals: &Totals, ejected: &[(Name, SocketAddr)]) -> Value {
    let mut clusters: Vec<_> = snapshot.clusters.iter().collect();
    clusters.sort_by_key(|(name, _)| *name);
    let none = ClusterTotals::default();
    let one = |name: &Name, endpoints: &[std::sync::Arc<Endpoint>]| {
        let of = |endpoint: &Endpoint| {
            let out =
                ejected.iter().any(|(cluster, address)| cluster == name && *address == endpoint.address);
            entry(endpoint, out)
        };
        json!({
            "name": &**name,
            "endpoints": endpoints.iter().map(|endpoint| of(endpoint)).collect::<Vec<_>>(),
            "use": used(totals.clusters.get(name).unwrap_or(&none)),
        })
    };
    clusters.into_iter().map(|(name, cluster)| one(name, &cluster.endpoints.load().list)).collect()
}

fn entry(endpoint: &Endpoint, ejected: bool) -> Value {
    json!({
        "address": endpoint.address,
        "health": match endpoint.health {
            HealthStatus::Healthy => "healthy",
            HealthStatus::Degraded => "degraded",
            HealthStatus::Draining => "draining",
            HealthStatus::Unhealthy => "unhealthy",
        },
        "ejected": ejected,
        "weight": endpoint.weight,
        "priority": endpoint.priority,
        "tls": matches!(endpoint.transport, Transport::Tls(_)),
        "spiffe_id": endpoint.identity.as_ref().map(|id| id.as_str()),
        "instance": endpoint.instance.as_deref(),
        "version": endpoint.workload_version.as_deref(),
    })
}

fn used(totals: &ClusterTotals) -> Value {
    let ClusterTotals {
        tries,
        retries,
        budget_exhausted,
        overflow,
        ejections,
        connections_active,
        connections_idle,
        pending,
        connections_total,
        connect_failed,
        tls_ok,
        tls_failed,
    } = totals;
    json!({
        "tries": tries,
        "retries": retries,
        "retry_budget_exhausted": budget_exhausted,
        "overflow": overflow,
        "ejections": ejections,
        "connections_active": connections_active,
        "connections_idle": connections_idle,
        "pending": pending,
        "connections_opened": connections_total,
        "connect_failures": connect_failed,
        "tls_handshakes": tls_ok,
        "tls_failures": tls_failed,
    })
}
