//! Every accepted resource, with the indexes by which the effects of a change are found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use outrigger_core::Name;

use super::policy::ROOT_NAMESPACE;
use super::registration::NamespaceLabels;
use super::resource::policy::{PolicyRules, PolicySpec};
use super::resource::reference::{BackendRef, ParentRef};
use super::resource::rule::RouteSpec;
use super::resource::{
    ApiKeySecret, Body, EndpointSlice, Kind, Metadata, ReferenceGrantSpec, Resource, ResourceId,
};
use super::service::{Service, ServiceKey};

/// The target namespace and kind of grants, and the kind and namespace that they permit.
type GrantPlace = (Name, Kind, Name, Name);

/// The resources of the mesh.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    resources: BTreeMap<ResourceId, Arc<Resource>>,
    slices: BTreeMap<ServiceKey, BTreeSet<ResourceId>>,
    /// The routes that name a service as parent.
    attached: BTreeMap<ServiceKey, BTreeSet<ResourceId>>,
    /// The routes that name a service as backend.
    referring: BTreeMap<ServiceKey, BTreeSet<ResourceId>>,
    /// The number of grants by place and target; None stands for every object of the kind.
    grants: BTreeMap<GrantPlace, BTreeMap<Option<Name>, usize>>,
    /// The policies of a namespace.
    policies: BTreeMap<Name, BTreeSet<ResourceId>>,
    /// The policies that need a service.
    needing: BTreeMap<ServiceKey, BTreeSet<ResourceId>>,
    /// The policies that refer to a Secret.
    needing_secrets: BTreeMap<ResourceId, BTreeSet<ResourceId>>,
}

/// What must be rebuilt after a change.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) services: BTreeSet<ServiceKey>,
    pub(super) endpoints: BTreeSet<ServiceKey>,
    /// Services whose routes, or the statuses of those, must be rebuilt.
    pub(super) routes: BTreeSet<ServiceKey>,
    /// Routes whose status must be rebuilt, whether attached or not.
    pub(super) statuses: BTreeSet<ResourceId>,
    /// The mTLS modes of changed namespaces.
    pub(super) namespaces: BTreeMap<Name, NamespaceLabels>,
    /// Namespaces whose grants changed, for [`Inventory::touch_granted`].
    pub(super) granted: BTreeSet<Name>,
    /// Namespaces whose policies, or the targets of those, changed.
    pub(super) policies: BTreeSet<Name>,
}

/// A route with its metadata.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) spec: &'a RouteSpec,
}

impl<'a> Route<'a> {
    /// Returns the service that a parent reference of this route names.
    pub(super) fn parent(&self, parent: &ParentRef) -> ServiceKey {
        parent_key(self.metadata, parent)
    }

    /// Orders routes of equal specificity: the oldest first, then by `{namespace}/{name}`. A route without a timestamp, as in
    /// most files, comes after those that have one.
    pub(super) fn seniority(&self) -> impl Ord + use<'a> {
        seniority(self.metadata)
    }
}

/// Orders resources of which the oldest wins, as [`Route::seniority`] does.
pub(super) fn seniority(Metadata { id, created, .. }: &Metadata) -> impl Ord + use<'_> {
    (created.is_none(), *created, &id.namespace, &id.name, id.kind)
}

impl Inventory {
    /// Replaces or removes a resource, and records what must be rebuilt.
    pub(super) fn change(&mut self, id: &ResourceId, new: Option<Arc<Resource>>, touched: &mut Touched) {
        let old = match &new {
            Some(new) => self.resources.insert(id.clone(), Arc::clone(new)),
            None => self.resources.remove(id),
        };
        for resource in old.iter() {
            self.index(resource, false, touched);
        }
        for resource in new.iter() {
            self.index(resource, true, touched);
        }
    }

    /// Adds a resource to the indexes or removes it, and records what must be rebuilt.
    fn index(&mut self, resource: &Resource, enter: bool, touched: &mut Touched) {
        let Resource { metadata, body, remarks: _ } = resource;
        let id = &metadata.id;
        match body {
            Body::Namespace(labels) => {
                touched
                    .namespaces
                    .insert(id.name.clone(), if enter { *labels } else { NamespaceLabels::default() });
            }
            Body::Service(Service { key, .. }) => {
                touched.policies.insert(key.namespace.clone());
                let needing = self.needing.get(key).into_iter().flatten();
                touched.policies.extend(needing.map(|policy| policy.namespace.clone()));
                touched.services.insert(key.clone());
                touched.endpoints.insert(key.clone());
                touched.routes.insert(key.clone());
                for route in self.referring.get(key).into_iter().flatten() {
                    touch_parents(self.resources.get(route), touched);
                }
            }
            Body::EndpointSlice(slice) => {
                update(&mut self.slices, &slice.service, id, enter);
                touched.endpoints.insert(slice.service.clone());
            }
            Body::Policy(spec) => self.index_policy(id, spec, enter, touched),
            Body::Route(spec) => {
                touched.statuses.insert(id.clone());
                touched.policies.insert(id.namespace.clone());
                for parent in spec.parents.0.iter().filter(|parent| parent.is_service()) {
                    let key = parent_key(metadata, parent);
                    update(&mut self.attached, &key, id, enter);
                    touched.routes.insert(key);
                }
                let backends = spec.backends().map(|backend| backend.reference);
                for backend in backends.filter(|backend| backend.is_service()) {
                    update(&mut self.referring, &backend_key(metadata, backend), id, enter);
                }
            }
            Body::Secret(_) => {
                let needing = self.needing_secrets.get(id).into_iter().flatten();
                touched.policies.extend(needing.map(|policy| policy.namespace.clone()));
            }
            Body::ReferenceGrant(grant) => self.index_grant(id, grant, enter, touched),
        }
    }

    fn index_policy(&mut self, id: &ResourceId, spec: &PolicySpec, enter: bool, touched: &mut Touched) {
        update(&mut self.policies, &id.namespace, id, enter);
        for needed in spec.needs(&id.namespace) {
            update(&mut self.needing, &needed.service, id, enter);
        }
        for secret in spec.secrets(&id.namespace) {
            update(&mut self.needing_secrets, &secret, id, enter);
        }
        touched.policies.insert(id.namespace.clone());
        if let PolicyRules::Authentication(_) = spec.rules {
            // Which tokens are verified at a place depends on the policies of the mesh too, and whether any are verified in the mesh on those of all
            // namespaces.
            touched.policies.insert(ROOT_NAMESPACE.into());
            if *id.namespace == *ROOT_NAMESPACE {
                touched.policies.extend(self.policies.keys().cloned());
            }
        }
        touched.statuses.insert(id.clone());
    }

    fn index_grant(
        &mut self,
        id: &ResourceId,
        grant: &ReferenceGrantSpec,
        enter: bool,
        touched: &mut Touched,
    ) {
        touched.granted.insert(id.namespace.clone());
        for (kind, namespace, to, name) in grant.permissions() {
            let place = (id.namespace.clone(), to, kind.clone(), namespace.clone());
            let counts = self.grants.entry(place.clone()).or_default();
            let count = counts.entry(name.cloned()).or_default();
            *count = if enter { *count + 1 } else { count.saturating_sub(1) };
            counts.retain(|_, count| *count > 0);
            if counts.is_empty() {
                self.grants.remove(&place);
            }
        }
    }

    /// Records what changed grants affect: routes and policies that refer into their namespaces. Called once after all changes.
    pub(super) fn touch_granted(&self, touched: &mut Touched) {
        for namespace in std::mem::take(&mut touched.granted) {
            let first = ServiceKey { namespace: namespace.clone(), name: "".into() };
            let into = self.referring.range(&first..).take_while(|(key, _)| key.namespace == namespace);
            for route in into.flat_map(|(_, routes)| routes) {
                touch_parents(self.resources.get(route), touched);
            }
            let into = self.needing.range(first..).take_while(|(key, _)| key.namespace == namespace);
            for policy in into.flat_map(|(_, policies)| policies) {
                touched.policies.insert(policy.namespace.clone());
            }
            let into = self.needing_secrets.iter().filter(|(secret, _)| secret.namespace == namespace);
            for policy in into.flat_map(|(_, policies)| policies) {
                touched.policies.insert(policy.namespace.clone());
            }
        }
    }

    /// Returns every resource, by kind.
    pub(super) fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.resources.values().map(|resource| &**resource)
    }

    /// Returns every service, by namespace and name.
    pub(super) fn services(&self) -> impl Iterator<Item = &Service> {
        self.resources().filter_map(|resource| match &resource.body {
            Body::Service(service) => Some(service),
            _ => None,
        })
    }

    /// Returns true if a service has an EndpointSlice.
    pub(super) fn has_slices(&self, key: &ServiceKey) -> bool {
        self.slices.contains_key(key)
    }

    /// Returns the service of this name.
    pub(super) fn service(&self, key: &ServiceKey) -> Option<&Service> {
        let id = ResourceId { kind: Kind::Service, namespace: key.namespace.clone(), name: key.name.clone() };
        match &self.resources.get(&id)?.body {
            Body::Service(service) => Some(service),
            _ => None,
        }
    }

    /// Returns the slices of a service, by name.
    pub(super) fn slices(&self, key: &ServiceKey) -> impl Iterator<Item = &EndpointSlice> {
        self.slices.get(key).into_iter().flatten().filter_map(|id| match &self.resources.get(id)?.body {
            Body::EndpointSlice(slice) => Some(slice),
            _ => None,
        })
    }

    /// Returns true if the resource exists.
    pub(super) fn has(&self, id: &ResourceId) -> bool {
        self.resources.contains_key(id)
    }

    /// Returns the route of this name.
    pub(super) fn route(&self, id: &ResourceId) -> Option<Route<'_>> {
        let Resource { metadata, body, remarks: _ } = &**self.resources.get(id)?;
        match body {
            Body::Route(spec) => Some(Route { metadata, spec }),
            _ => None,
        }
    }

    /// Returns the policies of a namespace, by kind and name.
    pub(super) fn policies(&self, namespace: &Name) -> impl Iterator<Item = (&Metadata, &PolicySpec)> {
        self.policies.get(namespace).into_iter().flatten().filter_map(|id| self.policy(id))
    }

    /// Returns the policy of this name.
    pub(super) fn policy(&self, id: &ResourceId) -> Option<(&Metadata, &PolicySpec)> {
        match &**self.resources.get(id)? {
            Resource { metadata, body: Body::Policy(spec), .. } => Some((metadata, spec)),
            _ => None,
        }
    }

    /// Returns the routes that name a service as parent.
    pub(super) fn attached(&self, key: &ServiceKey) -> impl Iterator<Item = Route<'_>> {
        self.attached.get(key).into_iter().flatten().filter_map(|id| self.route(id))
    }

    /// Returns the Secret of this name, if it has API keys.
    pub(super) fn secret(&self, id: &ResourceId) -> Option<&ApiKeySecret> {
        match &self.resources.get(id)?.body {
            Body::Secret(secret) => Some(secret),
            _ => None,
        }
    }

    /// Returns true if a ReferenceGrant lets routes of this kind and namespace refer to a service of another namespace.
    pub(super) fn permits(&self, kind: Kind, namespace: &Name, to: &ServiceKey) -> bool {
        self.permits_any(kind, namespace, (&to.namespace, Kind::Service, &to.name))
    }

    /// Returns true if a ReferenceGrant lets policies of this kind and namespace refer to a Secret of another namespace.
    pub(super) fn permits_secret(&self, kind: Kind, namespace: &Name, to: &ResourceId) -> bool {
        self.permits_any(kind, namespace, (&to.namespace, Kind::Secret, &to.name))
    }

    fn permits_any(&self, kind: Kind, namespace: &Name, to: (&Name, Kind, &Name)) -> bool {
        let place = (to.0.clone(), to.1, kind.name().into(), namespace.clone());
        let granted = self.grants.get(&place);
        granted.is_some_and(|to_which| {
            to_which.contains_key(&None) || to_which.contains_key(&Some(to.2.clone()))
        })
    }
}

/// Returns the service that a backend reference of a route names.
pub(super) fn backend_key(route: &Metadata, backend: &BackendRef) -> ServiceKey {
    let namespace = backend.namespace.as_ref().unwrap_or(&route.id.namespace);
    ServiceKey { namespace: namespace.clone(), name: backend.name.clone() }
}

fn parent_key(route: &Metadata, parent: &ParentRef) -> ServiceKey {
    let namespace = parent.namespace.as_ref().map_or(&route.id.namespace, |namespace| &namespace.0);
    ServiceKey { namespace: namespace.clone(), name: parent.name.0.clone() }
}

fn touch_parents(route: Option<&Arc<Resource>>, touched: &mut Touched) {
    let Some(Resource { metadata, body: Body::Route(spec), .. }) = route.map(|route| &**route) else {
        return;
    };
    touched.statuses.insert(metadata.id.clone());
    for parent in spec.parents.0.iter().filter(|parent| parent.is_service()) {
        touched.routes.insert(parent_key(metadata, parent));
    }
}

fn update<K: Ord + Clone>(
    index: &mut BTreeMap<K, BTreeSet<ResourceId>>,
    key: &K,
    id: &ResourceId,
    enter: bool,
) {
    let set = index.entry(key.clone()).or_default();
    match enter {
        true => {
            set.insert(id.clone());
        }
        false => {
            set.remove(id);
        }
    }
    if set.is_empty() {
        index.remove(key);
    }
}
