//! Discovery's half of on-demand subscriptions: what to subscribe to, the outcomes, and the expiry of unused names.

use std::sync::Arc;

use outrigger_core::Name;
use tokio::sync::watch;
use tokio::time::Instant;

use super::unproven::Unproven;
use super::{Shared, Status, Subscription, Subscriptions};
use crate::destination::Usage;

/// A change of subscriptions that discovery is to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubscriptionChange {
    /// Subscribe to the listener of this name.
    Subscribe(Name),
    /// Drop the subscription to this name.
    Unsubscribe(Name),
}

/// Discovery's half of on-demand subscriptions.
#[derive(Debug)]
pub struct OnDemandFeed(pub(super) Arc<Shared>);

impl OnDemandFeed {
    /// Waits for changes and returns them in order. Cancel-safe.
    pub async fn next(&self) -> Vec<SubscriptionChange> {
        loop {
            let events = std::mem::take(&mut self.0.state().events);
            if !events.is_empty() {
                return events;
            }
            self.0.changed.notified().await;
        }
    }

    /// Returns every name that is subscribed to, and discards the pending changes.
    #[cfg(test)]
    pub(super) fn wanted(&self) -> Vec<Name> {
        let mut state = self.0.state();
        state.events.clear();
        state.names.keys().cloned().collect()
    }

    /// Wakes the requests that wait for what the published snapshot now has. Call it after each publication.
    pub fn mark_published(&self) {
        let snapshot = self.0.published.load();
        let Subscriptions { names, unproven, .. } = &mut *self.0.state();
        for (name, entry) in names {
            if *entry.status.borrow() != Status::Present && snapshot.usage(name).is_some() {
                entry.mark_proven(unproven);
                entry.status.send_replace(Status::Present);
            }
        }
    }

    /// Marks names as absent from the mesh (`removed_resources`). They stay subscribed until they are idle, so that the
    /// server pushes them if they are created.
    pub fn mark_absent<'a>(&self, absent: impl IntoIterator<Item = &'a str>) {
        let state = self.0.state();
        for entry in absent.into_iter().filter_map(|name| state.names.get(name)) {
            entry.status.send_replace(Status::Absent);
        }
    }

    /// Marks names as existing: their listeners were accepted and are published once warm. They do not count as unproven
    /// and are not evicted while they warm.
    pub fn mark_existing<'a>(&self, exist: impl IntoIterator<Item = &'a str>) {
        let Subscriptions { names, unproven, .. } = &mut *self.0.state();
        for name in exist {
            let Some(entry) = names.get_mut(name) else { continue };
            entry.mark_proven(unproven);
            // Requests wait for it while it warms.
            entry.status.send_if_modified(|status| {
                let ends = *status == Status::Absent;
                if ends {
                    *status = Status::Pending;
                }
                ends
            });
        }
    }

    /// Marks names whose listener was rejected and has no earlier version. Requests stop waiting for them.
    pub fn mark_refused<'a>(&self, refused: impl IntoIterator<Item = &'a str>) {
        let Subscriptions { names, unproven, .. } = &mut *self.0.state();
        for name in refused {
            if let Some(entry) = names.get_mut(name)
                && matches!(*entry.status.borrow(), Status::Pending | Status::Absent)
            {
                entry.mark_proven(unproven);
                entry.status.send_replace(Status::Refused);
            }
        }
    }

    /// Adds destinations that were restored from disk, so that they stay subscribed until they are idle.
    pub fn adopt(&self, names: impl IntoIterator<Item = Name>) {
        let now = Instant::now();
        let mut state = self.0.state();
        for name in names {
            if state.names.len() < self.0.limits.max_names && !state.names.contains_key(&name) {
                let status = watch::Sender::new(Status::Present);
                state
                    .names
                    .insert(name.clone(), Subscription { status, last_used: now, pinned: false, key: None });
                self.0.push(&mut state, [SubscriptionChange::Subscribe(name)]);
            }
        }
    }

    /// Counts every name that exists as used. Call it before [`OnDemandFeed::sweep`] while there is no control plane, from which a
    /// dropped name could be requested again.
    pub fn keep_existing(&self) {
        let now = Instant::now();
        for entry in self.0.state().names.values_mut() {
            if *entry.status.borrow() == Status::Present {
                entry.last_used = now;
            }
        }
    }

    /// Unsubscribes from names that were not used for [`OnDemandLimits::idle`]. Call it every few seconds.
    ///
    /// A use is observed at the next sweep, so that a name is kept for at most one sweep longer.
    pub fn sweep(&self) {
        let now = Instant::now();
        let snapshot = self.0.published.load();
        let limits = &self.0.limits;
        let mut state = self.0.state();
        let mut dropped = Vec::new();
        let Subscriptions { names, unproven, .. } = &mut *state;
        names.retain(|name, entry| {
            if entry.pinned || snapshot.usage(name).is_some_and(Usage::take) {
                entry.last_used = now;
            }
            let unused = now.saturating_duration_since(entry.last_used);
            let keep = match *entry.status.borrow() {
                Status::Pending if entry.key.is_some() => {
                    entry.status.receiver_count() > 0 || unused < limits.wait
                }
                Status::Absent if entry.key.is_some() => unused < limits.absent_idle,
                _ => unused < limits.idle,
            };
            if !keep {
                entry.mark_proven(unproven);
                dropped.push(SubscriptionChange::Unsubscribe(name.clone()));
            }
            keep
        });
        self.0.push(&mut state, dropped);
    }
}

impl Subscription {
    /// Removes it from the unproven names: it exists, or is unsubscribed.
    pub(super) fn mark_proven(&mut self, unproven: &mut Unproven) {
        self.key.take().iter().for_each(|key| unproven.remove(key));
    }
}
