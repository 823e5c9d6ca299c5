//! Translated resources, kept until the mesh changes under them. The catalogue owns the one that there is.

use std::collections::HashMap;
use std::sync::Arc;

use outrigger_core::Name;

use super::resource::{Kind, Resource};
use crate::model::mesh::Changed;
use crate::model::service::ServiceKey;

/// The kinds in which endpoints show: clusters name the identities of theirs.
pub(super) const ENDPOINT_KINDS: [Kind; 2] = [Kind::Cluster, Kind::Endpoints];
/// The kinds in which routes show.
pub(super) const ROUTE_KINDS: [Kind; 2] = [Kind::Listener, Kind::Route];

/// What was made of each service, by name.
#[derive(Debug, Default)]
pub(super) struct Cache {
    services: HashMap<ServiceKey, HashMap<Name, Vec<Cached>>>,
}

/// A translated resource. Where routes of a consumer namespace make a difference it is for that namespace alone.
#[derive(Debug)]
struct Cached {
    namespace: Option<Name>,
    resource: Arc<Resource>,
}

impl Cache {
    /// What was made for clients of this namespace.
    pub(super) fn get(
        &self,
        service: &ServiceKey,
        kind: Kind,
        name: &str,
        namespace: Option<&str>,
    ) -> Option<Arc<Resource>> {
        let all = self.services.get(service)?.get(name)?;
        let same =
            |cached: &&Cached| cached.resource.kind == kind && cached.namespace.as_deref() == namespace;
        all.iter().find(same).map(|cached| Arc::clone(&cached.resource))
    }

    /// Keeps what was made; with a namespace, for its clients alone.
    pub(super) fn put(&mut self, service: ServiceKey, namespace: Option<Name>, resource: Arc<Resource>) {
        let names = self.services.entry(service).or_default();
        names.entry(resource.name.clone()).or_default().push(Cached { namespace, resource });
    }

    /// Drops what a change of the mesh touches.
    pub(super) fn forget(&mut self, changed: &Changed) {
        let Changed { services, endpoints, routes, workloads: _ } = changed; // inbound resources are not kept
        for key in services {
            self.services.remove(key);
        }
        for (keys, kinds) in [(endpoints, ENDPOINT_KINDS), (routes, ROUTE_KINDS)] {
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
