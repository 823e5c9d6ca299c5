//! What the data path asks for and does not have yet.
//!
//! A worker looks into its snapshot first, and comes here only when the name is not there. Questions are coalesced, bounded
//! in number and time, and forgotten when nobody uses the answer. A name that does not exist stays subscribed for as long
//! as its absence is remembered: further requests cost no question, and the server ends the absence by pushing the name.
//! Invented hosts take no place from names that exist: names that are not known to exist are bounded apart, and give way
//! first. Discovery takes the other end, [`DemandFeed`].

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

/// Bounds of the demand.
#[derive(Debug, Clone)]
pub struct DemandLimits {
    /// Names that are subscribed to, at most.
    pub max_names: usize,
    /// Of these, names that are not known to exist. For one more, the client with most gives up its oldest.
    pub max_unproven: usize,
    /// How long a request waits for an answer.
    pub wait: Duration,
    /// After how long without use a name that never existed is given up.
    pub absent_idle: Duration,
    /// After how long without use a destination is given up, also one that exists no more.
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

/// What came of asking.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Here it is.
    Found(Arc<Destination>),
    /// The mesh has nothing of that name.
    Absent,
    /// The mesh has it, in no version that could be used.
    Refused,
    /// Nobody answered in time, or too much is asked for already.
    Unknown,
}

/// The data path's end. Clones ask the same.
#[derive(Debug, Clone)]
pub struct Demands(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: DemandLimits,
    resolution: Resolution,
    published: Published,
    /// Held for the length of a map operation, never across an await.
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
    /// Names of bound ports are never given up.
    pinned: bool,
    /// Its place among the unproven names. A name that exists, or did, has none.
    place: Option<Place>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Asked,
    Present,
    /// There is no such name. It stays subscribed: the server pushes it when it comes to exist.
    Absent,
    /// What came cannot be used, and nothing before it could. It stays subscribed: it may be mended.
    Refused,
}

impl Demands {
    /// Both ends. `published` is where discovery publishes what it finds.
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

    /// The destination of that name, for the client `by`: at once when it is known, else after asking, within
    /// [`DemandLimits::wait`].
    ///
    /// Cancelled while it waits, the question stays asked for whoever comes next.
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

    /// Makes sure that the name is asked for. Without a client it is the proxy itself that asks, and for what exists.
    fn ask(&self, asked: &str, by: Option<&PeerKey>) -> Question {
        let now = Instant::now();
        let limits = &self.0.limits;
        let mut state = self.0.state();
        if let Some(entry) = state.names.get_mut(asked) {
            entry.last_used = now;
            let status = entry.status.subscribe();
            // It is gone from the snapshot though nobody said that it does not exist: ask anew.
            if *status.borrow() == Status::Present {
                entry.status.send_replace(Status::Asked);
                self.0.demand(&mut state, [Demanded::Subscribe(asked.into())]);
            }
            return Question::Open(status);
        }
        let full = state.unproven.len() >= limits.max_unproven || state.names.len() >= limits.max_names;
        if full && by.is_some() {
            let Some(evicted) = state.unproven.evict() else { return Question::Full };
            // A waiting request learns of it when the status channel closes.
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

/// What became of a question.
enum Question {
    /// It is asked.
    Open(watch::Receiver<Status>),
    /// Everything that may be asked for exists and is in use.
    Full,
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

#[cfg(test)]
mod tests;
