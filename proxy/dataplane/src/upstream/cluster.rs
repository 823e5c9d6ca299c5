//! One cluster as one worker sees it: hosts with their connections and loads, which outlive snapshots.
//!
//! Endpoints are read at each pick. A host stays the same through every update that leaves its address and its way of
//! speaking alone, with its connections; one that left is retired: its idle connections close, the others finish.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};
use outrigger_config::cluster::{Balancing, Cluster as Config, Discovery, UpstreamProtocol};
use outrigger_config::endpoint::{Endpoint, Endpoints, HealthStatus, Transport};
use outrigger_core::Name;
use outrigger_core::error::{Failure, Reached};
use outrigger_core::identity::SpiffeId;
use outrigger_core::peer::PeerKey;
use outrigger_core::reason::Reason;
use outrigger_policy::outlier::{Ejected, Health, Outcome};
use outrigger_policy::retry_budget::Retrying;
use tokio::time::Instant;

use super::answers::Answers;
use super::balance::{self, Comparison, Load};
use super::bounds::{Bounds, Peer, Room};
use super::dial::{Dialer, Target, TlsTarget};
use super::groups::Groups;
use super::host::Host;
use super::pool::{Pool, Settings, Siblings, Speaks};
use super::shared::{EndpointLoad, SharedCluster, SharedClusters};
use super::silence::Silence;
use crate::capacity::budget::ConnectionBudget;
use crate::metrics::{ClusterSeries, WorkerMetrics};
use crate::socket::address::EndpointAddress;

/// A cluster that was not used for so long, and hosts of no list, are forgotten.
const FORGOTTEN: Duration = Duration::from_secs(120);

/// All clusters that one worker uses.
#[derive(Debug)]
pub(crate) struct Clusters {
    clusters: RefCell<HashMap<Name, Rc<Cluster>>>,
    shared: Arc<SharedClusters>,
    metrics: Arc<WorkerMetrics>,
    dialer: Rc<Dialer>,
    budget: Arc<ConnectionBudget>,
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
    /// The endpoints that `hosts` were made of.
    endpoints: RefCell<Option<Arc<Endpoints>>>,
    hosts: RefCell<Rc<[Rc<Host>]>>,
    /// How `hosts` are grouped.
    groups: RefCell<Rc<Groups>>,
    /// Hosts that no list names (original destinations, resolved names), and when each was last asked for.
    unlisted: RefCell<HashMap<SocketAddr, (Rc<Host>, Instant)>>,
    bounds: Rc<Bounds>,
    pools: Siblings,
    state: Arc<SharedCluster>,
    shared: Arc<SharedClusters>,
    dialer: Rc<Dialer>,
    used: Cell<Instant>,
    turn: Cell<usize>,
    answers: Rc<Answers>,
}

/// What a pick has found.
#[derive(Debug)]
pub(crate) struct Picked {
    /// Where the next attempt goes.
    pub(crate) host: Rc<Host>,
    /// Another host that was met on the way, of which it is in doubt whether it still answers.
    pub(crate) doubted: Option<Rc<Host>>,
}

/// Whether a request may find out how a host is whose ejection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probing {
    /// No: nobody counts how it ends.
    Never,
    /// Where no better one comes: it may be lost.
    Uncovered,
    /// Yes: it can be sent again.
    Covered,
}

impl Clusters {
    /// No clusters yet.
    pub(crate) fn new(
        shared: Arc<SharedClusters>,
        metrics: Arc<WorkerMetrics>,
        dialer: Rc<Dialer>,
        budget: Arc<ConnectionBudget>,
    ) -> Rc<Self> {
        Rc::new(Self { clusters: RefCell::default(), shared, metrics, dialer, budget })
    }

    /// The state of the cluster that `config` describes, brought up to date with it.
    pub(crate) fn cluster(&self, config: &Arc<Config>) -> Rc<Cluster> {
        if let Some(cluster) = self.clusters.borrow().get(&config.name) {
            cluster.follow(config);
            return Rc::clone(cluster);
        }
        let state = self.shared.cluster(&config.name);
        let cluster = Rc::new(Cluster {
            name: config.name.clone(),
            series: self.metrics.cluster(&config.name),
            metrics: Arc::clone(&self.metrics),
            config: RefCell::new(Arc::clone(config)),
            endpoints: RefCell::default(),
            hosts: RefCell::new(Rc::default()),
            groups: RefCell::default(),
            unlisted: RefCell::default(),
            bounds: Bounds::new(config.breakers.clone(), Arc::clone(&state.in_use), Arc::clone(&self.budget)),
            pools: Siblings::default(),
            state,
            shared: Arc::clone(&self.shared),
            dialer: Rc::clone(&self.dialer),
            used: Cell::new(Instant::now()),
            turn: Cell::new(0),
            answers: Rc::default(),
        });
        self.clusters.borrow_mut().insert(config.name.clone(), Rc::clone(&cluster));
        cluster
    }

    /// How busy this worker keeps each endpoint, for whoever asks on an admin port.
    pub(crate) fn loads(&self) -> Vec<EndpointLoad> {
        let now = Instant::now();
        let clusters = self.clusters.borrow();
        let hosts = clusters.values().flat_map(|cluster| {
            let hosts = Rc::clone(&cluster.hosts.borrow());
            let load = |host: &Rc<Host>| EndpointLoad {
                cluster: cluster.name.clone(),
                address: host.address,
                active: host.load.in_flight(),
                latency: host.latency(now),
            };
            hosts.iter().map(load).collect::<Vec<_>>()
        });
        hosts.collect()
    }

    /// Closes idle connections whose time is up, follows endpoints that left, forgets what is not used. Called every
    /// second; costs nothing per request.
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
    /// A permit for one request in flight of `peer`, counted for the retry budget.
    pub(crate) async fn admit(&self, peer: &PeerKey) -> Result<Room, Failure> {
        self.used.set(Instant::now());
        let room = self.bounds.request(peer).await.ok_or_else(|| {
            self.series.overflow.increment();
            Failure::upstream(
                Reason::UpstreamOverflow,
                Reached::NotWritten,
                "the bound on requests is reached",
            )
        })?;
        self.state.ledger.request(&self.config.borrow().breakers.retries, self.shared.now());
        Ok(room)
    }

    /// What `peer` holds of this cluster.
    pub(crate) fn peer(&self, peer: &PeerKey) -> Rc<Peer> {
        self.bounds.peer(peer)
    }

    /// Room in the retry budget for one retry.
    pub(crate) fn retry(&self) -> Option<Retrying> {
        let retrying = self.state.ledger.retry(&self.config.borrow().breakers.retries, self.shared.now());
        if retrying.is_none() {
            self.series.budget_exhausted.increment();
        }
        retrying
    }

    /// The host for the next attempt: none of those `tried` while there is another, none that is ejected or leaves requests
    /// unanswered while there is another. `original` is where the connection was going before it was redirected.
    /// `probing` says whether the request may find out how an ejected host is.
    pub(crate) fn pick(
        &self,
        tried: &[SocketAddr],
        original: Option<SocketAddr>,
        probing: Probing,
    ) -> Result<Picked, Failure> {
        let none = |why: &str| Failure::upstream(Reason::NoHealthyUpstream, Reached::NotWritten, why);
        if let Discovery::OriginalDestination(transport) = &self.config.borrow().discovery {
            let address = original.ok_or_else(|| none("the connection was not redirected"))?;
            return Ok(Picked { host: self.unlisted(address, transport), doubted: None });
        }
        self.follow_endpoints();
        let hosts = Rc::clone(&self.hosts.borrow());
        let now = self.shared.now();
        let clock = Instant::now();
        let doubted = Cell::new(None);
        let detects = self.config.borrow().outlier.is_some();
        if tried.is_empty()
            && let Some(host) = self.probed(&hosts, now, probing)
        {
            return Ok(Picked { host, doubted: None });
        }
        let serving = |host: &Rc<Host>| is_in_service(host) && !host.health.is_pushed_back(now);
        let doubt = |host: &Rc<Host>| detects.then(|| host.doubt(clock)).flatten();
        let answering = |host: &Rc<Host>| match doubt(host) {
            None => serving(host),
            Some(doubt) => {
                // Ejected for failures, or asking to be left alone: no silence that a request has to explain.
                if host.takes_new && (serving(host) || host.health.is_silent()) {
                    doubted.set(Some(Rc::clone(host)));
                }
                serving(host) && !doubt.avoided
            }
        };
        let fresh = |host: &Rc<Host>| !tried.contains(&host.address);
        let again = !tried.is_empty();
        // When nobody serves, everybody is asked: an ejection is a guess, and an error is certain. Before that those are asked
        // which work and want to be left alone.
        let host = self
            .choose(&hosts, answering, fresh)
            .or_else(|| again.then(|| self.choose(&hosts, answering, |_| true)).flatten())
            .or_else(|| self.choose(&hosts, serving, fresh))
            .or_else(|| again.then(|| self.choose(&hosts, serving, |_| true)).flatten())
            .or_else(|| self.choose(&hosts, |host| is_in_service(host), fresh))
            .or_else(|| self.draw(&hosts, |host| host.takes_new && fresh(host)))
            .or_else(|| self.draw(&hosts, |host| host.takes_new))
            .ok_or_else(|| {
                none(if hosts.is_empty() { "the cluster has no endpoint" } else { "no endpoint is healthy" })
            })?;
        Ok(Picked { host, doubted: doubted.take() })
    }

    /// A pair has failed: another host answered the request that `host` leaves unanswered. Wakes who waits for it, and ejects
    /// it when that goes on.
    pub(crate) fn found_silent(&self, host: &Host) {
        host.silence.pair_failed();
        tracing::debug!(cluster = %self.name, endpoint = %host.address, "endpoint is silent while another answers");
        self.weigh_silence(host);
    }

    /// Ejects a host whose silence is long and sure enough.
    pub(crate) fn weigh_silence(&self, host: &Host) {
        let hosts = Rc::clone(&self.hosts.borrow());
        let waiting = hosts.iter().map(|host| host.load.in_flight()).fold(0, u32::saturating_add);
        let others = waiting.saturating_sub(host.load.in_flight());
        if !host.is_proven_silent(Instant::now(), others) {
            return;
        }
        let config = self.config.borrow();
        let Some(outlier) = &config.outlier else { return };
        if outlier.eject_silent(&host.health, hosts.len()) {
            self.metrics.ejected(&self.name, "silence");
            tracing::info!(
                cluster = %self.name,
                endpoint = %host.address,
                kind = "silence",
                "endpoint ejected: it answers nothing while others do"
            );
        }
    }

    /// A host whose ejection is over and of which it is not known yet whether it is well.
    fn probed(&self, hosts: &[Rc<Host>], now: Duration, probing: Probing) -> Option<Rc<Host>> {
        if probing == Probing::Never || self.state.ejections.now() == 0 {
            return None;
        }
        let covered = probing == Probing::Covered;
        hosts.iter().find(|host| host.takes_new && host.health.claim_probe(now, covered)).map(Rc::clone)
    }

    /// An endpoint asks to be left alone.
    pub(crate) fn push_back(&self, host: &Host, pushback: Duration) {
        host.health.push_back(pushback, self.shared.now());
        tracing::debug!(cluster = %self.name, endpoint = %host.address, ?pushback, "endpoint pushes back");
    }

    /// The host at `address`, which no endpoint list names.
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
            };
            Rc::new(self.host(&endpoint, self.target(&endpoint), None))
        };
        let (host, used) = unlisted.entry(address).or_insert_with(|| (made(), now));
        *used = now;
        Rc::clone(host)
    }

    /// Counts how a try ended, which may eject its host.
    pub(crate) fn observe(&self, host: &Host, outcome: Outcome) {
        if outcome == Outcome::Success {
            self.state.ledger.succeeded();
        }
        let config = self.config.borrow();
        let Some(outlier) = &config.outlier else { return };
        let hosts = self.hosts.borrow();
        let (now, sample) = (self.shared.now(), fastrand::u32(..));
        if let Some(ejected) = outlier.observe(&host.health, outcome, healths(&hosts), now, sample) {
            self.tell(host, ejected);
        }
    }

    /// The same of an attempt that was counted as a success when the head of its answer came.
    pub(crate) fn observe_late(&self, host: &Host, outcome: Outcome) {
        let config = self.config.borrow();
        let Some(outlier) = &config.outlier else { return };
        let hosts = self.hosts.borrow();
        let (now, sample) = (self.shared.now(), fastrand::u32(..));
        if let Some(ejected) = outlier.observe_late(&host.health, outcome, healths(&hosts), now, sample) {
            self.tell(host, ejected);
        }
    }

    /// Compares the success rates of all hosts, where that is asked for and due.
    fn compare(&self) {
        let config = self.config.borrow();
        let Some(outlier) = &config.outlier else { return };
        let hosts = self.hosts.borrow();
        outlier.compare(
            &self.state.ejections,
            healths(&hosts),
            self.shared.now(),
            || fastrand::u32(..),
            |at, ejected| self.tell(&hosts[at], ejected),
        );
    }

    fn tell(&self, host: &Host, ejected: Ejected) {
        let Ejected { kind, span } = ejected;
        let kind = kind.name();
        self.metrics.ejected(&self.name, kind);
        tracing::info!(cluster = %self.name, endpoint = %host.address, kind, ?span, "endpoint ejected");
    }

    /// In which version a request goes to an endpoint that is no sidecar, where the client speaks `downstream`.
    pub(crate) fn speaks(&self, downstream: http::Version) -> Speaks {
        match self.config.borrow().protocol {
            UpstreamProtocol::Http1 => Speaks::Http1,
            UpstreamProtocol::Http2 => Speaks::Http2,
            UpstreamProtocol::AsDownstream if downstream == http::Version::HTTP_2 => Speaks::Http2,
            UpstreamProtocol::AsDownstream => Speaks::Http1,
            UpstreamProtocol::Negotiated => Speaks::Negotiated,
        }
    }

    /// One of those that serve and are wanted, by priority, health, locality and weight where the cluster has them.
    fn choose(
        &self,
        hosts: &[Rc<Host>],
        serves: impl Fn(&Rc<Host>) -> bool,
        wanted: impl Fn(&Rc<Host>) -> bool,
    ) -> Option<Rc<Host>> {
        let groups = Rc::clone(&self.groups.borrow());
        if groups.is_plain() {
            return self.draw(hosts, |host| wanted(host) && serves(host));
        }
        let candidates = groups.candidates(|at| serves(&hosts[at]), |at| wanted(&hosts[at]), fastrand::f64);
        let weight = |at: usize| hosts[at].weight;
        let below = |below| fastrand::u64(..below);
        let any = || fastrand::choice(&candidates).copied();
        let picked = self.compared(hosts, |balancing, by| match balancing {
            Balancing::PeakEwma => balance::pick_by_weight(&candidates, 2, weight, by, below),
            Balancing::LeastRequest { choices } => {
                balance::pick_by_weight(&candidates, choices, weight, by, below)
            }
            Balancing::RoundRobin if groups.weights_differ => {
                balance::pick_by_weight(&candidates, 1, weight, by, below)
            }
            Balancing::RoundRobin => {
                let turn = self.turn.get();
                let next = candidates.iter().find(|at| **at >= turn).or(candidates.first()).copied();
                self.turn.set(next.map_or(0, |at| at + 1));
                next.map(|next| by.unless_failing(next, any))
            }
            Balancing::Random => any().map(|at| by.unless_failing(at, any)),
        });
        picked.map(|index| Rc::clone(&hosts[index]))
    }

    fn draw(&self, hosts: &[Rc<Host>], usable: impl Fn(&Rc<Host>) -> bool) -> Option<Rc<Host>> {
        let usable = |index: usize| usable(&hosts[index]);
        let below = |below: usize| fastrand::usize(..below);
        let picked = self.compared(hosts, |balancing, by| match balancing {
            Balancing::PeakEwma => balance::pick(hosts.len(), 2, by, usable, below),
            Balancing::LeastRequest { choices } => balance::pick(hosts.len(), choices, by, usable, below),
            Balancing::RoundRobin => {
                let from = |turn: usize| {
                    (0..hosts.len()).map(|step| (turn + step) % hosts.len()).find(|at| usable(*at))
                };
                let next = from(self.turn.get());
                self.turn.set(next.map_or(0, |at| at + 1));
                next.map(|at| by.unless_failing(at, || from(below(hosts.len()))))
            }
            Balancing::Random => balance::pick(hosts.len(), 1, by, usable, below),
        });
        picked.map(|index| Rc::clone(&hosts[index]))
    }

    /// Calls `pick` with how the cluster balances and how its hosts compare for that.
    fn compared(
        &self,
        hosts: &[Rc<Host>],
        pick: impl FnOnce(Balancing, Comparison<'_>) -> Option<usize>,
    ) -> Option<usize> {
        let now = Instant::now();
        let balancing = self.config.borrow().balancing;
        let cost = |at: usize| match balancing {
            Balancing::PeakEwma => hosts[at].cost(now),
            Balancing::LeastRequest { .. } => hosts[at].load.queue(),
            Balancing::RoundRobin | Balancing::Random => 0.0,
        };
        let failing = |at: usize| hosts[at].load.failing.at(now);
        pick(balancing, Comparison { cost: &cost, failing: &failing, chance: &fastrand::f64 })
    }

    fn follow(&self, config: &Arc<Config>) {
        if Arc::ptr_eq(&self.config.borrow(), config) {
            return;
        }
        self.bounds.set_limits(config.breakers.clone());
        let unlisted = self.unlisted.borrow();
        for host in self.hosts.borrow().iter().chain(unlisted.values().map(|(host, _)| host)) {
            host.pool.set(Settings::of(config));
        }
        self.config.replace(Arc::clone(config));
    }

    fn follow_endpoints(&self) {
        let endpoints = {
            let config = self.config.borrow();
            let current = config.endpoints.load();
            if self.endpoints.borrow().as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &current)) {
                return;
            }
            Arc::clone(&current)
        };
        let mut before: HashMap<SocketAddr, Rc<Host>> = HashMap::new();
        before.extend(self.hosts.borrow().iter().map(|host| (host.address, Rc::clone(host))));
        let mut hosts = Vec::with_capacity(endpoints.list.len());
        for endpoint in &endpoints.list {
            let target = self.target(endpoint);
            let same = before.remove(&endpoint.address).filter(|host| *host.pool.target() == target);
            hosts.push(match same {
                Some(host) if host.is(endpoint) => host,
                Some(host) => Rc::new(self.host(endpoint, target, Some(&host))),
                None => Rc::new(self.host(endpoint, target, None)),
            });
        }
        let kept: Vec<_> = hosts.iter().map(|host| Rc::clone(&host.pool)).collect();
        let old = self.hosts.replace(hosts.into());
        self.groups.replace(Rc::new(Groups::new(&endpoints)));
        for host in old.iter().filter(|host| !kept.iter().any(|pool| Rc::ptr_eq(pool, &host.pool))) {
            host.pool.retire();
        }
        self.endpoints.replace(Some(endpoints));
    }

    fn target(&self, endpoint: &Endpoint) -> Target {
        let tls = match &endpoint.transport {
            Transport::Plain => None,
            Transport::Tls(tls) => Some(TlsTarget {
                identities: endpoint.expected_peers().unwrap_or_else(|| Arc::<[SpiffeId]>::from([])),
                server_name: tls.sni.clone().unwrap_or_else(|| self.name.clone()),
                alpn: tls.alpn.clone(),
                mesh: tls.is_mesh(),
            }),
        };
        Target { address: EndpointAddress(endpoint.address), tls }
    }

    /// The host of `endpoint`. One that was there `before` keeps its connections, and what it left unanswered.
    fn host(&self, endpoint: &Endpoint, target: Target, before: Option<&Host>) -> Host {
        let pool = before.map(|host| Rc::clone(&host.pool)).unwrap_or_else(|| {
            let config = self.config.borrow();
            Pool::new(
                target,
                Settings::of(&config),
                Rc::clone(&self.dialer),
                Rc::clone(&self.bounds),
                Rc::clone(&self.pools),
                Arc::clone(&self.series),
            )
        });
        let now = Instant::now();
        let silence = before.map(|host| Rc::clone(&host.silence));
        let silence = silence.unwrap_or_else(|| Rc::new(Silence::new(Rc::clone(&self.answers), now)));
        Host {
            address: endpoint.address,
            instance: endpoint.instance.clone(),
            weight: endpoint.weight,
            takes_new: matches!(endpoint.health, HealthStatus::Healthy | HealthStatus::Degraded),
            load: Load::new(endpoint.weight, now),
            silence,
            health: self.state.health(endpoint.address),
            pool,
        }
    }

    fn tidy(&self, now: Instant) {
        self.follow_endpoints();
        self.bounds.tidy();
        self.compare();
        let hosts = Rc::clone(&self.hosts.borrow());
        for host in hosts.iter() {
            host.pool.tidy(now);
            // Requests that found another host in time have not seen these.
            let failures = host.pool.take_unseen_failures();
            // A host in doubt is judged by what it answers.
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
        self.hosts.borrow().iter().all(|host| host.load.in_flight() == 0) && self.unlisted.borrow().is_empty()
    }
}

/// Whether a host takes requests and is not ejected.
fn is_in_service(host: &Host) -> bool {
    host.takes_new && host.health.is_serving()
}

/// What all workers know of hosts.
fn healths(hosts: &[Rc<Host>]) -> impl Iterator<Item = &Health> + Clone {
    hosts.iter().map(|host| &*host.health)
}
