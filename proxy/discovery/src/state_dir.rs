//! The directory that a proxy keeps: key, certificate, cache. Mode 0700, each file 0600, replaced whole.
//!
//! Used at start and, rarely, afterwards: identity after a renewal, the cache when it was quiet for a while. A write that
//! fails leaves the file that was there.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// An existing, writable directory of mode 0700.
#[derive(Debug, Clone)]
pub(crate) struct StateDir(PathBuf);

impl StateDir {
    /// Makes the directory if it is missing, takes other people's access away, and tries a write.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(path, Permissions::from_mode(0o700))?;
        }
        let dir = Self(path.to_owned());
        dir.write(".probe", b"")?;
        fs::remove_file(dir.0.join(".probe"))?;
        Ok(dir)
    }

    /// Where a file of this name is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Reads a file; `None` if there is none.
    pub(crate) fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        match File::open(self.path(name)).and_then(|mut file| file.read_to_end(&mut bytes)) {
            Ok(_) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces a file: written beside it, flushed to the disk, renamed over it, so that a crash at any point leaves the
    /// old file or the new one.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let beside = self.path(&format!("{name}.new"));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, self.path(name))?;
        File::open(&self.0)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_directory_and_its_files_are_for_nobody_else() {
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
    fn a_path_that_is_no_directory_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(StateDir::open(&file.path().join("x")).is_err());
    }
}
