//! Builds the next version of the mesh from changed resources.
//!
//! Only the parts that a change affects are rebuilt, and a rebuilt part that is equal keeps its old value, so that the
//! difference between two versions is found by comparing pointers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_core::Name;

use super::attachment::{self, Attachments};
use super::automatic_addresses::AutomaticAddresses;
use super::conditions;
use super::endpoint::{Endpoint, EndpointHealth, Endpoints, Peer};
use super::findings::{self, Finding};
use super::inventory::{Inventory, Route, Touched};
use super::mesh::{Mesh, ServiceEntry};
use super::policies;
use super::question_cycles::QuestionCycles;
use super::resource::{Resource, ResourceId};
use super::service::{Service, ServiceKey, ServiceType};
use super::status::{RouteStatus, Statuses};
use super::unverified_claims;

/// The accepted resources, and the mesh that is built from them.
#[derive(Debug, Default)]
pub(crate) struct MeshBuilder {
    inventory: Inventory,
    automatic: AutomaticAddresses,
    mesh: Mesh,
    statuses: Statuses,
    question_cycles: QuestionCycles,
}

impl MeshBuilder {
    /// Applies new versions of resources; None removes one.
    pub(crate) fn apply(&mut self, changes: impl IntoIterator<Item = (ResourceId, Option<Arc<Resource>>)>) {
        let mut touched = Touched::default();
        for (id, new) in changes {
            self.inventory.change(&id, new, &mut touched);
        }
        self.inventory.touch_granted(&mut touched);
        let Self { inventory, automatic, mesh, statuses, question_cycles } = self;
        let others: Vec<_> =
            touched.services.iter().flat_map(|key| automatic.update(key, inventory.service(key))).collect();
        touched.services.extend(others);
        for (namespace, labels) in std::mem::take(&mut touched.namespaces) {
            mesh.set_namespace(namespace, labels);
        }
        let mut attachments = Attachments::new(inventory);
        rebuild_services(inventory, automatic, mesh, &touched, &mut attachments);
        let mut judged = judge_routes(inventory, &touched, &mut attachments);
        judged.extend(rebuild_policies(inventory, mesh, question_cycles, touched.policies));
        for (id, status) in judged {
            if statuses.get(&id).is_none_or(|old| **old != status) {
                statuses.insert(id, Arc::new(status));
            }
        }
        for id in touched.statuses.iter().filter(|id| !inventory.has(id)) {
            statuses.remove(id);
        }
    }

    /// Returns the current mesh, without registrations.
    pub(crate) fn mesh(&self) -> Mesh {
        self.mesh.clone()
    }

    /// Returns the problems of the accepted resources.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        findings::all(&self.inventory, &self.mesh, &self.statuses)
    }

    /// Returns the names of the services that have no EndpointSlice, and so only endpoints that register.
    pub(crate) fn without_slices(&self) -> Vec<ServiceKey> {
        let internal = |service: &&Service| !matches!(service.service_type, ServiceType::ExternalName(_));
        let services = self.inventory.services().filter(internal).map(|service| &service.key);
        services.filter(|key| !self.inventory.has_slices(key)).cloned().collect()
    }

    /// Returns the status of each route and policy.
    pub(crate) fn statuses(&self) -> Statuses {
        self.statuses.clone()
    }
}

/// Replaces the changed parts of services, and removes services that no longer exist.
fn rebuild_services<'a>(
    inventory: &'a Inventory,
    automatic: &AutomaticAddresses,
    mesh: &mut Mesh,
    Touched { services, endpoints, routes, .. }: &Touched,
    attachments: &mut Attachments<'a>,
) {
    let all: BTreeSet<_> = services.iter().chain(endpoints).chain(routes).collect();
    for key in all {
        let Some(current) = inventory.service(key) else {
            mesh.remove(key);
            continue;
        };
        let old = mesh.service(key);
        let entry = ServiceEntry {
            service: reuse_if_same(old.map(|old| &old.service), services.contains(key), || {
                automatic.complete(current)
            }),
            endpoints: reuse_if_same(old.map(|old| &old.endpoints), endpoints.contains(key), || {
                endpoints_of(inventory, current)
            }),
            routes: reuse_if_same(old.map(|old| &old.routes), routes.contains(key), || {
                attachment::routes_of(inventory, current, &attachments.of(current))
            }),
        };
        mesh.insert(entry);
    }
}

/// Returns the statuses of the routes that a change affects. They do not depend on endpoints.
fn judge_routes<'a>(
    inventory: &'a Inventory,
    Touched { services, routes, statuses, .. }: &Touched,
    attachments: &mut Attachments<'a>,
) -> Vec<(ResourceId, RouteStatus)> {
    let attached = services.iter().chain(routes).flat_map(|key| inventory.attached(key));
    let mut all: BTreeSet<_> = attached.map(|route| &route.metadata.id).collect();
    all.extend(statuses);
    let routes = all.into_iter().filter_map(|id| inventory.route(id));
    let judge =
        |route: Route<'a>| (route.metadata.id.clone(), conditions::status_of(inventory, route, attachments));
    routes.map(judge).collect()
}

/// Replaces the policies of namespaces, and of those in which they change what is asked. Returns their statuses.
fn rebuild_policies(
    inventory: &Inventory,
    mesh: &mut Mesh,
    question_cycles: &mut QuestionCycles,
    namespaces: BTreeSet<Name>,
) -> Vec<(ResourceId, RouteStatus)> {
    let of = |namespace: &Name| policies::of_namespace(inventory, namespace);
    let mut rebuilt: BTreeMap<_, _> =
        namespaces.into_iter().map(|namespace| (namespace.clone(), of(&namespace))).collect();
    for (namespace, (policies, _)) in &rebuilt {
        question_cycles.set(namespace, policies);
    }
    let affected = if rebuilt.is_empty() { BTreeSet::new() } else { question_cycles.update(mesh) };
    for namespace in affected {
        rebuilt.entry(namespace).or_insert_with_key(of);
    }
    let mut all = Vec::new();
    for (namespace, (mut policies, mut statuses)) in rebuilt {
        question_cycles.mark(&mut policies, &mut statuses);
        mesh.set_policies(namespace, policies);
        all.extend(statuses);
    }
    // With the policies of all namespaces: those of the root namespace apply to others.
    for (id, status) in &mut all {
        unverified_claims::note(inventory, mesh, id, status);
    }
    all
}

/// Returns the old value if it was not affected or the new one is equal.
fn reuse_if_same<T: PartialEq>(old: Option<&Arc<T>>, touched: bool, make: impl FnOnce() -> T) -> Arc<T> {
    match old {
        Some(old) if !touched => Arc::clone(old),
        old => {
            let new = make();
            old.filter(|old| ***old == new).map_or_else(|| Arc::new(new), Arc::clone)
        }
    }
}

/// Collects the endpoints of a service from its slices. A port of a slice belongs to the service port of the same name. An
/// address may be in two slices for a while (documented for EndpointSlice); the better health counts then.
fn endpoints_of(inventory: &Inventory, service: &Service) -> Endpoints {
    let mut ports = Vec::new();
    for port in &service.ports {
        let mut all: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
        for slice in inventory.slices(&service.key) {
            let Some((_, number)) = slice.ports.iter().find(|(name, _)| *name == port.name) else { continue };
            for found in &slice.endpoints {
                let endpoint = Endpoint {
                    address: SocketAddr::new(found.ip, *number),
                    health: found.health,
                    peer: match &slice.peer {
                        Peer::Plaintext if found.is_pod => Peer::Pod,
                        peer => peer.clone(),
                    },
                    instance: found.instance.clone(),
                    version: slice.version.clone(),
                    zone: found.zone.clone(),
                    node: found.node.clone(),
                    hostname: found.hostname.clone(),
                };
                let better = |old: &Endpoint| preference(old.health) <= preference(endpoint.health);
                if !all.get(&endpoint.address).is_some_and(better) {
                    all.insert(endpoint.address, endpoint);
                }
            }
        }
        if !all.is_empty() {
            ports.push((port.number, all.into_values().collect()));
        }
    }
    Endpoints { ports }
}

fn preference(health: EndpointHealth) -> u8 {
    match health {
        EndpointHealth::Ready => 0,
        EndpointHealth::Draining => 1,
        EndpointHealth::NotReady => 2,
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::model::resource::testing::read;
    use crate::model::route::{RouteTable, RouteTarget, WeightedBackend};
    use crate::model::service::ServiceKey;

    /// A service with one port, by `name` or `name.namespace`.
    pub(crate) fn service(name: &str, port: u16, protocol: &str) -> String {
        let (name, namespace) = name.split_once('.').unwrap_or((name, "shop"));
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: {namespace}}},
               spec: {{ports: [{{port: {port}, appProtocol: {protocol}}}]}}}}"
        )
    }

    /// A route of `shop` attached to the service `parent`.
    pub(crate) fn route(kind: &str, name: &str, parent: &str, rules: &str) -> String {
        let (name, namespace) = name.split_once('.').unwrap_or((name, "shop"));
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: {name}, namespace: {namespace}}},
               spec: {{parentRefs: [{{group: '', kind: Service, namespace: shop, {parent}}}], rules: [{rules}]}}}}"
        )
    }

    /// Returns the resource in YAML.
    pub(crate) fn resource(yaml: &str) -> Arc<Resource> {
        let decoded = read(yaml).remove(0);
        let problems = decoded.problems();
        decoded.resource().cloned().unwrap_or_else(|| panic!("{problems:?} in {yaml}"))
    }

    impl MeshBuilder {
        /// Applies new resources.
        pub(crate) fn with(&mut self, yamls: &[&str]) -> &mut Self {
            let resources = yamls.iter().map(|yaml| resource(yaml));
            self.apply(resources.map(|resource| (resource.metadata.id.clone(), Some(resource))));
            self
        }

        /// Applies what stands for a refused policy.
        pub(crate) fn with_refused(&mut self, yaml: &str) -> &mut Self {
            let resource = read(yaml).remove(0).stand_in.unwrap();
            self.apply([(resource.metadata.id.clone(), Some(resource))]);
            self
        }

        /// Removes a resource.
        pub(crate) fn without(&mut self, yaml: &str) -> &mut Self {
            self.apply([(resource(yaml).metadata.id.clone(), None)]);
            self
        }

        /// Returns the names of the routes that clients of a namespace use, without `httproute/`, and their backends.
        pub(crate) fn table(&self, service: &str, namespace: &str) -> Vec<String> {
            let entry = self.mesh.service(&ServiceKey::new("shop", service)).unwrap();
            let port = entry.service.ports[0].number;
            match self.mesh.routes(&entry.service.key, port, namespace).map(|table| &**table) {
                None => Vec::new(),
                Some(RouteTable::Tcp(route)) => vec![text(&route.id, &route.backends)],
                Some(RouteTable::Http(routes)) => {
                    let line = |route: &crate::model::route::Route| match &route.action.target {
                        RouteTarget::Forward(backends) => text(&route.id, backends),
                        RouteTarget::Redirect(_) => format!("{} redirect", route.id),
                    };
                    routes.iter().map(line).collect()
                }
            }
        }

        /// Returns the conditions of a route, each as text, for all its parents.
        pub(crate) fn conditions(&self, id: &str) -> Vec<String> {
            let (_, status) = self.statuses.iter().find(|(other, _)| other.to_string() == id).unwrap();
            status.parents.iter().flat_map(|parent| &parent.conditions).map(ToString::to_string).collect()
        }
    }

    fn text(id: &str, backends: &[WeightedBackend]) -> String {
        let one = |backend: &WeightedBackend| match &backend.target {
            Ok(target) => format!(" {}*{}:{}", backend.weight, target.service, target.port),
            Err(why) => format!(" {}*{}", backend.weight, why.reason()),
        };
        id.to_owned() + &backends.iter().map(one).collect::<String>()
    }
}

#[cfg(test)]
mod tests;
