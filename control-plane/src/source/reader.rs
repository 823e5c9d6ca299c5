//! Directory and ledger in a row: what a look at the directory comes to.
//!
//! Large files are parsed on another thread, so that no other change waits for them. While one is being parsed changes
//! and additions are taken at once and removals wait: what is missing elsewhere may have moved there.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use thiserror::Error;

use super::change::Update;
use super::directory::{ChangedFile, Directory};
use super::file::{Extent, Parsed, ReadTexts};
use super::last_good::LastGood;
use super::ledger::{Ledger, NewFile};
use super::settling::{Notice, Settling};
use crate::model::resource::ResourceId;

/// Larger texts are read on another thread. So much takes some 50 ms.
const LARGE: usize = 128 * 1024;

/// A configuration directory that cannot be read.
#[derive(Debug, Error)]
#[error("cannot read the configuration in {}: {error}", directory.display())]
pub struct SourceError {
    pub(super) directory: PathBuf,
    pub(super) error: io::Error,
}

/// What reads the directory.
pub(super) struct Reader {
    directory: Directory,
    settling: Settling,
    ledger: Ledger,
    last_good: Option<LastGood>,
    /// Who reads large files; nobody at the first look, which is to be complete.
    background: Option<Sender<Job>>,
    /// Large files that are being parsed. Each has one job at a time.
    parsing: BTreeMap<PathBuf, Parsing>,
    finished: Vec<ParsedFile>,
    /// What complete files hold whose removals wait until nothing is being parsed; None for a file that is gone.
    deferred: BTreeMap<PathBuf, Option<Result<Parsed, String>>>,
}

/// What a file that is being parsed says since.
#[derive(Debug, Default)]
struct Parsing {
    /// A later text was taken already: the result is dropped.
    superseded: bool,
    /// The latest text, to be parsed afterwards, and whether it may be cut short.
    next: Option<(String, bool)>,
}

/// A large file to be read.
#[derive(Debug)]
pub(super) struct Job {
    path: PathBuf,
    text: String,
    texts: Arc<ReadTexts>,
    cut: bool,
}

/// A large file that was read.
#[derive(Debug)]
pub(super) struct ParsedFile {
    path: PathBuf,
    parsed: Result<Parsed, String>,
    cut: bool,
}

impl Job {
    /// Reads it. Takes long.
    pub(super) fn run(self) -> ParsedFile {
        let Self { path, text, texts, cut } = self;
        // Whatever a text may do to the parser: somebody waits for an answer.
        let parsed = catch_unwind(AssertUnwindSafe(|| Parsed::of(&text, &texts)));
        ParsedFile { path, parsed: parsed.map_err(|_| "reading it failed".into()), cut }
    }
}

impl Reader {
    pub(super) fn new(root: PathBuf, last_good: Option<LastGood>) -> Self {
        let mut ledger = Ledger::default();
        ledger.restore(last_good.as_ref().map_or_else(Vec::new, LastGood::saved));
        Self {
            directory: Directory::new(root),
            settling: Settling::default(),
            ledger,
            last_good,
            background: None,
            parsing: BTreeMap::new(),
            finished: Vec::new(),
            deferred: BTreeMap::new(),
        }
    }

    /// From now on large files are given away, and come back by [`finish`](Self::finish).
    pub(super) fn in_background(&mut self, jobs: Sender<Job>) {
        self.background = Some(jobs);
    }

    /// Takes note of what the kernel says; true when it is worth a look.
    pub(super) fn notice(&mut self, notice: Notice, now: Instant) -> bool {
        self.settling.notice(notice, now)
    }

    /// When to look again, if nothing is heard before.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        self.settling.next(now)
    }

    /// A large file was read: the next look takes it.
    pub(super) fn finish(&mut self, file: ParsedFile) {
        self.finished.push(file);
    }

    /// The first look: everything as it is, and what was restored for files that are gone goes with them.
    pub(super) fn read_first(&mut self) -> Result<Update, SourceError> {
        let changed = self.scan(Instant::now())?;
        let gone: Vec<_> = self.ledger.files().filter(|path| !self.directory.holds(path)).cloned().collect();
        let gone = gone.into_iter().map(|path| ChangedFile { path, text: None, cut: false });
        Ok(self.take(changed.into_iter().chain(gone).collect()).unwrap_or_default())
    }

    /// Takes in what changed in the directory. Returns None if nothing did.
    pub(super) fn read(&mut self, now: Instant) -> Result<Option<Update>, SourceError> {
        if let Some(last_good) = self.last_good.as_mut().filter(|last_good| last_good.is_behind()) {
            last_good.save(self.ledger.kept());
        }
        let changed = self.scan(now)?;
        Ok(self.take(changed))
    }

    fn scan(&mut self, now: Instant) -> Result<Vec<ChangedFile>, SourceError> {
        self.directory.scan(&mut self.settling, now).map_err(|error| {
            let directory = self.directory.root().to_owned();
            SourceError { directory, error }
        })
    }

    fn take(&mut self, changed: Vec<ChangedFile>) -> Option<Update> {
        let (mut updates, mut jobs) = (Vec::new(), BTreeMap::new());
        for ParsedFile { path, parsed, cut } in std::mem::take(&mut self.finished) {
            let Some(Parsing { superseded, next }) = self.parsing.remove(&path) else { continue };
            if let Some(next) = next {
                jobs.insert(path.clone(), next);
            }
            if !superseded {
                updates.push((path, Some(parsed), cut));
            }
        }
        for ChangedFile { path, text, cut } in changed {
            self.deferred.remove(&path);
            let under_way = self.parsing.contains_key(&path);
            match text {
                // A text that is cut short adds to the one before it, and so comes after that.
                Some(Ok(text)) if self.background.is_some() && (text.len() > LARGE || (cut && under_way)) => {
                    match self.parsing.get_mut(&path) {
                        Some(parsing) => parsing.next = Some((text, cut)),
                        None => drop(jobs.insert(path, (text, cut))),
                    }
                }
                text => {
                    jobs.remove(&path);
                    if let Some(parsing) = self.parsing.get_mut(&path) {
                        *parsing = Parsing { superseded: true, next: None };
                    }
                    let parse = |text: String| Parsed::of(&text, &self.ledger.texts(&path));
                    updates.push((path.clone(), text.map(|text| text.map(parse)), cut));
                }
            }
        }
        let waits = !self.parsing.is_empty() || !jobs.is_empty();
        let mut files = Vec::new();
        for (path, parsed, cut) in updates {
            self.deferred.remove(&path);
            let extent = match (cut, waits) {
                (true, _) => Extent::Cut,
                (false, false) => Extent::Complete,
                (false, true) => {
                    self.deferred.insert(path.clone(), parsed.clone());
                    Extent::KeepMissing
                }
            };
            files.push(NewFile { path, parsed, extent });
        }
        if !waits {
            let deferred = std::mem::take(&mut self.deferred).into_iter();
            files.extend(deferred.map(|(path, parsed)| NewFile { path, parsed, extent: Extent::Complete }));
        }
        let update = (!files.is_empty()).then(|| self.update(files));
        for (path, (text, cut)) in jobs {
            let job = Job { texts: self.ledger.texts(&path), path: path.clone(), text, cut };
            if self.background.as_ref().is_some_and(|jobs| jobs.send(job).is_ok()) {
                self.parsing.insert(path, Parsing::default());
            }
        }
        update
    }

    fn update(&mut self, files: Vec<NewFile>) -> Update {
        let changes = self.ledger.update(files);
        if let Some(last_good) = &mut self.last_good {
            last_good.save(self.ledger.kept());
        }
        let refusals = self.ledger.refusals().into_iter().collect();
        Update { changes, refusals, ignored: Vec::new() }
    }

    /// The resources in force and their files.
    pub(super) fn in_force(&self) -> impl Iterator<Item = (&ResourceId, &Path)> {
        self.ledger.in_force()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::super::settling::GONE;
    use super::*;
    use crate::model::assembly::Assembly;
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
        assembly: Assembly,
        jobs: Receiver<Job>,
        now: Instant,
    }

    impl Look {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let mut reader = Reader::new(root.path().into(), None);
            reader.read_first().unwrap();
            let (sender, jobs) = channel();
            reader.in_background(sender);
            Self { root, reader, refusals: 0, assembly: Assembly::default(), jobs, now: Instant::now() }
        }

        fn write(&mut self, name: &str, text: Option<&str>) -> &mut Self {
            match text {
                Some(text) => std::fs::write(self.root.path().join(name), text).unwrap(),
                None => std::fs::remove_file(self.root.path().join(name)).unwrap(),
            }
            self.reader.notice(Notice::Complete(name.into()), self.now);
            self
        }

        fn names_later(&mut self) -> Vec<String> {
            self.now += GONE;
            self.names()
        }

        fn names(&mut self) -> Vec<String> {
            if let Some(update) = self.reader.read(self.now).unwrap() {
                self.refusals = update.refusals.len();
                self.assembly.apply(update.changes.into_iter().map(|one| (one.id, one.resource)));
            }
            let mut names: Vec<_> = self
                .assembly
                .mesh()
                .services()
                .map(|(ServiceKey { name, .. }, _)| name.to_string())
                .collect();
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
    fn what_moves_into_a_large_file_is_there_all_the_time() {
        let mut look = Look::new();
        assert_eq!(look.write("small.yaml", Some(&(service("moves") + &service("stays")))).names().len(), 2);
        look.write("large.yaml", Some(&large("moves"))).write("small.yaml", Some(&service("stays")));
        assert_eq!(look.names(), ["moves", "stays"]);
        assert_eq!(look.run_a_job().names(), ["moves", "stays"]);
        assert_eq!(look.refusals, 0);
        let files: Vec<_> = look.reader.in_force().map(|(_, file)| file.display().to_string()).collect();
        assert_eq!(files, ["large.yaml", "small.yaml"]);
        // The other way round, and with the whole of a file.
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
            let mesh = look.assembly.mesh();
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
        // Large again: the first text, parsed only now, is older than what was taken since.
        look.write("large.yaml", Some(&large("c"))).names();
        assert_eq!(look.run_a_job().names(), ["b"]);
        assert_eq!(look.run_a_job().names(), ["c"]);
        // A result and a newer text, seen in one look, are one job.
        look.write("large.yaml", Some(&large("d"))).names();
        look.write("large.yaml", Some(&large("e"))).names();
        look.run_a_job().write("large.yaml", Some(&large("f"))).names();
        assert_eq!(look.run_a_job().names(), ["f"]);
        assert!(look.jobs.try_recv().is_err());
    }

    #[test]
    fn what_moves_between_large_files_is_there_all_the_time() {
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
    fn of_a_large_file_that_changes_while_it_is_read_the_last_version_counts() {
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
