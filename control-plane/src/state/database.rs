//! The database file, closed after the disk failed and opened again by itself.
//!
//! After a failed read or write redb refuses everything until its file is reopened, since what it has in memory may
//! differ from what is on the disk; what was committed is there. So a failure closes the file, and the next use opens
//! it, at most once in a while: a disk that is full is left alone until it may have space again. A write that succeeds
//! ends the trouble, and nothing else does.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use redb::{Database, DatabaseError};

use super::StateError;

/// How long the file is left alone after the first failure, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// Opens a file that is there. Tests have one whose disk is full when they say so.
pub(crate) type Opener = Box<dyn Fn(&Path) -> Result<Database, DatabaseError> + Send + Sync>;

/// An open database, or one that is opened when it is needed.
pub(super) struct ReopenedDatabase {
    path: PathBuf,
    open: Opener,
    /// None while it is closed. A use holds it for reading, so that it is closed by nobody meanwhile.
    database: RwLock<Option<Database>>,
    trouble: Mutex<Option<Trouble>>,
}

/// What is wrong with the store.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// Since when.
    pub since: SystemTime,
    /// What the system said last.
    pub error: String,
    retry_at: Instant,
    pause: Duration,
}

/// What somebody does with the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Write,
}

impl std::fmt::Debug for ReopenedDatabase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReopenedDatabase").field("path", &self.path).finish_non_exhaustive()
    }
}

impl ReopenedDatabase {
    pub(super) fn new(path: &Path, database: Database, open: Opener) -> Self {
        let (database, trouble) = (RwLock::new(Some(database)), Mutex::default());
        Self { path: path.into(), open, database, trouble }
    }

    /// What is wrong now, if anything is.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.state().clone()
    }

    /// Whether there is trouble that may have passed: it is time to write something.
    pub(super) fn is_due(&self) -> bool {
        self.state().as_ref().is_some_and(|trouble| trouble.retry_at <= Instant::now())
    }

    /// Uses the database, and opens it before where that is needed and due.
    pub(super) fn with<T>(
        &self,
        what: Use,
        work: impl FnOnce(&Database) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        self.open()?;
        let outcome = match &*self.database.read().unwrap_or_else(PoisonError::into_inner) {
            Some(database) => work(database),
            // Another use failed in between.
            None => return Err(self.closed()),
        };
        match &outcome {
            Ok(_) if what == Use::Write => self.recovered(),
            Err(error) if error.is_of_the_disk() => self.failed(error),
            Ok(_) | Err(_) => {}
        }
        outcome
    }

    fn open(&self) -> Result<(), StateError> {
        if self.database.read().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        // Closed and without trouble: a write that succeeded meanwhile has ended it.
        if self.trouble().is_some() && !self.is_due() {
            return Err(self.closed());
        }
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if database.is_none() {
            match (self.open)(&self.path) {
                Ok(opened) => *database = Some(opened),
                Err(error) => {
                    let error = StateError::open(&self.path, error);
                    self.troubled(&error);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn failed(&self, error: &StateError) {
        self.troubled(error);
        // Waits until no caller uses it, then releases the file and its lock.
        drop(self.database.write().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn troubled(&self, error: &StateError) {
        let mut state = self.state();
        let (since, pause) = match &*state {
            Some(trouble) => (trouble.since, (trouble.pause * 2).min(PAUSE.1)),
            None => (SystemTime::now(), PAUSE.0),
        };
        if state.is_none() {
            tracing::error!(%error, "the store fails: nothing is promised that cannot be kept");
        }
        *state = Some(Trouble { since, error: error.to_string(), retry_at: Instant::now() + pause, pause });
    }

    fn recovered(&self) {
        if let Some(trouble) = self.state().take() {
            tracing::info!(since = ?trouble.since, "the store works again");
        }
    }

    fn closed(&self) -> StateError {
        let error =
            self.state().as_ref().map_or_else(|| "it is closed".into(), |trouble| trouble.error.clone());
        StateError::Closed(error)
    }

    /// Never held while the database is.
    fn state(&self) -> MutexGuard<'_, Option<Trouble>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the next use reopen it at once, for tests.
    #[cfg(test)]
    pub(super) fn hurry(&self) {
        if let Some(trouble) = &mut *self.state() {
            trouble.retry_at = Instant::now();
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use std::fs::OpenOptions;
    use std::io;
    use std::ops::Bound;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use redb::StorageBackend;
    use redb::backends::FileBackend;

    use super::*;

    /// A disk that is full when the test says so.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Disk {
        full: Arc<AtomicBool>,
    }

    impl Disk {
        pub(crate) fn fill(&self, full: bool) {
            self.full.store(full, Ordering::Release);
        }

        pub(crate) fn opener(&self) -> Opener {
            let disk = self.clone();
            Box::new(move |path| {
                let file = OpenOptions::new().read(true).write(true).open(path)?;
                let backend = OnDisk { file: FileBackend::new(file)?, disk: disk.clone() };
                Database::builder().create_with_backend(backend)
            })
        }

        fn check(&self) -> io::Result<()> {
            match self.full.load(Ordering::Acquire) {
                true => Err(io::Error::from(io::ErrorKind::StorageFull)),
                false => Ok(()),
            }
        }
    }

    #[derive(Debug)]
    struct OnDisk {
        file: FileBackend,
        disk: Disk,
    }

    impl StorageBackend for OnDisk {
        fn len(&self) -> io::Result<u64> {
            self.file.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.file.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.disk.check()?;
            self.file.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.file.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.disk.check()?;
            self.file.write(offset, data)
        }

        fn close(&self) -> io::Result<()> {
            self.file.close()
        }

        fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, redb::BackendError> {
            self.file.try_lock_range(start, end)
        }

        fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), redb::BackendError> {
            self.file.unlock_range(start, end)
        }
    }
}
