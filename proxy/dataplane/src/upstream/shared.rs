//! What all workers know together of a cluster: what is in use, the retry ledger, which endpoints are ejected.
//!
//! Keyed by cluster name and endpoint address, so that it outlives every config update; it goes when no worker has used
//! the cluster for a while. Workers hold handles, so that the map's lock is taken when a cluster or endpoint is new.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use foldhash::HashMap;
use outrigger_core::Name;
use outrigger_policy::circuit_breaker::InUse;
use outrigger_policy::outlier::{Ejections, Health};
use outrigger_policy::retry_budget::RetryLedger;
use tokio::time::Instant;

/// The shared state of all clusters; belongs to the process.
#[derive(Debug)]
pub struct SharedClusters {
    began: Instant,
    clusters: Mutex<HashMap<Name, Weak<SharedCluster>>>,
}

/// The shared state of one cluster.
#[derive(Debug, Default)]
pub(super) struct SharedCluster {
    pub(super) in_use: Arc<InUse>,
    pub(super) ledger: Arc<RetryLedger>,
    ejections: Arc<Ejections>,
    endpoints: Mutex<HashMap<SocketAddr, Weak<Health>>>,
}

impl SharedClusters {
    /// Nothing known yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), clusters: Mutex::default() })
    }

    /// Which endpoints of which clusters are ejected now, for the admin port.
    pub fn ejected(&self) -> Vec<(Name, SocketAddr)> {
        let now = self.now();
        let clusters: Vec<_> = locked(&self.clusters)
            .iter()
            .filter_map(|(name, cluster)| Some((name.clone(), cluster.upgrade()?)))
            .collect();
        let mut ejected = Vec::new();
        for (name, cluster) in clusters {
            for (address, health) in locked(&cluster.endpoints).iter() {
                if health.upgrade().is_some_and(|health| health.is_ejected(now)) {
                    ejected.push((name.clone(), *address));
                }
            }
        }
        ejected.sort();
        ejected
    }

    /// The time that ledgers and ejections count in.
    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// The state of a cluster, made if nobody has it.
    pub(super) fn cluster(&self, name: &Name) -> Arc<SharedCluster> {
        let mut clusters = locked(&self.clusters);
        if let Some(cluster) = clusters.get(name).and_then(Weak::upgrade) {
            return cluster;
        }
        clusters.retain(|_, cluster| cluster.strong_count() > 0);
        let cluster = Arc::new(SharedCluster::default());
        clusters.insert(name.clone(), Arc::downgrade(&cluster));
        cluster
    }
}

impl SharedCluster {
    /// The health of an endpoint, made if nobody has it.
    pub(super) fn health(&self, address: SocketAddr) -> Arc<Health> {
        let mut endpoints = locked(&self.endpoints);
        if let Some(health) = endpoints.get(&address).and_then(Weak::upgrade) {
            return health;
        }
        endpoints.retain(|_, health| health.strong_count() > 0);
        let health = Arc::new(Health::new(Arc::clone(&self.ejections)));
        endpoints.insert(address, Arc::downgrade(&health));
        health
    }
}

/// What a panicking thread left in a map of handles is still a valid map.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn workers_share_a_cluster_while_one_of_them_has_it() {
        let shared = SharedClusters::new();
        let name = Name::from("cart");
        let one = shared.cluster(&name);
        let address = "10.0.0.1:80".parse().unwrap();
        let health = one.health(address);
        assert!(Arc::ptr_eq(&one, &shared.cluster(&name)));
        assert!(Arc::ptr_eq(&health, &shared.cluster(&name).health(address)));
        drop((one, health));
        shared.cluster(&"other".into());
        assert_eq!(locked(&shared.clusters).len(), 1, "what nobody uses is forgotten");
    }
}
