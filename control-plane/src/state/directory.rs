//! The state directory: its owner's alone, since a key lies in it, and written so that a crash leaves old or new.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::StateError;

/// Makes the directory with mode 0700, or checks that the one which is there is closed to others.
///
/// An empty one is closed; one that holds files is left as it is, since closing somebody's `/tmp` helps nobody.
pub(super) fn prepare(directory: &Path) -> Result<(), StateError> {
    let failed = |error| StateError::Io { path: directory.into(), error };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let mode = fs::metadata(directory).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    if fs::read_dir(directory).map_err(failed)?.next().is_some() {
        return Err(StateError::OpenToOthers { path: directory.into(), mode });
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(failed)
}

/// Makes an empty file with mode 0600 in the place of whatever is there.
pub(super) fn create_private_file(path: &Path) -> io::Result<()> {
    private(path).map(drop)
}

/// Replaces a file whole: a reader sees the old text or the new one, also after a crash.
pub(crate) fn replace(path: &Path, text: &[u8]) -> Result<(), StateError> {
    let new = path.with_extension("new");
    let write = || {
        let mut file = private(&new)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        sync(path)
    };
    write().map_err(|error| StateError::Io { path: path.into(), error })
}

/// Makes a rename within the file's directory survive a power cut.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_files_that_others_may_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("somebody's"), "").unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let error = prepare(directory.path()).unwrap_err();
        assert!(matches!(error, StateError::OpenToOthers { mode: 0o755, .. }), "{error}");
    }

    #[test]
    fn an_empty_directory_is_closed_to_others() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        prepare(directory.path()).unwrap();
        assert_eq!(fs::metadata(directory.path()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("roots.pem");
        replace(&path, b"old and longer").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }
}
