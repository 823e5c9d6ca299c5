//! Where the snapshot of the moment is: one place that is swapped whole.
//!
//! The control thread publishes; each worker reads through its own [`View`], which costs one atomic load while nothing
//! changed. Whoever must act on a change (sockets, readiness) subscribes.

use std::cell::RefCell;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use tokio::sync::watch;

use crate::snapshot::Snapshot;

/// The published snapshot. Clones see the same.
#[derive(Debug, Clone)]
pub struct Published {
    current: Arc<ArcSwap<Snapshot>>,
    changed: Arc<watch::Sender<u64>>,
}

impl Published {
    /// Starts with a snapshot: what the server's flags say, before anything was discovered.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        let changed = Arc::new(watch::Sender::new(snapshot.generation));
        Self { current: Arc::new(ArcSwap::new(snapshot)), changed }
    }

    /// Replaces the snapshot and tells whoever subscribed.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        let generation = snapshot.generation;
        self.current.store(snapshot);
        self.changed.send_replace(generation);
    }

    /// The snapshot of this moment.
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Tells of every publication from now on; the value is its generation.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A view for one worker.
    pub fn view(&self) -> View {
        View(RefCell::new(Cache::new(self.current.clone())))
    }
}

/// One worker's view of the published snapshot. Stays on its thread.
#[derive(Debug)]
pub struct View(RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>);

impl View {
    /// The snapshot of this moment. Take it once per request and decide with nothing else.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        // Borrowed for this call only: nothing in it awaits or calls back.
        self.0.borrow_mut().load().clone()
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
