//! What happened to the configuration: refusals as they stand, and the events that the change log keeps.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

/// Why something was refused, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// The file, below the configuration directory.
    pub file: PathBuf,
    /// Which document of the file, counted from 1; documents without content do not count. 0: the file as a whole.
    pub document: usize,
    /// `HTTPRoute shop/catalog`, as far as it could be read.
    pub resource: Option<String>,
    /// The path of the field, such as `spec.rules[0].matches[1].path`; empty for the resource as a whole.
    pub field: String,
    /// What is wrong there.
    pub reason: String,
}

impl Refusal {
    /// How many resources are refused: one may be for several reasons.
    pub fn count_resources(refusals: &[Self]) -> usize {
        let places = refusals.iter().map(|one| (&one.file, one.document, &one.resource));
        places.collect::<BTreeSet<_>>().len()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, document, resource, field, reason } = self;
        write!(f, "{}", file.display())?;
        if *document > 0 {
            write!(f, ", document {document}")?;
        }
        if let Some(resource) = resource {
            write!(f, ", {resource}")?;
        }
        if !field.is_empty() {
            write!(f, ", {field}")?;
        }
        write!(f, ": {reason}")
    }
}

/// One entry of the change log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeEvent {
    /// When it was noticed.
    pub at: jiff::Timestamp,
    /// The file, below the configuration directory.
    pub file: PathBuf,
    /// `HTTPRoute shop/catalog`, as far as it could be read.
    pub resource: Option<String>,
    /// Of what was added or changed, 16 hexadecimal digits that stand for its text: a restart adds everything again,
    /// and a log can tell by them what it has already.
    pub version: Option<String>,
    /// What happened.
    pub change: Change,
}

/// What happened to a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is new, and accepted.
    Added,
    /// It has new content, and that is accepted.
    Changed,
    /// It is gone.
    Removed,
    /// It was refused; the last good version stays, if there is one.
    Refused(Refusal),
}
