//! The state directory. It has a private key, so only its owner may access it; files are replaced atomically.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use outrigger_core::private_file;

use super::StateError;

/// Creates the directory with mode 0700, or checks that other users cannot access it.
///
/// The mode of an empty directory is changed. A directory with files is refused, because changing the mode of `/tmp`
/// would do harm.
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

/// Replaces a file atomically: a reader sees the old text or the new one, also after a crash.
pub(crate) fn replace(path: &Path, text: &[u8]) -> Result<(), StateError> {
    private_file::replace(path, text).map_err(|error| StateError::Io { path: path.into(), error })
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
}
