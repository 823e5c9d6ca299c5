//! The last good versions that are in force against what their files say, on disk.
//!
//! Without them a restart of the control plane would take away what a broken file has not. Only such versions are
//! saved, seldom any at all. A file that cannot be read or written is reported and does no other harm.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::state::StateError;
use crate::state::directory::replace;

/// A version that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeptVersion {
    /// Whose file says otherwise, below the configuration directory.
    pub(super) file: PathBuf,
    /// `HTTPRoute shop/catalog`
    pub(super) resource: String,
    /// The document that held it.
    pub(super) text: String,
}

/// Where kept versions are saved.
#[derive(Debug)]
pub(super) struct LastGood {
    path: PathBuf,
    saved: Vec<KeptVersion>,
    /// The last attempt to save failed.
    behind: bool,
}

impl LastGood {
    /// Reads what was saved; nothing where there is nothing.
    pub(super) fn load(path: PathBuf) -> Self {
        let saved = match read(&path) {
            Ok(saved) => saved,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot read the last good versions");
                Vec::new()
            }
        };
        Self { path, saved, behind: false }
    }

    /// What was saved.
    pub(super) fn saved(&self) -> Vec<KeptVersion> {
        self.saved.clone()
    }

    /// Whether what is kept could not be saved, and may be now.
    pub(super) fn is_behind(&self) -> bool {
        self.behind
    }

    /// Saves what is kept now, if that differs. The old file is replaced whole or not at all.
    pub(super) fn save(&mut self, kept: Vec<KeptVersion>) {
        if kept == self.saved {
            self.behind = false;
            return;
        }
        match write(&self.path, &kept) {
            Ok(()) => (self.saved, self.behind) = (kept, false),
            // Told once: it is tried again with every look.
            Err(_) if self.behind => {}
            Err(error) => {
                self.behind = true;
                tracing::warn!(path = %self.path.display(), %error, "cannot save the last good versions");
            }
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<KeptVersion>> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn write(path: &Path, kept: &[KeptVersion]) -> Result<(), StateError> {
    let text = serde_json::to_vec(kept).map_err(|error| StateError::Damaged(error.to_string()))?;
    replace(path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_read_again_and_damage_is_survived() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("last-good.json");
        let kept = KeptVersion { file: "a.yaml".into(), resource: "Namespace a".into(), text: "x".into() };
        let mut first = LastGood::load(path.clone());
        assert!(first.saved().is_empty());
        first.save(vec![kept.clone()]);
        assert_eq!(LastGood::load(path.clone()).saved(), [kept]);
        first.save(Vec::new());
        assert!(LastGood::load(path.clone()).saved().is_empty());
        fs::write(&path, "{").unwrap();
        assert!(LastGood::load(path).saved().is_empty());
    }
}
