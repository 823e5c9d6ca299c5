//! The status of a route or a policy: the standard conditions of Gateway API, one set for each parent of a route (`RouteStatus`), or for
//! each target of a policy (`PolicyStatus`).

use std::fmt;
use std::sync::Arc;

use imbl::OrdMap;

use super::resource::ResourceId;
use super::resource::reference::ParentRef;

/// The statuses of all routes and policies.
pub type Statuses = OrdMap<ResourceId, Arc<RouteStatus>>;

/// The status of a route or a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteStatus {
    /// One for each of its `parentRefs`, in their order. For a policy, one for each target, or for its namespace.
    pub parents: Vec<ParentStatus>,
}

impl RouteStatus {
    /// Returns the conditions that are False, and those with a message: a part has no effect. Each has the parent or target that it is about:
    /// `Service cart: Accepted=False (Conflicted): ...`.
    pub(crate) fn unmet(&self) -> impl Iterator<Item = String> {
        self.parents.iter().flat_map(|ParentStatus { parent, conditions }| {
            let unmet =
                conditions.iter().filter(|condition| !condition.status || !condition.message.is_empty());
            unmet.map(move |condition| format!("{parent}: {condition}"))
        })
    }
}

/// The status for one parent or target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentStatus {
    /// The reference to it, as in the route.
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
    /// `metadata.generation` of the resource, if it has one.
    pub observed_generation: Option<i64>,
}

/// The reason of a policy that does not apply because another one has the target.
pub(super) const CONFLICTED: &str = "Conflicted";

/// The types of conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionKind {
    /// The route is attached to at least one port of the parent; the policy applies to the target.
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
