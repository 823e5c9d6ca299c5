//! The status of a route: the standard conditions of Gateway API, one set for each parent.

use std::fmt;
use std::sync::Arc;

use imbl::OrdMap;

use super::resource::ResourceId;
use super::resource::reference::ParentRef;

/// The statuses of all routes.
pub type Statuses = OrdMap<ResourceId, Arc<RouteStatus>>;

/// The status of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteStatus {
    /// One for each of its `parentRefs`, in their order.
    pub parents: Vec<ParentStatus>,
}

/// The status of a route for one parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentStatus {
    /// The reference to the parent, as in the route.
    pub(crate) parent: ParentRef,
    /// `Accepted` and `ResolvedRefs`; empty if the parent is not a Service, and so not handled by the mesh.
    pub conditions: Vec<Condition>,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Its type.
    pub kind: ConditionKind,
    /// `True` or `False`.
    pub status: bool,
    /// The reason, as the API defines it.
    pub reason: &'static str,
    /// A message for users.
    pub message: String,
    /// `metadata.generation` of the route, if it has one.
    pub observed_generation: Option<i64>,
}

/// The types of conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionKind {
    /// The route is attached to at least one port of the parent.
    Accepted,
    /// Every backend of the route is valid.
    ResolvedRefs,
}

/// `Accepted=True (Accepted)`, with the message if there is one.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ConditionKind::Accepted => "Accepted",
            ConditionKind::ResolvedRefs => "ResolvedRefs",
        };
        let status = if self.status { "True" } else { "False" };
        write!(f, "{kind}={status} ({})", self.reason)?;
        if self.message.is_empty() { Ok(()) } else { write!(f, ": {}", self.message) }
    }
}
