//! Discovery's end of the demand: what to subscribe to, what came of it, what nobody uses any more.

use std::sync::Arc;

use outrigger_core::Name;
use tokio::sync::watch;
use tokio::time::Instant;

use super::unanswered::Unanswered;
use super::{Entry, Shared, State, Status};

/// What discovery is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Demanded {
    /// Subscribe to the listener of this name.
    Subscribe(Name),
    /// Drop it.
    Unsubscribe(Name),
}

/// Discovery's end.
#[derive(Debug)]
pub struct DemandFeed(pub(super) Arc<Shared>);

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

    /// Every name that is subscribed to. Takes the events that led there.
    #[cfg(test)]
    pub(super) fn wanted(&self) -> Vec<Name> {
        let mut state = self.0.state();
        state.events.clear();
        let absent = |entry: &Entry| matches!(*entry.status.borrow(), Status::Absent { .. });
        state.names.iter().filter(|(_, entry)| !absent(entry)).map(|(name, _)| name.clone()).collect()
    }

    /// Wakes whoever waits for what the published snapshot now has. Call it after each publication.
    pub fn published(&self) {
        let snapshot = self.0.published.load();
        let State { names, unanswered, .. } = &mut *self.0.state();
        for (name, entry) in names {
            if *entry.status.borrow() != Status::Present && snapshot.destination(name).is_some() {
                entry.answered(unanswered, Status::Present);
            }
        }
    }

    /// Names that the mesh does not have (`removed_resources`): their subscriptions are dropped.
    pub fn absent<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let now = Instant::now();
        let until = now + self.0.limits.absent_for;
        let mut state = self.0.state();
        for name in names {
            let State { names, unanswered, absent, events: _ } = &mut *state;
            let Some(entry) = names.get_mut(name) else { continue };
            entry.answered(unanswered, Status::Absent { until });
            if !entry.pinned {
                names.remove(name);
                absent.insert(name.into(), until, now);
            }
            self.0.demand(&mut state, [Demanded::Unsubscribe(name.into())]);
        }
    }

    /// Names whose listener was accepted: they exist, and are published once they are warm. They hold no place among the
    /// unanswered, and are not given up while they warm.
    pub fn exist<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let State { names: all, unanswered, .. } = &mut *self.0.state();
        for name in names {
            let asked = all.get_mut(name).and_then(|entry| entry.asked.take());
            asked.iter().for_each(|asked| unanswered.leave(asked));
        }
    }

    /// Names whose listener came and cannot be used, and of which no earlier version is held: nobody waits any longer.
    pub fn refused<'a>(&self, refused: impl IntoIterator<Item = &'a str>) {
        let State { names, unanswered, .. } = &mut *self.0.state();
        for name in refused {
            if let Some(entry) = names.get_mut(name)
                && *entry.status.borrow() == Status::Asked
            {
                entry.answered(unanswered, Status::Refused);
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
                state
                    .names
                    .insert(name.clone(), Entry { status, last_used: now, pinned: false, asked: None });
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
        let State { names, unanswered, .. } = &mut *state;
        names.retain(|name, entry| {
            if entry.pinned || snapshot.destination(name).is_some_and(|found| found.usage.take()) {
                entry.last_used = now;
            }
            let unused = now.saturating_duration_since(entry.last_used);
            let keep = match *entry.status.borrow() {
                Status::Asked if entry.asked.is_none() => unused < limits.idle,
                Status::Asked => entry.status.receiver_count() > 0 || unused < limits.wait,
                Status::Present | Status::Refused => unused < limits.idle,
                Status::Absent { .. } => true,
            };
            if !keep {
                entry.asked.take().iter().for_each(|asked| unanswered.leave(asked));
                dropped.push(Demanded::Unsubscribe(name.clone()));
            }
            keep
        });
        self.0.demand(&mut state, dropped);
    }
}

impl Entry {
    /// Somebody has said what it is.
    fn answered(&mut self, unanswered: &mut Unanswered, status: Status) {
        self.asked.take().iter().for_each(|asked| unanswered.leave(asked));
        self.status.send_replace(status);
    }
}
