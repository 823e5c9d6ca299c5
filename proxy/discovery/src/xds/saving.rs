//! Saves the published resources for a restart, shortly after a change.
//!
//! The supervisor owns one [`Saving`]. The file is written on a blocking thread, one write at a time. A failed write leaves the
//! old file; the next change writes the cache again.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::state_dir::StateDir;
use crate::xds::cache;
use crate::xds::store::SharedStore;

/// Delay between the first unsaved change and the write. Later changes within it are included.
const SAVE_AFTER: Duration = Duration::from_secs(1);

/// The saved file, and when it is written next.
#[derive(Debug)]
pub(crate) struct Saving {
    store: SharedStore,
    dir: StateDir,
    /// When to write the file; None if it is up to date.
    due: Option<Instant>,
    writing: Option<JoinHandle<io::Result<()>>>,
}

impl Saving {
    pub(crate) fn new(store: SharedStore, dir: StateDir) -> Self {
        Self { store, dir, due: None, writing: None }
    }

    /// Returns the content of the file, or None if there is none.
    pub(crate) fn read(&self) -> io::Result<Option<Vec<u8>>> {
        self.dir.read(cache::FILE)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path(cache::FILE)
    }

    /// Schedules a write, unless one is scheduled.
    pub(crate) fn schedule(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + SAVE_AFTER);
    }

    /// Waits until a write is due and the previous one has ended. Cancel-safe.
    pub(crate) async fn due(&mut self) {
        self.written().await;
        match self.due {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Starts to write what is published now.
    pub(crate) fn start(&mut self, owner: cache::Owner) {
        self.due = None;
        let (store, dir) = (self.store.clone(), self.dir.clone());
        self.writing = Some(tokio::task::spawn_blocking(move || {
            let published = store.lock().published().clone();
            dir.write(cache::FILE, &cache::to_bytes(&published, &owner))
        }));
    }

    /// Writes pending changes, at shutdown.
    pub(crate) async fn finish(&mut self, owner: cache::Owner) {
        self.written().await;
        if self.due.is_some() {
            self.start(owner);
            self.written().await;
        }
    }

    /// Waits for a write in progress. Cancel-safe.
    async fn written(&mut self) {
        let Some(writing) = &mut self.writing else { return };
        match writing.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the configuration cannot be saved for a restart"),
            Err(error) => tracing::error!(%error, "saving the configuration failed"),
        }
        self.writing = None;
    }
}
