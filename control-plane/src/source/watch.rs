//! The watcher: a thread that reads the directory whenever it changes, and hands what changed to the assembler.
//!
//! Notices come from the kernel and are debounced; since they may be lost, the directory is also looked at every few
//! seconds. A file that is being written is left alone until its writer closes it. A file that goes away takes its
//! resources along a second later, unless it is back by then. A file that cannot be read or a directory that went away
//! leaves the mesh as it is.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::assembler::SourceHandle;
use super::last_good::LastGood;
use super::notices;
use super::reader::{Job, ParsedFile, Reader};
use super::settling::Notice;

pub use super::reader::SourceError;

/// Changes that come within this time of each other are taken together,
const QUIET: Duration = Duration::from_millis(50);
/// but the first of them waits no longer than this.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often the directory is looked at without a notice.
const POLL: Duration = Duration::from_secs(5);

/// A watched directory. Dropping it waits for its thread to end, so that nothing of it is held any more.
#[derive(Debug)]
pub struct DirectorySource {
    signal: Sender<Signal>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Signal {
    Notice(Notice),
    Parsed(ParsedFile),
    Stop,
}

impl DirectorySource {
    /// Reads the directory, so that `assembler` has all of it and this source is synced when this returns, and watches it
    /// from then on.
    ///
    /// Versions that are in force only because what their file says now was refused are saved in `last_good`, so that
    /// they stay through a restart.
    ///
    /// Fails when the directory cannot be read, or no thread can be started.
    pub fn start(
        directory: impl Into<PathBuf>,
        last_good: impl Into<PathBuf>,
        assembler: SourceHandle,
    ) -> Result<Self, SourceError> {
        let root = directory.into();
        let fail = |error| SourceError { directory: root.clone(), error };
        let (signal, signals) = channel();
        let (noticed, parsed) = (signal.clone(), signal.clone());
        // Before the first reading, so that nothing falls between the two.
        let watcher = notices::watch(&root, move |notice| drop(noticed.send(Signal::Notice(notice))));
        let mut reader = Reader::new(root.clone(), Some(LastGood::load(last_good.into())));
        assembler.apply(reader.read_first()?);
        assembler.synced();
        let (jobs, waiting) = channel::<Job>();
        // Ends with the reader, once it has read what it is at.
        let parse = move || waiting.into_iter().for_each(|job| drop(parsed.send(Signal::Parsed(job.run()))));
        thread::Builder::new().name("source-parse".into()).spawn(parse).map_err(fail)?;
        reader.in_background(jobs);
        let run = move || {
            let _watcher = watcher;
            while wait(&signals, &mut reader) {
                match reader.read(Instant::now()) {
                    Ok(Some(update)) => assembler.apply(update),
                    Ok(None) => {}
                    Err(error) => tracing::warn!(%error, "the configuration stays as it is"),
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

/// Waits until it is time to look again; false when it is time to end.
fn wait(signals: &Receiver<Signal>, reader: &mut Reader) -> bool {
    let poll = Instant::now() + POLL;
    let mut first: Option<Instant> = None;
    loop {
        let now = Instant::now();
        let until = match first {
            Some(first) if now >= first + PATIENCE => return true,
            Some(first) => (now + QUIET).min(first + PATIENCE),
            None => reader.next(now).map_or(poll, |next| next.min(poll)),
        };
        match signals.recv_timeout(until.saturating_duration_since(now)) {
            Ok(Signal::Notice(notice)) => {
                if reader.notice(notice, Instant::now()) {
                    first.get_or_insert(now);
                }
            }
            Ok(Signal::Parsed(file)) => {
                reader.finish(file);
                return true;
            }
            Err(RecvTimeoutError::Timeout) => return true,
            Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

#[cfg(test)]
mod saves;

#[cfg(test)]
mod tests {
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
        kept: &Path,
        log: impl Fn(&[ChangeEvent]) + Send + 'static,
    ) -> (DirectorySource, watch::Receiver<View>) {
        let mut assembler = Assembler::new(log);
        let source = DirectorySource::start(root, kept, assembler.add_source()).unwrap();
        (source, assembler.synced().await.unwrap())
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
        let (source, mut view) =
            start(root.path(), &kept, move |events| drop(log.send(events.to_vec()))).await;
        assert_eq!(view.borrow().mesh.len(), 1);
        assert_eq!(events.try_recv().unwrap()[0].change, Change::Added);

        write("b.yaml", &service("b", 80));
        until(&mut view, |view| view.mesh.len() == 2).await;
        write("a.yaml", "no: [yaml");
        let refused = until(&mut view, |view| !view.refusals.is_empty()).await;
        assert_eq!(refused.mesh.len(), 2);
        let restarted = start(root.path(), &kept, |_| {}).await.1.borrow().clone();
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
    async fn a_file_that_is_written_with_a_pause_is_not_taken_half() {
        use std::io::Write;
        let root = tempfile::tempdir().unwrap();
        let state = tempfile::tempdir().unwrap();
        let slow = root.path().join("slow.yaml");
        let (a, b) = (service("a", 80), service("b", 80));
        std::fs::write(&slow, format!("{a}\n---\n{b}\n")).unwrap();
        let (_source, mut view) = start(root.path(), &state.path().join("kept"), |_| {}).await;
        let mut writer = std::fs::File::create(&slow).unwrap();
        writer.write_all(format!("{}\n", service("a", 81)).as_bytes()).unwrap();
        // Many looks, each of which finds the half file.
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
    async fn a_mounted_config_map_is_followed_when_its_link_is_set_anew() {
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
        let (_source, mut view) = start(root.path(), &state.path().join("kept"), |_| {}).await;
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
            DirectorySource::start("/nowhere/at/all", "/nowhere/kept", handle).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all") && error.contains("No such file"), "{error}");
    }
}
