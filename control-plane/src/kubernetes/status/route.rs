//! The status of one route or policy: `RouteStatus.parents` or `PolicyStatus.ancestors` of Gateway API, the entries of this controller.
//!
//! A pure function of the object, of the model's status and of what proxies reject. An object that is refused has a status too: it names
//! the fields. Entries of other controllers, and routes without a parent Service, are left alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::CONTROLLER_NAME;
use super::condition::{NewCondition, merge};
use crate::model::resource::reference::ParentRef;
use crate::model::resource::{Kind, ResourceId};
use crate::model::status::{ConditionKind, ParentStatus, RouteStatus};
use crate::source::change::Update;

/// The types of the conditions that this controller sets.
const OWNED: [&str; 4] = ["Accepted", "ResolvedRefs", PARTIALLY_INVALID, PROGRAMMED];
const PARTIALLY_INVALID: &str = "PartiallyInvalid";
/// Not in Gateway API for routes. It is set while a proxy rejects the configuration made from the route.
const PROGRAMMED: &str = "outrigger.dev/Programmed";

/// The objects of all routes and policies that can be listed.
#[derive(Debug, Clone, Default)]
pub(crate) struct RouteObjects {
    pub(crate) all: OrdMap<ResourceId, Arc<RouteObject>>,
    /// The kinds of which `all` has every object.
    pub(crate) listed: BTreeSet<Kind>,
}

/// The parts of the object of a route or policy that its status depends on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RouteObject {
    uid: String,
    pub(super) resource_version: String,
    generation: i64,
    pub(super) shape: Shape,
    /// `spec.parentRefs`, or what `spec.targetRefs` refer to.
    references: Vec<Value>,
    /// `status.parents` or `status.ancestors`
    parents: Vec<Value>,
    /// Why it is refused; empty if it is accepted.
    refusals: Vec<String>,
    /// What has no effect in it.
    notes: Vec<String>,
    /// The version that is active although this one is refused.
    last_good: Option<Arc<str>>,
}

/// How the status of a kind is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// The list in `status`.
    pub(super) list: &'static str,
    /// The reference in an entry.
    reference: &'static str,
    /// The reason for which a refused object is not accepted.
    refused: &'static str,
}

const ROUTE: Shape = Shape { list: "parents", reference: "parentRef", refused: "UnsupportedValue" };
const POLICY: Shape = Shape { list: "ancestors", reference: "ancestorRef", refused: "Invalid" };

impl RouteObject {
    /// Reads the object of a route or policy. Returns None for other kinds.
    pub(crate) fn of(id: &ResourceId, object: &Value) -> Option<Self> {
        let shape = match id.kind {
            kind if kind.is_route() => ROUTE,
            kind if kind.is_policy() => POLICY,
            _ => return None,
        };
        let list = |at: &str| object.pointer(at).and_then(Value::as_array).cloned().unwrap_or_default();
        let metadata = &object["metadata"];
        Some(Self {
            uid: metadata["uid"].as_str().unwrap_or_default().into(),
            resource_version: metadata["resourceVersion"].as_str().unwrap_or_default().into(),
            generation: metadata["generation"].as_i64().unwrap_or_default(),
            shape,
            references: match shape {
                // Other implementations have this kind too.
                POLICY if id.kind == Kind::XBackendTrafficPolicy => {
                    list("/spec/targetRefs").into_iter().filter(is_service).collect()
                }
                POLICY => ancestors(id, list("/spec/targetRefs")),
                _ => list("/spec/parentRefs").into_iter().filter(is_service).collect(),
            },
            parents: list(&format!("/status/{}", shape.list)),
            refusals: Vec::new(),
            notes: Vec::new(),
            last_good: None,
        })
    }

    /// Sets the version that it falls back to if it is refused.
    pub(crate) fn with_last_good(self, last_good: Option<Arc<str>>) -> Self {
        Self { last_good, ..self }
    }

    /// Returns the UID and the version that is active, if the object is refused.
    pub(crate) fn refused(&self) -> Option<(&str, Option<&Arc<str>>)> {
        (!self.refusals.is_empty()).then_some((&self.uid, self.last_good.as_ref()))
    }

    /// Adds what the decoder returned for the object.
    pub(crate) fn decoded(self, Update { changes, refusals, ignored, stand_in: _ }: &Update) -> Self {
        let remarks = changes.iter().filter_map(|change| change.resource.as_ref());
        let remarks = remarks.flat_map(|resource| &resource.remarks);
        let remarks = remarks.map(|remark| format!("{}: {}", remark.field, remark.message));
        let ignored = ignored.iter().map(|ignored| format!("{}: unknown field, ignored", ignored.field));
        let refusals = refusals.iter().map(|refusal| refusal.problem.to_string());
        Self { refusals: refusals.collect(), notes: ignored.chain(remarks).collect(), ..self }
    }

    /// Returns the next `status.parents`, or None if they need no change now: they are right already, or the model has not read
    /// this version of the object yet. `rejected` is what a proxy said when it rejected configuration made from the route.
    pub(super) fn next_parents(
        &self,
        model: Option<&RouteStatus>,
        rejected: Option<&str>,
        now: Timestamp,
    ) -> Option<Vec<Value>> {
        let mut own = Vec::new();
        for reference in &self.references {
            own.push((reference, self.conditions(reference, model, rejected)?));
        }
        let mut next = Vec::new();
        for entry in &self.parents {
            if entry["controllerName"] != CONTROLLER_NAME {
                next.push(entry.clone());
            } else if let Some(at) =
                own.iter().position(|(reference, _)| entry[self.shape.reference] == **reference)
            {
                let (reference, conditions) = own.remove(at);
                let conditions = merge(entry["conditions"].as_array(), &OWNED, &conditions, now);
                next.push(self.entry_of(reference, conditions));
            }
        }
        let added =
            own.iter().map(|(reference, new)| self.entry_of(reference, merge(None, &OWNED, new, now)));
        next.extend(added);
        (next != self.parents).then_some(next)
    }

    /// Returns the conditions for one parent, or None if the model has not read this version of the object yet.
    fn conditions(
        &self,
        reference: &Value,
        model: Option<&RouteStatus>,
        rejected: Option<&str>,
    ) -> Option<Vec<NewCondition>> {
        let known = serde_json::from_value::<ParentRef>(reference.clone()).ok().zip(model);
        let known = known.and_then(|(parent, model)| model.parents.iter().find(|of| of.parent == parent));
        let mut conditions = match (&self.refusals[..], known) {
            ([], known) => self.of_accepted(known?)?,
            (refusals, known) => self.of_refused(&refusals.join("; "), known),
        };
        conditions.extend(rejected.map(|message| NewCondition {
            kind: PROGRAMMED,
            status: false,
            reason: "RejectedByProxy",
            message: message.into(),
            observed_generation: self.generation,
        }));
        Some(conditions)
    }

    fn entry_of(&self, reference: &Value, conditions: Vec<Value>) -> Value {
        json!({self.shape.reference: reference, "controllerName": CONTROLLER_NAME, "conditions": conditions})
    }

    fn of_accepted(&self, known: &ParentStatus) -> Option<Vec<NewCondition>> {
        let mut conditions = of_model(known);
        if conditions.iter().any(|one| one.observed_generation != self.generation) {
            return None;
        }
        for accepted in conditions.iter_mut().filter(|one| one.kind == "Accepted" && one.status) {
            let of_model = std::mem::take(&mut accepted.message);
            let notes = self.notes.iter().map(String::as_str).chain([&*of_model]);
            accepted.message = notes.filter(|note| !note.is_empty()).collect::<Vec<_>>().join("; ");
        }
        Some(conditions)
    }

    /// Returns the conditions of a refused route. If the last good version is active, they say so, as the API defines it for
    /// `PartiallyInvalid`: `Accepted` is that of the generation which is active.
    fn of_refused(&self, reasons: &str, known: Option<&ParentStatus>) -> Vec<NewCondition> {
        let refused = |kind, status, message| NewCondition {
            kind,
            status,
            reason: self.shape.refused,
            message,
            observed_generation: self.generation,
        };
        let mut active = known.map(of_model).unwrap_or_default();
        match active.iter().find(|one| one.kind == "Accepted" && one.status) {
            Some(accepted) => {
                let message = format!("Fall Back to generation {}: {reasons}", accepted.observed_generation);
                active.push(refused(PARTIALLY_INVALID, true, message));
                active
            }
            None => vec![refused("Accepted", false, reasons.into())],
        }
    }
}

/// Returns the references of a policy's entries: of each target that has a name, and of the namespace if there is none, or if pods are
/// selected.
fn ancestors(id: &ResourceId, targets: Vec<Value>) -> Vec<Value> {
    let namespace = || json!({"group": "", "kind": "Namespace", "name": &*id.namespace});
    let mut all: Vec<Value> = Vec::new();
    let named = targets.iter().map(|target| match target.get("name") {
        None => namespace(),
        Some(_) => {
            let fields = ["group", "kind", "name", "sectionName"];
            fields.iter().filter_map(|field| Some((field.to_string(), target.get(field)?.clone()))).collect()
        }
    });
    let whole = targets.is_empty().then(namespace);
    for reference in named.chain(whole) {
        if !all.contains(&reference) {
            all.push(reference);
        }
    }
    all
}

/// Returns true if a parent reference is to a Service, and so to the mesh (GEP-1294).
fn is_service(reference: &Value) -> bool {
    reference["kind"] == "Service" && reference.get("group").is_some_and(|group| group == "")
}

fn of_model(known: &ParentStatus) -> Vec<NewCondition> {
    let one = |condition: &crate::model::status::Condition| NewCondition {
        kind: match condition.kind {
            ConditionKind::Accepted => "Accepted",
            ConditionKind::ResolvedRefs => "ResolvedRefs",
        },
        status: condition.status,
        reason: condition.reason,
        message: condition.message.clone(),
        observed_generation: condition.observed_generation.unwrap_or_default(),
    };
    known.conditions.iter().map(one).collect()
}

#[cfg(test)]
mod tests;
