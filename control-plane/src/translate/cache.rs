//! Caches translated resources until the mesh changes. Owned by the catalog.

use std::collections::HashMap;
use std::sync::Arc;

use outrigger_core::Name;

use super::resource::{Kind, Resource};
use super::scope::{Dialect, Location};
use crate::model::mesh::Changed;
use crate::model::service::ServiceKey;

/// The kinds that depend on endpoints: clusters have the identities of theirs.
pub(super) const ENDPOINT_KINDS: [Kind; 2] = [Kind::Cluster, Kind::Endpoints];
/// The kinds that depend on the policies about callers: clusters, the order of their endpoints, and the sessions of routes.
pub(super) const CALLER_KINDS: [Kind; 4] = Kind::ALL;
/// The kinds that depend on routes.
pub(super) const ROUTE_KINDS: [Kind; 2] = [Kind::Listener, Kind::Route];

/// The translated resources of each service, by name.
#[derive(Debug, Default)]
pub(super) struct Cache {
    services: HashMap<ServiceKey, HashMap<Name, Vec<Cached>>>,
}

/// The clients that a translated resource is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Audience {
    /// The clients of this namespace. None for the clients of all namespaces without routes of their own.
    pub(super) namespace: Option<Name>,
    /// The clients at this place. None for the clients of all places.
    pub(super) location: Option<Location>,
    /// The dialect of the clients.
    pub(super) dialect: Dialect,
}

#[derive(Debug)]
struct Cached {
    audience: Audience,
    resource: Arc<Resource>,
}

impl Cache {
    /// Returns the resource for this audience.
    pub(super) fn get(
        &self,
        service: &ServiceKey,
        kind: Kind,
        name: &str,
        audience: &Audience,
    ) -> Option<Arc<Resource>> {
        let all = self.services.get(service)?.get(name)?;
        let same = |cached: &&Cached| cached.resource.kind == kind && cached.audience == *audience;
        all.iter().find(same).map(|cached| Arc::clone(&cached.resource))
    }

    /// Inserts a resource.
    pub(super) fn insert(&mut self, service: ServiceKey, audience: Audience, resource: Arc<Resource>) {
        let names = self.services.entry(service).or_default();
        names.entry(resource.name.clone()).or_default().push(Cached { audience, resource });
    }

    /// Removes what a change of the mesh affects.
    pub(super) fn invalidate(&mut self, changed: &Changed) {
        let Changed { services, endpoints, routes, callers, workloads: _, pod_ips: _ } = changed; // inbound resources and those of pods are not kept
        for key in services {
            self.services.remove(key);
        }
        let parts: [(_, &[Kind]); 3] =
            [(endpoints, &ENDPOINT_KINDS), (routes, &ROUTE_KINDS), (callers, &CALLER_KINDS)];
        for (keys, kinds) in parts {
            for key in keys {
                let Some(names) = self.services.get_mut(key) else { continue };
                names.retain(|_, all| {
                    all.retain(|cached| !kinds.contains(&cached.resource.kind));
                    !all.is_empty()
                });
            }
        }
    }
}
