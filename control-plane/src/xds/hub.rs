//! Which stream cares about what: an index from what can change to the names that streams subscribed to.
//!
//! A change costs what it touches and wakes only the streams that subscribed to that; one that uses five services of
//! ten thousand never hears of the others. A stream joins the index before it reads the catalogue, and a change
//! reaches the catalogue before it reads the index, so that none is missed.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use outrigger_core::Name;
use tokio::sync::Notify;

use super::lock;
use super::session::Interest;
use crate::model::mesh::Mesh;
use crate::translate::catalog::{Affected, Catalog, Dependency};
use crate::translate::resource::Kind;
use crate::translate::scope::{MeshSettings, Viewer};

/// The catalogue and who watches it.
#[derive(Debug)]
pub(super) struct Hub {
    pub(super) catalog: Catalog,
    index: Mutex<Index>,
    /// One change of the mesh at a time.
    publishing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Index {
    mailboxes: HashMap<u64, Arc<Mailbox>>,
    watchers: HashMap<Dependency, BTreeSet<(u64, Kind, Name)>>,
    last: u64,
}

/// What changed for one stream since it last looked: a set, so that a slow stream costs its subscriptions at most.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    changed: Mutex<BTreeSet<(Kind, Name)>>,
    /// Signalled when there is something to look at.
    pub(super) wake: Notify,
}

impl Mailbox {
    /// Takes out all that changed.
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

    /// Takes the next version of the mesh and wakes whom it concerns; the first wakes everybody.
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

    /// A new stream.
    pub(super) fn join(&self) -> (u64, Arc<Mailbox>) {
        let mut index = lock(&self.index);
        index.last += 1;
        let (id, mailbox) = (index.last, Arc::<Mailbox>::default());
        index.mailboxes.insert(id, Arc::clone(&mailbox));
        (id, mailbox)
    }

    /// What a stream subscribed to and what it gave up.
    pub(super) fn watch(&self, id: u64, viewer: &Viewer, interest: &Interest) {
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

    /// A stream ended with these subscriptions.
    pub(super) fn leave(&self, id: u64, viewer: &Viewer, subscribed: Vec<(Kind, Name)>) {
        self.watch(id, viewer, &Interest { added: Vec::new(), dropped: subscribed });
        lock(&self.index).mailboxes.remove(&id);
    }

    #[cfg(test)]
    pub(super) fn watchers(&self) -> usize {
        let index = lock(&self.index);
        index.watchers.len() + index.mailboxes.len()
    }
}

impl Index {
    fn deliver(&self, affected: &Affected) {
        let Affected { dependencies, names, inbound } = affected;
        for (dependency, kinds) in dependencies {
            for (id, kind, name) in self.watchers.get(dependency).into_iter().flatten() {
                match (dependency, self.mailboxes.get(id)) {
                    // Who watches everything is told the names that changed, among its kind.
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
