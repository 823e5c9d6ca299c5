//! Directory, ledger and model in a row: what a look at the directory comes to.
//!
//! Large files are read on another thread, so that no other change waits for them. While one is being read nothing is
//! taken away: what is missing elsewhere may have moved there.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use thiserror::Error;

use super::change::{ChangeEvent, Refusal};
use super::directory::{ChangedFile, Directory};
use super::file::{Parsed, ReadTexts};
use super::last_good::LastGood;
use super::ledger::{Ledger, NewFile};
use super::settling::{Notice, Settling};
use crate::model::assembly::Assembly;
use crate::model::mesh::Mesh;
use crate::model::resource::ResourceId;
use crate::model::status::Statuses;

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
    assembly: Assembly,
    refusals: Arc<[Refusal]>,
    last_good: Option<LastGood>,
    /// Who reads large files; nobody at the first look, which is to be complete.
    background: Option<Sender<Job>>,
    /// Large files that are being read, each with what it says since.
    parsing: BTreeMap<PathBuf, Option<(String, bool)>>,
    finished: Vec<ParsedFile>,
    /// What files say that were taken without taking anything away.
    deferred: BTreeMap<PathBuf, Option<Result<String, String>>>,
}

/// A large file to be read.
#[derive(Debug)]
pub(super) struct Job {
    path: PathBuf,
    text: String,
    texts: Arc<ReadTexts>,
    whole: bool,
}

/// A large file that was read.
#[derive(Debug)]
pub(super) struct ParsedFile {
    path: PathBuf,
    parsed: Result<Parsed, String>,
    whole: bool,
}

impl Job {
    /// Reads it. Takes long.
    pub(super) fn run(self) -> ParsedFile {
        let Self { path, text, texts, whole } = self;
        // Whatever a text may do to the parser: somebody waits for an answer.
        let parsed = catch_unwind(AssertUnwindSafe(|| Parsed::of(&text, &texts)));
        ParsedFile { path, parsed: parsed.map_err(|_| "reading it failed".into()), whole }
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
            assembly: Assembly::default(),
            refusals: Arc::default(),
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
    pub(super) fn read_first(&mut self, log: &impl Fn(&[ChangeEvent])) -> Result<bool, SourceError> {
        let changed = self.scan(Instant::now())?;
        let gone: Vec<_> = self.ledger.files().filter(|path| !self.directory.holds(path)).cloned().collect();
        let gone = gone.into_iter().map(|path| ChangedFile { path, text: None, whole: true });
        Ok(self.take(changed.into_iter().chain(gone).collect(), log))
    }

    /// Takes in what changed in the directory; tells whether anything did.
    pub(super) fn read(&mut self, log: &impl Fn(&[ChangeEvent]), now: Instant) -> Result<bool, SourceError> {
        if let Some(last_good) = self.last_good.as_mut().filter(|last_good| last_good.is_behind()) {
            last_good.save(self.ledger.kept());
        }
        let changed = self.scan(now)?;
        Ok(self.take(changed, log))
    }

    fn scan(&mut self, now: Instant) -> Result<Vec<ChangedFile>, SourceError> {
        self.directory.scan(&mut self.settling, now).map_err(|error| {
            let directory = self.directory.root().to_owned();
            SourceError { directory, error }
        })
    }

    fn take(&mut self, changed: Vec<ChangedFile>, log: &impl Fn(&[ChangeEvent])) -> bool {
        let (mut files, mut jobs) = (Vec::new(), Vec::new());
        for ParsedFile { path, parsed, whole } in std::mem::take(&mut self.finished) {
            let since = self.parsing.remove(&path).flatten();
            if self.deferred.contains_key(&path) {
                // Its later text was small, and is known already.
                continue;
            }
            if let Some((text, whole)) = since {
                jobs.push((path.clone(), text, whole));
            }
            files.push(NewFile { path, parsed: Some(parsed), whole });
        }
        let mut small = Vec::new();
        for ChangedFile { path, text, whole } in changed {
            match text {
                Some(Ok(text)) if self.background.is_some() && text.len() > LARGE => {
                    self.deferred.remove(&path);
                    match self.parsing.get_mut(&path) {
                        Some(since) => *since = Some((text, whole)),
                        None => jobs.push((path, text, whole)),
                    }
                }
                text => small.push(ChangedFile { path, text, whole }),
            }
        }
        let waits = !self.parsing.is_empty() || !jobs.is_empty();
        for ChangedFile { path, text, whole } in small {
            self.deferred.remove(&path);
            if waits && whole {
                self.deferred.insert(path.clone(), text.clone());
            }
            files.push(self.new_file(path, text, whole && !waits));
        }
        if !waits {
            for (path, text) in std::mem::take(&mut self.deferred) {
                files.push(self.new_file(path, text, true));
            }
        }
        let changed = !files.is_empty() && self.apply(files, log);
        for (path, text, whole) in jobs {
            let job = Job { texts: self.ledger.texts(&path), path: path.clone(), text, whole };
            if self.background.as_ref().is_some_and(|jobs| jobs.send(job).is_ok()) {
                self.parsing.insert(path, None);
            }
        }
        changed
    }

    fn new_file(&self, path: PathBuf, text: Option<Result<String, String>>, whole: bool) -> NewFile {
        let parse = |text: String| Parsed::of(&text, &self.ledger.texts(&path));
        let parsed = text.map(|text| text.map(parse));
        NewFile { path, parsed, whole }
    }

    fn apply(&mut self, files: Vec<NewFile>, log: &impl Fn(&[ChangeEvent])) -> bool {
        let settled = self.ledger.update(files);
        let events = self.ledger.events(&settled, jiff::Timestamp::now());
        if !events.is_empty() {
            log(&events);
        }
        if let Some(last_good) = &mut self.last_good {
            last_good.save(self.ledger.kept());
        }
        let announced = self.ledger.announced();
        let same = announced.len() == self.refusals.len() && announced.iter().eq(self.refusals.iter());
        if !same {
            self.refusals = announced.iter().cloned().collect();
        }
        let changed = !settled.is_empty();
        self.assembly.apply(settled.into_iter().map(|change| (change.id, change.resource)));
        changed || !same
    }

    /// The resources in force and their files.
    pub(super) fn in_force(&self) -> impl Iterator<Item = (&ResourceId, &Path)> {
        self.ledger.in_force()
    }

    /// What is refused.
    pub(super) fn refusals(&self) -> &Arc<[Refusal]> {
        &self.refusals
    }

    /// The mesh that the accepted resources make.
    pub(super) fn mesh(&self) -> Mesh {
        self.assembly.mesh()
    }

    /// What became of each route.
    pub(super) fn statuses(&self) -> Statuses {
        self.assembly.statuses()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;
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
        jobs: Receiver<Job>,
    }

    impl Look {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let mut reader = Reader::new(root.path().into(), None);
            reader.read_first(&|_| {}).unwrap();
            let (sender, jobs) = channel();
            reader.in_background(sender);
            Self { root, reader, jobs }
        }

        fn write(&mut self, name: &str, text: Option<&str>) -> &mut Self {
            match text {
                Some(text) => std::fs::write(self.root.path().join(name), text).unwrap(),
                None => std::fs::remove_file(self.root.path().join(name)).unwrap(),
            }
            self.reader.notice(Notice::Complete(name.into()), Instant::now());
            self
        }

        fn names(&mut self) -> Vec<String> {
            self.reader.read(&|_| {}, Instant::now()).unwrap();
            let mut names: Vec<_> =
                self.reader.mesh().services().map(|(ServiceKey { name, .. }, _)| name.to_string()).collect();
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
        assert_eq!(look.reader.refusals().len(), 0);
        let files: Vec<_> = look.reader.in_force().map(|(_, file)| file.display().to_string()).collect();
        assert_eq!(files, ["large.yaml", "small.yaml"]);
        // The other way round, and with the whole of a file.
        look.write("large.yaml", Some(&large("l"))).write("other.yaml", Some(&service("moves")));
        look.write("small.yaml", None);
        assert_eq!(look.names(), ["moves", "stays"]);
        assert_eq!(look.run_a_job().names(), ["l", "moves"]);
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
        assert_eq!(look.run_a_job().names(), [""; 0]);
    }
}
