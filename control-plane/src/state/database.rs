//! The database file, which is closed after a disk failure and reopened.
//!
//! After a failed read or write, redb refuses all operations until its file is reopened, because its memory may differ
//! from the disk; committed changes are on disk. So a failure closes the file, and a later operation reopens it, with a
//! backoff that gives a full disk time to recover. Only a successful write ends the failure.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use redb::{Database, DatabaseError};

use super::StateError;

/// Initial and maximum backoff before the file is reopened.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// Opens an existing file. Tests simulate a full disk with it.
pub(crate) type Opener = Box<dyn Fn(&Path) -> Result<Database, DatabaseError> + Send + Sync>;

/// A database that is reopened on demand after a failure.
pub(super) struct ReopeningDatabase {
    path: PathBuf,
    open: Opener,
    /// None while closed. Operations hold the read lock, so that the database is not closed meanwhile.
    database: RwLock<Option<Database>>,
    failure: Mutex<Option<StoreFailure>>,
}

/// The current failure of the store.
#[derive(Debug, Clone)]
pub struct StoreFailure {
    /// The time of the first error.
    pub since: SystemTime,
    /// The last error.
    pub error: String,
    retry_at: Instant,
    pause: Duration,
}

/// The kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

impl std::fmt::Debug for ReopeningDatabase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReopeningDatabase").field("path", &self.path).finish_non_exhaustive()
    }
}

impl ReopeningDatabase {
    pub(super) fn new(path: &Path, database: Database, open: Opener) -> Self {
        let (database, failure) = (RwLock::new(Some(database)), Mutex::default());
        Self { path: path.into(), open, database, failure }
    }

    /// Returns the current failure, if any.
    pub(super) fn failure(&self) -> Option<StoreFailure> {
        self.lock_failure().clone()
    }

    /// Returns true if the backoff of a failure is over: it is time to retry.
    pub(super) fn is_due(&self) -> bool {
        self.lock_failure().as_ref().is_some_and(|failure| failure.retry_at <= Instant::now())
    }

    /// Runs an operation. Reopens the database first if it is closed and the backoff is over.
    pub(super) fn with<T>(
        &self,
        what: Access,
        work: impl FnOnce(&Database) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        self.open()?;
        let outcome = match &*self.database.read().unwrap_or_else(PoisonError::into_inner) {
            Some(database) => work(database),
            // Another operation failed in between.
            None => return Err(self.closed_error()),
        };
        match &outcome {
            Ok(_) if what == Access::Write => self.recovered(),
            Err(error) if error.is_of_the_disk() => self.failed(error),
            Ok(_) | Err(_) => {}
        }
        outcome
    }

    fn open(&self) -> Result<(), StateError> {
        if self.database.read().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        // Closed without a failure: a successful write has just ended it.
        if self.failure().is_some() && !self.is_due() {
            return Err(self.closed_error());
        }
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if database.is_none() {
            match (self.open)(&self.path) {
                Ok(opened) => *database = Some(opened),
                Err(error) => {
                    let error = StateError::open(&self.path, error);
                    self.record_failure(&error);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn failed(&self, error: &StateError) {
        self.record_failure(error);
        // Waits for running operations, then closes the file and releases its lock.
        drop(self.database.write().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn record_failure(&self, error: &StateError) {
        let mut state = self.lock_failure();
        let (since, pause) = match &*state {
            Some(failure) => (failure.since, (failure.pause * 2).min(PAUSE.1)),
            None => (SystemTime::now(), PAUSE.0),
        };
        if state.is_none() {
            tracing::error!(%error, "the store failed; nothing is acknowledged until it works again");
        }
        *state =
            Some(StoreFailure { since, error: error.to_string(), retry_at: Instant::now() + pause, pause });
    }

    fn recovered(&self) {
        if let Some(failure) = self.lock_failure().take() {
            tracing::info!(since = ?failure.since, "the store works again");
        }
    }

    fn closed_error(&self) -> StateError {
        let error = self
            .lock_failure()
            .as_ref()
            .map_or_else(|| "it is closed".into(), |failure| failure.error.clone());
        StateError::Closed(error)
    }

    /// Never locked while the database is.
    fn lock_failure(&self) -> MutexGuard<'_, Option<StoreFailure>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the backoff, for tests.
    #[cfg(test)]
    pub(super) fn retry_now(&self) {
        if let Some(failure) = &mut *self.lock_failure() {
            failure.retry_at = Instant::now();
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

    /// A disk that tests can make full.
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
