//! Watches the directory: a thread reads it whenever it changes, and applies the changes to the assembler.
//!
//! Changes are debounced (`debounce.rs`). Since events may be lost, the directory is also scanned every few seconds. A file
//! that is being written is not read until its writer closes it. The resources of a file that disappears are removed a second
//! later, unless it is back by then. A file that cannot be read, or a directory that disappears, leaves the mesh unchanged.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::assembler::SourceHandle;
use super::file_events::{self, Observed, Watch};
use super::last_good::LastGoodStore;
use super::reader::{ParseJob, ParseResult, Reader};
use super::write_tracker::WriteTracker;

pub use super::reader::SourceError;

/// How often the directory is scanned if there are no events.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// How long a scan waits for the events until then. If they take longer, it does without.
const CATCH_UP: Duration = Duration::from_secs(1);

/// A watched directory. Dropping it stops its thread and waits for that to end.
#[derive(Debug)]
pub struct DirectorySource {
    signal: Sender<Signal>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Signal {
    Observed(Observed),
    Parsed(ParseResult),
    Stop,
}

/// What the thread waits for.
struct Signals {
    signals: Receiver<Signal>,
    watch: Option<Watch>,
    /// Signals that came while the thread waited for others.
    kept: Vec<Signal>,
}

impl DirectorySource {
    /// Reads the directory, marks the source as synced, and watches the directory from then on.
    ///
    /// The last good versions of resources whose files were refused are saved in the file `last_good`, so that they survive a
    /// restart. A file beside it, which stays empty, serves to know whether all events have come.
    ///
    /// Returns an error if the directory cannot be read or a thread cannot be started.
    pub fn start(
        directory: impl Into<PathBuf>,
        last_good: impl Into<PathBuf>,
        assembler: SourceHandle,
    ) -> Result<Self, SourceError> {
        let (root, last_good) = (directory.into(), last_good.into());
        let fail = |error| SourceError { directory: root.clone(), error };
        let (signal, signals) = channel();
        let (observed, parsed) = (signal.clone(), signal.clone());
        // Before the first scan, so that no change is missed between the two.
        let watch = file_events::watch(&root, &last_good.with_extension("watch"), move |one| {
            drop(observed.send(Signal::Observed(one)));
        });
        let mut reader = Reader::new(root.clone(), Some(LastGoodStore::load(last_good)));
        assembler.apply(reader.read_first()?);
        assembler.synced();
        let (jobs, waiting) = channel::<ParseJob>();
        // Ends after its current job once the reader is dropped.
        let parse = move || waiting.into_iter().for_each(|job| drop(parsed.send(Signal::Parsed(job.run()))));
        thread::Builder::new().name("source-parse".into()).spawn(parse).map_err(fail)?;
        reader.in_background(jobs);
        let mut signals = Signals { signals, watch, kept: Vec::new() };
        let run = move || {
            while signals.wait(&mut reader) {
                match reader.read(Instant::now(), &mut |tracker| signals.catch_up(tracker)) {
                    Ok(Some(update)) => assembler.apply(update),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(%error, "cannot read the configuration: keeping the last one")
                    }
                }
            }
        };
        let thread = thread::Builder::new().name("source".into()).spawn(run).map_err(fail)?;
        Ok(Self { signal, thread: Some(thread) })
    }
}

impl Drop for DirectorySource {
    fn drop(&mut self) {
        let _ = self.signal.send(Signal::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Signals {
    /// Waits until it is time to scan. Returns false if the source was stopped.
    fn wait(&mut self, reader: &mut Reader) -> bool {
        let poll = Instant::now() + POLL_INTERVAL;
        loop {
            let waiting: Vec<_> = self.kept.drain(..).chain(self.signals.try_iter()).collect();
            if !waiting.into_iter().all(|signal| take(signal, reader)) {
                return false;
            }
            let now = Instant::now();
            if let Some(at) = reader.due(now) {
                let left = at.saturating_duration_since(now);
                if left.is_zero() {
                    return true;
                }
                // Events stay in the channel until then: each would wake this thread.
                thread::sleep(left);
                continue;
            }
            let until = reader.next_scan(now).map_or(poll, |next| next.min(poll));
            match self.signals.recv_timeout(until.saturating_duration_since(now)) {
                Ok(signal) => self.kept.push(signal),
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Records all events until now.
    fn catch_up(&mut self, tracker: &mut WriteTracker) {
        let until = Instant::now() + CATCH_UP;
        if !self.watch.as_ref().is_some_and(Watch::mark) {
            return;
        }
        loop {
            match self.signals.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Signal::Observed(Observed::Event(event, at))) => drop(tracker.record(event, at)),
                Ok(Signal::Observed(Observed::Mark)) | Err(_) => return,
                Ok(signal @ (Signal::Parsed(_) | Signal::Stop)) => self.kept.push(signal),
            }
        }
    }
}

/// Passes a signal on. Returns false if it stops the source.
fn take(signal: Signal, reader: &mut Reader) -> bool {
    match signal {
        Signal::Observed(Observed::Event(event, at)) => _ = reader.record(event, at),
        Signal::Observed(Observed::Mark) => {}
        Signal::Parsed(file) => reader.finish(file),
        Signal::Stop => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    mod endless;
    mod saves;

    use std::path::Path;

    use tokio::sync::watch;

    use super::*;
    use crate::model::service::ServiceKey;
    use crate::source::assembler::{Assembler, View};
    use crate::source::change::{Change, ChangeEvent};

    fn service(name: &str, port: u16) -> String {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{ports: [{{port: {port}}}]}}}}"
        )
    }

    async fn start(
        root: &Path,
        retained: &Path,
        log: impl Fn(&[ChangeEvent]) + Send + 'static,
    ) -> (DirectorySource, watch::Receiver<View>) {
        let mut assembler = Assembler::new(log);
        let source = DirectorySource::start(root, retained, assembler.add_source()).unwrap();
        (source, assembler.synced().await.unwrap())
    }

    /// Waits for a view for which `holds` returns true. The watcher scans every few seconds at the latest.
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
        let retained = state.path().join("last-good.json");
        let (source, mut view) =
            start(root.path(), &retained, move |events| drop(log.send(events.to_vec()))).await;
        assert_eq!(view.borrow().mesh.len(), 1);
        assert_eq!(events.try_recv().unwrap()[0].change, Change::Added);

        write("b.yaml", &service("b", 80));
        until(&mut view, |view| view.mesh.len() == 2).await;
        write("a.yaml", "no: [yaml");
        let refused = until(&mut view, |view| !view.refusals.is_empty()).await;
        assert_eq!(refused.mesh.len(), 2);
        let restarted = start(root.path(), &retained, |_| {}).await.1.borrow().clone();
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

    #[tokio::test]
    async fn a_file_that_is_written_with_a_pause_is_not_read_half() {
        use std::io::Write;
        let root = tempfile::tempdir().unwrap();
        let state = tempfile::tempdir().unwrap();
        let slow = root.path().join("slow.yaml");
        let (a, b) = (service("a", 80), service("b", 80));
        std::fs::write(&slow, format!("{a}\n---\n{b}\n")).unwrap();
        let (_source, mut view) = start(root.path(), &state.path().join("retained"), |_| {}).await;
        let mut writer = std::fs::File::create(&slow).unwrap();
        writer.write_all(format!("{}\n", service("a", 81)).as_bytes()).unwrap();
        // Many scans, each of which finds the incomplete file.
        for n in 0..3 {
            std::fs::write(root.path().join(format!("other-{n}.yaml")), service(&format!("other-{n}"), 80))
                .unwrap();
            let seen = until(&mut view, |view| view.mesh.len() == 3 + n).await;
            let port = |name: &str| {
                seen.mesh.service(&ServiceKey::new("default", name)).unwrap().service.ports[0].number
            };
            assert_eq!((port("a"), port("b")), (80, 80));
        }
        writer.write_all(format!("---\n{b}\n").as_bytes()).unwrap();
        drop(writer);
        let key = ServiceKey::new("default", "a");
        let seen =
            until(&mut view, |view| view.mesh.service(&key).unwrap().service.ports[0].number == 81).await;
        assert_eq!(seen.mesh.len(), 5);
    }

    #[tokio::test]
    async fn a_mounted_config_map_is_read_again_when_its_link_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let state = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let version = |name: &str, port: u16| {
            std::fs::create_dir(at(name)).unwrap();
            std::fs::write(at(name).join("a.yaml"), service("a", port)).unwrap();
            std::os::unix::fs::symlink(name, at("..data_tmp")).unwrap();
            std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
        };
        version("..2026_1", 80);
        std::os::unix::fs::symlink("..data/a.yaml", at("a.yaml")).unwrap();
        let (_source, mut view) = start(root.path(), &state.path().join("retained"), |_| {}).await;
        let key = ServiceKey::new("default", "a");
        for port in 81..84 {
            version(&format!("..2026_{port}"), port);
            until(&mut view, |view| view.mesh.service(&key).unwrap().service.port(port).is_some()).await;
        }
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let handle = Assembler::new(|_| {}).add_source();
        let error =
            DirectorySource::start("/nowhere/at/all", "/nowhere/retained", handle).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all") && error.contains("No such file"), "{error}");
    }
}
