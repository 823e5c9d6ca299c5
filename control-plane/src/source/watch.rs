//! The watcher: a thread that reads the directory whenever it changes, and publishes the mesh that it makes.
//!
//! Notices come from the kernel and are debounced; since they may be lost, the directory is also looked at every few
//! seconds. A file that cannot be read or a directory that went away leaves the mesh as it is.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecursiveMode, Watcher};
use thiserror::Error;
use tokio::sync::watch;

use super::change::{ChangeEvent, Refusal};
use super::directory::{ChangedFile, Directory};
use super::last_good::LastGood;
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

/// A watched directory. Dropping it waits for its thread to end, so that nothing of it is held any more.
#[derive(Debug)]
pub struct Source {
    view: watch::Receiver<View>,
    signal: Sender<Signal>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Signal {
    Touched,
    Stop,
}

impl Source {
    /// Reads the directory, so that [`view`](Self::view) is complete from the start, and watches it from then on.
    ///
    /// Versions that are in force only because what their file says now was refused are saved in `last_good`, so that
    /// they stay through a restart.
    ///
    /// `log` is called with the changes of the first reading, and of each later one that found any, on the thread that read: with those of the
    /// first before this returns, then on the watcher's own. It may block; what it was told is published after it
    /// returned.
    ///
    /// Fails when the directory cannot be read, or no thread can be started.
    pub fn start(
        directory: impl Into<PathBuf>,
        last_good: impl Into<PathBuf>,
        log: impl Fn(&[ChangeEvent]) + Send + 'static,
    ) -> Result<Self, SourceError> {
        let root = directory.into();
        let fail = |error| SourceError { directory: root.clone(), error };
        let (signal, signals) = channel();
        // Before the first reading, so that nothing falls between the two.
        let watcher = notice_changes(&root, signal.clone());
        let mut reader = Reader::new(root.clone(), Some(LastGood::load(last_good.into())));
        // The first reading is told whatever it found: a directory that was emptied meanwhile is news too.
        if !reader.read(&log)? {
            log(&[]);
        }
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
        let thread = thread::Builder::new().name("source".into()).spawn(run).map_err(fail)?;
        Ok(Self { view, signal, thread: Some(thread) })
    }

    /// The state of the configuration, now and in future.
    pub fn view(&self) -> watch::Receiver<View> {
        self.view.clone()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let _ = self.signal.send(Signal::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
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
    let notice = move |event| {
        if may_change(&event) {
            drop(signal.send(Signal::Touched));
        }
    };
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

/// Whether a notice may be of a change. Looking opens files and folders, which is noticed too: without this, every look
/// would bring on the next.
fn may_change(event: &notify::Result<Event>) -> bool {
    match event {
        Ok(Event { kind: EventKind::Access(AccessKind::Close(AccessMode::Write)), .. }) => true,
        Ok(Event { kind: EventKind::Access(_), .. }) => false,
        // An error may stand for notices that were lost.
        Ok(_) | Err(_) => true,
    }
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
    last_good: Option<LastGood>,
}

impl Reader {
    pub(super) fn new(root: PathBuf, last_good: Option<LastGood>) -> Self {
        let mut ledger = Ledger::default();
        ledger.restore(last_good.as_ref().map_or_else(Vec::new, LastGood::saved));
        Self {
            directory: Directory::new(root),
            ledger,
            last_good,
            assembly: Assembly::default(),
            refusals: Arc::default(),
        }
    }

    /// Takes in what changed in the directory; tells whether anything did.
    pub(super) fn read(&mut self, log: &impl Fn(&[ChangeEvent])) -> Result<bool, SourceError> {
        let mut files = self.directory.scan().map_err(|error| {
            let directory = self.directory.root().to_owned();
            SourceError { directory, error }
        })?;
        // What was restored for a file that went away in the meantime goes with it.
        let gone = self.ledger.files().filter(|path| !self.directory.holds(path)).cloned();
        files.extend(
            gone.map(|path| ChangedFile { path, text: None })
                .filter(|gone| !files.contains(gone))
                .collect::<Vec<_>>(),
        );
        if files.is_empty() {
            return Ok(false);
        }
        let settled = self.ledger.update(files);
        let events = self.ledger.events(&settled, jiff::Timestamp::now());
        self.refusals = self.ledger.refusals().into_iter().collect();
        if !events.is_empty() {
            log(&events);
        }
        if let Some(last_good) = &mut self.last_good {
            last_good.save(self.ledger.kept());
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::service::ServiceKey;
    use crate::source::change::Change;

    fn service(name: &str, port: u16) -> String {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{ports: [{{port: {port}}}]}}}}"
        )
    }

    /// Waits for a version of which `holds` is true; the watcher looks by itself every few seconds at the latest.
    async fn until(view: &mut watch::Receiver<View>, holds: impl FnMut(&View) -> bool) -> View {
        let found = tokio::time::timeout(Duration::from_secs(30), view.wait_for(holds)).await;
        found.expect("no such version in 30 s").unwrap().clone()
    }

    #[tokio::test]
    async fn a_watched_directory_becomes_a_mesh_that_follows_it() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(root.path().join(".new"), text).unwrap();
            std::fs::rename(root.path().join(".new"), root.path().join(name)).unwrap();
        };
        write("a.yaml", &service("a", 80));
        let (log, events) = channel();
        let state = tempfile::tempdir().unwrap();
        let kept = state.path().join("last-good.json");
        let source =
            Source::start(root.path(), &kept, move |events| drop(log.send(events.to_vec()))).unwrap();
        let mut view = source.view();
        assert_eq!(view.borrow().mesh.len(), 1);
        assert_eq!(events.try_recv().unwrap()[0].change, Change::Added);

        write("b.yaml", &service("b", 80));
        until(&mut view, |view| view.mesh.len() == 2).await;
        write("a.yaml", "no: [yaml");
        let refused = until(&mut view, |view| !view.refusals.is_empty()).await;
        assert_eq!(refused.mesh.len(), 2);
        let restarted = Source::start(root.path(), &kept, |_| {}).unwrap().view().borrow().clone();
        assert_eq!((restarted.mesh.len(), restarted.refusals.len()), (2, 1));
        write("a.yaml", &service("a", 81));
        let key = ServiceKey::new("default", "a");
        let has_81 = |view: &View| view.mesh.service(&key).is_some_and(|a| a.service.port(81).is_some());
        assert!(until(&mut view, has_81).await.refusals.is_empty());
        std::fs::remove_file(root.path().join("b.yaml")).unwrap();
        until(&mut view, |view| view.mesh.len() == 1).await;
        drop(source);
        assert!(view.wait_for(|_| false).await.is_err(), "the thread ends with its owner");
    }

    #[test]
    fn looking_at_the_directory_is_no_reason_to_look_again() {
        use notify::event::{CreateKind, ModifyKind, RemoveKind};
        for (kind, expected) in [
            (EventKind::Access(AccessKind::Open(AccessMode::Any)), false),
            (EventKind::Access(AccessKind::Close(AccessMode::Read)), false),
            (EventKind::Access(AccessKind::Close(AccessMode::Write)), true),
            (EventKind::Create(CreateKind::File), true),
            (EventKind::Modify(ModifyKind::Any), true),
            (EventKind::Remove(RemoveKind::File), true),
            (EventKind::Other, true),
        ] {
            assert_eq!(may_change(&Ok(Event::new(kind))), expected, "{kind:?}");
        }
        assert!(may_change(&Err(notify::Error::generic("overflow"))));
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let error = Source::start("/nowhere/at/all", "/nowhere/kept", |_| {}).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all") && error.contains("No such file"), "{error}");
    }
}
