//! `outrigger check DIR`: reads a configuration directory once and reports on it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::change::{Refusal, Update};
use super::reader::{Reader, SourceError};
use crate::model::mesh_builder::MeshBuilder;
use crate::model::resource::ResourceId;
use crate::model::status::RouteStatus;

/// The resources of a configuration directory and their status.
#[derive(Debug)]
pub struct Report {
    /// The accepted resources, with their files and, for a route, its status.
    pub resources: Vec<(ResourceId, PathBuf, Option<Arc<RouteStatus>>)>,
    /// The refused resources.
    pub refusals: Arc<[Refusal]>,
}

/// Reads a configuration directory. Returns an error if the directory itself cannot be read.
pub fn check(directory: impl Into<PathBuf>) -> Result<Report, SourceError> {
    let mut reader = Reader::new(directory.into(), None);
    let Update { changes, refusals, ignored: _ } = reader.read_first()?;
    let mut builder = MeshBuilder::default();
    builder.apply(changes.into_iter().map(|change| (change.id, change.resource)));
    let statuses = builder.statuses();
    let one = |(id, file): (&ResourceId, &std::path::Path)| {
        (id.clone(), file.to_owned(), statuses.get(id).cloned())
    };
    Ok(Report { resources: reader.active().map(one).collect(), refusals: refusals.into() })
}

impl Report {
    /// Counts the refused resources. The command exits with an error if there are any. A condition that is `False` is no
    /// refusal: the resource is active, and its backends may be added later.
    pub fn refused(&self) -> usize {
        Refusal::count_resources(&self.refusals)
    }
}

/// Every resource with its conditions, then every refusal, then the count.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, file, status) in &self.resources {
            writeln!(f, "{id}  ({})", file.display())?;
            for parent in status.iter().flat_map(|status| &status.parents) {
                writeln!(f, "  parent {}", parent.parent)?;
                for condition in &parent.conditions {
                    writeln!(f, "    {condition}")?;
                }
                if parent.conditions.is_empty() {
                    writeln!(f, "    not a Service: not handled by the mesh")?;
                }
            }
        }
        for refusal in self.refusals.iter() {
            writeln!(f, "refused: {refusal}")?;
        }
        writeln!(f, "{} accepted, {} refused", self.resources.len(), self.refused())
    }
}
