//! What the data path asks for and does not have yet.
//!
//! A worker looks into its snapshot first, and comes here only when the name is not there. Questions are coalesced, bounded
//! in number and time, and forgotten when nobody uses the answer; "does not exist" is remembered briefly, so that an invented
//! host costs one question. Discovery takes the other end, [`DemandFeed`].

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use foldhash::HashMap;
use outrigger_core::Name;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::destination::Destination;
use crate::publish::{Published, View};
use crate::snapshot::Snapshot;

/// Bounds of the demand.
#[derive(Debug, Clone)]
pub struct DemandLimits {
    /// Names that are asked for or remembered, at most.
    pub max_names: usize,
    /// How long a request waits for an answer.
    pub wait: Duration,
    /// How long "does not exist" is believed.
    pub absent_for: Duration,
    /// After how long without use a destination is given up.
    pub idle: Duration,
}

impl Default for DemandLimits {
    fn default() -> Self {
        Self {
            max_names: 10_000,
            wait: Duration::from_secs(5),
            absent_for: Duration::from_secs(2),
            idle: Duration::from_secs(300),
        }
    }
}

/// What came of asking.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Here it is.
    Found(Arc<Destination>),
    /// The mesh has nothing of that name.
    Absent,
    /// Nobody answered in time, or too much is asked for already.
    Unknown,
}

/// What discovery is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Demanded {
    /// Subscribe to the listener of this name.
    Subscribe(Name),
    /// Drop it.
    Unsubscribe(Name),
}

/// How names are resolved.
#[derive(Debug, Clone)]
pub enum Resolution {
    /// Each name is asked for.
    OnDemand,
    /// Everything there is has been pushed, under canonical names; short ones are completed here.
    Wildcard {
        /// The namespace of this workload, once its certificate has said so: completes `cart`.
        namespace: Arc<OnceLock<Name>>,
        /// The cluster's domain (`cluster.local`): completes `cart.shop` and `cart.shop.svc`.
        cluster_domain: Name,
    },
}

/// The data path's end. Clones ask the same.
#[derive(Debug, Clone)]
pub struct Demands(Arc<Shared>);

/// Discovery's end.
#[derive(Debug)]
pub struct DemandFeed(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: DemandLimits,
    resolution: Resolution,
    published: Published,
    /// Held for the length of a map operation, never across an await.
    state: Mutex<State>,
    demanded: Notify,
}

#[derive(Debug, Default)]
struct State {
    names: HashMap<Name, Entry>,
    events: Vec<Demanded>,
    evicted: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    status: watch::Sender<Status>,
    last_used: Instant,
    /// Names of bound ports are never given up.
    pinned: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Asked,
    Present,
    Absent { until: Instant },
}

impl Demands {
    /// Both ends. `published` is where discovery publishes what it finds.
    pub fn new(limits: DemandLimits, resolution: Resolution, published: Published) -> (Self, DemandFeed) {
        let (state, demanded) = Default::default();
        let shared = Arc::new(Shared { limits, resolution, published, state, demanded });
        (Self(shared.clone()), DemandFeed(shared))
    }

    /// What `snapshot` has under `asked`, which [`crate::name::asked_name`] made. Counts as use.
    ///
    /// One look-up of a map and no lock, on demand; in wildcard mode a short name costs its completion too.
    pub fn known(&self, snapshot: &Snapshot, asked: &str) -> Option<Arc<Destination>> {
        let found = match snapshot.destination(asked) {
            Some(found) => found,
            None => self.0.resolution.completions(asked).find_map(|name| snapshot.destination(&name))?,
        };
        found.usage.touch();
        Some(found.clone())
    }

    /// The destination of that name: at once when it is known, else after asking, within [`DemandLimits::wait`].
    ///
    /// Cancelled while it waits, the question stays asked for whoever comes next.
    pub async fn destination(&self, view: &View, asked: &str) -> Answer {
        if let Some(found) = self.known(&view.snapshot(), asked) {
            return Answer::Found(found);
        }
        if matches!(self.0.resolution, Resolution::Wildcard { .. }) {
            return Answer::Absent;
        }
        let Some(mut status) = self.ask(asked) else { return Answer::Unknown };
        let settled = async {
            loop {
                match *status.borrow_and_update() {
                    Status::Asked => {}
                    Status::Present => match self.known(&view.snapshot(), asked) {
                        Some(found) => return Answer::Found(found),
                        None => return Answer::Unknown,
                    },
                    Status::Absent { .. } => return Answer::Absent,
                }
                // The entry was dropped: given up while this waited.
                if status.changed().await.is_err() {
                    return Answer::Unknown;
                }
            }
        };
        tokio::time::timeout(self.0.limits.wait, settled).await.unwrap_or(Answer::Unknown)
    }

    /// Asks for a name now and never gives it up: a local port is bound to it.
    pub fn pin(&self, asked: &str) {
        if matches!(self.0.resolution, Resolution::OnDemand) && self.ask(asked).is_some() {
            self.0.state().names.entry(asked.into()).and_modify(|entry| entry.pinned = true);
        }
    }

    /// Makes sure that the name is asked for. `None` when too much is.
    fn ask(&self, asked: &str) -> Option<watch::Receiver<Status>> {
        let now = Instant::now();
        let mut state = self.0.state();
        if let Some(entry) = state.names.get_mut(asked) {
            entry.last_used = now;
            let status = entry.status.subscribe();
            let again = match *entry.status.borrow() {
                Status::Asked => false,
                Status::Absent { until } => until <= now,
                // It is gone from the snapshot though nobody said that it does not exist: ask anew.
                Status::Present => true,
            };
            if again {
                entry.status.send_replace(Status::Asked);
                self.0.demand(&mut state, [Demanded::Subscribe(asked.into())]);
            }
            return Some(status);
        }
        if state.names.len() >= self.0.limits.max_names && !state.make_room(now) {
            return None;
        }
        let name: Name = asked.into();
        let (status, receiver) = watch::channel(Status::Asked);
        state.names.insert(name.clone(), Entry { status, last_used: now, pinned: false });
        self.0.demand(&mut state, [Demanded::Subscribe(name)]);
        Some(receiver)
    }
}

impl DemandFeed {
    /// What is to be done, in order. Waits while there is nothing. Cancelled while it waits, nothing is lost.
    pub async fn next(&self) -> Vec<Demanded> {
        loop {
            let events = std::mem::take(&mut self.0.state().events);
            if !events.is_empty() {
                return events;
            }
            self.0.demanded.notified().await;
        }
    }

    /// Every name that is subscribed to, for a new stream. Takes the events that led there.
    pub fn wanted(&self) -> Vec<Name> {
        let mut state = self.0.state();
        state.events.clear();
        let absent = |entry: &Entry| matches!(*entry.status.borrow(), Status::Absent { .. });
        state.names.iter().filter(|(_, entry)| !absent(entry)).map(|(name, _)| name.clone()).collect()
    }

    /// Wakes whoever waits for what the published snapshot now has. Call it after each publication.
    pub fn published(&self) {
        let snapshot = self.0.published.load();
        let state = self.0.state();
        for (name, entry) in &state.names {
            if *entry.status.borrow() != Status::Present && snapshot.destination(name).is_some() {
                entry.status.send_replace(Status::Present);
            }
        }
    }

    /// Names that the mesh does not have (`removed_resources`): their subscriptions are dropped.
    pub fn absent<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let until = Instant::now() + self.0.limits.absent_for;
        let mut state = self.0.state();
        for name in names {
            if let Some(entry) = state.names.get(name) {
                entry.status.send_replace(Status::Absent { until });
                self.0.demand(&mut state, [Demanded::Unsubscribe(name.into())]);
            }
        }
    }

    /// Takes over destinations that were restored from disk, so that they stay subscribed to until they are idle.
    pub fn adopt(&self, names: impl IntoIterator<Item = Name>) {
        let now = Instant::now();
        let mut state = self.0.state();
        for name in names {
            if state.names.len() < self.0.limits.max_names && !state.names.contains_key(&name) {
                let status = watch::Sender::new(Status::Present);
                state.names.insert(name.clone(), Entry { status, last_used: now, pinned: false });
                self.0.demand(&mut state, [Demanded::Subscribe(name)]);
            }
        }
    }

    /// Gives up what nobody used for [`DemandLimits::idle`]. Call it every few seconds.
    ///
    /// A use is seen at the next sweep, so that a name lives at most one sweep longer.
    pub fn sweep(&self) {
        let now = Instant::now();
        let snapshot = self.0.published.load();
        let limits = &self.0.limits;
        let mut state = self.0.state();
        let mut dropped = Vec::new();
        state.names.retain(|name, entry| {
            if entry.pinned || snapshot.destination(name).is_some_and(|found| found.usage.take()) {
                entry.last_used = now;
            }
            let unused = now.saturating_duration_since(entry.last_used);
            let status = *entry.status.borrow();
            let keep = match status {
                Status::Asked => entry.status.receiver_count() > 0 || unused < limits.wait,
                Status::Present => unused < limits.idle,
                Status::Absent { until } => return until > now,
            };
            if !keep {
                dropped.push(Demanded::Unsubscribe(name.clone()));
            }
            keep
        });
        self.0.demand(&mut state, dropped);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds it can panic half-way; a poisoned lock would only mean a bug elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn demand(&self, state: &mut State, events: impl IntoIterator<Item = Demanded>) {
        state.events.extend(events);
        if !state.events.is_empty() {
            self.demanded.notify_one();
        }
    }
}

impl State {
    /// Forgets names that did not exist a while ago. Looks at most once a second, so that a flood of invented hosts costs one
    /// pass over the names and not one each.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.evicted.is_some_and(|then| now < then + Duration::from_secs(1)) {
            return false;
        }
        self.evicted = Some(now);
        let before = self.names.len();
        self.names
            .retain(|_, entry| !matches!(*entry.status.borrow(), Status::Absent { until } if until <= now));
        self.names.len() < before
    }
}

impl Resolution {
    /// The canonical names that a short one may stand for.
    fn completions(&self, asked: &str) -> impl Iterator<Item = String> {
        let names = match self {
            Self::OnDemand => None,
            Self::Wildcard { namespace, cluster_domain } => {
                asked.rsplit_once(':').and_then(|(host, port)| {
                    Some(match host.bytes().filter(|b| *b == b'.').count() {
                        0 => format!("{host}.{}.svc.{cluster_domain}:{port}", namespace.get()?),
                        1 => format!("{host}.svc.{cluster_domain}:{port}"),
                        _ => format!("{host}.{cluster_domain}:{port}"),
                    })
                })
            }
        };
        names.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use outrigger_policy::weighted_cluster::WeightedClusters;

    use super::*;
    use crate::handler::Handler;
    use crate::tcp_proxy::TcpProxy;

    struct Mesh {
        demands: Demands,
        feed: DemandFeed,
        published: Published,
    }

    fn mesh(resolution: Resolution) -> Mesh {
        let published = Published::new(Arc::default());
        let limits = DemandLimits { max_names: 3, ..Default::default() };
        let (demands, feed) = Demands::new(limits, resolution, published.clone());
        Mesh { demands, feed, published }
    }

    impl Mesh {
        fn publish(&self, name: &str) {
            let tcp = TcpProxy {
                stat_prefix: name.into(),
                clusters: WeightedClusters::one("c".into()).unwrap(),
                idle_timeout: None,
                max_duration: None,
                max_connect_attempts: 1,
            };
            let handler = Handler::Tcp(Arc::new(tcp));
            let destination =
                Destination { name: name.into(), canonical: name.into(), handler, usage: Default::default() };
            let mut snapshot = Snapshot::clone(&self.published.load());
            snapshot.destinations.insert(name.into(), Arc::new(destination));
            self.published.publish(Arc::new(snapshot));
            self.feed.published();
        }

        async fn ask(&self, name: &str) -> Answer {
            self.demands.destination(&self.published.view(), name).await
        }
    }

    fn subscribe(name: &str) -> Demanded {
        Demanded::Subscribe(name.into())
    }

    fn unsubscribe(name: &str) -> Demanded {
        Demanded::Unsubscribe(name.into())
    }

    #[tokio::test(start_paused = true)]
    async fn many_requests_for_one_name_ask_once_and_all_get_the_answer() {
        let mesh = mesh(Resolution::OnDemand);
        let serve = async {
            assert_eq!(mesh.feed.next().await, [subscribe("cart:80")]);
            mesh.publish("cart:80");
        };
        let (one, other, ()) = tokio::join!(mesh.ask("cart:80"), mesh.ask("cart:80"), serve);
        assert!(matches!((one, other), (Answer::Found(_), Answer::Found(_))));
        assert!(mesh.demands.known(&mesh.published.load(), "cart:80").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_exist_is_remembered_briefly() {
        let mesh = mesh(Resolution::OnDemand);
        let serve = async {
            mesh.feed.next().await;
            mesh.feed.absent(["nope:80"]);
        };
        let (answer, ()) = tokio::join!(mesh.ask("nope:80"), serve);
        assert!(matches!(answer, Answer::Absent));
        assert_eq!(mesh.feed.next().await, [unsubscribe("nope:80")]);
        assert!(matches!(mesh.ask("nope:80").await, Answer::Absent));
        assert!(mesh.feed.wanted().is_empty());
        tokio::time::advance(Duration::from_secs(3)).await;
        let (_, asked) = tokio::join!(mesh.ask("nope:80"), mesh.feed.next());
        assert_eq!(asked, [subscribe("nope:80")]);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_the_bound() {
        let mesh = mesh(Resolution::OnDemand);
        let started = Instant::now();
        assert!(matches!(mesh.ask("slow:80").await, Answer::Unknown));
        assert_eq!(started.elapsed(), Duration::from_secs(5));
        mesh.feed.sweep();
        assert_eq!(mesh.feed.next().await, [subscribe("slow:80"), unsubscribe("slow:80")]);
    }

    #[tokio::test(start_paused = true)]
    async fn invented_hosts_cannot_take_more_room_than_there_is() {
        let mesh = mesh(Resolution::OnDemand);
        for name in ["a:1", "b:1", "c:1"] {
            mesh.demands.pin(name);
        }
        let started = Instant::now();
        assert!(matches!(mesh.ask("d:1").await, Answer::Unknown));
        assert_eq!(started.elapsed(), Duration::ZERO);
        mesh.feed.absent(["a:1"]);
        tokio::time::advance(Duration::from_secs(3)).await;
        let (_, asked) = tokio::join!(mesh.ask("d:1"), async {
            tokio::task::yield_now().await;
            mesh.feed.wanted()
        });
        assert!(asked.iter().any(|name| &**name == "d:1"), "a forgotten name makes room");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_uses_is_given_up_and_what_is_used_or_bound_stays() {
        let mesh = mesh(Resolution::OnDemand);
        mesh.feed.adopt(["idle:80".into(), "used:80".into()]);
        mesh.demands.pin("bound:80");
        for name in ["idle:80", "used:80", "bound:80"] {
            mesh.publish(name);
        }
        mesh.feed.next().await;
        for _ in 0..7 {
            tokio::time::advance(Duration::from_secs(50)).await;
            mesh.demands.known(&mesh.published.load(), "used:80");
            mesh.feed.sweep();
        }
        assert_eq!(mesh.feed.next().await, [unsubscribe("idle:80")]);
    }

    #[tokio::test(start_paused = true)]
    async fn in_wildcard_mode_short_names_are_completed_and_nobody_is_asked() {
        let (namespace, cluster_domain) =
            (Arc::new(OnceLock::from(Name::from("shop"))), "cluster.local".into());
        let mesh = mesh(Resolution::Wildcard { namespace, cluster_domain });
        mesh.publish("cart.shop.svc.cluster.local:80");
        for name in ["cart:80", "cart.shop:80", "cart.shop.svc:80", "cart.shop.svc.cluster.local:80"] {
            assert!(matches!(mesh.ask(name).await, Answer::Found(_)), "{name}");
        }
        assert!(matches!(mesh.ask("other:80").await, Answer::Absent));
        assert!(mesh.feed.wanted().is_empty());
    }
}
