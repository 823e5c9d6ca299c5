//! What all workers know together of a cluster: what is in use, the retry ledger, which endpoints are ejected.
//!
//! What a worker keeps for itself, the load of each endpoint, it tells when it is asked.
//!
//! Keyed by cluster name and endpoint address, so that it outlives every config update; it goes when no worker has used
//! the cluster for a while. Workers hold handles, so that the map's lock is taken when a cluster or endpoint is new.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use foldhash::HashMap;
use outrigger_core::Name;
use outrigger_policy::outlier::{Ejections, Health};
use outrigger_policy::retry_budget::RetryLedger;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::bounds::InUse;

/// For all workers to answer; one whose thread is that busy has other worries.
const PATIENCE: Duration = Duration::from_secs(1);

/// Inquiries that may wait for one worker.
const INQUIRIES: usize = 4;

/// The shared state of all clusters; belongs to the process.
#[derive(Debug)]
pub struct SharedClusters {
    began: Instant,
    clusters: Mutex<HashMap<Name, Weak<SharedCluster>>>,
    workers: Mutex<Vec<mpsc::Sender<Inquiry>>>,
}

/// Asks a worker for its [`EndpointLoad`]s.
pub(crate) type Inquiry = oneshot::Sender<Vec<EndpointLoad>>;

/// How busy one worker keeps an endpoint.
#[derive(Debug, Clone)]
pub struct EndpointLoad {
    /// The cluster's name.
    pub cluster: Name,
    /// The endpoint.
    pub address: SocketAddr,
    /// Tries under way.
    pub active: u32,
    /// The time to the head of an answer: an average that jumps up to a slow one and sinks with time. `None` of an
    /// endpoint that never answered this worker.
    pub latency: Option<Duration>,
}

/// One moment, by the clock of this worker's state and by that of the state that all workers share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) clock: Instant,
    /// See [`SharedClusters::now`].
    pub(super) since_start: Duration,
}

/// The shared state of one cluster.
#[derive(Debug, Default)]
pub(super) struct SharedCluster {
    pub(super) in_use: Arc<InUse>,
    pub(super) ledger: Arc<RetryLedger>,
    pub(super) ejections: Arc<Ejections>,
    endpoints: Mutex<HashMap<SocketAddr, Weak<Health>>>,
}

impl SharedClusters {
    /// Nothing known yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), clusters: Mutex::default(), workers: Mutex::default() })
    }

    /// Where one more worker is asked. It answers between two requests of its own, so that nothing is shared with it.
    pub(crate) fn inquiries(&self) -> mpsc::Receiver<Inquiry> {
        let (ask, inquiries) = mpsc::channel(INQUIRIES);
        locked(&self.workers).push(ask);
        inquiries
    }

    /// How busy every worker keeps its endpoints, each worker's apart. One that has ended, or does not answer within
    /// [`PATIENCE`], is left out.
    pub async fn loads(&self) -> Vec<EndpointLoad> {
        let asked: Vec<_> = {
            let mut workers = locked(&self.workers);
            workers.retain(|worker| !worker.is_closed());
            let ask = |worker: &mpsc::Sender<Inquiry>| {
                let (inquiry, answer) = oneshot::channel();
                worker.try_send(inquiry).ok().map(|()| answer)
            };
            workers.iter().filter_map(ask).collect()
        };
        let deadline = Instant::now() + PATIENCE;
        let mut loads = Vec::new();
        for answer in asked {
            if let Ok(Ok(answer)) = timeout_at(deadline, answer).await {
                loads.extend(answer);
            }
        }
        loads
    }

    /// Which endpoints of which clusters are ejected now, for the admin port.
    pub fn ejected(&self) -> Vec<(Name, SocketAddr)> {
        let clusters: Vec<_> = locked(&self.clusters)
            .iter()
            .filter_map(|(name, cluster)| Some((name.clone(), cluster.upgrade()?)))
            .collect();
        let mut ejected = Vec::new();
        for (name, cluster) in clusters {
            for (address, health) in locked(&cluster.endpoints).iter() {
                if health.upgrade().is_some_and(|health| !health.is_serving()) {
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

impl Moment {
    /// That of `clock`.
    pub(super) fn at(clock: Instant, shared: &SharedClusters) -> Self {
        Self { clock, since_start: clock.saturating_duration_since(shared.began) }
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

    #[tokio::test(start_paused = true)]
    async fn workers_are_asked_and_one_that_is_stuck_or_gone_is_left_out() {
        let shared = SharedClusters::new();
        let (mut answers, stuck, gone) = (shared.inquiries(), shared.inquiries(), shared.inquiries());
        drop(gone);
        let load = EndpointLoad {
            cluster: "cart".into(),
            address: "10.0.0.1:80".parse().unwrap(),
            active: 3,
            latency: None,
        };
        let worker = tokio::spawn(async move {
            let inquiry: Inquiry = answers.recv().await.unwrap();
            inquiry.send(vec![load]).unwrap();
        });
        let loads = shared.loads().await;
        assert_eq!(loads.iter().map(|load| load.active).collect::<Vec<_>>(), [3]);
        worker.await.unwrap();
        drop(stuck);
    }

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
