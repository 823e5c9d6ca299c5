//! From raw resources to a snapshot: decode, compile, put together.
//!
//! Discovery calls [`Builder::apply`] with what is warm, and [`Builder::build`] after it. What cannot be used is refused by
//! name and its last good version stays; unchanged leaves are shared with the snapshot before.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use foldhash::HashSet;
use outrigger_core::Name;
use outrigger_policy::field::Unusable;
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::type_url::{CLUSTER, CLUSTER_LOAD_ASSIGNMENT, LISTENER, ROUTE_CONFIGURATION};

use crate::Map;
use crate::cluster::{self, Cluster, Discovery, EndpointsHandle};
use crate::endpoint::{Assignment, Endpoints, OfEndpoints};
use crate::http_manager::RouteSource;
use crate::listener::{self, Listener};
use crate::route::RouteTable;
use crate::snapshot::Snapshot;
use crate::wire::open;

/// The cluster that the control plane names for a backend that is not valid. It never exists, so that nobody waits for it.
pub const INVALID_BACKEND: &str = "outrigger.invalid-backend";

/// A resource as it came, with its version.
#[derive(Debug, Clone)]
pub struct Raw {
    /// Its name, as the discovery response says.
    pub name: Name,
    /// Other names of it (`Resource.aliases`): in wildcard mode, addresses of a destination.
    pub aliases: Vec<Name>,
    /// Its version.
    pub version: Name,
    /// The message.
    pub body: Any,
}

/// A resource that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its type.
    pub type_url: &'static str,
    /// Its name.
    pub name: Name,
    /// The version that was refused.
    pub version: Name,
    /// Which field, and what is wrong with it.
    pub reason: Unusable,
}

/// What the accepted resources name: what a proxy that does not get everything subscribes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    /// Route configurations.
    pub routes: HashSet<Name>,
    /// Clusters.
    pub clusters: HashSet<Name>,
    /// Cluster load assignments.
    pub assignments: HashSet<Name>,
}

/// Keeps the resources and makes snapshots of them.
#[derive(Debug, Default)]
pub struct Builder {
    own: Vec<Arc<Listener>>,
    listeners: Map<Leaf<listener::Compiled>>,
    routes: Map<Leaf<Arc<RouteTable>>>,
    clusters: Map<Leaf<(Arc<Cluster>, OfEndpoints)>>,
    assignments: Map<Leaf<Assignment>>,
    /// Endpoints by cluster name: they outlive every update of their cluster.
    endpoints: Map<EndpointsHandle>,
    /// Clusters whose endpoints must be looked at again.
    stale: HashSet<Name>,
    endpoints_version: u64,
    /// Whether anything but endpoints changed since the last build.
    changed: bool,
    current: Arc<Snapshot>,
}

/// An accepted resource.
#[derive(Debug, Clone)]
struct Leaf<T> {
    aliases: Vec<Name>,
    value: T,
}

impl Builder {
    /// A builder whose snapshots always have these listeners of the proxy's own.
    pub fn new(own: Vec<Arc<Listener>>) -> Self {
        Self { own, changed: true, ..Self::default() }
    }

    /// Takes over what a response of one type says: new and changed resources, and names that are gone.
    ///
    /// Every refusal is one resource's; the others count, and of the refused one the last good version stays. An unknown type
    /// refuses all that came with it. What did not change is not to be given again: it would be decoded again.
    pub fn apply(&mut self, type_url: &str, resources: Vec<Raw>, removed: &[Name]) -> Vec<Refusal> {
        for name in removed {
            self.remove(type_url, name);
        }
        let mut seen = HashSet::default();
        let mut refusals = Vec::new();
        for raw in resources {
            let (name, version) = (raw.name.clone(), raw.version.clone());
            // xDS protocol: a name occurs at most once in a response. The first one counts.
            let result = match seen.insert(name.clone()) {
                true => {
                    guarded(|| self.take(type_url, raw)).unwrap_or_else(|bug| Err(Unusable::new("", bug)))
                }
                false => Err(Unusable::new("name", "occurs twice in one response")),
            };
            if let Err(reason) = result {
                refusals.push(Refusal { type_url: known_type(type_url), name, version, reason });
            }
        }
        refusals
    }

    /// Makes a snapshot of what is there; `None` when it is the one of the last time.
    ///
    /// Whatever names something that is not there is in it all the same: when it is time to publish is discovery's to know.
    /// Endpoints of clusters that are published already change at once, without a new snapshot.
    pub fn build(&mut self) -> Option<Arc<Snapshot>> {
        for name in std::mem::take(&mut self.stale) {
            self.resolve_endpoints(&name);
        }
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let next = self.assemble();
        if next.same(&self.current) {
            return None;
        }
        self.current = Arc::new(Snapshot { generation: self.current.generation + 1, ..next });
        Some(Arc::clone(&self.current))
    }

    fn assemble(&self) -> Snapshot {
        let mut next = Snapshot::default();
        next.clusters.extend(self.clusters.iter().map(|(name, leaf)| (name.clone(), leaf.value.0.clone())));
        next.routes.extend(self.routes.iter().map(|(name, leaf)| (name.clone(), leaf.value.clone())));
        next.listeners.extend(self.own.iter().map(|own| (own.name.clone(), own.clone())));
        for (name, leaf) in &self.listeners {
            match &leaf.value {
                listener::Compiled::Bound(listener) => {
                    next.listeners.entry(name.clone()).or_insert_with(|| listener.clone());
                }
                listener::Compiled::Destination(destination) => {
                    // A resource of that very name is what was asked for.
                    let aliases = leaf.aliases.iter().filter(|alias| !self.listeners.contains_key(*alias));
                    let names = aliases.chain([name]);
                    next.destinations.extend(names.map(|name| (name.clone(), destination.clone())));
                }
            }
        }
        next
    }

    /// What the accepted resources name.
    pub fn references(&self) -> References {
        let mut references = References::default();
        let mut clusters = HashSet::default();
        for leaf in self.listeners.values() {
            for handler in leaf.value.handlers() {
                clusters.extend(handler.tcp_clusters().cloned());
                match handler.routes() {
                    Some(RouteSource::Named(name)) => drop(references.routes.insert(name.clone())),
                    Some(RouteSource::Inline(table)) => clusters.extend(table.clusters().cloned()),
                    None => {}
                }
            }
        }
        for leaf in self.routes.values() {
            clusters.extend(leaf.value.clusters().cloned());
        }
        clusters.retain(|name| &**name != INVALID_BACKEND);
        for leaf in self.clusters.values() {
            if let Discovery::Eds(name) = &leaf.value.0.discovery {
                references.assignments.insert(name.clone());
            }
        }
        References { clusters, ..references }
    }

    fn take(&mut self, type_url: &str, raw: Raw) -> Result<(), Unusable> {
        let Raw { name, aliases, version: _, body } = raw; // only says which one was refused
        let same_name = |field, inner: &str| match inner == &*name {
            true => Ok(()),
            false => {
                Err(Unusable::new(field, format_args!("is {inner:?}, but the resource is {:?}", &*name)))
            }
        };
        match type_url {
            LISTENER => {
                let wire: outrigger_proto::xds::listener::Listener = open(&body, LISTENER)?;
                same_name("name", &wire.name)?;
                let value = listener::Compiled::decode(wire)?;
                self.listeners.insert(name, Leaf { aliases, value });
                self.changed = true;
            }
            ROUTE_CONFIGURATION => {
                let wire: outrigger_proto::xds::route::RouteConfiguration = open(&body, ROUTE_CONFIGURATION)?;
                same_name("name", &wire.name)?;
                let value = Arc::new(RouteTable::decode(wire)?);
                self.routes.insert(name, Leaf { aliases, value });
                self.changed = true;
            }
            CLUSTER => {
                let wire: outrigger_proto::xds::cluster::Cluster = open(&body, CLUSTER)?;
                same_name("name", &wire.name)?;
                let cluster::Compiled { mut cluster, assignment, of_endpoints } =
                    cluster::Compiled::decode(wire)?;
                cluster.endpoints = self.endpoints.entry(name.clone()).or_default().clone();
                if let Some(assignment) = assignment {
                    self.store_endpoints(&name, &assignment, &of_endpoints);
                }
                self.stale.insert(name.clone());
                self.clusters.insert(name, Leaf { aliases, value: (Arc::new(cluster), of_endpoints) });
                self.changed = true;
            }
            CLUSTER_LOAD_ASSIGNMENT => {
                let wire: outrigger_proto::xds::endpoint::ClusterLoadAssignment =
                    open(&body, CLUSTER_LOAD_ASSIGNMENT)?;
                same_name("cluster_name", &wire.cluster_name)?;
                let value = Assignment::decode(wire)?;
                self.assignments.insert(name.clone(), Leaf { aliases, value });
                let named =
                    |cluster: &Cluster| matches!(&cluster.discovery, Discovery::Eds(eds) if *eds == name);
                // Nearly always the cluster of the same name; only others cost a search.
                match self.clusters.get(&name) {
                    Some(leaf) if named(&leaf.value.0) => drop(self.stale.insert(name)),
                    _ => {
                        let users = self.clusters.iter().filter(|(_, leaf)| named(&leaf.value.0));
                        self.stale.extend(users.map(|(name, _)| name.clone()));
                    }
                }
            }
            _ => return Err(Unusable::new("type_url", format_args!("{type_url:?} is not known"))),
        }
        Ok(())
    }

    fn remove(&mut self, type_url: &str, name: &Name) {
        self.changed |= match type_url {
            LISTENER => self.listeners.remove(name).is_some(),
            ROUTE_CONFIGURATION => self.routes.remove(name).is_some(),
            CLUSTER => {
                self.endpoints.remove(name);
                self.clusters.remove(name).is_some()
            }
            // A cluster that is still there keeps its last endpoints, as in Envoy.
            CLUSTER_LOAD_ASSIGNMENT => {
                self.assignments.remove(name);
                false
            }
            _ => false,
        };
    }

    fn resolve_endpoints(&mut self, name: &Name) {
        let Some(Leaf { value: (cluster, of_endpoints), .. }) = self.clusters.get(name) else { return };
        let Discovery::Eds(eds) = &cluster.discovery else { return };
        let Some(Leaf { value, .. }) = self.assignments.get(eds) else { return };
        let (assignment, of_endpoints) = (value.clone(), of_endpoints.clone());
        self.store_endpoints(name, &assignment, &of_endpoints);
    }

    fn store_endpoints(&mut self, name: &Name, assignment: &Assignment, of_endpoints: &OfEndpoints) {
        let handle = self.endpoints.entry(name.clone()).or_default();
        let before = handle.load();
        let (list, overprovisioning) =
            (assignment.resolve(&before, of_endpoints), assignment.overprovisioning);
        let same = before.overprovisioning == overprovisioning
            && before.list.len() == list.len()
            && before.list.iter().zip(&list).all(|(old, new)| Arc::ptr_eq(old, new));
        if before.version == 0 || !same {
            self.endpoints_version += 1;
            handle.store(Endpoints::new(self.endpoints_version, list, overprovisioning));
        }
    }
}

/// Reads a resource. A panic comes back as what is wrong with it: a bug must not leave a control plane without an answer.
pub fn guarded<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    // What a decode that panicked leaves behind is the resource's last good version: each stores last.
    std::panic::catch_unwind(AssertUnwindSafe(read)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().copied().map(String::from);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        format!("a bug of this proxy: reading it panicked: {text}")
    })
}

fn known_type(type_url: &str) -> &'static str {
    [LISTENER, ROUTE_CONFIGURATION, CLUSTER, CLUSTER_LOAD_ASSIGNMENT]
        .into_iter()
        .find(|known| *known == type_url)
        .unwrap_or("unknown")
}
