//! One worker: a thread with its own runtime, accept loops, connection pools, balancers and counters.
//!
//! The server makes the thread and calls [`run`], which returns when both drains have started and the last
//! connection is done, or is cut off when the process ends. A direction that drains serves the connections that the kernel
//! has already accepted and refuses further ones. Nothing that a worker owns leaves its thread.

use std::cell::RefCell;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use outrigger_config::listener::Listener as ListenerConfig;
use outrigger_config::on_demand::OnDemand;
use outrigger_config::publish::Published;
use outrigger_config::secrets::SecretStore;
use outrigger_core::Name;
use outrigger_core::drain::{DrainGuard, Guards};
use outrigger_core::peer::PeerKey;
use outrigger_core::record::Direction;
use outrigger_core::trace::Tracing;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, LocalSet};

use crate::capacity::admission::Admission;
use crate::capacity::budget::ConnectionBudget;
use crate::codec::limits::Limits;
use crate::connection::{self, FirstSpeakers};
use crate::context::{self, Context};
use crate::identity::Identity;
use crate::metrics::{Registry, WorkerMetrics};
use crate::record::{Recorder, Sinks};
use crate::resolver::Resolver;
use crate::socket::listener::{Listener, ListenerGroup};
use crate::upstream::cluster::Clusters;
use crate::upstream::dial::Dialer;
use crate::upstream::shared::{Inquiry, SharedClusters};

/// How often idle connections and unused clusters are cleaned up.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(1);

/// The configuration of one worker. All workers share the handles in it.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Which worker this is, from 0: picks its member of each listener's group.
    pub id: usize,
    /// Where snapshots are published.
    pub published: Published,
    /// Requests destinations on demand.
    pub on_demand: OnDemand,
    /// The workload's certificate, key and roots.
    pub secrets: SecretStore,
    /// The current listening sockets of all workers.
    pub listeners: watch::Receiver<Arc<[ActiveListener]>>,
    /// Resolves names outside the mesh.
    pub resolver: Resolver,
    /// Every connection holds a clone of its side's; when that side's drain starts, accepting ends there.
    pub drain: Guards,
    /// Where this worker's metrics are registered.
    pub registry: Arc<Registry>,
    /// Where finished requests go.
    pub sinks: Sinks,
    /// The state of clusters that all workers share.
    pub clusters: Arc<SharedClusters>,
    /// Which traces are sampled.
    pub tracing: Tracing,
    /// How many connections the process may have open.
    pub connections: Arc<ConnectionBudget>,
}

/// The listening sockets of one listener, lent to the workers, and its configuration.
#[derive(Debug, Clone)]
pub struct ActiveListener {
    /// The sockets. The same group after an update means that the sockets stay.
    pub group: Arc<ListenerGroup>,
    /// How its connections are handled.
    pub config: ListenerSource,
}

/// Where a listener's configuration comes from.
#[derive(Debug, Clone)]
pub enum ListenerSource {
    /// The server's flags: it never changes.
    Fixed(Arc<ListenerConfig>),
    /// The current snapshot, under the group's name.
    Snapshot,
}

/// Runs a worker on this thread until it has drained.
///
/// Returns an error if no runtime can be built. A socket that cannot be accepted on is logged, and tried again with the
/// next update.
pub fn run(config: WorkerConfig) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(config))
}

/// Runs a worker within the caller's `LocalSet` until it has drained.
pub async fn serve(config: WorkerConfig) -> io::Result<()> {
    let WorkerConfig {
        id,
        published,
        on_demand,
        secrets,
        mut listeners,
        resolver,
        drain,
        registry,
        sinks,
        clusters,
        tracing,
        connections: budget,
    } = config;
    let metrics = registry.worker();
    let limits = Rc::<Limits>::default();
    let identity = Rc::new(Identity::new(secrets));
    let dialer = Rc::new(Dialer::new(Rc::clone(&identity), Rc::clone(&limits)));
    let (number, mut inquiries) = clusters.register();
    let clusters = Clusters::new(number, clusters, Arc::clone(&metrics), dialer, Arc::clone(&budget));
    let connections = Arc::clone(&budget);
    let mut called = pin!(connections.called_for_one());
    let passthrough = context::passthrough_cluster()
        .ok_or_else(|| io::Error::other("the default limits of a cluster are unusable"))?;
    let context = Rc::new(Context {
        view: published.view(),
        on_demand,
        clusters: Rc::clone(&clusters),
        identity,
        recorder: Recorder::new(metrics, sinks),
        resolver,
        limits,
        tracing,
        admission: Admission::new(budget),
        permissions: Rc::default(),
        passthrough,
        kept_bytes: Rc::default(),
        own_addresses: RefCell::default(),
    });
    let following = tokio::task::spawn_local({
        let context = Rc::clone(&context);
        async move { context.permissions.follow(&context.view).await }
    });
    let Guards { inbound, outbound } = drain;
    // Kept to the end, so that the outbound drain is complete when this worker is.
    let mut ending = outbound.clone();
    let mut accepting = Acceptors {
        id,
        context: Rc::clone(&context),
        first_speakers: Rc::default(),
        inbound: Some(inbound),
        outbound,
        loops: HashMap::default(),
        ended: Rc::default(),
    };
    let mut cleanup = tokio::time::interval(CLEANUP_INTERVAL);
    let mut watching = true;
    let mut snapshots = context.view.subscribe();
    clusters.follow_checked(&context.view.snapshot());
    accepting.follow(&listeners.borrow_and_update().clone());
    loop {
        tokio::select! {
            () = closing(&mut accepting.inbound) => {
                accepting.inbound = None;
                accepting.follow(&listeners.borrow_and_update().clone());
            }
            () = ending.closing() => break,
            changed = listeners.changed(), if watching => match changed {
                Ok(()) => accepting.follow(&listeners.borrow_and_update().clone()),
                // The server is gone; what listens goes on until drain.
                Err(_) => watching = false,
            },
            Ok(()) = snapshots.changed() => clusters.follow_checked(&context.view.snapshot()),
            _ = cleanup.tick() => clusters.tidy(),
            inquiry = inquiries.recv() => answer(inquiry, &clusters),
            () = &mut called => {
                // Before the look, so that no further call is missed.
                called.set(connections.called_for_one());
                clusters.make_way();
            }
        }
    }
    let Acceptors { loops, ended, .. } = accepting;
    // All at once: none goes on accepting while another closes.
    loops.values().for_each(Acceptor::close);
    for Acceptor { task, .. } in loops.into_values() {
        // What the kernel has accepted is served, before the last connection is waited for.
        let _ = task.await;
    }
    // Every connection is counted there until it has ended.
    let open = Arc::clone(context.recorder.metrics());
    while open.process.downstream_connections.value() > 0 {
        tokio::select! {
            () = ended.notified() => {}
            _ = cleanup.tick() => clusters.tidy(),
            inquiry = inquiries.recv() => answer(inquiry, &clusters),
        }
    }
    following.abort();
    Ok(())
}

/// Answers an inquiry with the load of this worker's clusters.
fn answer(inquiry: Option<Inquiry>, clusters: &Clusters) {
    // The other end lives as long as the process; the caller may be gone.
    if let Some(inquiry) = inquiry {
        let _ = inquiry.send(clusters.loads());
    }
}

/// Resolves when listeners of the side of `guard` close; never without one. Cancel-safe.
async fn closing(guard: &mut Option<DrainGuard>) {
    match guard {
        Some(guard) => guard.closing().await,
        None => std::future::pending().await,
    }
}

struct Acceptors {
    id: usize,
    context: Rc<Context>,
    first_speakers: Rc<FirstSpeakers>,
    /// `None` once inbound drains; no inbound connections are accepted then.
    inbound: Option<DrainGuard>,
    outbound: DrainGuard,
    loops: HashMap<Name, Acceptor>,
    /// Notified when a connection has ended.
    ended: Rc<Notify>,
}

/// A task that accepts connections. When it is dropped, accepting stops and the socket stays bound: clients wait in its
/// queue until the listener returns.
struct Acceptor {
    group: Arc<ListenerGroup>,
    direction: Direction,
    closing: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Acceptor {
    /// Tells the task to serve the connections that the kernel has already accepted, close its socket and end.
    fn close(&self) {
        self.closing.send_replace(true);
    }
}

impl Acceptors {
    /// Starts accepting on new listeners, stops on those that were removed or drain, and leaves the others alone.
    fn follow(&mut self, lent: &[ActiveListener]) {
        self.context.own_addresses.replace(lent.iter().map(|lent| lent.group.address()).collect());
        let open: Vec<_> = lent
            .iter()
            .filter_map(|lent| {
                let direction = self.direction(lent);
                Some((lent, direction, self.guard(direction)?))
            })
            .collect();
        let inbound_drains = self.inbound.is_none();
        self.loops.retain(|name, accept| {
            let stays = open.iter().any(|(lent, direction, _)| {
                lent.group.name() == name
                    && Arc::ptr_eq(&lent.group, &accept.group)
                    && *direction == accept.direction
            });
            if !stays
                && (accept.group.is_retired() || inbound_drains && accept.direction != Direction::Outbound)
            {
                accept.close();
            }
            stays
        });
        for (lent, direction, guard) in open {
            if self.loops.contains_key(lent.group.name()) {
                continue;
            }
            match lent.group.lend(self.id) {
                Ok(listener) => {
                    let (closing, told) = watch::channel(false);
                    let accepting = self.accept(listener, lent.config.clone(), guard, told);
                    let task = tokio::task::spawn_local(accepting);
                    let accept = Acceptor { group: Arc::clone(&lent.group), direction, closing, task };
                    self.loops.insert(lent.group.name().clone(), accept);
                }
                Err(error) => tracing::error!(listener = %lent.group.name(), %error, "cannot accept"),
            }
        }
    }

    /// Returns the traffic direction of a listener.
    fn direction(&self, lent: &ActiveListener) -> Direction {
        match &lent.config {
            ListenerSource::Fixed(config) => config.direction,
            ListenerSource::Snapshot => {
                let snapshot = self.context.view.snapshot();
                let listener = snapshot.listeners.get(lent.group.name());
                listener.map_or(Direction::Inbound, |listener| listener.direction)
            }
        }
    }

    /// Returns the guard that connections of that direction hold, or None if no more are accepted.
    fn guard(&self, direction: Direction) -> Option<DrainGuard> {
        match direction {
            // A gateway serves clients, as an inbound listener does.
            Direction::Inbound | Direction::Unspecified => self.inbound.clone(),
            Direction::Outbound => Some(self.outbound.clone()),
        }
    }

    /// Accepts until it is notified to close, or its [`Acceptor`] is dropped. Each connection is a task of its own, which ends with
    /// the connection. A connection that waits for admission is served or refused even if the listener closes meanwhile.
    fn accept(
        &self,
        listener: Listener,
        source: ListenerSource,
        guard: DrainGuard,
        mut closing: watch::Receiver<bool>,
    ) -> impl Future<Output = ()> + 'static {
        let (context, first_speakers) = (Rc::clone(&self.context), Rc::clone(&self.first_speakers));
        let ended = Rc::clone(&self.ended);
        let mut config = None;
        async move {
            loop {
                let accepted = if *closing.borrow() {
                    let Some(accepted) = listener.last().await else { return };
                    accepted
                } else {
                    tokio::select! {
                        accepted = listener.accept() => accepted,
                        told = closing.changed() => match told {
                            Ok(()) => continue,
                            Err(_) => return,
                        },
                    }
                };
                let metrics = Arc::clone(context.recorder.metrics());
                let process = &metrics.process;
                process.accept_errors.add(listener.take_errors());
                let newest = match &source {
                    ListenerSource::Fixed(config) => Some(Arc::clone(config)),
                    ListenerSource::Snapshot => {
                        context.view.snapshot().listeners.get(listener.name()).cloned()
                    }
                };
                // A listener that was just removed serves the clients it accepted before.
                config = newest.or(config);
                let Some(config) = config.clone() else { continue };
                process.downstream_connections_total.increment();
                let open = OpenConnection::new(&metrics, &ended);
                let peer = PeerKey::new(None, accepted.client.0.ip());
                let Some(slot) = context.admission.admit(&peer).await else {
                    process.downstream_connections_refused.increment();
                    continue;
                };
                let (context, first_speakers, guard) =
                    (Rc::clone(&context), Rc::clone(&first_speakers), guard.clone());
                tokio::task::spawn_local(async move {
                    let _open = open;
                    // Boxed, so that it is made where it stays, and not moved into the task.
                    Box::pin(connection::serve(context, first_speakers, guard, config, accepted, slot)).await;
                });
            }
        }
    }
}

/// An open connection, counted until it is dropped.
struct OpenConnection {
    metrics: Arc<WorkerMetrics>,
    ended: Rc<Notify>,
}

impl OpenConnection {
    fn new(metrics: &Arc<WorkerMetrics>, ended: &Rc<Notify>) -> Self {
        metrics.process.downstream_connections.increment();
        Self { metrics: Arc::clone(metrics), ended: Rc::clone(ended) }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.metrics.process.downstream_connections.decrement();
        self.ended.notify_one();
    }
}
