//! What the control plane must remember: its CA, join tokens, registrations, and the history of configuration.
//!
//! One [redb](https://docs.rs/redb) file in the state directory. Every change is one durable transaction, so that
//! SIGKILL at any point leaves either all of it or nothing. What fails was not changed, and is told to its caller; the
//! store mends itself when the disk does ([`Store::trouble`]). Calls block on the disk; async callers use
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

pub use database::Trouble;
use database::{Opener, ReopenedDatabase, Use};
pub use error::StateError;
use history::HistoryEntry;

#[cfg(test)]
pub(crate) use database::testing::Disk;

const FILE: &str = "state.redb";

/// The store. Clones share it; the last one dropped closes the file and gives its lock back.
#[derive(Debug, Clone)]
pub struct Store {
    database: Arc<ReopenedDatabase>,
    path: Arc<Path>,
    /// Changes of the configuration that are not written yet: they are in force whether or not the disk takes them.
    unwritten: Arc<Mutex<Vec<HistoryEntry>>>,
}

/// How often it is looked whether a store that fails may be tried again.
const LOOK: Duration = Duration::from_secs(1);

impl Store {
    /// Opens the store of a state directory, and makes both when they are not there.
    ///
    /// Fails when the directory is not its owner's alone, when it cannot be written, when another process has the
    /// store open ([`StateError::Locked`]), and when a newer Outrigger wrote it.
    pub fn open(directory: &Path) -> Result<Self, StateError> {
        Self::open_with(directory, Box::new(|path| Database::open(path)))
    }

    /// The same with another way to open the file.
    pub(crate) fn open_with(directory: &Path, open: Opener) -> Result<Self, StateError> {
        directory::prepare(directory)?;
        let path = directory.join(FILE);
        if !path.exists() {
            create(&path)?;
        }
        let database = open(&path).map_err(|error| StateError::open(&path, error))?;
        let database = Arc::new(ReopenedDatabase::new(&path, database, open));
        let store = Self { database, path: path.into(), unwritten: Arc::default() };
        // A start that finds everything there writes nothing, so that a full disk does not prevent it.
        if !store.read(table::is_prepared)? {
            store.write(table::prepare)?;
        }
        Ok(store)
    }

    /// What is wrong with the store; none while it works.
    pub fn trouble(&self) -> Option<Trouble> {
        self.database.trouble()
    }

    /// Reopens a store that failed, at intervals, for as long as it is polled: it works again when the disk
    /// does, whether or not anybody needs it.
    pub async fn keep_open(self) {
        loop {
            tokio::time::sleep(LOOK).await;
            if self.database.is_due() {
                let store = self.clone();
                // What is wrong is known already where it fails.
                let _ = tokio::task::spawn_blocking(move || store.try_again()).await;
            }
        }
    }

    /// Writes what is not written yet, and something in any case.
    fn try_again(&self) -> Result<(), StateError> {
        self.write(table::touch)?;
        self.append_history(&[])
    }

    /// Whether a control plane has kept anything in a state directory.
    pub fn exists(directory: &Path) -> bool {
        directory.join(FILE).is_file()
    }

    /// Reads one consistent version.
    fn read<T>(&self, look: impl FnOnce(&ReadTransaction) -> Result<T, StateError>) -> Result<T, StateError> {
        self.database.with(Use::Read, |database| {
            let transaction = database.begin_read().map_err(|error| self.failed(error))?;
            look(&transaction).map_err(|error| error.at(&self.path))
        })
    }

    /// Changes everything or nothing: on disk when this returns, dropped whole when `change` fails.
    fn write<T>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        self.database.with(Use::Write, |database| {
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
    fn the_directory_and_the_file_are_their_owners_alone() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("state");
        let _store = Store::open(&directory).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&directory.join(FILE))), (0o700, 0o600));
    }

    #[test]
    fn a_store_that_is_open_is_said_to_be() {
        let directory = tempfile::tempdir().unwrap();
        let _store = Store::open(directory.path()).unwrap();
        assert!(matches!(Store::open(directory.path()), Err(StateError::Locked { .. })));
    }

    #[test]
    fn a_creation_that_was_cut_off_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        directory::prepare(directory.path()).unwrap();
        std::fs::write(directory.path().join("state.redb.new"), b"half a page").unwrap();
        Store::open(directory.path()).unwrap();
    }

    /// What SIGKILL leaves is the file as it stands: a copy of it, taken while the store is open.
    #[test]
    fn a_kill_after_any_change_loses_nothing_of_it() {
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
    fn a_full_disk_costs_what_is_refused_and_nothing_that_was_acknowledged() {
        use std::time::SystemTime;

        let (directory, disk, now) = (tempfile::tempdir().unwrap(), Disk::default(), SystemTime::now());
        let store = Store::open_with(directory.path(), disk.opener()).unwrap();
        let token =
            |secret: u8| store.create_token("shop", "cart", Duration::from_secs(60), now, [secret; 32]);
        let before = token(1).unwrap();
        store.append_history(&[history_entry("before")]).unwrap();
        disk.fill(true);
        token(2).unwrap_err();
        let trouble = store.trouble().unwrap();
        assert!(trouble.error.contains("state.redb"), "{}", trouble.error);
        store.append_history(&[history_entry("meanwhile")]).unwrap_err();
        // Repeated while the disk is still full.
        store.database.hurry();
        token(3).unwrap_err();
        assert_eq!(store.trouble().unwrap().since, trouble.since);

        disk.fill(false);
        assert!(token(4).unwrap_err().to_string().contains("is not used"), "left alone for a while");
        store.database.hurry();
        store.try_again().unwrap();
        assert!(store.trouble().is_none());
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
    async fn a_store_that_failed_works_again_by_itself() {
        let (directory, disk) = (tempfile::tempdir().unwrap(), Disk::default());
        let store = Store::open_with(directory.path(), disk.opener()).unwrap();
        let keeper = tokio::spawn(store.clone().keep_open());
        disk.fill(true);
        store.append_history(&[history_entry("meanwhile")]).unwrap_err();
        assert_eq!(store.history(9).map(|all| all.len()).ok(), None);
        disk.fill(false);
        store.database.hurry();
        while store.trouble().is_some() {
            tokio::time::sleep(LOOK).await;
            store.database.hurry();
        }
        assert_eq!(store.history(9).unwrap()[0].what, "meanwhile");
        keeper.abort();
    }
}
