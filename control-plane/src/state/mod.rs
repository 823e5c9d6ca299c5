//! The persistent state of the control plane: its CA, join tokens, registrations, and the history of configuration.
//!
//! It is one [redb](https://docs.rs/redb) file in the state directory. Every change is one durable transaction, so that
//! SIGKILL at any point leaves all of it or nothing. A failed change is not applied, and its caller gets an error; the
//! store recovers when the disk does ([`Store::failure`]). Calls block on the disk; async callers use
//! `tokio::task::spawn_blocking`.

pub(crate) mod authority;
pub(crate) mod history;
pub(crate) mod registration;
pub(crate) mod token;

pub(crate) mod directory;
mod table;
mod database;
mod error;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outrigger_core::private_file;
use redb::{Database, Durability, ReadTransaction, ReadableDatabase, WriteTransaction};

pub use database::StoreFailure;
use database::{Access, Opener, ReopeningDatabase};
pub use error::StateError;
use history::HistoryEntry;

#[cfg(test)]
pub(crate) use database::testing::Disk;

const FILE: &str = "state.redb";

/// The store. Clones share it; dropping the last one closes the file and releases its lock.
#[derive(Debug, Clone)]
pub struct Store {
    database: Arc<ReopeningDatabase>,
    path: Arc<Path>,
    /// Configuration changes that are not written yet. They are active even if the disk fails.
    unwritten: Arc<Mutex<Vec<HistoryEntry>>>,
}

/// Interval of checking whether a failed store may be retried.
const RETRY_CHECK_INTERVAL: Duration = Duration::from_secs(1);

impl Store {
    /// Opens the store of a state directory. Creates both if they do not exist.
    ///
    /// Returns an error if other users can read the directory, if it cannot be written, if another process has the store
    /// open ([`StateError::Locked`]), or if a newer Outrigger wrote it.
    pub fn open(directory: &Path) -> Result<Self, StateError> {
        Self::open_with(directory, Box::new(|path| Database::open(path)))
    }

    /// Like [`open`](Self::open), with another way to open the file.
    pub(crate) fn open_with(directory: &Path, open: Opener) -> Result<Self, StateError> {
        directory::prepare(directory)?;
        let path = directory.join(FILE);
        if !path.exists() {
            create(&path)?;
        }
        let database = open(&path).map_err(|error| StateError::open(&path, error))?;
        let database = Arc::new(ReopeningDatabase::new(&path, database, open));
        let store = Self { database, path: path.into(), unwritten: Arc::default() };
        // A normal start writes nothing, so that a full disk does not prevent it.
        if !store.read(table::is_prepared)? {
            store.write(table::prepare)?;
        }
        Ok(store)
    }

    /// Returns the current failure, or None while the store works.
    pub fn failure(&self) -> Option<StoreFailure> {
        self.database.failure()
    }

    /// Reopens a failed store at intervals for as long as it is polled, so that it recovers even if it is not used.
    pub async fn keep_open(self) {
        loop {
            tokio::time::sleep(RETRY_CHECK_INTERVAL).await;
            if self.database.is_due() {
                let store = self.clone();
                // The failure is recorded and logged where it occurs.
                let _ = tokio::task::spawn_blocking(move || store.retry()).await;
            }
        }
    }

    /// Writes the pending history, and at least one value.
    fn retry(&self) -> Result<(), StateError> {
        self.write(table::touch)?;
        self.append_history(&[])
    }

    /// Returns true if a state directory has a store.
    pub fn exists(directory: &Path) -> bool {
        directory.join(FILE).is_file()
    }

    /// Runs a read transaction.
    fn read<T>(&self, look: impl FnOnce(&ReadTransaction) -> Result<T, StateError>) -> Result<T, StateError> {
        self.database.with(Access::Read, |database| {
            let transaction = database.begin_read().map_err(|error| self.failed(error))?;
            look(&transaction).map_err(|error| error.at(&self.path))
        })
    }

    /// Runs a write transaction. It is on disk when this returns; if `change` fails, nothing is changed.
    fn write<T>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        self.database.with(Access::Write, |database| {
            let mut transaction = database.begin_write().map_err(|error| self.failed(error))?;
            transaction.set_durability(Durability::Immediate).map_err(|error| self.failed(error))?;
            let changed = change(&transaction).map_err(|error| error.at(&self.path))?;
            transaction.commit().map_err(|error| self.failed(error))?;
            Ok(changed)
        })
    }

    fn failed(&self, error: impl Into<redb::Error>) -> StateError {
        StateError::from(error.into()).at(&self.path)
    }
}

/// Creates the file under another name first: a crash while redb writes its first pages leaves no incomplete store behind.
fn create(path: &Path) -> Result<(), StateError> {
    let new = private_file::beside(path);
    let failed = |error: std::io::Error| StateError::Io { path: new.clone(), error };
    private_file::create(&new).map_err(failed)?;
    let _database = Database::create(&new).map_err(|error| StateError::open(&new, error))?;
    private_file::rename(&new, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_the_owner_can_access_the_directory_and_the_file() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("state");
        let _store = Store::open(&directory).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&directory.join(FILE))), (0o700, 0o600));
    }

    #[test]
    fn a_store_cannot_be_opened_twice() {
        let directory = tempfile::tempdir().unwrap();
        let _store = Store::open(directory.path()).unwrap();
        assert!(matches!(Store::open(directory.path()), Err(StateError::Locked { .. })));
    }

    #[test]
    fn an_interrupted_creation_is_repeated() {
        let directory = tempfile::tempdir().unwrap();
        directory::prepare(directory.path()).unwrap();
        std::fs::write(directory.path().join("state.redb.new"), b"half a page").unwrap();
        Store::open(directory.path()).unwrap();
    }

    /// SIGKILL leaves the file as it is: the test copies it while the store is open.
    #[test]
    fn a_kill_after_a_change_loses_nothing() {
        use std::time::{Duration, SystemTime};

        use history::HistoryEntry;
        use registration::{RegistrationChange, RegistrationRecord};

        let (directory, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        directory::prepare(killed.path()).unwrap();
        let store = Store::open(directory.path()).unwrap();
        for step in 0..20_u8 {
            let now = SystemTime::now();
            let token = store.create_token("shop", "cart", Duration::from_secs(60), now, [step; 32]).unwrap();
            let instance = step.to_string();
            let record = RegistrationRecord { identity: "id".into(), instance, request: vec![step; 5_000] };
            store.change_registrations(&[RegistrationChange::Put(record)]).unwrap();
            let (source, what) = ("a.yaml".into(), step.to_string());
            store
                .append_history(&[HistoryEntry { at_unix_ms: 0, source, what, version: None, refused: None }])
                .unwrap();

            std::fs::copy(directory.path().join(FILE), killed.path().join(FILE)).unwrap();
            let after = Store::open(killed.path()).unwrap();
            assert!(after.identify_token(&token, now).is_ok(), "token {step}");
            assert_eq!(after.registrations().unwrap(), store.registrations().unwrap());
            assert_eq!(after.history(1).unwrap()[0].what, step.to_string());
        }
    }

    #[test]
    fn a_change_that_fails_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let failed: Result<(), _> = store.write(|transaction| {
            let mut meta = transaction.open_table(table::META)?;
            meta.insert("half", b"written".as_slice())?;
            Err(StateError::Damaged("the test says so".into()))
        });
        assert!(failed.is_err());
        let found = store.read(|transaction| Ok(transaction.open_table(table::META)?.get("half")?.is_some()));
        assert!(!found.unwrap());
    }

    fn history_entry(what: &str) -> HistoryEntry {
        HistoryEntry {
            at_unix_ms: 0,
            source: "a.yaml".into(),
            what: what.into(),
            version: None,
            refused: None,
        }
    }

    #[test]
    fn a_full_disk_loses_no_acknowledged_change() {
        use std::time::SystemTime;

        let (directory, disk, now) = (tempfile::tempdir().unwrap(), Disk::default(), SystemTime::now());
        let store = Store::open_with(directory.path(), disk.opener()).unwrap();
        let token =
            |secret: u8| store.create_token("shop", "cart", Duration::from_secs(60), now, [secret; 32]);
        let before = token(1).unwrap();
        store.append_history(&[history_entry("before")]).unwrap();
        disk.fill(true);
        token(2).unwrap_err();
        let failure = store.failure().unwrap();
        assert!(failure.error.contains("state.redb"), "{}", failure.error);
        store.append_history(&[history_entry("meanwhile")]).unwrap_err();
        // Repeated while the disk is still full.
        store.database.retry_now();
        token(3).unwrap_err();
        assert_eq!(store.failure().unwrap().since, failure.since);

        disk.fill(false);
        assert!(token(4).unwrap_err().to_string().contains("is not used"), "left alone for a while");
        store.database.retry_now();
        store.retry().unwrap();
        assert!(store.failure().is_none());
        let after = token(5).unwrap();
        for token in [before, after] {
            store.identify_token(&token, now).unwrap();
        }
        let history: Vec<_> = store.history(9).unwrap().into_iter().map(|entry| entry.what).collect();
        assert_eq!(history, ["before", "meanwhile"]);
        drop(store);
        assert_eq!(Store::open(directory.path()).unwrap().history(9).unwrap().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_store_recovers() {
        let (directory, disk) = (tempfile::tempdir().unwrap(), Disk::default());
        let store = Store::open_with(directory.path(), disk.opener()).unwrap();
        let keeper = tokio::spawn(store.clone().keep_open());
        disk.fill(true);
        store.append_history(&[history_entry("meanwhile")]).unwrap_err();
        assert_eq!(store.history(9).map(|all| all.len()).ok(), None);
        disk.fill(false);
        store.database.retry_now();
        while store.failure().is_some() {
            tokio::time::sleep(RETRY_CHECK_INTERVAL).await;
            store.database.retry_now();
        }
        assert_eq!(store.history(9).unwrap()[0].what, "meanwhile");
        keeper.abort();
    }
}
