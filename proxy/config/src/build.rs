//! Builds snapshots from compiled resources.
//!
//! Discovery calls [`Builder::build`] after each change of the resources to publish. [`assemble`] is a pure function of
//! them: equal resources result in equal snapshots, and unchanged parts are shared with the previous snapshot.

use std::sync::Arc;

use outrigger_core::Name;

use crate::cluster::{self, Discovery};
use crate::compiled::{Compiled, Value};
use crate::endpoint::Assignment;
use crate::listener::{self, Listener};
use crate::resources::Resources;
use crate::snapshot::Snapshot;
use outrigger_proto::kind::Kind;

/// Builds snapshots and numbers them.
#[derive(Debug, Default)]
pub struct Builder {
    own: Vec<Arc<Listener>>,
    current: Arc<Snapshot>,
    endpoints_version: u64,
}

impl Builder {
    /// Creates a builder whose snapshots always contain the proxy's own listeners.
    pub fn new(own: Vec<Arc<Listener>>) -> Self {
        Self { own, ..Self::default() }
    }

    /// Builds a snapshot of `now`. Returns `None` if it equals the last one. `before` is the `now` of the last call.
    ///
    /// A resource is included even if one that it refers to is missing: discovery decides when to publish. The endpoints
    /// of published clusters change at once, without a new snapshot.
    pub fn build(&mut self, before: &Resources, now: &Resources) -> Option<Arc<Snapshot>> {
        self.update_endpoints(before, now);
        let unchanged = |kind| now.shares(before, kind);
        if self.current.generation > 0
            && [Kind::Listener, Kind::Route, Kind::Cluster].into_iter().all(unchanged)
        {
            return None;
        }
        let next = assemble(&self.own, now);
        if next.same(&self.current) {
            return None;
        }
        self.current = Arc::new(Snapshot { generation: self.current.generation + 1, ..next });
        Some(Arc::clone(&self.current))
    }

    /// Updates the endpoints of each cluster if the cluster or its endpoints changed.
    fn update_endpoints(&mut self, before: &Resources, now: &Resources) {
        if now.shares(before, Kind::Cluster) && now.shares(before, Kind::Endpoints) {
            return;
        }
        let changed = |kind, name: &Name, resource: &Arc<Compiled>| {
            before.get(kind, name).is_none_or(|before| !Arc::ptr_eq(before, resource))
        };
        for (name, resource) in now.of(Kind::Cluster) {
            let Value::Cluster(compiled) = &resource.value else { continue };
            let cluster_changed = changed(Kind::Cluster, name, resource);
            if let Some(assignment) = compiled.assignment.as_ref().filter(|_| cluster_changed) {
                self.store_endpoints(compiled, assignment);
            }
            let Discovery::Eds(eds) = &compiled.cluster.discovery else { continue };
            // A cluster whose assignment was removed keeps its last endpoints, as in Envoy.
            let Some(endpoints) = now.get(Kind::Endpoints, eds) else { continue };
            if let Value::Endpoints(assignment) = &endpoints.value
                && (cluster_changed || changed(Kind::Endpoints, eds, endpoints))
            {
                self.store_endpoints(compiled, assignment);
            }
        }
    }

    fn store_endpoints(&mut self, of: &cluster::Compiled, assignment: &Assignment) {
        of.cluster.endpoints.update(assignment, &of.endpoint_settings, || {
            self.endpoints_version += 1;
            self.endpoints_version
        });
    }
}

/// Assembles a snapshot. The caller sets its generation.
fn assemble(own: &[Arc<Listener>], resources: &Resources) -> Snapshot {
    let mut next = Snapshot::default();
    next.listeners.extend(own.iter().map(|own| (own.name.clone(), own.clone())));
    for (name, resource) in Kind::ALL.into_iter().flat_map(|kind| resources.of(kind)) {
        match &resource.value {
            Value::Cluster(compiled) => drop(next.clusters.insert(name.clone(), compiled.cluster.clone())),
            Value::Route(table) => drop(next.routes.insert(name.clone(), table.clone())),
            Value::Listener(listener::Compiled::Bound(listener)) => {
                next.listeners.entry(name.clone()).or_insert_with(|| listener.clone());
            }
            Value::Listener(listener::Compiled::Destination(destination)) => {
                // A resource with this name takes precedence over an alias.
                let aliases = resource.raw().aliases.iter();
                let names = aliases.filter(|alias| !resources.contains(Kind::Listener, alias)).chain([name]);
                next.destinations.extend(names.map(|name| (name.clone(), destination.clone())));
            }
            Value::Listener(listener::Compiled::Host(host)) => {
                next.hosts.insert(name.clone(), host.clone());
            }
            Value::Endpoints(_) => {}
        }
    }
    next
}
