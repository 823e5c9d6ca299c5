//! The state directory: key, certificate and cache. Mode 0700, each file 0600, replaced atomically.
//!
//! Used at start-up, after a certificate renewal, and when the saved configuration changes. A failed write leaves the old file. A
//! lock keeps a second proxy out, which would use the same key and listeners.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use outrigger_core::private_file;

/// The file whose lock the proxy holds while it runs.
const LOCK_FILE: &str = "lock";

/// The lock of a state directory, until it is dropped.
#[derive(Debug)]
pub(crate) struct StateLock {
    _file: File,
}

/// An existing, writable directory of mode 0700.
#[derive(Debug, Clone)]
pub(crate) struct StateDir(PathBuf);

impl StateDir {
    /// Creates the directory if it is missing, restricts its mode, and checks that it is writable.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if path.exists() && !path.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(path, Permissions::from_mode(0o700))?;
        }
        let dir = Self(path.to_owned());
        dir.write(".probe", b"")?;
        fs::remove_file(dir.0.join(".probe"))?;
        Ok(dir)
    }

    /// Locks the directory. Returns None if another process has locked it.
    pub(crate) fn lock(&self) -> io::Result<Option<StateLock>> {
        let file = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(self.path(LOCK_FILE))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(StateLock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Returns the path of the file with this name.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Reads a file. Returns None if it does not exist.
    pub(crate) fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        match File::open(self.path(name)).and_then(|mut file| file.read_to_end(&mut bytes)) {
            Ok(_) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces a file atomically. A crash leaves the old or the new file.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        private_file::replace(&self.path(name), bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_directory_and_its_files_are_private() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        let dir = StateDir::open(&path).unwrap();
        dir.write("key", b"1").unwrap();
        dir.write("key", b"2").unwrap();
        assert_eq!((mode(&path), mode(&dir.path("key"))), (0o700, 0o600));
        assert_eq!(dir.read("key").unwrap().unwrap(), b"2");
        assert_eq!(dir.read("other").unwrap(), None);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "nothing is left beside");
    }

    #[test]
    fn a_directory_is_locked_once() {
        let parent = tempfile::tempdir().unwrap();
        let dir = StateDir::open(parent.path()).unwrap();
        let lock = dir.lock().unwrap();
        assert!(lock.is_some() && dir.lock().unwrap().is_none());
        drop(lock);
        assert!(dir.lock().unwrap().is_some());
    }

    #[test]
    fn a_path_that_is_no_directory_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(StateDir::open(&file.path().join("x")).is_err());
    }
}
