//! The complete, immutable configuration of the data path at one moment.
//!
//! A request reads its listener, route and policies from one snapshot and then drops it. Endpoints are behind a handle of
//! their cluster and change without a new snapshot. Unchanged parts are shared with the previous snapshot.

use std::sync::Arc;

use crate::Map;
use crate::cluster::Cluster;
use crate::destination::{Destination, Usage};
use crate::host::Host;
use crate::http_manager::RouteSource;
use crate::listener::Listener;
use crate::route::RouteTable;

/// One consistent view of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Increases with every publication.
    pub generation: u64,
    /// Listeners with an address, by name: the sockets that this proxy serves.
    pub listeners: Map<Arc<Listener>>,
    /// Destinations that clients of this proxy may call, by requested name (`cart:80`, `10.0.0.5:80`).
    pub destinations: Map<Arc<Destination>>,
    /// Hosts whose addresses clients of this proxy asked for, by the name of the resource (`dns|cart.shop`).
    pub hosts: Map<Arc<Host>>,
    /// Route tables that listeners refer to by name (RDS).
    pub routes: Map<Arc<RouteTable>>,
    /// Clusters by name.
    pub clusters: Map<Arc<Cluster>>,
}

impl Snapshot {
    /// Returns the destination with this normalized name.
    pub fn destination(&self, name: &str) -> Option<&Arc<Destination>> {
        self.destinations.get(name)
    }

    /// Returns whether the destination or host with this name was used. Returns `None` if there is none.
    pub(crate) fn usage(&self, name: &str) -> Option<&Usage> {
        let destination = self.destinations.get(name).map(|found| &found.usage);
        destination.or_else(|| self.hosts.get(name).map(|found| &found.usage))
    }

    /// Returns the routes of an HTTP connection manager. Returns `None` only if warming timed out before they came.
    pub fn table<'a>(&'a self, source: &'a RouteSource) -> Option<&'a Arc<RouteTable>> {
        match source {
            RouteSource::Inline(table) => Some(table),
            RouteSource::Named(name) => self.routes.get(name),
        }
    }

    /// Returns the cluster with this name. `None` stands for an invalid backend; the route defines the status of the answer.
    pub fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.get(name)
    }

    /// Returns true if both share the same parts, ignoring the generation.
    pub(crate) fn same(&self, other: &Self) -> bool {
        fn same<T>(one: &Map<Arc<T>>, other: &Map<Arc<T>>) -> bool {
            let shared = |(name, part): (_, &Arc<T>)| other.get(name).is_some_and(|of| Arc::ptr_eq(part, of));
            one.len() == other.len() && one.iter().all(shared)
        }
        same(&self.listeners, &other.listeners)
            && same(&self.destinations, &other.destinations)
            && same(&self.hosts, &other.hosts)
            && same(&self.routes, &other.routes)
            && same(&self.clusters, &other.clusters)
    }
}
