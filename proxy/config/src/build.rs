//! From compiled resources to a snapshot.
//!
//! Discovery calls [`Builder::build`] after each change of what is published. [`assemble`] is a pure function of the
//! resources: equal resources give equal snapshots, and unchanged parts are shared with the snapshot before.

use std::sync::Arc;

use outrigger_core::Name;

use crate::cluster::{self, Discovery};
use crate::compiled::{Compiled, Value};
use crate::endpoint::{Assignment, Endpoints};
use crate::kind::Kind;
use crate::listener::{self, Listener};
use crate::resources::Resources;
use crate::snapshot::Snapshot;

/// Makes snapshots, and counts them.
#[derive(Debug, Default)]
pub struct Builder {
    own: Vec<Arc<Listener>>,
    current: Arc<Snapshot>,
    endpoints_version: u64,
}

impl Builder {
    /// A builder whose snapshots always have these listeners of the proxy's own.
    pub fn new(own: Vec<Arc<Listener>>) -> Self {
        Self { own, ..Self::default() }
    }

    /// Makes a snapshot of `now`; returns `None` if it equals the last one. `before` is what the last call was given.
    ///
    /// A resource that names another that is not there is in it all the same: discovery decides when it is time to publish.
    /// Endpoints of clusters that are published already change at once, without a new snapshot.
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

    /// Gives each cluster its endpoints, where either has changed.
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
            // A cluster whose endpoints were removed keeps the last ones, as in Envoy.
            let Some(endpoints) = now.get(Kind::Endpoints, eds) else { continue };
            if let Value::Endpoints(assignment) = &endpoints.value
                && (cluster_changed || changed(Kind::Endpoints, eds, endpoints))
            {
                self.store_endpoints(compiled, assignment);
            }
        }
    }

    fn store_endpoints(&mut self, of: &cluster::Compiled, assignment: &Assignment) {
        let handle = &of.cluster.endpoints;
        let before = handle.load();
        let (list, overprovisioning) =
            (assignment.resolve(&before, &of.of_endpoints), assignment.overprovisioning);
        let same = before.overprovisioning == overprovisioning
            && before.list.len() == list.len()
            && before.list.iter().zip(&list).all(|(old, new)| Arc::ptr_eq(old, new));
        if before.version == 0 || !same {
            self.endpoints_version += 1;
            handle.store(Endpoints::new(self.endpoints_version, list, overprovisioning));
        }
    }
}

/// Puts a snapshot together. Its generation is still open.
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
                // A resource of that very name is what was asked for.
                let aliases = resource.raw().aliases.iter();
                let names = aliases.filter(|alias| !resources.contains(Kind::Listener, alias)).chain([name]);
                next.destinations.extend(names.map(|name| (name.clone(), destination.clone())));
            }
            Value::Endpoints(_) => {}
        }
    }
    next
}
