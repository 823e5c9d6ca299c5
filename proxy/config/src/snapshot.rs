//! Everything that the data path knows, at one moment.
//!
//! A request takes listener, route and policies from one snapshot, once, and lets it go. Endpoints are behind a handle of
//! their cluster and change without a new snapshot. Unchanged parts are shared with the snapshot before.

use std::sync::Arc;

use crate::Map;
use crate::cluster::Cluster;
use crate::destination::Destination;
use crate::http_manager::RouteSource;
use crate::listener::Listener;
use crate::route::RouteTable;

/// One consistent view of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Counts up with every publication.
    pub generation: u64,
    /// Listeners with an address, by name: sockets that this proxy serves.
    pub listeners: Map<Arc<Listener>>,
    /// What clients of this proxy may call, by the name asked for (`cart:80`, `10.0.0.5:80`).
    pub destinations: Map<Arc<Destination>>,
    /// Route tables that came by name.
    pub routes: Map<Arc<RouteTable>>,
    /// Clusters.
    pub clusters: Map<Arc<Cluster>>,
}

impl Snapshot {
    /// What is known under an asked name.
    pub fn destination(&self, asked: &str) -> Option<&Arc<Destination>> {
        self.destinations.get(asked)
    }

    /// The routes of an HTTP connection manager. `None` only for a snapshot that was not warmed in time.
    pub fn table<'a>(&'a self, source: &'a RouteSource) -> Option<&'a Arc<RouteTable>> {
        match source {
            RouteSource::Inline(table) => Some(table),
            RouteSource::Named(name) => self.routes.get(name),
        }
    }

    /// A cluster. `None` is what an invalid backend looks like: the route says which status that has.
    pub fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.get(name)
    }

    /// Whether both hold the very same parts, whatever their generation.
    pub(crate) fn same(&self, other: &Self) -> bool {
        fn same<T>(one: &Map<Arc<T>>, other: &Map<Arc<T>>) -> bool {
            let shared = |(name, part): (_, &Arc<T>)| other.get(name).is_some_and(|of| Arc::ptr_eq(part, of));
            one.len() == other.len() && one.iter().all(shared)
        }
        same(&self.listeners, &other.listeners)
            && same(&self.destinations, &other.destinations)
            && same(&self.routes, &other.routes)
            && same(&self.clusters, &other.clusters)
    }
}
