//! A real worker over real loopback sockets, with a snapshot built by hand, and small applications behind it.

#![allow(dead_code, reason = "each test file uses some of it")]
#![allow(missing_docs, unreachable_pub, reason = "nobody outside the tests sees it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

pub mod frames;
pub mod hedged;
pub mod names;
pub mod sidecar;
pub mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use outrigger_config::cluster::{
    Balancing, Cluster, ConnectionSettings, Discovery, EndpointsHandle, UpstreamProtocol,
};
use outrigger_config::destination::Destination;
use outrigger_config::endpoint::{Endpoint, Endpoints, HealthStatus, Transport};
use outrigger_config::http_manager::{Codec, HttpConnectionManager, HttpSettings, RouteSource};
use outrigger_config::listener::{
    DestinationBy, DestinationFinder, FilterChain, Handler, Listener, NetworkFilter, UnknownDestination,
};
use outrigger_config::on_demand::{OnDemand, OnDemandFeed, OnDemandLimits, Resolution};
use outrigger_config::publish::Published;
use outrigger_config::route::{Forward, Route, RouteAction, RouteMatcher, RouteTable};
use outrigger_config::secrets::SecretStore;
use outrigger_config::snapshot::Snapshot;
use outrigger_config::tcp_proxy::TcpProxy;
use outrigger_core::drain::{Drained, Drains};
use outrigger_core::record::{Direction, RequestRecord};
use outrigger_core::trace::Tracing;
use outrigger_dataplane::metrics::{Registry, Totals};
use outrigger_dataplane::worker::{self, ActiveListener, ListenerSource, WorkerConfig};
use outrigger_dataplane::{ConnectionBudget, ListenerGroup, Resolver, SharedClusters, Sinks};
use outrigger_policy::circuit_breaker::CircuitBreakers;
use outrigger_policy::retry::RetryPolicy;
use outrigger_policy::rewrite::Rewrite;
use outrigger_policy::timeout::Timeouts;
use outrigger_policy::upgrade::Upgrades;
use outrigger_policy::weighted_cluster::WeightedClusters;
use outrigger_proto::xds::{protobuf, route};
use tokio::sync::{mpsc, watch};

/// A snapshot in the making.
pub struct World {
    pub snapshot: Snapshot,
    /// The worker's own listeners, bound to free ports.
    own: Vec<Listener>,
    pub secrets: SecretStore,
    pub wildcard: bool,
    pub connections: Arc<ConnectionBudget>,
    /// Whether spans are exported.
    pub traced: bool,
    /// Whether there is an access log; [`Proxy::record`] reads it.
    pub logged: bool,
    /// Knows `localhost` only, unless it is replaced.
    resolver: Resolver,
}

/// A running worker.
pub struct Proxy {
    pub registry: Arc<Registry>,
    pub published: Published,
    pub records: mpsc::Receiver<Arc<RequestRecord>>,
    pub shared: Arc<SharedClusters>,
    pub feed: OnDemandFeed,
    addresses: Vec<SocketAddr>,
    drains: Drains,
    /// `None` on the test's own thread.
    thread: Option<std::thread::JoinHandle<()>>,
    listeners: watch::Sender<Arc<[ActiveListener]>>,
}

impl World {
    pub fn new() -> Self {
        Self {
            snapshot: Snapshot::default(),
            own: Vec::new(),
            secrets: SecretStore::new(),
            wildcard: true,
            connections: ConnectionBudget::new(20_000, u32::MAX),
            traced: false,
            logged: true,
            resolver: names::localhost(),
        }
    }

    /// Without an access log.
    pub fn unlogged(self) -> Self {
        Self { logged: false, ..self }
    }

    /// Asks this name server.
    pub fn resolving(self, names: &names::NameServer) -> Self {
        Self { resolver: names.resolver(), ..self }
    }

    /// Exports spans; the records from which they are made come from [`Proxy::record`] as well.
    pub fn traced(self) -> Self {
        Self { traced: true, ..self }
    }

    /// A listener whose connections go where `by` says; the first one is `Proxy::address(0)`.
    pub fn listen(mut self, by: DestinationBy, unknown: UnknownDestination) -> Self {
        let finder = DestinationFinder { by, unknown, http: Arc::new(HttpSettings::default()) };
        self.own.push(listener(&format!("outbound-{}", self.own.len()), NetworkFilter::Find(finder)));
        self
    }

    /// The explicit proxy port.
    pub fn proxy(self) -> Self {
        self.listen(DestinationBy::Authority, UnknownDestination::Refuse)
    }

    /// A listener of any kind.
    pub fn own(mut self, listener: Listener) -> Self {
        self.own.push(listener);
        self
    }

    /// A cluster of plaintext HTTP/1 endpoints.
    pub fn cluster(self, name: &str, endpoints: &[SocketAddr]) -> Self {
        self.cluster_of(cluster(name, endpoints.iter().map(|address| endpoint(*address))))
    }

    pub fn cluster_of(mut self, cluster: Cluster) -> Self {
        self.snapshot.clusters.insert(cluster.name.clone(), Arc::new(cluster));
        self
    }

    /// An HTTP destination under `name` (`echo:80`), with one route.
    pub fn http(self, name: &str, action: RouteAction) -> Self {
        let handler = Handler::Http(manager(name, action));
        self.destination(name, handler)
    }

    /// An opaque destination.
    pub fn tcp(self, name: &str, cluster: &str) -> Self {
        self.destination(name, Handler::Tcp(tcp_proxy(name, cluster)))
    }

    pub fn destination(mut self, name: &str, handler: Handler) -> Self {
        let destination =
            Destination { name: name.into(), canonical: name.into(), handler, usage: Default::default() };
        self.snapshot.destinations.insert(name.into(), Arc::new(destination));
        self
    }

    /// Starts a worker on a thread of its own.
    pub fn start(self) -> Proxy {
        self.start_with(SharedClusters::new(), true)
    }

    /// Starts a worker on the test's own thread and clock, in its `LocalSet`. Where time is paused, it moves on whenever nothing
    /// happens on any socket.
    pub fn start_here(self) -> Proxy {
        self.start_with(SharedClusters::new(), false)
    }

    /// Starts one that shares what it knows of clusters with `other`, as workers of one process do.
    pub fn start_beside(self, other: &Proxy) -> Proxy {
        self.start_with(Arc::clone(&other.shared), true)
    }

    fn start_with(self, shared: Arc<SharedClusters>, on_a_thread: bool) -> Proxy {
        let published = Published::new(Arc::new(self.snapshot));
        let resolution = if self.wildcard {
            Resolution::Wildcard {
                namespace: Arc::new(std::sync::OnceLock::from(outrigger_core::Name::from("shop"))),
                cluster_domain: "cluster.local".into(),
            }
        } else {
            Resolution::OnDemand
        };
        let (on_demand, feed) = OnDemand::new(OnDemandLimits::default(), resolution, published.clone());
        let lent: Vec<_> = (self.own.into_iter())
            .map(|listener| {
                let group = ListenerGroup::bind(listener.name.clone(), listener.address, 1).unwrap();
                let config =
                    ListenerSource::Fixed(Arc::new(Listener { address: group.address(), ..listener }));
                ActiveListener { group: Arc::new(group), config }
            })
            .collect();
        let addresses = lent.iter().map(|lent| lent.group.address()).collect();
        let (listeners, receiver) = watch::channel(Arc::from(lent));
        let (registry, drains) = (Registry::new(), Drains::new());
        let (log, records) = mpsc::channel(100_000);
        let spans = self.traced.then(|| mpsc::channel(1).0);
        let config = WorkerConfig {
            id: 0,
            published: published.clone(),
            on_demand,
            secrets: self.secrets,
            listeners: receiver,
            resolver: self.resolver,
            drain: drains.guards(),
            registry: Arc::clone(&registry),
            sinks: Sinks { log: self.logged.then_some(log), spans, ..Sinks::default() },
            clusters: Arc::clone(&shared),
            tracing: Tracing::DEFAULT,
            connections: self.connections,
        };
        let thread = if on_a_thread {
            Some(std::thread::spawn(move || worker::run(config).unwrap()))
        } else {
            tokio::task::spawn_local(worker::serve(config));
            None
        };
        Proxy { registry, published, records, shared, feed, addresses, drains, thread, listeners }
    }
}

impl Proxy {
    pub fn address(&self, listener: usize) -> SocketAddr {
        self.addresses[listener]
    }

    pub fn totals(&self) -> Totals {
        self.registry.totals()
    }

    /// The next finished request.
    pub async fn record(&mut self) -> Arc<RequestRecord> {
        tokio::time::timeout(Duration::from_secs(5), self.records.recv()).await.unwrap().unwrap()
    }

    /// Takes all listeners away. Their sockets stay bound.
    pub fn forget_listeners(&self) {
        self.listeners.send_replace(Arc::from([]));
    }

    /// Drains, as when the application needs its way out no more once inbound has drained.
    pub async fn drain(self, within: Duration) -> Drained {
        self.drain_when(within, async {}).await
    }

    /// Drains; outbound when `unneeded` resolves after inbound.
    pub async fn drain_when(self, within: Duration, unneeded: impl Future<Output = ()>) -> Drained {
        let deadline = tokio::time::Instant::now() + within;
        let drained = self.drains.drain(deadline, Duration::ZERO, unneeded).await;
        if let (Drained::Complete, Some(thread)) = (drained, self.thread) {
            tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap();
        }
        drained
    }
}

pub fn listener(name: &str, filter: NetworkFilter) -> Listener {
    Listener {
        name: name.into(),
        address: "127.0.0.1:0".parse().unwrap(),
        direction: Direction::Outbound,
        original_dst: false,
        first_bytes_timeout: Duration::from_secs(1),
        continue_on_timeout: true,
        detects_http: false,
        chains: Box::default(),
        default_chain: Some(FilterChain {
            name: "default".into(),
            matcher: Default::default(),
            tls: None,
            handshake_timeout: None,
            connection_filters: Box::default(),
            filter,
        }),
    }
}

pub fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint {
        address,
        health: HealthStatus::Healthy,
        weight: 1,
        locality_weight: None,
        locality: Default::default(),
        priority: 0,
        transport: Transport::Plain,
        identity: None,
        instance: None,
        workload_version: None,
        hash_key: None,
        health_check: Default::default(),
    }
}

pub fn endpoints(list: impl IntoIterator<Item = Endpoint>) -> Endpoints {
    static VERSION: AtomicU64 = AtomicU64::new(1);
    let list = list.into_iter().map(Arc::new).collect();
    Endpoints::new(VERSION.fetch_add(1, Ordering::Relaxed), list, 140, None)
}

pub fn cluster(name: &str, list: impl IntoIterator<Item = Endpoint>) -> Cluster {
    let handle = EndpointsHandle::default();
    handle.store(endpoints(list));
    Cluster {
        name: name.into(),
        discovery: Discovery::Static,
        endpoints: handle,
        connect_timeout: Duration::from_secs(1),
        breakers: CircuitBreakers::decode(None).unwrap(),
        overload: Default::default(),
        hedging: None,
        outlier: None,
        balancing: Balancing::PeakEwma,
        slow_start: None,
        hash_policies: Default::default(),
        health_check: None,
        panic: Default::default(),
        session_statuses: Default::default(),
        protocol: UpstreamProtocol::Http1,
        connections: ConnectionSettings {
            idle_timeout: None,
            max_duration: None,
            max_requests: None,
            max_concurrent_streams: 100,
            initial_stream_window: 65_536,
            initial_connection_window: 65_536,
        },
    }
}

pub fn tcp_proxy(name: &str, cluster: &str) -> Arc<TcpProxy> {
    Arc::new(TcpProxy {
        destination: Some(name.into()),
        clusters: WeightedClusters::one(cluster.into()).unwrap(),
        hash_policies: Default::default(),
        idle_timeout: Some(Duration::from_secs(60)),
        max_duration: None,
        max_connect_attempts: 2,
    })
}

pub fn manager(name: &str, action: RouteAction) -> Arc<HttpConnectionManager> {
    let route = Route {
        name: format!("httproute/shop/{name}/0/0").into(),
        template: None,
        matcher: RouteMatcher::any(),
        action,
        request_headers: Default::default(),
        response_headers: Default::default(),
        filters: Default::default(),
    };
    Arc::new(HttpConnectionManager {
        destination: Some(name.into()),
        codec: Codec::Auto,
        routes: RouteSource::Inline(Arc::new(RouteTable::for_any_host(name.into(), vec![Arc::new(route)]))),
        filters: Box::default(),
        upgrades: Upgrades::any(),
        settings: Arc::new(HttpSettings::default()),
    })
}

/// A forward to one cluster with the default retries.
pub fn forward(cluster: &str) -> RouteAction {
    RouteAction::Forward(Box::new(to(cluster)))
}

/// The same, to be changed before it becomes an action.
pub fn to(cluster: &str) -> Forward {
    forward_to(WeightedClusters::one(cluster.into()).unwrap())
}

pub fn forward_to(clusters: WeightedClusters) -> Forward {
    Forward {
        clusters,
        cluster_not_found: http::StatusCode::INTERNAL_SERVER_ERROR,
        timeouts: Timeouts::DEFAULT,
        retry: Some(retries(2)),
        attempts: Default::default(),
        rewrite: Rewrite::default(),
        upgrades: Upgrades::default(),
        hash_policies: Default::default(),
        mirrors: Box::default(),
        descriptors: Default::default(),
    }
}

/// What the control plane writes on every route without retries of its own.
pub fn retries(num_retries: u32) -> RetryPolicy {
    retries_on("connect-failure,refused-stream,reset-before-request,idempotent-failure", num_retries)
}

pub fn retries_on(retry_on: &str, num_retries: u32) -> RetryPolicy {
    RetryPolicy::decode(route::RetryPolicy {
        retry_on: retry_on.into(),
        num_retries: Some(protobuf::UInt32Value { value: num_retries }),
        retry_back_off: Some(route::retry_policy::RetryBackOff {
            base_interval: Some(protobuf::Duration { seconds: 0, nanos: 1_000_000 }),
            max_interval: None,
        }),
        ..Default::default()
    })
    .unwrap()
}
