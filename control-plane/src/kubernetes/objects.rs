//! The objects that the reflectors reported, as changes of the configuration. Pure.
//!
//! An object is decoded when it changes. A list replaces what was known of its kind: objects that it lacks are removed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::api::DynamicObject;
use kube::runtime::watcher::Event;
use outrigger_core::Name;
use serde_json::{Map, Value};
use tokio::sync::watch;

use super::reflector::Report;
use super::secret_watch::SecretReport;
use super::status::last_good::LastGood;
use super::status::route::{RouteObject, RouteObjects};
use crate::model::diagnostic::{Code, Problem};
use crate::model::resource::{Kind, Resource, ResourceId};
use crate::source::change::{Diagnostic, IgnoredField, ResourceChange, Update};
use crate::source::object;
use crate::source::origin::Origin;

/// The prefix of the annotations that are read.
const OWN_ANNOTATIONS: &str = "outrigger.dev/";

/// Every object of the watched kinds.
#[derive(Debug, Default)]
pub(super) struct Objects {
    known: BTreeMap<ResourceId, KnownObject>,
    /// The objects of a list that is not complete yet.
    listing: BTreeMap<Kind, BTreeSet<ResourceId>>,
    changes: Vec<ResourceChange>,
    /// Refusals or ignored fields differ from those of the last update.
    remarks_changed: bool,
    routes: watch::Sender<RouteObjects>,
    /// The versions that refused routes fell back to before this process, or before their kind became unavailable.
    saved: LastGood,
}

/// An object of the API server.
#[derive(Debug)]
struct KnownObject {
    origin: Origin,
    version: String,
    /// The last version that was accepted.
    resource: Option<Arc<Resource>>,
    /// The object of that version, if it is a route or a policy.
    text: Option<Arc<str>>,
    refusals: Vec<Diagnostic>,
    ignored: Vec<IgnoredField>,
}

impl KnownObject {
    fn is_object(&self, of: &str) -> bool {
        matches!(&self.origin, Origin::Object { uid, .. } if uid == of)
    }
}

impl Objects {
    /// Sets the saved versions. A route that is refused when it is read first falls back to its saved version.
    pub(super) fn with_saved(self, saved: LastGood) -> Self {
        Self { saved, ..self }
    }

    /// Returns the objects of all routes, now and later.
    pub(super) fn routes(&self) -> watch::Receiver<RouteObjects> {
        self.routes.subscribe()
    }

    /// Applies what the reflector of a kind reports.
    pub(super) fn apply(&mut self, kind: Kind, report: Report<DynamicObject>) {
        match report {
            Report::Event(event) => self.apply_event(kind, event),
            Report::Unavailable => {
                self.routes.send_if_modified(|routes| routes.listed.remove(&kind));
                self.listing.remove(&kind);
                // A policy stays until it is known to be deleted: what it denies must not be admitted because it cannot be read.
                for id in self.ids(kind).into_iter().filter(|id| !id.kind.is_policy()) {
                    self.keep_last_good(&id);
                    self.remove(&id);
                }
            }
        }
    }

    /// Applies what is known of a Secret that a policy refers to.
    pub(super) fn apply_secret(&mut self, id: &ResourceId, report: SecretReport) {
        match report {
            SecretReport::Current(object) => self.set(Kind::Secret, id, *object),
            SecretReport::Missing => self.remove(id),
            // What was read stays. Another reason replaces the former one.
            SecretReport::Unreadable(_) if self.known.get(id).is_some_and(|known| !known.is_object("")) => {}
            SecretReport::Unreadable(reason) => {
                let resource = Some(Arc::new(Resource::unreadable_secret(id.clone(), &reason)));
                if self.known.get(id).is_some_and(|known| known.resource == resource) {
                    return;
                }
                let (namespace, name) = (id.namespace.to_string(), id.name.to_string());
                let (uid, resource_version) = (String::new(), String::new());
                let origin = Origin::Object { namespace, name, uid, resource_version };
                let known = KnownObject {
                    origin: origin.clone(),
                    version: String::new(),
                    resource: resource.clone(),
                    text: None,
                    refusals: Vec::new(),
                    ignored: Vec::new(),
                };
                self.known.insert(id.clone(), known);
                self.changes.push(ResourceChange { id: id.clone(), origin, version: None, resource });
            }
        }
    }

    /// Returns the Secrets that policies refer to: of their own namespace, or permitted by a ReferenceGrant.
    pub(super) fn secrets_of_policies(&self) -> BTreeSet<ResourceId> {
        let kind = Kind::AuthenticationPolicy;
        let of_policy = |policy: &Arc<Resource>| {
            let mut secrets = policy.secrets();
            let namespace = &policy.metadata.id.namespace;
            secrets.retain(|id| {
                let mut grants = self.resources(Kind::ReferenceGrant, &id.namespace);
                id.namespace == *namespace || grants.any(|grant| grant.permits_secret(kind, namespace, id))
            });
            secrets
        };
        let first = ResourceId { kind, namespace: "".into(), name: "".into() };
        let policies = self.known.range(first..).take_while(|(id, _)| id.kind == kind);
        policies.filter_map(|(_, known)| known.resource.as_ref()).flat_map(of_policy).collect()
    }

    /// Returns the resources of a kind and namespace.
    fn resources(&self, kind: Kind, namespace: &Name) -> impl Iterator<Item = &Arc<Resource>> {
        let first = ResourceId { kind, namespace: namespace.clone(), name: "".into() };
        let found = self.known.range(first..);
        let same = move |id: &ResourceId| id.kind == kind && id.namespace == *namespace;
        found.take_while(move |(id, _)| same(id)).filter_map(|(_, known)| known.resource.as_ref())
    }

    fn apply_event(&mut self, kind: Kind, event: Event<DynamicObject>) {
        match event {
            Event::Init => drop(self.listing.insert(kind, BTreeSet::new())),
            Event::InitApply(object) => {
                let id = id(kind, &object);
                self.set(kind, &id, object);
                self.listing.entry(kind).or_default().insert(id);
            }
            Event::InitDone => {
                let Some(listed) = self.listing.remove(&kind) else { return };
                self.ids(kind).iter().filter(|id| !listed.contains(id)).for_each(|id| self.remove(id));
                self.routes.send_if_modified(|routes| routes.listed.insert(kind));
            }
            Event::Apply(object) => {
                let id = id(kind, &object);
                self.set(kind, &id, object);
            }
            Event::Delete(object) => self.remove(&id(kind, &object)),
        }
    }

    /// Returns what changed since the last call. Returns None if nothing did.
    pub(super) fn update(&mut self) -> Option<Update> {
        if self.changes.is_empty() && !self.remarks_changed {
            return None;
        }
        self.remarks_changed = false;
        Some(Update {
            changes: std::mem::take(&mut self.changes),
            refusals: self.known.values().flat_map(|known| &known.refusals).cloned().collect(),
            ignored: self.known.values().flat_map(|known| &known.ignored).cloned().collect(),
            stand_in: None,
        })
    }

    /// Returns the objects of a kind.
    fn ids(&self, kind: Kind) -> Vec<ResourceId> {
        self.known.keys().filter(|id| id.kind == kind).cloned().collect()
    }

    /// Saves the version that a refused route falls back to, for when its kind can be listed again.
    fn keep_last_good(&mut self, id: &ResourceId) {
        let routes = self.routes.borrow();
        let refused = routes.all.get(id).and_then(|route| route.refused());
        if let Some((uid, Some(last_good))) = refused
            && let Ok(object) = serde_json::from_str(last_good)
        {
            self.saved.insert(uid.to_owned(), object);
        }
    }

    /// Decodes an object, unless this version of it is known. If it is refused, its last good version stays.
    fn set(&mut self, kind: Kind, id: &ResourceId, object: DynamicObject) {
        let version = object.metadata.resource_version.clone().unwrap_or_default();
        if self.known.get(id).is_some_and(|old| old.version == version && !version.is_empty()) {
            return;
        }
        let metadata = &object.metadata;
        let uid = metadata.uid.clone().unwrap_or_default();
        // It was deleted and created again: what was good in the former object is not in this one.
        if self.known.get(id).is_some_and(|old| !old.is_object(&uid)) {
            self.remove(id);
        }
        let old = self.known.get(id);
        let origin = Origin::Object {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: uid.clone(),
            resource_version: version.clone(),
        };
        let object = to_json(kind, object);
        let route = RouteObject::of(id, &object);
        let accepted = route.as_ref().map(|_| text(&object));
        let mut update = object::read(object);
        let saved = self.saved.remove(&uid);
        let text = match old.and_then(|old| old.text.clone()) {
            _ if update.refusals.is_empty() => accepted,
            Some(last_good) => Some(last_good),
            None => saved.map(|saved| {
                let text = saved.to_string().into();
                update.changes = object::read(saved).changes;
                text
            }),
        };
        let last_good = old.and_then(|old| old.resource.clone());
        if let Some(mut stand_in) = update.stand_in.take().filter(|_| text.is_none()) {
            match last_good.as_ref().and_then(|good| although_refused(good, &stand_in)) {
                Some(kept) => stand_in.resource = Some(kept),
                None => update.refusals.push(stands_in(&origin, &stand_in)),
            }
            update.changes = vec![stand_in];
        }
        if let Some(route) = route {
            let route = Arc::new(route.decoded(&update).with_last_good(text.clone()));
            self.routes.send_modify(|routes| drop(routes.all.insert(id.clone(), route)));
        }
        let Update { changes, refusals, ignored, stand_in: _ } = update;
        // A controller that writes the status of a refused object does not make its refusal a new one.
        let problems =
            |refusals: &[Diagnostic]| -> Vec<_> { refusals.iter().map(|one| one.problem.clone()).collect() };
        let refusals = match old.filter(|old| problems(&old.refusals) == problems(&refusals)) {
            Some(old) => old.refusals.clone(),
            None => refusals,
        };
        let had_remarks = old.is_some_and(|old| !old.refusals.is_empty() || !old.ignored.is_empty());
        self.remarks_changed |= had_remarks || !refusals.is_empty() || !ignored.is_empty();
        let mut resource = last_good.clone();
        for change in changes {
            // A controller that writes the status changes nothing that is read here.
            if change.resource != last_good {
                resource.clone_from(&change.resource);
                self.changes.push(change);
            }
        }
        self.known.insert(id.clone(), KnownObject { origin, version, resource, text, refusals, ignored });
    }

    fn remove(&mut self, id: &ResourceId) {
        let Some(KnownObject { origin, resource, refusals, ignored, .. }) = self.known.remove(id) else {
            return;
        };
        self.routes.send_if_modified(|routes| routes.all.remove(id).is_some());
        self.remarks_changed |= !refusals.is_empty() || !ignored.is_empty();
        if resource.is_some() {
            self.changes.push(ResourceChange { id: id.clone(), origin, version: None, resource: None });
        }
    }
}

/// Returns the last good version of a Secret, with why the current one is refused.
fn although_refused(good: &Resource, stand_in: &ResourceChange) -> Option<Arc<Resource>> {
    let kept = good.although_refused(stand_in.resource.as_deref()?)?;
    (!good.stands_in()).then(|| Arc::new(kept))
}

/// Returns what is said about a refused policy or Secret that something stands for.
fn stands_in(origin: &Origin, stand_in: &ResourceChange) -> Diagnostic {
    let resource = Some(stand_in.id.to_string());
    let problem = Problem::of(Code::InvalidValue, "", stand_in.id.kind.stand_in_notice());
    Diagnostic { origin: origin.clone(), resource, problem }
}

fn id(kind: Kind, object: &DynamicObject) -> ResourceId {
    let name = |name: &Option<String>| name.as_deref().unwrap_or_default().into();
    ResourceId { kind, namespace: name(&object.metadata.namespace), name: name(&object.metadata.name) }
}

/// Returns the text of an object without its status.
fn text(object: &Value) -> Arc<str> {
    let mut object = object.clone();
    if let Value::Object(fields) = &mut object {
        fields.remove("status");
    }
    object.to_string().into()
}

/// Returns the object as the decoder reads it: without what only other programs read, which may be long.
fn to_json(kind: Kind, object: DynamicObject) -> Value {
    let DynamicObject { types: _, mut metadata, data } = object;
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.retain(|name, _| name.starts_with(OWN_ANNOTATIONS));
    }
    let mut fields = if let Value::Object(fields) = data { fields } else { Map::new() };
    // Every version that is watched has the same fields.
    fields.insert("apiVersion".into(), kind.api_version().into());
    fields.insert("kind".into(), kind.name().into());
    fields.insert("metadata".into(), serde_json::to_value(metadata).unwrap_or_default());
    Value::Object(fields)
}

#[cfg(test)]
mod tests;
