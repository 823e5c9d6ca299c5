//! On-demand subscriptions: destinations that the data path requests, and hosts that the DNS answerer requests, that are not in the
//! snapshot.
//!
//! A worker looks in its snapshot first. Subscriptions are coalesced, bounded in number and time, and dropped when they are
//! unused. An absent name stays subscribed while its absence is cached: further requests cause no subscription, and the
//! server pushes the name if it is created. Names that are not known to exist have a bound of their own and are evicted
//! first, so that invented hosts do not displace existing names. Discovery holds the other half, [`OnDemandFeed`].

mod feed;
mod unproven;
mod resolution;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::HashMap;
use outrigger_core::Name;
use outrigger_core::peer::PeerKey;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::destination::Destination;
use crate::host::Host;
use crate::publish::{Published, View};
use crate::snapshot::Snapshot;

pub use feed::{OnDemandFeed, SubscriptionChange};
pub use resolution::Resolution;
use unproven::{Unproven, UnprovenKey};

/// Limits of on-demand subscriptions.
#[derive(Debug, Clone)]
pub struct OnDemandLimits {
    /// Maximum number of subscribed names.
    pub max_names: usize,
    /// Maximum number of these that are not known to exist. At the bound, the oldest name of the client with the most is
    /// evicted.
    pub max_unproven: usize,
    /// How long a request waits for the outcome.
    pub wait: Duration,
    /// How long a name that never existed stays subscribed without use.
    pub absent_idle: Duration,
    /// How long a destination stays subscribed without use, also one that was removed.
    pub idle: Duration,
}

impl Default for OnDemandLimits {
    fn default() -> Self {
        Self {
            max_names: 10_000,
            max_unproven: 2_000,
            wait: Duration::from_secs(5),
            absent_idle: Duration::from_secs(2),
            idle: Duration::from_secs(300),
        }
    }
}

/// The outcome of a request for a destination.
#[derive(Debug, Clone)]
pub enum Lookup {
    /// The destination.
    Found(Arc<Destination>),
    /// The mesh has no destination with that name.
    Absent,
    /// The mesh has it, but every version received was rejected.
    Refused,
    /// There was no response in time, or the limit of subscriptions is reached.
    Unknown,
}

/// The data path's half. Clones share the subscriptions.
#[derive(Debug, Clone)]
pub struct OnDemand(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: OnDemandLimits,
    resolution: Resolution,
    published: Published,
    /// Locked for the length of a map operation, never across an await.
    state: Mutex<Subscriptions>,
    changed: Notify,
}

#[derive(Debug)]
struct Subscriptions {
    names: HashMap<Name, Subscription>,
    unproven: Unproven,
    events: Vec<SubscriptionChange>,
}

#[derive(Debug)]
struct Subscription {
    status: watch::Sender<Status>,
    last_used: Instant,
    /// Whether a local port is bound to the name. It is then never unsubscribed.
    pinned: bool,
    /// Its key among the unproven names. A name that exists, or once did, has none.
    key: Option<UnprovenKey>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Pending,
    Present,
    /// There is no such name. It stays subscribed: the server pushes it if it is created.
    Absent,
    /// Every version received was rejected. It stays subscribed: a later version may be valid.
    Refused,
}

impl OnDemand {
    /// Creates both halves. `published` is where discovery publishes snapshots.
    pub fn new(limits: OnDemandLimits, resolution: Resolution, published: Published) -> (Self, OnDemandFeed) {
        let state = Mutex::new(Subscriptions {
            names: HashMap::default(),
            unproven: Unproven::default(),
            events: Vec::new(),
        });
        let changed = Notify::new();
        let shared = Arc::new(Shared { limits, resolution, published, state, changed });
        (Self(shared.clone()), OnDemandFeed(shared))
    }

    /// Returns the destination in `snapshot` for `name`, normalized by [`crate::name::normalized_name`]. Counts as a use.
    ///
    /// Costs one map lookup and no lock; in wildcard mode, a short name is also completed.
    pub fn known(&self, snapshot: &Snapshot, name: &str) -> Option<Arc<Destination>> {
        let found = match snapshot.destination(name) {
            Some(found) => found,
            None => self.0.resolution.completions(name).find_map(|name| snapshot.destination(&name))?,
        };
        found.usage.touch();
        Some(found.clone())
    }

    /// Returns the destination with that name for `client`: at once if it is known, else after subscribing to it,
    /// within [`OnDemandLimits::wait`].
    ///
    /// Cancel-safe: the subscription remains for later requests.
    pub async fn destination(&self, view: &View, name: &str, client: &PeerKey) -> Lookup {
        if let Some(found) = self.known(&view.snapshot(), name) {
            return Lookup::Found(found);
        }
        if matches!(self.0.resolution, Resolution::Wildcard { .. }) {
            return Lookup::Absent;
        }
        match self.outcome(name, client).await {
            Status::Pending => Lookup::Unknown,
            Status::Present => self.known(&view.snapshot(), name).map_or(Lookup::Unknown, Lookup::Found),
            Status::Absent => Lookup::Absent,
            Status::Refused => Lookup::Refused,
        }
    }

    /// Returns the host whose resource has that name, if it is known. Counts as a use.
    pub fn known_host(&self, name: &str) -> Option<Arc<Host>> {
        let found = self.0.published.load().hosts.get(name).cloned()?;
        found.usage.touch();
        Some(found)
    }

    /// Returns the host whose resource has that name, like [`OnDemand::destination`]. Returns `None` if the mesh does not have it or
    /// there was no response in time. Hosts are subscribed to by name in wildcard mode, too.
    pub async fn host(&self, name: &str, client: &PeerKey) -> Option<Arc<Host>> {
        match self.known_host(name) {
            Some(found) => Some(found),
            None if self.outcome(name, client).await == Status::Present => self.known_host(name),
            None => None,
        }
    }

    /// Subscribes to a name and waits for the outcome. `Pending` means that there was no response in time, or that the limit of
    /// subscriptions is reached.
    async fn outcome(&self, name: &str, client: &PeerKey) -> Status {
        let Some(mut status) = self.subscribe(name, Some(client)) else { return Status::Pending };
        let settled = status.wait_for(|status| *status != Status::Pending);
        match tokio::time::timeout(self.0.limits.wait, settled).await {
            Ok(Ok(status)) => *status,
            // The entry was evicted during the wait, or the wait was too long.
            Ok(Err(_)) | Err(_) => Status::Pending,
        }
    }

    /// Subscribes to a name and never unsubscribes: a local port is bound to it.
    pub fn pin(&self, name: &str) {
        if matches!(self.0.resolution, Resolution::OnDemand) && self.subscribe(name, None).is_some() {
            let Subscriptions { names, unproven, .. } = &mut *self.0.state();
            if let Some(entry) = names.get_mut(name) {
                entry.pinned = true;
                entry.mark_proven(unproven);
            }
        }
    }

    /// Ensures that the name is subscribed. Returns `None` if the limit is reached and no name can be evicted. `client` is `None`
    /// for the proxy's own names, which are never unproven.
    fn subscribe(&self, name: &str, client: Option<&PeerKey>) -> Option<watch::Receiver<Status>> {
        let now = Instant::now();
        let limits = &self.0.limits;
        let mut state = self.0.state();
        if let Some(entry) = state.names.get_mut(name) {
            entry.last_used = now;
            let status = entry.status.subscribe();
            // It left the snapshot without being reported absent: subscribe again.
            if *status.borrow() == Status::Present {
                entry.status.send_replace(Status::Pending);
                self.0.push(&mut state, [SubscriptionChange::Subscribe(name.into())]);
            }
            return Some(status);
        }
        let full = state.unproven.len() >= limits.max_unproven || state.names.len() >= limits.max_names;
        if full && client.is_some() {
            let evicted = state.unproven.evict()?;
            // This closes the status channel, which wakes waiting requests.
            state.names.remove(&evicted);
            self.0.push(&mut state, [SubscriptionChange::Unsubscribe(evicted)]);
        }
        let name: Name = name.into();
        let (status, receiver) = watch::channel(Status::Pending);
        let key = client.map(|client| state.unproven.insert(client, name.clone()));
        state.names.insert(name.clone(), Subscription { status, last_used: now, pinned: false, key });
        self.0.push(&mut state, [SubscriptionChange::Subscribe(name)]);
        Some(receiver)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, Subscriptions> {
        // No code panics while it holds the lock, so a poisoned lock still guards consistent state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, state: &mut Subscriptions, events: impl IntoIterator<Item = SubscriptionChange>) {
        state.events.extend(events);
        if !state.events.is_empty() {
            self.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
