//! Makes the next version of the mesh from changed resources.
//!
//! Sources call [`Assembly::apply`]. Only what a change touches is made anew, and what comes out as it was stays the
//! very same value, so that translation finds the difference by comparing pointers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::attachment;
use super::endpoint::{Endpoint, EndpointHealth, Endpoints};
use super::inventory::{Inventory, Touched};
use super::mesh::{Mesh, ServiceEntry};
use super::resource::{Resource, ResourceId};
use super::service::{Service, ServiceKey};
use super::status::Statuses;

/// The resources that were accepted, and the mesh that they make.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    inventory: Inventory,
    mesh: Mesh,
    statuses: Statuses,
}

impl Assembly {
    /// Takes new versions of resources; none where one is gone.
    pub(crate) fn apply(&mut self, changes: impl IntoIterator<Item = (ResourceId, Option<Arc<Resource>>)>) {
        let mut touched = Touched::default();
        for (id, new) in changes {
            self.inventory.change(&id, new, &mut touched);
        }
        let Touched { services, endpoints, routes, mut statuses } = touched;
        let entries: std::collections::BTreeSet<_> =
            services.iter().chain(&endpoints).chain(&routes).cloned().collect();
        for key in &entries {
            statuses.extend(self.inventory.attached(key).map(|route| route.metadata.id.clone()));
            self.renew(key, services.contains(key), endpoints.contains(key), routes.contains(key));
        }
        for id in statuses {
            match self.inventory.route(&id) {
                None => drop(self.statuses.remove(&id)),
                Some(route) => {
                    let status = attachment::status_of(&self.inventory, route);
                    if self.statuses.get(&id).is_none_or(|old| **old != status) {
                        self.statuses.insert(id, Arc::new(status));
                    }
                }
            }
        }
    }

    /// The mesh as it is now. Registrations are put in by who reads it.
    pub(crate) fn mesh(&self) -> Mesh {
        self.mesh.clone()
    }

    /// What became of each route.
    pub(crate) fn statuses(&self) -> Statuses {
        self.statuses.clone()
    }

    /// Makes the parts of a service anew that were touched.
    fn renew(&mut self, key: &ServiceKey, service: bool, endpoints: bool, routes: bool) {
        let Some(current) = self.inventory.service(key) else {
            return self.mesh.take(key);
        };
        let old = self.mesh.service(key);
        let entry = ServiceEntry {
            service: renewed(old.map(|old| &old.service), service, || current.clone()),
            endpoints: renewed(old.map(|old| &old.endpoints), endpoints, || {
                endpoints_of(&self.inventory, current)
            }),
            routes: renewed(old.map(|old| &old.routes), routes, || {
                attachment::routes_of(&self.inventory, current)
            }),
        };
        self.mesh.put(entry);
    }
}

/// The old value where it was not touched or comes out the same.
fn renewed<T: PartialEq>(old: Option<&Arc<T>>, touched: bool, make: impl FnOnce() -> T) -> Arc<T> {
    match old {
        Some(old) if !touched => Arc::clone(old),
        old => {
            let new = make();
            old.filter(|old| ***old == new).map_or_else(|| Arc::new(new), Arc::clone)
        }
    }
}

/// The endpoints of a service from its slices: a port of a slice belongs to the service port of the same name. An
/// address may stand in two slices for a while, as the API's conventions say; its better health counts then.
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
                    peer: slice.peer.clone(),
                    instance: found.instance.clone(),
                    version: slice.version.clone(),
                    zone: found.zone.clone(),
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
