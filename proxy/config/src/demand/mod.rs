//! On-demand subscriptions: destinations that the data path requests and that are not in its snapshot.
//!
//! A worker looks in its snapshot first. Subscriptions are coalesced, bounded in number and time, and dropped when they are
//! unused. An absent name stays subscribed while its absence is cached: further requests cause no subscription, and the
//! server pushes the name if it is created. Names that are not known to exist have a bound of their own and are evicted
//! first, so that invented hosts do not displace existing names. Discovery holds the other half, [`DemandFeed`].

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
use crate::publish::{Published, View};
use crate::snapshot::Snapshot;

pub use feed::{DemandFeed, Demanded};
pub use resolution::Resolution;
use unproven::{Place, Unproven};

/// Limits of on-demand subscriptions.
#[derive(Debug, Clone)]
pub struct DemandLimits {
    /// Maximum number of subscribed names.
    pub max_names: usize,
    /// Maximum number of these that are not known to exist. At the bound, the oldest name of the client with most is evicted.
    pub max_unproven: usize,
    /// How long a request waits for the outcome.
    pub wait: Duration,
    /// How long a name that never existed stays subscribed without use.
    pub absent_idle: Duration,
    /// How long a destination stays subscribed without use, also one that was removed.
    pub idle: Duration,
}

impl Default for DemandLimits {
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
pub enum Answer {
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
pub struct Demands(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: DemandLimits,
    resolution: Resolution,
    published: Published,
    /// Locked for the length of a map operation, never across an await.
    state: Mutex<State>,
    demanded: Notify,
}

#[derive(Debug)]
struct State {
    names: HashMap<Name, Entry>,
    unproven: Unproven,
    events: Vec<Demanded>,
}

#[derive(Debug)]
struct Entry {
    status: watch::Sender<Status>,
    last_used: Instant,
    /// Whether a local port is bound to the name. It is then never unsubscribed.
    pinned: bool,
    /// Its key among the unproven names. A name that exists, or once did, has none.
    place: Option<Place>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Asked,
    Present,
    /// There is no such name. It stays subscribed: the server pushes it if it is created.
    Absent,
    /// Every version received was rejected. It stays subscribed: a later version may be valid.
    Refused,
}

impl Demands {
    /// Creates both halves. `published` is where discovery publishes snapshots.
    pub fn new(limits: DemandLimits, resolution: Resolution, published: Published) -> (Self, DemandFeed) {
        let state = Mutex::new(State {
            names: HashMap::default(),
            unproven: Unproven::default(),
            events: Vec::new(),
        });
        let demanded = Notify::new();
        let shared = Arc::new(Shared { limits, resolution, published, state, demanded });
        (Self(shared.clone()), DemandFeed(shared))
    }

    /// Returns the destination in `snapshot` for `asked`, a name from [`crate::name::asked_name`]. Counts as a use.
    ///
    /// Costs one map lookup and no lock; in wildcard mode, a short name is also completed.
    pub fn known(&self, snapshot: &Snapshot, asked: &str) -> Option<Arc<Destination>> {
        let found = match snapshot.destination(asked) {
            Some(found) => found,
            None => self.0.resolution.completions(asked).find_map(|name| snapshot.destination(&name))?,
        };
        found.usage.touch();
        Some(found.clone())
    }

    /// Returns the destination with that name for the client `by`: at once if it is known, else after subscribing to it,
    /// within [`DemandLimits::wait`].
    ///
    /// Cancel-safe: the subscription remains for later requests.
    pub async fn destination(&self, view: &View, asked: &str, by: &PeerKey) -> Answer {
        if let Some(found) = self.known(&view.snapshot(), asked) {
            return Answer::Found(found);
        }
        if matches!(self.0.resolution, Resolution::Wildcard { .. }) {
            return Answer::Absent;
        }
        let mut status = match self.ask(asked, Some(by)) {
            Question::Open(status) => status,
            Question::Full => return Answer::Unknown,
        };
        let settled = async {
            loop {
                match *status.borrow_and_update() {
                    Status::Asked => {}
                    Status::Present => match self.known(&view.snapshot(), asked) {
                        Some(found) => return Answer::Found(found),
                        None => return Answer::Unknown,
                    },
                    Status::Absent => return Answer::Absent,
                    Status::Refused => return Answer::Refused,
                }
                // The entry was evicted during the wait.
                if status.changed().await.is_err() {
                    return Answer::Unknown;
                }
            }
        };
        tokio::time::timeout(self.0.limits.wait, settled).await.unwrap_or(Answer::Unknown)
    }

    /// Subscribes to a name and never unsubscribes: a local port is bound to it.
    pub fn pin(&self, asked: &str) {
        if matches!(self.0.resolution, Resolution::OnDemand)
            && matches!(self.ask(asked, None), Question::Open(_))
        {
            let State { names, unproven, .. } = &mut *self.0.state();
            if let Some(entry) = names.get_mut(asked) {
                entry.pinned = true;
                entry.leave(unproven);
            }
        }
    }

    /// Ensures that the name is subscribed. `by` is `None` for the proxy's own names, which are never unproven.
    fn ask(&self, asked: &str, by: Option<&PeerKey>) -> Question {
        let now = Instant::now();
        let limits = &self.0.limits;
        let mut state = self.0.state();
        if let Some(entry) = state.names.get_mut(asked) {
            entry.last_used = now;
            let status = entry.status.subscribe();
            // It left the snapshot without being reported absent: subscribe again.
            if *status.borrow() == Status::Present {
                entry.status.send_replace(Status::Asked);
                self.0.demand(&mut state, [Demanded::Subscribe(asked.into())]);
            }
            return Question::Open(status);
        }
        let full = state.unproven.len() >= limits.max_unproven || state.names.len() >= limits.max_names;
        if full && by.is_some() {
            let Some(evicted) = state.unproven.evict() else { return Question::Full };
            // This closes the status channel, which wakes waiting requests.
            state.names.remove(&evicted);
            self.0.demand(&mut state, [Demanded::Unsubscribe(evicted)]);
        }
        let name: Name = asked.into();
        let (status, receiver) = watch::channel(Status::Asked);
        let place = by.map(|by| state.unproven.enter(by, name.clone()));
        state.names.insert(name.clone(), Entry { status, last_used: now, pinned: false, place });
        self.0.demand(&mut state, [Demanded::Subscribe(name)]);
        Question::Open(receiver)
    }
}

/// The result of [`Demands::ask`].
enum Question {
    /// The name is subscribed.
    Open(watch::Receiver<Status>),
    /// The limit is reached and no name can be evicted.
    Full,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock, so a poisoned lock still guards consistent state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn demand(&self, state: &mut State, events: impl IntoIterator<Item = Demanded>) {
        state.events.extend(events);
        if !state.events.is_empty() {
            self.demanded.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
