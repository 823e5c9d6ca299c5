//! Changes of the configuration: the updates of sources, current refusals, and the events of the change log.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::origin::Origin;
use crate::model::diagnostic::Problem;
use crate::model::resource::{Resource, ResourceId};

/// A problem of the configuration, and where it is. One of severity `Error` that the decoder found is a refusal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// Where it came from.
    pub origin: Origin,
    /// `HTTPRoute shop/catalog`, as far as it could be read.
    pub resource: Option<String>,
    /// The field, what is wrong, and the next step.
    pub problem: Problem,
}

impl Diagnostic {
    /// Counts the refused resources. One resource may be refused for several reasons.
    pub fn count_resources(refusals: &[Self]) -> usize {
        refusals.iter().map(|one| (&one.origin, &one.resource)).collect::<BTreeSet<_>>().len()
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, resource, problem } = self;
        write!(f, "{origin}")?;
        if let Some(resource) = resource {
            write!(f, ", {resource}")?;
        }
        let separator = if problem.field.is_empty() { ":" } else { "," };
        write!(f, "{separator} {problem}")
    }
}

/// A field of an accepted object that is ignored, since it is not known or not supported.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct IgnoredField {
    /// Where the object came from.
    pub origin: Origin,
    /// `HTTPRoute shop/catalog`
    pub resource: String,
    /// The path of the field.
    pub field: String,
    /// Why it is ignored.
    pub reason: String,
}

impl fmt::Display for IgnoredField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, resource, field, reason } = self;
        write!(f, "{origin}, {resource}, {field}: {reason}")
    }
}

/// What changed in a source.
#[derive(Debug, Default)]
pub struct Update {
    /// Resources that were added, changed or removed.
    pub(crate) changes: Vec<ResourceChange>,
    /// All current refusals of the source.
    pub refusals: Vec<Diagnostic>,
    /// All fields that the source currently ignores.
    pub ignored: Vec<IgnoredField>,
    /// Of one object that is refused: what stands for it if it has no good version.
    pub(crate) stand_in: Option<ResourceChange>,
}

/// Another version of a resource.
#[derive(Debug)]
pub(crate) struct ResourceChange {
    pub(crate) id: ResourceId,
    /// Its current or last origin.
    pub(crate) origin: Origin,
    /// A digest or version of its content for the change log.
    pub(crate) version: Option<String>,
    /// None if it was removed.
    pub(crate) resource: Option<Arc<Resource>>,
}

/// One entry of the change log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeEvent {
    /// When it was detected.
    pub at: jiff::Timestamp,
    /// Where the resource came from.
    pub origin: Origin,
    /// `HTTPRoute shop/catalog`, as far as it could be read.
    pub resource: Option<String>,
    /// A digest or version of the content of a resource that was added or changed. A restart adds everything again; by this a
    /// log recognizes what it already has.
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
    /// It was removed.
    Removed,
    /// It was refused; the last good version stays, if there is one.
    Refused(Diagnostic),
}
