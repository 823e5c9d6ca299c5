//! An index from dependencies to the names that streams are subscribed to.
//!
//! A change wakes only the streams that are subscribed to something that it affects: a proxy that uses five of 10,000
//! services is not woken by changes of the others. A stream joins the index before it reads the catalogue, and a change
//! is in the catalogue before the index is read, so that no change is missed.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use outrigger_core::Name;
use tokio::sync::Notify;

use super::lock;
use super::session::SubscriptionChange;
use super::subscription::WILDCARD;
use crate::model::mesh::Mesh;
use crate::translate::catalog::{Affected, Catalog, Dependency};
use crate::translate::resource::Kind;
use crate::translate::scope::{MeshSettings, Viewer};

/// The catalogue and the streams that watch it.
#[derive(Debug)]
pub(super) struct Hub {
    pub(super) catalog: Catalog,
    index: Mutex<Index>,
    /// Serializes publications.
    publishing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Index {
    mailboxes: HashMap<u64, Arc<Mailbox>>,
    watchers: HashMap<Dependency, BTreeSet<(u64, Kind, Name)>>,
    last: u64,
}

/// The names that changed since the stream last read them. It is a set, so that a slow stream costs at most its
/// subscriptions.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    changed: Mutex<BTreeSet<(Kind, Name)>>,
    /// Notified when there are changes.
    pub(super) wake: Notify,
}

/// Returns what every stream depends on: all endpoints that it is subscribed to depend on where its client runs.
fn location_of(id: u64, viewer: &Viewer) -> (Dependency, (u64, Kind, Name)) {
    (Dependency::Workload(viewer.workload.clone()), (id, Kind::Endpoints, WILDCARD.into()))
}

impl Mailbox {
    /// Returns all changes and clears the set.
    pub(super) fn take(&self) -> BTreeSet<(Kind, Name)> {
        std::mem::take(&mut *lock(&self.changed))
    }

    fn put(&self, names: impl IntoIterator<Item = (Kind, Name)>) {
        lock(&self.changed).extend(names);
        self.wake.notify_one();
    }
}

impl Hub {
    pub(super) fn new(settings: MeshSettings) -> Self {
        Self { catalog: Catalog::new(settings), index: Mutex::default(), publishing: Mutex::default() }
    }

    /// Publishes the next version of the mesh and wakes the affected streams; the first version wakes all.
    pub(super) fn publish(&self, mesh: Arc<Mesh>) {
        let _one_at_a_time = lock(&self.publishing);
        let first = !self.catalog.is_ready();
        let affected = self.catalog.publish(mesh);
        let index = lock(&self.index);
        if first {
            index.mailboxes.values().for_each(|mailbox| mailbox.wake.notify_one());
        } else {
            index.deliver(&affected);
        }
    }

    /// Adds a stream.
    pub(super) fn join(&self, viewer: &Viewer) -> (u64, Arc<Mailbox>) {
        let mut index = lock(&self.index);
        index.last += 1;
        let (id, mailbox) = (index.last, Arc::<Mailbox>::default());
        index.mailboxes.insert(id, Arc::clone(&mailbox));
        let (dependency, watcher) = location_of(id, viewer);
        index.watchers.entry(dependency).or_default().insert(watcher);
        (id, mailbox)
    }

    /// Updates the index with a change of a stream's subscriptions.
    pub(super) fn watch(&self, id: u64, viewer: &Viewer, interest: &SubscriptionChange) {
        if interest.added.is_empty() && interest.dropped.is_empty() {
            return;
        }
        let mut index = lock(&self.index);
        for (kind, name) in &interest.dropped {
            for dependency in self.catalog.dependencies(viewer, *kind, name) {
                index.remove(dependency, &(id, *kind, name.clone()));
            }
        }
        for (kind, name) in &interest.added {
            for dependency in self.catalog.dependencies(viewer, *kind, name) {
                index.watchers.entry(dependency).or_default().insert((id, *kind, name.clone()));
            }
        }
    }

    /// Removes a stream with these subscriptions.
    pub(super) fn leave(&self, id: u64, viewer: &Viewer, subscribed: Vec<(Kind, Name)>) {
        self.watch(id, viewer, &SubscriptionChange { added: Vec::new(), dropped: subscribed });
        let mut index = lock(&self.index);
        let (dependency, watcher) = location_of(id, viewer);
        index.remove(dependency, &watcher);
        index.mailboxes.remove(&id);
    }

    #[cfg(test)]
    pub(super) fn watchers(&self) -> usize {
        let index = lock(&self.index);
        index.watchers.len() + index.mailboxes.len()
    }
}

impl Index {
    fn deliver(&self, affected: &Affected) {
        let Affected { dependencies, names, inbound, relocated } = affected;
        for (dependency, kinds) in dependencies {
            for (id, kind, name) in self.watchers.get(dependency).into_iter().flatten() {
                match (dependency, self.mailboxes.get(id)) {
                    // A wildcard subscription gets the changed names of its kind.
                    (Dependency::Mesh, Some(mailbox)) => {
                        mailbox.put(names.iter().filter(|(of, _)| of == kind).cloned());
                    }
                    (_, Some(mailbox)) if kinds.contains(kind) => mailbox.put([(*kind, name.clone())]),
                    (_, _) => {}
                }
            }
        }
        for (workload, names) in inbound {
            for (id, kind, name) in
                self.watchers.get(&Dependency::Workload(workload.clone())).into_iter().flatten()
            {
                if let Some(mailbox) = self.mailboxes.get(id) {
                    let own = names
                        .iter()
                        .filter(|(of, changed)| of == kind && (name.as_ref() == "*" || changed == name));
                    mailbox.put(own.cloned());
                }
            }
        }
        for workload in relocated {
            let watchers = self.watchers.get(&Dependency::Workload(workload.clone())).into_iter().flatten();
            for (id, kind, name) in watchers.filter(|(_, kind, _)| *kind == Kind::Endpoints) {
                if let Some(mailbox) = self.mailboxes.get(id) {
                    mailbox.put([(*kind, name.clone())]);
                }
            }
        }
    }

    fn remove(&mut self, dependency: Dependency, watcher: &(u64, Kind, Name)) {
        if let Some(watchers) = self.watchers.get_mut(&dependency) {
            watchers.remove(watcher);
            if watchers.is_empty() {
                self.watchers.remove(&dependency);
            }
        }
    }
}

#[cfg(test)]
mod tests;
