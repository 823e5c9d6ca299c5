//! The current snapshot, swapped atomically.
//!
//! The control thread publishes. Each worker reads through its own [`View`], which costs one atomic load while nothing
//! changes. Components that act on a change (sockets, readiness) subscribe.

use std::cell::RefCell;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use tokio::sync::watch;

use crate::snapshot::Snapshot;

/// A handle to the published snapshot. Clones share it.
#[derive(Debug, Clone)]
pub struct Published {
    current: Arc<ArcSwap<Snapshot>>,
    changed: Arc<watch::Sender<u64>>,
}

impl Published {
    /// Creates the handle with an initial snapshot: the configuration from flags, before discovery.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        let changed = Arc::new(watch::Sender::new(snapshot.generation));
        Self { current: Arc::new(ArcSwap::new(snapshot)), changed }
    }

    /// Replaces the snapshot and notifies subscribers.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        let generation = snapshot.generation;
        self.current.store(snapshot);
        self.changed.send_replace(generation);
    }

    /// Returns the current snapshot.
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Returns a receiver that is notified of every later publication. Its value is the generation.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Creates a view for one worker.
    pub fn view(&self) -> View {
        View { current: RefCell::new(Cache::new(self.current.clone())), changed: self.subscribe() }
    }
}

/// One worker's view of the published snapshot. It stays on the worker's thread.
#[derive(Debug)]
pub struct View {
    current: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    changed: watch::Receiver<u64>,
}

impl View {
    /// Returns the current snapshot. Call it once per request and use only that snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        // The borrow cannot overlap another one: nothing within it awaits or calls back.
        self.current.borrow_mut().load().clone()
    }

    /// Returns a receiver that is notified of every later publication. Its value is the generation.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        let mut changed = self.changed.clone();
        changed.mark_unchanged();
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_publication_reaches_every_view_and_subscriber() {
        let published = Published::new(Arc::default());
        let (view, mut changed) = (published.view(), published.subscribe());
        let held = view.snapshot();
        published.publish(Arc::new(Snapshot { generation: 7, ..Default::default() }));
        changed.changed().await.unwrap();
        assert_eq!((*changed.borrow(), view.snapshot().generation), (7, 7));
        assert_eq!(held.generation, 0, "what was taken stays as it was");
    }
}
