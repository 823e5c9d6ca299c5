//! One cluster, as seen by one worker: hosts with their connections and loads, which outlive snapshots.
//!
//! Endpoints are read at each pick. A host with its connections survives every update that changes neither its address nor its
//! transport. A host that left is retired: its idle connections close, the others complete their requests.

mod pick;
mod judge;
mod hedging;
mod checked;
mod slow_start;
mod membership;
mod availability;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use outrigger_config::cluster::{Cluster as Config, Discovery, UpstreamProtocol};
use outrigger_config::endpoint::{Endpoint, HealthStatus, Transport};
use outrigger_core::Name;
use outrigger_core::error::{Failure, Reached};
use outrigger_core::identity::SpiffeId;
use outrigger_core::peer::PeerKey;
use outrigger_core::reason::Reason;
use outrigger_policy::outlier::Outcome;
use outrigger_policy::retry_budget::RetryPermit;
use tokio::time::Instant;

use self::checked::CheckedHost;
use self::membership::Membership;
pub(crate) use self::pick::{PickBy, Picked, Probing};
use super::answers::Answers;
use super::balance::Balancer;
use super::balance::load::Load;
use super::bounds::{Bounds, Exhausted, Peer, RequestPermit};
use super::dial::{Dialer, ExpectedPeer, Target, TlsTarget};
use super::host::Host;
use super::overload::{Overload, Running};
use super::pool::{Pool, PoolSettings, Siblings, Speaks};
use super::shared::{EndpointLoad, Moment, SharedCluster, SharedClusters};
use super::silence::Silence;
use crate::capacity::budget::ConnectionBudget;
use crate::metrics::{ClusterSeries, WorkerMetrics};
use crate::socket::address::EndpointAddress;

/// Clusters, and hosts of no endpoint list, are dropped after this long without use.
const FORGOTTEN: Duration = Duration::from_secs(120);

/// All clusters that one worker uses.
#[derive(Debug)]
pub(crate) struct Clusters {
    clusters: RefCell<HashMap<Name, Rc<Cluster>>>,
    worker: usize,
    shared: Arc<SharedClusters>,
    metrics: Arc<WorkerMetrics>,
    dialer: Rc<Dialer>,
    budget: Arc<ConnectionBudget>,
    /// The pools of all clusters.
    pools: Rc<Siblings>,
    /// The clusters whose endpoints are checked although no request uses them.
    kept: RefCell<Vec<Rc<Cluster>>>,
}

/// One cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// Its name.
    pub(crate) name: Name,
    /// Its counters.
    pub(crate) series: Arc<ClusterSeries>,
    metrics: Arc<WorkerMetrics>,
    config: RefCell<Arc<Config>>,
    members: RefCell<Membership>,
    balancer: RefCell<Balancer>,
    rng: RefCell<fastrand::Rng>,
    /// Hosts that are in no endpoint list (original destinations, resolved names), and when each was last used.
    unlisted: RefCell<HashMap<SocketAddr, (Rc<Host>, Instant)>>,
    bounds: Rc<Bounds>,
    pools: Rc<Siblings>,
    /// The pools of all clusters of the worker.
    of_worker: Rc<Siblings>,
    state: Arc<SharedCluster>,
    worker: usize,
    shared: Arc<SharedClusters>,
    dialer: Rc<Dialer>,
    used: Cell<Instant>,
    answers: Rc<Answers>,
    overload: Rc<Overload>,
    budget: Arc<ConnectionBudget>,
    /// The checks that this worker makes, by endpoint.
    checks: RefCell<HashMap<SocketAddr, CheckedHost>>,
}

impl Clusters {
    /// Creates the state without clusters, for the worker with this number.
    pub(crate) fn new(
        worker: usize,
        shared: Arc<SharedClusters>,
        metrics: Arc<WorkerMetrics>,
        dialer: Rc<Dialer>,
        budget: Arc<ConnectionBudget>,
    ) -> Rc<Self> {
        Rc::new(Self {
            clusters: RefCell::default(),
            worker,
            shared,
            metrics,
            dialer,
            budget,
            pools: Rc::default(),
            kept: RefCell::default(),
        })
    }

    /// Returns the state of the cluster that `config` describes, updated to it.
    pub(crate) fn cluster(&self, config: &Arc<Config>) -> Rc<Cluster> {
        if let Some(cluster) = self.clusters.borrow().get(&config.name) {
            cluster.follow(config);
            return Rc::clone(cluster);
        }
        let state = self.shared.cluster(&config.name);
        let series = self.metrics.cluster(&config.name);
        let overload = Overload::new(config.overload, &state, Arc::clone(&self.shared), Arc::clone(&series));
        let cluster = Rc::new(Cluster {
            name: config.name.clone(),
            series,
            metrics: Arc::clone(&self.metrics),
            config: RefCell::new(Arc::clone(config)),
            members: RefCell::default(),
            balancer: RefCell::new(Balancer::new(config.balancing)),
            rng: RefCell::default(),
            unlisted: RefCell::default(),
            bounds: Bounds::new(&config.breakers, Arc::clone(&state.in_use), Arc::clone(&self.budget)),
            pools: Rc::default(),
            of_worker: Rc::clone(&self.pools),
            state,
            worker: self.worker,
            shared: Arc::clone(&self.shared),
            dialer: Rc::clone(&self.dialer),
            used: Cell::new(Instant::now()),
            answers: Rc::default(),
            overload,
            budget: Arc::clone(&self.budget),
            checks: RefCell::default(),
        });
        self.clusters.borrow_mut().insert(config.name.clone(), Rc::clone(&cluster));
        cluster
    }

    /// Returns the load of each endpoint on this worker, for the admin port.
    pub(crate) fn loads(&self) -> Vec<EndpointLoad> {
        let now = Instant::now();
        let clusters = self.clusters.borrow();
        let hosts = clusters.values().flat_map(|cluster| {
            let members = cluster.members.borrow();
            let load = |host: &Rc<Host>| EndpointLoad {
                cluster: cluster.name.clone(),
                address: host.address,
                active: host.load.in_flight(),
                latency: host.latency(now),
            };
            members.hosts().iter().map(load).collect::<Vec<_>>()
        });
        hosts.collect()
    }

    /// Closes idle connections because a request, on any worker, waits for one to close: one of each cluster whose limit is
    /// reached, and one of any cluster if the process has no descriptor left.
    pub(crate) fn make_way(&self) {
        let mut process_wide = false;
        for cluster in self.clusters.borrow().values() {
            match cluster.bounds.waited_for() {
                Some(Exhausted::Cluster) => {
                    cluster.pools.close_an_idle_one();
                }
                Some(Exhausted::Process) => process_wide = true,
                None => {}
            }
        }
        if process_wide {
            self.pools.close_an_idle_one();
        }
    }

    /// Closes idle connections that timed out, retires endpoints that left, and drops unused clusters. Called once a second;
    /// costs requests nothing.
    pub(crate) fn tidy(&self) {
        let now = Instant::now();
        self.clusters.borrow_mut().retain(|_, cluster| {
            cluster.tidy(now);
            let idle = now.duration_since(cluster.used.get()) > FORGOTTEN && Rc::strong_count(cluster) == 1;
            !(idle && cluster.is_quiet())
        });
    }
}

impl Cluster {
    /// Acquires a permit for one request of `peer` and counts the request for the retry budget.
    pub(crate) async fn admit(&self, peer: &PeerKey) -> Result<RequestPermit, Failure> {
        let now = Moment::at(Instant::now(), &self.shared);
        self.used.set(now.clock);
        let permit = self.bounds.request(peer).await.ok_or_else(|| {
            self.series.overflow.increment();
            Failure::upstream(
                Reason::UpstreamOverflow,
                Reached::NotWritten,
                "the bound on requests is reached",
            )
        })?;
        self.state.ledger.request(&self.config.borrow().breakers.retries, now.since_start);
        self.first_checks().await;
        Ok(permit)
    }

    /// Waits until the application behind this proxy, if it is one, can take a request of `peer`, whose client waits until
    /// `deadline` at most. Returns an error if it is overloaded.
    pub(crate) async fn run(&self, peer: &Peer, deadline: Option<Instant>) -> Result<Running, Failure> {
        self.overload.admit(peer.running(), deadline).await
    }

    /// Returns what `peer` holds of this cluster.
    pub(crate) fn peer(&self, peer: &PeerKey) -> Rc<Peer> {
        self.bounds.peer(peer)
    }

    /// Acquires a permit for one retry. Returns `None` if the retry budget is exhausted.
    pub(crate) fn retry(&self) -> Option<RetryPermit> {
        let retrying = self.state.ledger.retry(&self.config.borrow().breakers.retries, self.shared.now());
        if retrying.is_none() {
            self.series.budget_exhausted.increment();
        }
        retrying
    }

    /// Returns the host at `address`, which is in no endpoint list.
    pub(crate) fn unlisted(&self, address: SocketAddr, transport: &Transport) -> Rc<Host> {
        let now = Instant::now();
        let mut unlisted = self.unlisted.borrow_mut();
        let made = || {
            let endpoint = Endpoint {
                address,
                health: HealthStatus::Healthy,
                weight: 1,
                locality_weight: None,
                locality: Default::default(),
                priority: 0,
                transport: transport.clone(),
                identity: None,
                instance: None,
                workload_version: None,
                hash_key: None,
                health_check: Default::default(),
            };
            Rc::new(self.host(&endpoint, self.target(&endpoint), None, false))
        };
        let (host, used) = unlisted.entry(address).or_insert_with(|| (made(), now));
        *used = now;
        Rc::clone(host)
    }

    /// Returns the protocol for an endpoint that is not a sidecar, for a client that speaks `downstream`.
    pub(crate) fn speaks(&self, downstream: http::Version) -> Speaks {
        match self.config.borrow().protocol {
            UpstreamProtocol::Http1 => Speaks::Http1,
            UpstreamProtocol::Http2 => Speaks::Http2,
            UpstreamProtocol::AsDownstream if downstream == http::Version::HTTP_2 => Speaks::Http2,
            UpstreamProtocol::AsDownstream => Speaks::Http1,
            UpstreamProtocol::Negotiated => Speaks::Negotiated,
        }
    }

    fn follow(&self, config: &Arc<Config>) {
        if Arc::ptr_eq(&self.config.borrow(), config) {
            return;
        }
        let before = self.config.borrow().health_check.clone();
        self.bounds.set_limits(&config.breakers);
        self.overload.set(config.overload);
        let unlisted = self.unlisted.borrow();
        let members = self.members.borrow();
        for host in members.hosts().iter().chain(unlisted.values().map(|(host, _)| host)) {
            host.pool.set(PoolSettings::of(config));
        }
        if self.config.borrow().balancing != config.balancing {
            self.balancer.replace(Balancer::new(config.balancing));
        }
        drop((unlisted, members));
        self.config.replace(Arc::clone(config));
        self.follow_checks(before.as_ref());
    }

    fn follow_endpoints(&self, now: Moment) {
        let endpoints = {
            let config = self.config.borrow();
            let current = config.endpoints.load();
            if self.members.borrow().is_of(&current) {
                return;
            }
            Arc::clone(&current)
        };
        let allowed = self.members.borrow().availability().allowed();
        let is_available = |host: &Host| self.is_available(host, now) && allowed.allows(host);
        let is_late = !self.members.borrow().hosts().is_empty();
        self.members.borrow_mut().follow(endpoints, is_available, |endpoint, before| {
            let target = self.target(endpoint);
            match before.filter(|host| *host.pool.target() == target) {
                Some(host) if host.is(endpoint) => Rc::clone(host),
                before => Rc::new(self.host(endpoint, target, before.map(|host| &**host), is_late)),
            }
        });
        self.run_checks();
    }

    fn target(&self, endpoint: &Endpoint) -> Target {
        let tls = match &endpoint.transport {
            Transport::Plain => None,
            Transport::Tls(tls) => {
                let identities = endpoint.expected_peers().unwrap_or_else(|| Arc::<[SpiffeId]>::from([]));
                let server_name = tls.sni.clone().unwrap_or_else(|| self.name.clone());
                let peer = ExpectedPeer::Workload { identities, server_name };
                Some(TlsTarget { peer, alpn: tls.alpn.clone(), mesh: tls.is_mesh() })
            }
            Transport::Host(tls) => {
                let peer = ExpectedPeer::Host(Arc::clone(tls));
                Some(TlsTarget { peer, alpn: tls.alpn.clone(), mesh: false })
            }
        };
        let is_original = matches!(self.config.borrow().discovery, Discovery::OriginalDestination(_));
        Target { address: EndpointAddress(endpoint.address), is_original, tls }
    }

    /// Creates the host of `endpoint`. Connections and unanswered requests of the one `before` are kept.
    fn host(&self, endpoint: &Endpoint, target: Target, before: Option<&Host>, is_late: bool) -> Host {
        let pool = before.map(|host| Rc::clone(&host.pool)).unwrap_or_else(|| {
            let config = self.config.borrow();
            Pool::new(
                target,
                PoolSettings::of(&config),
                Rc::clone(&self.dialer),
                Rc::clone(&self.bounds),
                Rc::clone(&self.pools),
                Rc::clone(&self.of_worker),
                Arc::clone(&self.series),
            )
        });
        let now = Instant::now();
        let silence = before.map(|host| Rc::clone(&host.silence));
        let silence = silence.unwrap_or_else(|| Rc::new(Silence::new(Rc::clone(&self.answers), now)));
        let since = before.map_or(now, |host| host.since);
        Host {
            address: endpoint.address,
            instance: endpoint.instance.clone(),
            weight: endpoint.weight,
            status: endpoint.health,
            since,
            is_late: before.map_or(is_late, |host| host.is_late),
            takes_new: matches!(endpoint.health, HealthStatus::Healthy | HealthStatus::Degraded),
            load: Load::new(endpoint.weight, now),
            silence,
            health: self.state.health(endpoint.address),
            checked: RefCell::new(self.checked(endpoint)),
            pool,
        }
    }

    fn tidy(&self, now: Instant) {
        let moment = Moment::at(now, &self.shared);
        self.follow_endpoints(moment);
        self.count_all_hosts(moment);
        self.run_checks();
        self.bounds.tidy();
        self.overload.round();
        self.compare();
        for host in self.members.borrow().hosts() {
            host.pool.tidy(now);
            // No request has observed these failures, since each found another host in time.
            let failures = host.pool.take_unseen_failures();
            // A host in doubt is judged by its responses.
            for _ in 0..if host.doubt(now).is_some() { 0 } else { failures } {
                host.load.failed(now);
                self.observe(host, Outcome::LocalOrigin);
            }
        }
        self.unlisted.borrow_mut().retain(|_, (host, used)| {
            host.pool.tidy(now);
            now.duration_since(*used) < FORGOTTEN || host.load.in_flight() > 0
        });
    }

    fn is_quiet(&self) -> bool {
        self.members.borrow().hosts().iter().all(|host| host.load.in_flight() == 0)
            && self.unlisted.borrow().is_empty()
    }
}

#[cfg(test)]
mod tests;
