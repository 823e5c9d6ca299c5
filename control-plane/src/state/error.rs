//! Errors of the store. They name the path, because operators read them.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// A failure of the store. The failed change is not applied.
#[derive(Debug, Error)]
pub enum StateError {
    /// The directory or a file in it cannot be created, read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The error of the operating system.
        error: std::io::Error,
    },
    /// Other users can read the directory, which has the CA's key.
    #[error("{}: open to others (mode {mode:04o}); make it its owner's alone with chmod 700", path.display())]
    OpenToOthers {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another process, probably a control plane, has the store open.
    #[error("{}: in use by another process; stop that control plane, or use another --state-dir", path.display())]
    Locked {
        /// The store.
        path: PathBuf,
    },
    /// The store was written by a newer version.
    #[error("written by a newer version of Outrigger (format {found}, this one knows {known})")]
    Newer {
        /// The store's format.
        found: u32,
        /// The newest format that this program reads.
        known: u32,
    },
    /// The state belongs to another mesh.
    #[error("the CA in the store is of trust domain {found}, not {wanted}")]
    OtherTrustDomain {
        /// The trust domain in the store.
        found: String,
        /// The configured trust domain.
        wanted: String,
    },
    /// Workloads trust roots whose key is not in the store.
    #[error(
        "{} names roots that workloads trust, and the store beside it has no key of theirs: with a new root every one of \
         them would be locked out. Put state.redb back (or give --ca-cert and --ca-key again); to start afresh on \
         purpose, remove roots.pem and give every workload the new one with a new join token",
        roots.display()
    )]
    RootsWithoutKey {
        /// The file of roots.
        roots: PathBuf,
    },
    /// Workloads trust other roots than the one in the store.
    #[error(
        "{} names another root than the CA in the store beside it: every workload that trusts it would be locked out. Put \
         back the store or the file that belong together; to start afresh on purpose, remove roots.pem and give every \
         workload the new one",
        roots.display()
    )]
    OtherRoots {
        /// The file of roots.
        roots: PathBuf,
    },
    /// A record in the store cannot be read.
    #[error("damaged: {0}")]
    Damaged(String),
    /// The disk failed recently, and the store is not retried yet.
    #[error("the store is not used for a while, since it failed: {0}")]
    Closed(String),
    /// The database failed.
    #[error("{0}")]
    Store(Box<redb::Error>),
    /// One of these errors, with its file.
    #[error("{}: {error}", path.display())]
    At {
        /// The store.
        path: PathBuf,
        /// The error.
        error: Box<StateError>,
    },
}

impl StateError {
    /// Returns true if redb refuses all operations until its file is reopened.
    pub(super) fn is_of_the_disk(&self) -> bool {
        use redb::Error::{DatabaseClosed, Io, LockPoisoned, PreviousIo};
        match self {
            Self::Store(error) => matches!(**error, Io(_) | PreviousIo | DatabaseClosed | LockPoisoned(_)),
            Self::At { path: _, error } => error.is_of_the_disk(),
            _ => false,
        }
    }

    /// Adds the file, unless the error has it.
    pub(super) fn at(self, path: &Path) -> Self {
        match self {
            Self::Io { .. }
            | Self::OpenToOthers { .. }
            | Self::Locked { .. }
            | Self::RootsWithoutKey { .. }
            | Self::OtherRoots { .. }
            | Self::At { .. } => self,
            bare => Self::At { path: path.into(), error: Box::new(bare) },
        }
    }

    pub(super) fn open(path: &Path, error: redb::DatabaseError) -> Self {
        match error {
            redb::DatabaseError::DatabaseAlreadyOpen => Self::Locked { path: path.into() },
            other => Self::from(redb::Error::from(other)).at(path),
        }
    }
}

impl From<redb::Error> for StateError {
    fn from(error: redb::Error) -> Self {
        Self::Store(Box::new(error))
    }
}

impl From<redb::TableError> for StateError {
    fn from(error: redb::TableError) -> Self {
        redb::Error::from(error).into()
    }
}

impl From<redb::StorageError> for StateError {
    fn from(error: redb::StorageError) -> Self {
        redb::Error::from(error).into()
    }
}
