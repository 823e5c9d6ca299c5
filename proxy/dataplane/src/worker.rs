//! One worker: a thread with its own runtime, accept loops, connection pools, balancers and counters.
//!
//! The server makes the thread and calls [`run`], which returns when both drains have started and the last
//! connection is done, or is cut off when the process ends. A side that drains takes what the kernel has accepted already
//! and refuses further connections. Nothing that a worker owns leaves its thread.

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
use outrigger_core::trace::Sampling;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, LocalSet};

use crate::capacity::budget::ConnectionBudget;
use crate::capacity::door::Door;
use crate::codec::limits::Limits;
use crate::connection::{self, Habits};
use crate::context::{self, Context, Resolver};
use crate::identity::Identity;
use crate::metrics::{Registry, WorkerMetrics};
use crate::record::{Recorder, Sinks};
use crate::socket::listener::{Listener, ListenerGroup};
use crate::upstream::cluster::Clusters;
use crate::upstream::dial::Dialer;
use crate::upstream::shared::{Inquiry, SharedClusters};

/// How often idle connections and unused clusters are looked after.
const TIDY: Duration = Duration::from_secs(1);

/// What one worker is made of. Clones of the handles are shared by all workers.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Which worker this is, from 0: picks its member of each listener's group.
    pub id: usize,
    /// Where snapshots are published.
    pub published: Published,
    /// Where destinations are asked for.
    pub on_demand: OnDemand,
    /// The workload's certificate, key and roots.
    pub secrets: SecretStore,
    /// The listening sockets of the moment, all workers' together.
    pub listeners: watch::Receiver<Arc<[Lent]>>,
    /// Where names outside the mesh are resolved.
    pub resolver: Resolver,
    /// Every connection holds a clone of its side's; when that side's drain starts, accepting ends there.
    pub drain: Guards,
    /// Where this worker's metrics are registered.
    pub registry: Arc<Registry>,
    /// Where finished requests go.
    pub sinks: Sinks,
    /// What all workers know together of clusters.
    pub clusters: Arc<SharedClusters>,
    /// Which traces are sampled.
    pub sampling: Sampling,
    /// How many connections the process may have open.
    pub connections: Arc<ConnectionBudget>,
}

/// A listening socket that is lent to the workers.
#[derive(Debug, Clone)]
pub struct Lent {
    /// The sockets. The same group after an update means that the sockets stay.
    pub group: Arc<ListenerGroup>,
    /// What becomes of connections.
    pub config: ListenerSource,
}

/// Where a listener's configuration comes from.
#[derive(Debug, Clone)]
pub enum ListenerSource {
    /// From the server's flags: it never changes.
    Fixed(Arc<ListenerConfig>),
    /// From the snapshot of the moment, under the group's name.
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
        sampling,
        connections: budget,
    } = config;
    let metrics = registry.worker();
    let limits = Rc::<Limits>::default();
    let identity = Rc::new(Identity::new(secrets));
    let dialer = Rc::new(Dialer::new(Rc::clone(&identity), Rc::clone(&limits)));
    let mut inquiries = clusters.inquiries();
    let clusters = Clusters::new(clusters, Arc::clone(&metrics), dialer, Arc::clone(&budget));
    let connections = Arc::clone(&budget);
    let mut called = pin!(connections.called_for_one());
    let passed_on = context::passed_on()
        .ok_or_else(|| io::Error::other("the default limits of a cluster are unusable"))?;
    let context = Rc::new(Context {
        view: published.view(),
        on_demand,
        clusters: Rc::clone(&clusters),
        identity,
        recorder: Recorder::new(metrics, sinks),
        resolver,
        limits,
        sampling,
        door: Door::new(budget),
        passed_on,
        kept_bytes: Rc::default(),
        own: RefCell::default(),
    });
    let Guards { inbound, outbound } = drain;
    // Kept to the end, so that the outbound drain is complete when this worker is.
    let mut ending = outbound.clone();
    let mut accepting = Accepting {
        id,
        context: Rc::clone(&context),
        habits: Rc::default(),
        inbound: Some(inbound),
        outbound,
        loops: HashMap::default(),
        ended: Rc::default(),
    };
    let mut tidy = tokio::time::interval(TIDY);
    let mut watching = true;
    accepting.follow(&listeners.borrow_and_update().clone());
    loop {
        tokio::select! {
            () = started(&mut accepting.inbound) => {
                accepting.inbound = None;
                accepting.follow(&listeners.borrow_and_update().clone());
            }
            () = ending.started() => break,
            changed = listeners.changed(), if watching => match changed {
                Ok(()) => accepting.follow(&listeners.borrow_and_update().clone()),
                // The server is gone; what listens goes on until drain.
                Err(_) => watching = false,
            },
            _ = tidy.tick() => clusters.tidy(),
            inquiry = inquiries.recv() => answer(inquiry, &clusters),
            () = &mut called => {
                // Before the look, so that no further call is missed.
                called.set(connections.called_for_one());
                clusters.make_way();
            }
        }
    }
    let Accepting { loops, ended, .. } = accepting;
    // All at once: none goes on accepting while another closes.
    loops.values().for_each(Accept::close);
    for Accept { task, .. } in loops.into_values() {
        // What the kernel has accepted is served, before the last connection is waited for.
        let _ = task.await;
    }
    // Every connection is counted there until it has ended.
    let open = Arc::clone(context.recorder.metrics());
    while open.process.downstream_connections.value() > 0 {
        tokio::select! {
            () = ended.notified() => {}
            _ = tidy.tick() => clusters.tidy(),
            inquiry = inquiries.recv() => answer(inquiry, &clusters),
        }
    }
    Ok(())
}

/// Says what this worker's clusters do.
fn answer(inquiry: Option<Inquiry>, clusters: &Clusters) {
    // The other end lives as long as the process; the caller may be gone.
    if let Some(inquiry) = inquiry {
        let _ = inquiry.send(clusters.loads());
    }
}

/// Resolves when the drain of `guard` starts; never without one. Cancel-safe.
async fn started(guard: &mut Option<DrainGuard>) {
    match guard {
        Some(guard) => guard.started().await,
        None => std::future::pending().await,
    }
}

struct Accepting {
    id: usize,
    context: Rc<Context>,
    habits: Rc<Habits>,
    /// `None` once inbound drains: nothing is accepted there any more.
    inbound: Option<DrainGuard>,
    outbound: DrainGuard,
    loops: HashMap<Name, Accept>,
    /// Told when a connection has ended.
    ended: Rc<Notify>,
}

/// A task that accepts. Dropped, it accepts no more, and the socket stays bound: clients wait in its queue for the listener to
/// come back.
struct Accept {
    group: Arc<ListenerGroup>,
    direction: Direction,
    closing: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Accept {
    /// Tells the task to take what the kernel has accepted already, close its socket and end.
    fn close(&self) {
        self.closing.send_replace(true);
    }
}

impl Accepting {
    /// Starts accepting on what is new, stops on what is gone or drains, and leaves the rest alone.
    fn follow(&mut self, lent: &[Lent]) {
        self.context.own.replace(lent.iter().map(|lent| lent.group.address()).collect());
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
                && (accept.group.is_retired() || inbound_drains && accept.direction == Direction::Inbound)
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
                    let accept = Accept { group: Arc::clone(&lent.group), direction, closing, task };
                    self.loops.insert(lent.group.name().clone(), accept);
                }
                Err(error) => tracing::error!(listener = %lent.group.name(), %error, "cannot accept"),
            }
        }
    }

    /// On which side of the application a listener stands.
    fn direction(&self, lent: &Lent) -> Direction {
        match &lent.config {
            ListenerSource::Fixed(config) => config.direction,
            ListenerSource::Snapshot => {
                let snapshot = self.context.view.snapshot();
                let listener = snapshot.listeners.get(lent.group.name());
                listener.map_or(Direction::Inbound, |listener| listener.direction)
            }
        }
    }

    /// What connections of that side hold. `None` when no more are accepted.
    fn guard(&self, direction: Direction) -> Option<DrainGuard> {
        match direction {
            Direction::Inbound => self.inbound.clone(),
            Direction::Outbound => Some(self.outbound.clone()),
        }
    }

    /// Accepts until it is told to close, or its [`Accept`] is dropped. Each connection is a task of its own, which ends with
    /// the connection. One that waits for a place is served or refused whatever is told.
    fn accept(
        &self,
        listener: Listener,
        source: ListenerSource,
        guard: DrainGuard,
        mut closing: watch::Receiver<bool>,
    ) -> impl Future<Output = ()> + 'static {
        let (context, habits) = (Rc::clone(&self.context), Rc::clone(&self.habits));
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
                let open = Open::new(&metrics, &ended);
                let peer = PeerKey::new(None, accepted.client.0.ip());
                let Some(place) = context.door.admit(&peer).await else {
                    process.downstream_connections_refused.increment();
                    continue;
                };
                let (context, habits, guard) = (Rc::clone(&context), Rc::clone(&habits), guard.clone());
                tokio::task::spawn_local(async move {
                    let _open = open;
                    // Boxed, so that it is made where it stays, and not moved into the task.
                    Box::pin(connection::serve(context, habits, guard, config, accepted, place)).await;
                });
            }
        }
    }
}

/// An open connection, counted until it is dropped.
struct Open {
    metrics: Arc<WorkerMetrics>,
    ended: Rc<Notify>,
}

impl Open {
    fn new(metrics: &Arc<WorkerMetrics>, ended: &Rc<Notify>) -> Self {
        metrics.process.downstream_connections.increment();
        Self { metrics: Arc::clone(metrics), ended: Rc::clone(ended) }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metrics.process.downstream_connections.decrement();
        self.ended.notify_one();
    }
}
