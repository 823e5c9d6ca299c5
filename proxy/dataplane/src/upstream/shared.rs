//! The state of a cluster that all workers share: what is in use, the retry ledger, the ejected endpoints.
//!
//! The load of each endpoint is private to a worker and returned on request.
//!
//! Keyed by cluster name and endpoint address, so that it survives configuration updates; dropped when no worker has used the
//! cluster for a while. Workers hold handles, so that the lock of the map is taken only for new clusters and endpoints.

use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use foldhash::HashMap;
use foldhash::fast::FixedState;
use outrigger_core::Name;
use outrigger_policy::health_check::Checked;
use outrigger_policy::outlier::{Ejections, Health};
use outrigger_policy::overload::Limiter;
use outrigger_policy::retry_budget::RetryLedger;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::bounds::InUse;

/// Timeout for all workers to respond. A worker whose thread is busier than that is left out.
const PATIENCE: Duration = Duration::from_secs(1);

/// The maximum number of inquiries queued for one worker.
const INQUIRIES: usize = 4;

/// The shared state of all clusters. One per process.
#[derive(Debug)]
pub struct SharedClusters {
    began: Instant,
    clusters: Mutex<HashMap<Name, Weak<SharedCluster>>>,
    workers: Mutex<Vec<mpsc::Sender<Inquiry>>>,
}

/// A request for the [`EndpointLoad`]s of a worker.
pub(crate) type Inquiry = oneshot::Sender<Vec<EndpointLoad>>;

/// The load of an endpoint on one worker.
#[derive(Debug, Clone)]
pub struct EndpointLoad {
    /// The cluster's name.
    pub cluster: Name,
    /// The endpoint.
    pub address: SocketAddr,
    /// Attempts in flight.
    pub active: u32,
    /// The time to the response head: an average that rises at once to a slow response and decays with time. `None` if the
    /// endpoint has never responded to this worker.
    pub latency: Option<Duration>,
}

/// The requests of an application whose overload is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplicationLoad {
    /// The name of its cluster.
    pub cluster: Name,
    /// How many requests it may have at once, or may if the limit were enforced. None: any number.
    pub limit: Option<u32>,
    /// The requests that it has and that it has not begun to answer.
    pub in_flight: u32,
    /// The requests that wait for it.
    pub waiting: u32,
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
    pub(super) limiter: Arc<Limiter>,
    pub(super) ledger: Arc<RetryLedger>,
    pub(super) ejections: Arc<Ejections>,
    /// Whether the cluster has had a request. Only with active health checks.
    pub(super) used: Arc<AtomicBool>,
    /// Notified when the first check of an endpoint has ended.
    pub(super) first_check_ended: Arc<Notify>,
    endpoints: Mutex<HashMap<SocketAddr, Weak<Health>>>,
    checked: Mutex<HashMap<SocketAddr, Weak<Checked>>>,
}

impl SharedClusters {
    /// Creates the state without clusters.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), clusters: Mutex::default(), workers: Mutex::default() })
    }

    /// Registers a worker. Returns its number and the receiver of its inquiries. The worker responds between two requests, so that it
    /// shares no state.
    pub(crate) fn register(&self) -> (usize, mpsc::Receiver<Inquiry>) {
        let (ask, inquiries) = mpsc::channel(INQUIRIES);
        let mut workers = locked(&self.workers);
        workers.push(ask);
        (workers.len() - 1, inquiries)
    }

    /// Returns whether the worker with this number is to check an endpoint, so that the workers share the checks.
    pub(super) fn is_checked_by(&self, worker: usize, endpoint: SocketAddr) -> bool {
        let workers = u64::try_from(locked(&self.workers).len().max(1)).unwrap_or(u64::MAX);
        let (worker, endpoint) =
            (u64::try_from(worker).unwrap_or_default(), FixedState::default().hash_one(endpoint));
        worker % workers == endpoint % workers
    }

    /// Returns the loads of all workers, separately. Workers that have ended, or do not respond within [`PATIENCE`], are left
    /// out.
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

    /// Returns the endpoints that are ejected now, with their clusters, for the admin port.
    pub fn ejected(&self) -> Vec<(Name, SocketAddr)> {
        let mut ejected = Vec::new();
        for (name, cluster) in self.in_use() {
            for (address, health) in locked(&cluster.endpoints).iter() {
                if health.upgrade().is_some_and(|health| !health.is_serving()) {
                    ejected.push((name.clone(), *address));
                }
            }
        }
        ejected.sort();
        ejected
    }

    /// Returns the requests of each application whose overload is watched and that has had any, by the names of the clusters.
    pub fn applications(&self) -> Vec<ApplicationLoad> {
        let mut clusters = self.in_use();
        clusters.retain(|(_, cluster)| cluster.limiter.is_used());
        clusters.sort_by(|(a, _), (b, _)| a.cmp(b));
        let load = |(name, cluster): (Name, Arc<SharedCluster>)| {
            let (limit, running) = (cluster.limiter.limit(), cluster.in_use.running());
            ApplicationLoad {
                cluster: name,
                limit: (limit != u32::MAX).then_some(limit),
                in_flight: running.used(),
                waiting: running.waiting(),
            }
        };
        clusters.into_iter().map(load).collect()
    }

    fn in_use(&self) -> Vec<(Name, Arc<SharedCluster>)> {
        let clusters = locked(&self.clusters);
        clusters.iter().filter_map(|(name, cluster)| Some((name.clone(), cluster.upgrade()?))).collect()
    }

    /// Returns the time of the clock of ledgers and ejections.
    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Returns the state of a cluster, creating it if no worker uses it.
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
    /// Creates the moment of `clock`.
    pub(super) fn at(clock: Instant, shared: &SharedClusters) -> Self {
        Self { clock, since_start: clock.saturating_duration_since(shared.began) }
    }
}

impl SharedCluster {
    /// Returns the health of an endpoint, creating it if no worker uses it.
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

impl SharedCluster {
    /// Returns what active checks have found of an endpoint, creating it if no worker uses it.
    pub(super) fn checked(&self, address: SocketAddr) -> Arc<Checked> {
        let mut all = locked(&self.checked);
        if let Some(checked) = all.get(&address).and_then(Weak::upgrade) {
            return checked;
        }
        all.retain(|_, checked| checked.strong_count() > 0);
        let checked = Arc::new(Checked::new(Arc::clone(&self.ejections)));
        all.insert(address, Arc::downgrade(&checked));
        checked
    }
}

/// Locks a map of handles, which stays valid even if a thread panicked while holding the lock.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn workers_report_and_one_that_is_stuck_or_gone_is_left_out() {
        let shared = SharedClusters::new();
        let ((_, mut answers), stuck, gone) = (shared.register(), shared.register(), shared.register());
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
