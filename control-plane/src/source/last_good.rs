//! Saves the last good versions that are active although the current content of their files is refused.
//!
//! Without them, a restart of the control plane would remove the resources of a broken file. Only such versions are saved,
//! usually none. If the file cannot be read or written, this is logged and has no other effect.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::state::StateError;
use crate::state::directory::replace;

/// A version that is retained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RetainedVersion {
    /// The file that defined it, below the configuration directory.
    pub(super) file: PathBuf,
    /// `HTTPRoute shop/catalog`
    pub(super) resource: String,
    /// The document that defined it.
    pub(super) text: String,
}

/// The file of retained versions.
#[derive(Debug)]
pub(super) struct LastGoodStore {
    path: PathBuf,
    saved: Vec<RetainedVersion>,
    /// The last attempt to save failed.
    unsaved: bool,
}

impl LastGoodStore {
    /// Loads the saved versions. A missing file holds none.
    pub(super) fn load(path: PathBuf) -> Self {
        let saved = match read(&path) {
            Ok(saved) => saved,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot read the last good versions");
                Vec::new()
            }
        };
        Self { path, saved, unsaved: false }
    }

    /// Returns the saved versions.
    pub(super) fn saved(&self) -> Vec<RetainedVersion> {
        self.saved.clone()
    }

    /// Returns true if the last attempt to save failed.
    pub(super) fn is_unsaved(&self) -> bool {
        self.unsaved
    }

    /// Saves the retained versions if they differ from the saved ones. The file is replaced atomically.
    pub(super) fn save(&mut self, retained: Vec<RetainedVersion>) {
        if retained == self.saved {
            self.unsaved = false;
            return;
        }
        match write(&self.path, &retained) {
            Ok(()) => (self.saved, self.unsaved) = (retained, false),
            // Logged once; every scan repeats the write.
            Err(_) if self.unsaved => {}
            Err(error) => {
                self.unsaved = true;
                tracing::warn!(path = %self.path.display(), %error, "cannot save the last good versions");
            }
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<RetainedVersion>> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn write(path: &Path, retained: &[RetainedVersion]) -> Result<(), StateError> {
    let text = serde_json::to_vec(retained).map_err(|error| StateError::Damaged(error.to_string()))?;
    replace(path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_read_again_and_damage_is_survived() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("last-good.json");
        let retained =
            RetainedVersion { file: "a.yaml".into(), resource: "Namespace a".into(), text: "x".into() };
        let mut first = LastGoodStore::load(path.clone());
        assert!(first.saved().is_empty());
        first.save(vec![retained.clone()]);
        assert_eq!(LastGoodStore::load(path.clone()).saved(), [retained]);
        first.save(Vec::new());
        assert!(LastGoodStore::load(path.clone()).saved().is_empty());
        fs::write(&path, "{").unwrap();
        assert!(LastGoodStore::load(path).saved().is_empty());
    }
}
