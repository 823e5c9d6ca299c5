//! Turns scans of the directory into updates.
//!
//! Large files are parsed on another thread, so that no other change waits for them. While one is being parsed, changes and
//! additions are applied at once and removals are deferred: a resource that another file no longer defines may have moved
//! there.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use thiserror::Error;

use super::change::Update;
use super::definitions::{Definitions, FileUpdate};
use super::directory::{ChangedFile, Directory};
use super::file::{Completeness, DocumentCache, ParsedText};
use super::last_good::LastGoodStore;
use super::write_tracker::{FileEvent, WriteTracker};

/// In bytes. Larger texts are parsed on another thread. Parsing this much takes about 50 ms.
const LARGE: usize = 128 * 1024;

/// A configuration directory that cannot be read.
#[derive(Debug, Error)]
#[error("cannot read the configuration in {}: {error}", directory.display())]
pub struct SourceError {
    pub(super) directory: PathBuf,
    pub(super) error: io::Error,
}

/// Reads the directory.
pub(super) struct Reader {
    directory: Directory,
    tracker: WriteTracker,
    definitions: Definitions,
    last_good: Option<LastGoodStore>,
    /// Where large files are sent to be parsed. None during the first scan, which must be complete.
    background: Option<Sender<ParseJob>>,
    /// The large files that are being parsed, each by one job at a time.
    parsing: BTreeMap<PathBuf, Parsing>,
    finished: Vec<ParseResult>,
    /// The complete files whose removals are deferred until nothing is being parsed; None for a file that is gone.
    deferred: BTreeMap<PathBuf, Option<Result<ParsedText, String>>>,
}

/// What happened to a file while it is being parsed.
#[derive(Debug, Default)]
struct Parsing {
    /// A later text was applied already: the result is dropped.
    superseded: bool,
    /// The latest text, to be parsed next, and whether it may be cut short.
    next: Option<(String, bool)>,
}

/// A large file to be parsed.
#[derive(Debug)]
pub(super) struct ParseJob {
    path: PathBuf,
    text: String,
    texts: Arc<DocumentCache>,
    partial: bool,
}

/// A large file that was parsed.
#[derive(Debug)]
pub(super) struct ParseResult {
    path: PathBuf,
    parsed: Result<ParsedText, String>,
    partial: bool,
}

impl ParseJob {
    /// Parses the file. May take long.
    pub(super) fn run(self) -> ParseResult {
        let Self { path, text, texts, partial } = self;
        // If the parser panics, the file must still get a result.
        let parsed = catch_unwind(AssertUnwindSafe(|| ParsedText::of(&text, &texts)));
        ParseResult { path, parsed: parsed.map_err(|_| "the parser failed".into()), partial }
    }
}

impl Reader {
    pub(super) fn new(root: PathBuf, last_good: Option<LastGoodStore>) -> Self {
        let mut definitions = Definitions::default();
        definitions.restore(last_good.as_ref().map_or_else(Vec::new, LastGoodStore::saved));
        Self {
            directory: Directory::new(root),
            tracker: WriteTracker::default(),
            definitions,
            last_good,
            background: None,
            parsing: BTreeMap::new(),
            finished: Vec::new(),
            deferred: BTreeMap::new(),
        }
    }

    /// From now on, large files are sent to `jobs`; the results come back by [`finish`](Self::finish).
    pub(super) fn in_background(&mut self, jobs: Sender<ParseJob>) {
        self.background = Some(jobs);
    }

    /// Records an event of the kernel. Returns true if it calls for a scan.
    pub(super) fn record(&mut self, event: FileEvent, now: Instant) -> bool {
        self.tracker.record(event, now)
    }

    /// Returns when to scan because of what was recorded, which may be in the past. Returns None if nothing calls for it.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        if self.finished.is_empty() { self.tracker.due() } else { Some(now) }
    }

    /// Returns when to scan again if nothing changes before.
    pub(super) fn next_scan(&self, now: Instant) -> Option<Instant> {
        self.tracker.next_scan(now)
    }

    /// Accepts the result for a large file, which the next [`read`](Self::read) applies.
    pub(super) fn finish(&mut self, file: ParseResult) {
        self.finished.push(file);
    }

    /// Reads every file as it is, at the start. Restored definitions of files that are gone are removed.
    pub(super) fn read_first(&mut self) -> Result<Update, SourceError> {
        let changed = self.scan(Instant::now(), &mut |_| {})?;
        let gone: Vec<_> =
            self.definitions.files().filter(|path| !self.directory.holds(path)).cloned().collect();
        let gone = gone.into_iter().map(|path| ChangedFile { path, text: None, partial: false });
        Ok(self.process(changed.into_iter().chain(gone).collect()).unwrap_or_default())
    }

    /// Scans the directory and applies what changed. Returns None if nothing did. `catch_up` is that of
    /// [`Directory::scan_confirmed`].
    pub(super) fn read(
        &mut self,
        now: Instant,
        catch_up: &mut dyn FnMut(&mut WriteTracker),
    ) -> Result<Option<Update>, SourceError> {
        if let Some(last_good) = self.last_good.as_mut().filter(|last_good| last_good.is_unsaved()) {
            last_good.save(self.definitions.retained());
        }
        let changed = self.scan(now, catch_up)?;
        Ok(self.process(changed))
    }

    fn scan(
        &mut self,
        now: Instant,
        catch_up: &mut dyn FnMut(&mut WriteTracker),
    ) -> Result<Vec<ChangedFile>, SourceError> {
        self.directory.scan_confirmed(&mut self.tracker, now, catch_up).map_err(|error| {
            let directory = self.directory.root().to_owned();
            SourceError { directory, error }
        })
    }

    fn process(&mut self, changed: Vec<ChangedFile>) -> Option<Update> {
        let (mut updates, mut jobs) = (Vec::new(), BTreeMap::new());
        for ParseResult { path, parsed, partial } in std::mem::take(&mut self.finished) {
            let Some(Parsing { superseded, next }) = self.parsing.remove(&path) else { continue };
            if let Some(next) = next {
                jobs.insert(path.clone(), next);
            }
            if !superseded {
                updates.push((path, Some(parsed), partial));
            }
        }
        for ChangedFile { path, text, partial } in changed {
            self.deferred.remove(&path);
            let under_way = self.parsing.contains_key(&path);
            match text {
                // A text that is cut short adds to the one before it, so it is applied after that.
                Some(Ok(text))
                    if self.background.is_some() && (text.len() > LARGE || (partial && under_way)) =>
                {
                    match self.parsing.get_mut(&path) {
                        Some(parsing) => parsing.next = Some((text, partial)),
                        None => drop(jobs.insert(path, (text, partial))),
                    }
                }
                text => {
                    jobs.remove(&path);
                    if let Some(parsing) = self.parsing.get_mut(&path) {
                        *parsing = Parsing { superseded: true, next: None };
                    }
                    let parse = |text: String| ParsedText::of(&text, &self.definitions.document_cache(&path));
                    updates.push((path.clone(), text.map(|text| text.map(parse)), partial));
                }
            }
        }
        let is_parsing = !self.parsing.is_empty() || !jobs.is_empty();
        let mut files = Vec::new();
        for (path, parsed, partial) in updates {
            self.deferred.remove(&path);
            let completeness = match (partial, is_parsing) {
                (true, _) => Completeness::Partial,
                (false, false) => Completeness::Complete,
                (false, true) => {
                    self.deferred.insert(path.clone(), parsed.clone());
                    Completeness::RemovalsDeferred
                }
            };
            files.push(FileUpdate { path, parsed, completeness });
        }
        if !is_parsing {
            let deferred = std::mem::take(&mut self.deferred).into_iter();
            files.extend(deferred.map(|(path, parsed)| FileUpdate {
                path,
                parsed,
                completeness: Completeness::Complete,
            }));
        }
        let update = (!files.is_empty()).then(|| self.update(files));
        for (path, (text, partial)) in jobs {
            let job =
                ParseJob { texts: self.definitions.document_cache(&path), path: path.clone(), text, partial };
            if self.background.as_ref().is_some_and(|jobs| jobs.send(job).is_ok()) {
                self.parsing.insert(path, Parsing::default());
            }
        }
        update
    }

    fn update(&mut self, files: Vec<FileUpdate>) -> Update {
        let changes = self.definitions.update(files);
        if let Some(last_good) = &mut self.last_good {
            last_good.save(self.definitions.retained());
        }
        let refusals = self.definitions.refusals().into_iter().collect();
        Update { changes, refusals, ..Update::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::super::write_tracker::REMOVED_AFTER;
    use super::*;
    use crate::model::mesh_builder::MeshBuilder;
    use crate::model::service::ServiceKey;

    fn service(name: &str) -> String {
        format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{ports: [{{port: 80}}]}}}}\n"
        )
    }

    /// Large, of one Service and much that is none.
    fn large(name: &str) -> String {
        service(name) + &"# nothing\n".repeat(LARGE / 10)
    }

    struct Look {
        root: tempfile::TempDir,
        reader: Reader,
        refusals: usize,
        builder: MeshBuilder,
        jobs: Receiver<ParseJob>,
        now: Instant,
    }

    impl Look {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let mut reader = Reader::new(root.path().into(), None);
            reader.read_first().unwrap();
            let (sender, jobs) = channel();
            reader.in_background(sender);
            Self { root, reader, refusals: 0, builder: MeshBuilder::default(), jobs, now: Instant::now() }
        }

        fn write(&mut self, name: &str, text: Option<&str>) -> &mut Self {
            match text {
                Some(text) => std::fs::write(self.root.path().join(name), text).unwrap(),
                None => std::fs::remove_file(self.root.path().join(name)).unwrap(),
            }
            self.reader.record(FileEvent::Closed(name.into()), self.now);
            self
        }

        fn names_later(&mut self) -> Vec<String> {
            self.now += REMOVED_AFTER;
            self.names()
        }

        fn names(&mut self) -> Vec<String> {
            if let Some(update) = self.reader.read(self.now, &mut |_| {}).unwrap() {
                self.refusals = update.refusals.len();
                self.builder.apply(update.changes.into_iter().map(|one| (one.id, one.resource)));
            }
            let mut names: Vec<_> =
                self.builder.mesh().services().map(|(ServiceKey { name, .. }, _)| name.to_string()).collect();
            names.sort_unstable();
            names
        }

        fn run_a_job(&mut self) -> &mut Self {
            let job = self.jobs.try_recv().unwrap();
            self.reader.finish(job.run());
            self
        }
    }

    #[test]
    fn a_small_change_does_not_wait_for_a_large_file() {
        let mut look = Look::new();
        assert_eq!(look.write("large.yaml", Some(&large("l"))).names(), [""; 0]);
        assert_eq!(look.write("small.yaml", Some(&service("s"))).names(), ["s"]);
        assert_eq!(look.run_a_job().names(), ["l", "s"]);
    }

    #[test]
    fn a_resource_that_moves_into_a_large_file_is_never_removed() {
        let mut look = Look::new();
        assert_eq!(look.write("small.yaml", Some(&(service("moves") + &service("stays")))).names().len(), 2);
        look.write("large.yaml", Some(&large("moves"))).write("small.yaml", Some(&service("stays")));
        assert_eq!(look.names(), ["moves", "stays"]);
        assert_eq!(look.run_a_job().names(), ["moves", "stays"]);
        assert_eq!(look.refusals, 0);
        let files: Vec<_> =
            look.reader.definitions.active().map(|(_, file)| file.display().to_string()).collect();
        assert_eq!(files, ["large.yaml", "small.yaml"]);
        // The other way round, and with a complete file.
        look.write("large.yaml", Some(&large("l"))).write("other.yaml", Some(&service("moves")));
        look.write("small.yaml", None);
        assert_eq!(look.names(), ["moves", "stays"]);
        assert_eq!(look.names_later(), ["moves", "stays"]);
        assert_eq!(look.run_a_job().names(), ["l", "moves"]);
    }

    #[test]
    fn a_document_that_shrinks_does_not_wait_for_a_large_file() {
        let mut look = Look::new();
        let port = |look: &mut Look| {
            look.names();
            let mesh = look.builder.mesh();
            mesh.service(&ServiceKey::new("default", "s")).unwrap().service.ports[0].number
        };
        look.write("small.yaml", Some(&service("s").replace("80", "8080")));
        assert_eq!(port(&mut look), 8080);
        look.write("large.yaml", Some(&large("l"))).write("small.yaml", Some(&service("s")));
        assert_eq!(port(&mut look), 80);
    }

    #[test]
    fn an_older_text_never_replaces_a_newer_one() {
        let mut look = Look::new();
        look.write("large.yaml", Some(&large("a"))).names();
        assert_eq!(look.write("large.yaml", Some(&service("b"))).names(), ["b"]);
        // Large again: the first text, parsed only now, is older than what was applied since.
        look.write("large.yaml", Some(&large("c"))).names();
        assert_eq!(look.run_a_job().names(), ["b"]);
        assert_eq!(look.run_a_job().names(), ["c"]);
        // A result and a newer text, found by one scan, are one job.
        look.write("large.yaml", Some(&large("d"))).names();
        look.write("large.yaml", Some(&large("e"))).names();
        look.run_a_job().write("large.yaml", Some(&large("f"))).names();
        assert_eq!(look.run_a_job().names(), ["f"]);
        assert!(look.jobs.try_recv().is_err());
    }

    #[test]
    fn a_resource_that_moves_between_large_files_is_never_removed() {
        let mut look = Look::new();
        look.write("a.yaml", Some(&large("moves"))).names();
        look.run_a_job().names();
        look.write("a.yaml", Some(&large("a"))).write("b.yaml", Some(&large("moves"))).names();
        assert_eq!(look.run_a_job().names(), ["a", "moves"]);
        assert_eq!(look.run_a_job().names(), ["a", "moves"]);
        look.write("b.yaml", None);
        assert_eq!((look.names().len(), look.names_later()), (2, vec!["a".to_owned()]));
    }

    #[test]
    fn the_last_version_of_a_large_file_that_changes_while_it_is_parsed_is_active() {
        let mut look = Look::new();
        look.write("large.yaml", Some(&large("a"))).names();
        look.write("large.yaml", Some(&large("b"))).names();
        look.write("large.yaml", Some(&large("c"))).names();
        assert_eq!(look.run_a_job().names(), ["a"]);
        assert_eq!(look.run_a_job().names(), ["c"]);
        assert!(look.jobs.try_recv().is_err());
        look.write("large.yaml", Some(&large("d"))).names();
        look.write("large.yaml", None).names();
        assert_eq!((look.run_a_job().names().len(), look.names_later().len()), (1, 0));
    }
}
