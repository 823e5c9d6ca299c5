//! The watcher: a thread that reads the directory whenever it changes, and publishes the mesh that it makes.
//!
//! Notices come from the kernel and are debounced; since they may be lost, the directory is also looked at every few
//! seconds. A file that cannot be read or a directory that went away leaves the mesh as it is.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use notify::{RecursiveMode, Watcher};
use thiserror::Error;
use tokio::sync::watch;

use super::change::{ChangeEvent, Refusal};
use super::directory::Directory;
use super::ledger::Ledger;
use crate::model::assembly::Assembly;
use crate::model::mesh::Mesh;
use crate::model::resource::ResourceId;
use crate::model::status::Statuses;

/// Changes that come within this time of each other are taken together,
const QUIET: Duration = Duration::from_millis(50);
/// but the first of them waits no longer than this.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often the directory is looked at without a notice.
const POLL: Duration = Duration::from_secs(5);

/// The state of the configuration.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The mesh that the accepted resources make, without registrations.
    pub mesh: Arc<Mesh>,
    /// What is refused, in order of file and document.
    pub refusals: Arc<[Refusal]>,
    /// What became of each route.
    pub statuses: Statuses,
}

/// A watched directory. The thread ends when this is dropped.
#[derive(Debug)]
pub struct Source {
    view: watch::Receiver<View>,
    signal: Sender<Signal>,
}

#[derive(Debug)]
enum Signal {
    Touched,
    Stop,
}

impl Source {
    /// Reads the directory, so that [`view`](Self::view) is complete from the start, and watches it from then on.
    ///
    /// `log` is called for every accepted or refused change, the first reading included, on the thread that found it:
    /// before this returns for the first reading, and then on the watcher's own. It may block; the mesh that the
    /// change makes is published after it returned.
    ///
    /// Fails when the directory cannot be read, or no thread can be started.
    pub fn start(
        directory: impl Into<PathBuf>,
        log: impl Fn(&ChangeEvent) + Send + 'static,
    ) -> Result<Self, SourceError> {
        let root = directory.into();
        let fail = |error| SourceError { directory: root.clone(), error };
        let (signal, signals) = channel();
        // Before the first reading, so that nothing falls between the two.
        let watcher = notice_changes(&root, signal.clone());
        let mut reader = Reader::new(root.clone());
        reader.read(&log)?;
        let (publish, view) = watch::channel(reader.view());
        let run = move || {
            let _watcher = watcher;
            while wait(&signals) {
                match reader.read(&log) {
                    Ok(true) => drop(publish.send(reader.view())),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(%error, "the configuration stays as it is"),
                }
            }
        };
        thread::Builder::new().name("source".into()).spawn(run).map_err(fail)?;
        Ok(Self { view, signal })
    }

    /// The state of the configuration, now and in future.
    pub fn view(&self) -> watch::Receiver<View> {
        self.view.clone()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let _ = self.signal.send(Signal::Stop);
    }
}

/// A configuration directory that cannot be read.
#[derive(Debug, Error)]
#[error("cannot read the configuration in {}: {error}", directory.display())]
pub struct SourceError {
    directory: PathBuf,
    error: io::Error,
}

/// Asks the kernel for notices. Without them, changes are found by looking.
fn notice_changes(root: &Path, signal: Sender<Signal>) -> Option<impl Watcher + use<>> {
    let notice = move |_| drop(signal.send(Signal::Touched));
    let watcher = notify::recommended_watcher(notice).and_then(|mut watcher| {
        watcher.watch(root, RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    watcher
        .inspect_err(
            |error| tracing::warn!(%error, poll = ?POLL, "no notices of changed files: looking for them"),
        )
        .ok()
}

/// Waits until it is time to look again; false when it is time to end.
fn wait(signals: &Receiver<Signal>) -> bool {
    match signals.recv_timeout(POLL) {
        Ok(Signal::Touched) => {}
        Err(RecvTimeoutError::Timeout) => return true,
        Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).min(QUIET);
        match signals.recv_timeout(left) {
            Ok(Signal::Touched) if !left.is_zero() => {}
            Ok(Signal::Touched) | Err(RecvTimeoutError::Timeout) => return true,
            Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

/// Directory, ledger and model in a row.
pub(super) struct Reader {
    directory: Directory,
    ledger: Ledger,
    assembly: Assembly,
    refusals: Arc<[Refusal]>,
}

impl Reader {
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            directory: Directory::new(root),
            ledger: Ledger::default(),
            assembly: Assembly::default(),
            refusals: Arc::default(),
        }
    }

    /// Takes in what changed in the directory; tells whether anything did.
    pub(super) fn read(&mut self, log: &impl Fn(&ChangeEvent)) -> Result<bool, SourceError> {
        let files = self.directory.scan().map_err(|error| {
            let directory = self.directory.root().to_owned();
            SourceError { directory, error }
        })?;
        if files.is_empty() {
            return Ok(false);
        }
        let settled = self.ledger.update(files);
        let events = self.ledger.events(&settled, jiff::Timestamp::now());
        self.refusals = self.ledger.refusals().into_iter().collect();
        events.iter().for_each(log);
        self.assembly.apply(settled.into_iter().map(|change| (change.id, change.resource)));
        Ok(true)
    }

    /// The resources in force and their files.
    pub(super) fn in_force(&self) -> impl Iterator<Item = (&ResourceId, &Path)> {
        self.ledger.in_force()
    }

    pub(super) fn view(&self) -> View {
        View {
            mesh: Arc::new(self.assembly.mesh()),
            refusals: Arc::clone(&self.refusals),
            statuses: self.assembly.statuses(),
        }
    }
}
