//! Starts and stops the process: binds all sockets, starts workers and tasks, runs, and shuts down in order.
//!
//! [`run`] is called by `outrigger-proxy` and `outrigger proxy`, [`run_embedded`] by programs that embed a proxy. The calling
//! thread becomes the control thread: its runtime runs discovery, admin, telemetry and signals, but no requests.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use outrigger_core::Name;
use outrigger_core::descriptors;
use outrigger_core::drain::{Drained, Drains};
use outrigger_dataplane::metrics::Registry;
use outrigger_dataplane::worker::WorkerConfig;
use outrigger_dataplane::{SharedClusters, Sinks};
use outrigger_discovery::Handle;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

use super::application::watch_applications;
use super::configuration::Configuration;
use super::dns;
use super::exporters::Exporters;
use super::memory_trim::MemoryTrim;
use super::run_loop::{Latches, RunLoop};
use super::shutdown::{DrainSchedule, FLUSH_TIMEOUT, InboundDrain, ShutdownSignals};
use super::workers::Workers;
use crate::admin;
use crate::admin::pages::{self, AdminState};
use crate::app_probes::AppProbes;
use crate::args::Args;
use crate::bootstrap::Bootstrap;
use crate::dns::DnsSocket;
use crate::error::Error;
use crate::inherited::InheritedSockets;
use crate::readiness::Readiness;
use crate::sockets::{self, Sockets};
use crate::telemetry::access_log::{self, AccessLogThread, RecordSender};
use crate::telemetry::local_identity::LocalIdentity;
use crate::telemetry::losses::Losses;
use crate::telemetry::metrics::Sources;
use crate::telemetry::otlp::environment::Environment;
use crate::telemetry::otlp::settings::Settings;
use crate::telemetry::own_log::{self, LevelHandle};

/// Controls for a program that embeds a proxy.
#[derive(Debug, Default)]
pub struct Embedding {
    /// Receives the proxy's addresses once it listens.
    pub bound: Option<oneshot::Sender<Addresses>>,
    /// A value of true starts the drain, as SIGTERM does.
    pub stop: Option<watch::Receiver<bool>>,
    /// Bound sockets, each for the flag that has its address.
    pub sockets: Vec<OwnedFd>,
}

/// The addresses on which a proxy listens.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// The admin endpoint.
    pub admin: SocketAddr,
    /// The endpoint for scrapers and probes.
    pub metrics: Option<SocketAddr>,
    /// The DNS answerer.
    pub dns: Vec<SocketAddr>,
    /// Each listener by name: `outbound`, `bind|127.0.0.1:5000`, `inbound|127.0.0.1:9080`, `transparent-outbound`.
    pub listeners: Vec<(Name, SocketAddr)>,
}

/// Runs a proxy until a shutdown is requested.
///
/// Returns an error before any traffic is served if `args` are invalid or the machine does not satisfy them. Later it
/// returns an error only if a worker ends unexpectedly, or if a second signal cuts the drain short.
pub fn run(args: Args) -> Result<(), Error> {
    run_embedded(args, Embedding::default())
}

/// Like [`run`], but controlled by the embedding program. The proxy installs its own logging only if there is none.
pub fn run_embedded(args: Args, embedding: Embedding) -> Result<(), Error> {
    let (level, own_log) = own_log::install(&args.log, args.log_format);
    descriptors::raise_limit();
    args.check()?;
    readable("--control-plane-ca", &args.control_plane_ca)?;
    let instance = args.instance_name();
    // A service in another namespace is written `cart.shop`; telemetry has a separate attribute for the namespace.
    let service = args.service.first().and_then(|service| service.service.split('.').next());
    let otlp = Settings::read(&Environment::of_process(), args.trace_sampling, service, &instance)?;
    let losses = Arc::new(Losses::new(own_log.dropped()));
    let log = access_log::start(&args.access_log, args.access_log_format, Arc::clone(&losses))?;
    let Embedding { bound, stop, sockets } = embedding;
    let bootstrap = Bootstrap::new(&args, InheritedSockets::new(sockets))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("control-blocking")
        .build()
        .map_err(|source| Error::Start { what: "the control thread's runtime", source })?;
    let process = Process { args, instance, level, otlp, losses, log, bootstrap, bound, stop };
    let ended = runtime.block_on(process.run());
    // Do not wait for tasks that still block (an admin client, a stuck file).
    runtime.shutdown_background();
    ended
}

/// The control plane writes the file, so that it is missing until that has been started.
const CA_UNREADABLE: &str = "cannot be read (the control plane writes it as roots.pem to its --state-dir)";

fn readable(flag: &'static str, path: &std::path::Path) -> Result<(), Error> {
    let failed = |source| Error::Path { flag, path: path.to_owned(), problem: CA_UNREADABLE, source };
    std::fs::File::open(path).map(drop).map_err(failed)
}

/// What exists when the control runtime starts.
struct Process {
    args: Args,
    instance: String,
    level: LevelHandle,
    otlp: Settings,
    losses: Arc<Losses>,
    log: Option<(RecordSender, AccessLogThread)>,
    bootstrap: Bootstrap,
    bound: Option<oneshot::Sender<Addresses>>,
    stop: Option<watch::Receiver<bool>>,
}

/// The running parts; [`Running::shut_down`] stops them in order.
struct Running {
    discovery: Handle,
    /// Whether the workload serves anything, so that peers could send requests to it.
    offered: bool,
    inbound_drain: InboundDrain,
    /// Workers close a lent socket once its queue is empty, because closing it resets the queued connections.
    sockets: Sockets,
    drains: Drains,
    workers: Workers,
    exporters: Exporters,
    log: Option<AccessLogThread>,
    registry: Arc<Registry>,
    schedule: DrainSchedule,
}

impl Process {
    async fn run(self) -> Result<(), Error> {
        let Self { args, instance, level, otlp, losses, log, bootstrap, bound, stop } = self;
        let Bootstrap { admin, public, dns, listeners, sockets, ports, inbound } = bootstrap;
        let (drain_request, drain_requested) = watch::channel(false);
        let (inbound_drain_request, inbound_drain_requested) = watch::channel(false);
        let mut signals = ShutdownSignals::new(stop, drain_requested)?;
        let failed = |source| Error::Start { what: "signal handling", source };
        let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
        let app_probes = args.app_probes.clone().zip(args.pod_ip);
        let app_probes = app_probes.map(|(probes, pod_ip)| AppProbes::new(probes, pod_ip)).transpose()?;
        let readiness = Readiness::default();
        let latches = Latches::new(&readiness);

        let served = ports.clone();
        let configuration = Configuration::start(&args, &instance, &listeners, ports).await?;
        let Configuration { published, on_demand, binds, secrets, namespace, resolver, discovery } =
            configuration;
        let reader = discovery.reader();

        let known = secrets.clone();
        let identity = LocalIdentity::new(move || known.load().map(|secrets| secrets.identity.id.clone()));
        let Settings { tracing, workload, traces, metrics, logs } = otlp;
        let mut exporters = Exporters::new(workload, Arc::clone(&losses), identity.clone());
        let spans = traces.map(|traces| exporters.export_spans(traces));
        let otlp_log = logs.map(|logs| exporters.export_logs(logs));
        let (log_sender, log) = log.unzip();

        let mut sockets = Sockets::new(sockets, &listeners, args.workers.get());
        // Subscribed before the first read, so that no publication is missed.
        let snapshots = published.subscribe();
        sockets.follow(&published.load());
        let connections = sockets::budget(args.workers.get());
        let (drains, registry, clusters) = (Drains::new(), Registry::new(), SharedClusters::new());
        let dns_addresses = dns.iter().map(DnsSocket::address).collect();
        let queries = dns::start(dns, &args, on_demand.clone(), reader.clone())?;
        let mut workers = Workers::start(
            args.workers.get(),
            WorkerConfig {
                id: 0,
                published: published.clone(),
                on_demand,
                secrets: secrets.clone(),
                listeners: sockets.lent(),
                resolver,
                drain: drains.guards(),
                registry: Arc::clone(&registry),
                sinks: Sinks { log: log_sender, otlp_log, spans },
                clusters: Arc::clone(&clusters),
                tracing,
                connections,
            },
        )?;

        let failed = |source| Error::Start { what: "the admin endpoint", source };
        let admin = TcpListener::from_std(admin).map_err(failed)?;
        let public = public.map(TcpListener::from_std).transpose().map_err(failed)?;
        let addresses = Addresses {
            admin: admin.local_addr().map_err(failed)?,
            metrics: public.as_ref().map(TcpListener::local_addr).transpose().map_err(failed)?,
            dns: dns_addresses,
            listeners: sockets.addresses(),
        };
        let mesh = pages::gauges(reader.clone(), readiness.clone());
        let sources = Sources {
            workers: Arc::clone(&registry),
            clusters: Arc::clone(&clusters),
            losses,
            identity,
            mesh,
            queries,
        };
        if let Some(metrics) = metrics {
            exporters.export_metrics(metrics, sources.clone());
        }
        let admin_state = AdminState {
            readiness: readiness.clone(),
            metrics: sources,
            published: published.clone(),
            secrets: secrets.clone(),
            reader,
            clusters,
            level,
            drain: drain_request,
            drain_inbound: inbound_drain_request,
        };
        if let Some(listener) = public {
            tokio::spawn(admin::serve(listener, Arc::new(admin_state.public_pages(app_probes))));
        }
        tokio::spawn(admin::serve(admin, Arc::new(admin_state.pages())));
        let inbound_drain = InboundDrain::when(
            inbound_drain_requested,
            discovery.drain_registration(),
            drains.inbound_notice(),
        );
        tracing::info!(
            instance,
            admin = %addresses.admin,
            metrics = addresses.metrics.map(tracing::field::display),
            control_plane = args.control_plane.as_str(),
            version = env!("CARGO_PKG_VERSION"),
            "started"
        );
        if let Some(bound) = bound {
            let _ = bound.send(addresses);
        }

        let offered = !inbound.is_empty();
        let run_loop = RunLoop {
            latches,
            published,
            snapshots,
            binds,
            secrets,
            namespace,
            discovery: &discovery,
            sockets,
            inbound,
            applications: watch_applications(&served, Arc::clone(&registry)),
            readiness: readiness.clone(),
            log: log.as_ref(),
            memory_trim: MemoryTrim::new(Arc::clone(&registry)),
        };
        let (by, sockets) = run_loop.until_shutdown(&mut signals, &mut workers, &mut hangup).await?;
        tracing::info!(by, "draining");
        readiness.drain();
        let schedule = DrainSchedule::from_now(&args, &registry);
        let running = Running {
            discovery,
            offered,
            inbound_drain,
            sockets,
            drains,
            workers,
            exporters,
            log,
            registry,
            schedule,
        };
        tokio::select! {
            () = running.shut_down() => Ok(()),
            signal = signals.again() => Err(Error::Failed(format!("a second {signal} ended the drain early"))),
        }
    }
}

impl Running {
    /// Shuts down. Each step is bounded, so that it ends within the drain timeout plus a few seconds.
    async fn shut_down(self) {
        let leaving = async {
            let left = self.discovery.drain_registration().await;
            tracing::debug!(?left, "left discovery");
            self.inbound_drain.propagated(left, self.offered).await;
        };
        // A short drain timeout must also leave time for the running requests.
        let _ = tokio::time::timeout(self.schedule.deregistration_timeout(), leaving).await;
        self.sockets.close_unlent();
        let (deadline, notice) = (self.schedule.deadline(), self.schedule.notice());
        match self.drains.drain(deadline, notice, self.schedule.outbound_idle(&self.registry)).await {
            Drained::Complete => self.workers.joined().await,
            Drained::DeadlinePassed => {
                tracing::warn!("the drain timeout has passed: remaining requests and connections are closed")
            }
        }
        drop(self.sockets);
        // The workers have dropped their senders, so that all of these end by themselves.
        let flushed = async {
            self.exporters.finish().await;
            while self.log.as_ref().is_some_and(|log| !log.is_finished()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(FLUSH_TIMEOUT, flushed).await.is_err() {
            tracing::warn!("telemetry was not flushed in time");
        }
        if tokio::time::timeout(FLUSH_TIMEOUT, self.discovery.shutdown()).await.is_err() {
            tracing::warn!("configuration was not saved in time");
        }
        tracing::info!("drained");
    }
}
