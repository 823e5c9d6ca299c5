//! Where a resource came from.

use std::fmt;
use std::path::PathBuf;

/// The origin of a resource, as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A document of a file.
    File {
        /// Below the configuration directory.
        path: PathBuf,
        /// Its number, counted from 1; documents without content do not count. 0 means the file as a whole.
        document: usize,
    },
    /// An object of a cluster, as its API server has admitted it.
    Object {
        /// `metadata.namespace`; empty if the kind has none.
        namespace: String,
        /// `metadata.name`
        name: String,
        /// `metadata.uid`, which differs if the object is created again.
        uid: String,
        /// `metadata.resourceVersion`
        resource_version: String,
    },
}

impl Origin {
    /// Returns the origin of a file as a whole.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::File { path: path.into(), document: 0 }
    }
}

/// `shop.yaml, document 2`, `object shop/cart at version 71`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, document: 0 } => write!(f, "{}", path.display()),
            Self::File { path, document } => write!(f, "{}, document {document}", path.display()),
            Self::Object { namespace, name, uid: _, resource_version } => {
                let slash = if namespace.is_empty() { "" } else { "/" };
                write!(f, "object {namespace}{slash}{name} at version {resource_version}")
            }
        }
    }
}
