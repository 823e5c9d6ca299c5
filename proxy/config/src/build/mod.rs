//! From raw resources to a snapshot: decode, compile, warm.
//!
//! Discovery calls [`Builder::apply`] with each response and [`Builder::build`] after it. What cannot be used is refused by
//! name and its last good version stays; unchanged leaves are shared with the snapshot before; a destination is published
//! once its routes, clusters and endpoints are there, and until then its last version stays.

mod warm;

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
use warm::Warm;

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

/// What came of a build.
#[derive(Debug, Clone)]
pub struct Built {
    /// To publish.
    pub snapshot: Arc<Snapshot>,
    /// Whether it differs from the one before.
    pub changed: bool,
    /// What was held back because something that it names is not there yet.
    pub warming: Vec<Warming>,
}

/// A resource that waits for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warming {
    /// Its type.
    pub type_url: &'static str,
    /// Its name.
    pub name: Name,
    /// The type and name of what it waits for.
    pub needs: Vec<(&'static str, Name)>,
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
    /// Whether the last build held something back.
    waiting: bool,
    current: Arc<Snapshot>,
}

/// An accepted resource.
#[derive(Debug, Clone)]
struct Leaf<T> {
    version: Name,
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
    /// A resource whose version is known already is not decoded again. Every refusal is one resource's; the others count, and
    /// of the refused one the last good version stays. An unknown type refuses all that came with it.
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
                true => self.take(type_url, raw),
                false => Err(Unusable::new("name", "occurs twice in one response")),
            };
            if let Err(reason) = result {
                refusals.push(Refusal { type_url: known_type(type_url), name, version, reason });
            }
        }
        refusals
    }

    /// Makes a snapshot of what is there.
    ///
    /// What names something that is not there yet keeps its last version, or stays out, unless `give_up` says that it has
    /// waited long enough. Endpoints of clusters that are published already change at once, without a new snapshot.
    pub fn build(&mut self, give_up: impl Fn(&Warming) -> bool) -> Built {
        for name in std::mem::take(&mut self.stale) {
            self.resolve_endpoints(&name);
        }
        if !self.changed && !self.waiting {
            return Built { snapshot: self.current.clone(), changed: false, warming: Vec::new() };
        }
        let mut warm =
            Warm { builder: self, give_up: &give_up, warming: Vec::new(), next: Snapshot::default() };
        warm.clusters();
        warm.routes();
        warm.listeners();
        let Warm { warming, mut next, .. } = warm;
        let changed = !next.same(&self.current);
        if changed {
            next.generation = self.current.generation + 1;
            self.current = Arc::new(next);
        }
        self.changed = false;
        self.waiting = !warming.is_empty();
        Built { snapshot: self.current.clone(), changed, warming }
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

    /// Every accepted resource of a type, with its version: what a new delta stream begins with.
    pub fn versions(&self, type_url: &str) -> Vec<(Name, Name)> {
        fn of<T>(leaves: &Map<Leaf<T>>) -> Vec<(Name, Name)> {
            leaves.iter().map(|(name, leaf)| (name.clone(), leaf.version.clone())).collect()
        }
        match type_url {
            LISTENER => of(&self.listeners),
            ROUTE_CONFIGURATION => of(&self.routes),
            CLUSTER => of(&self.clusters),
            CLUSTER_LOAD_ASSIGNMENT => of(&self.assignments),
            _ => Vec::new(),
        }
    }

    fn take(&mut self, type_url: &str, raw: Raw) -> Result<(), Unusable> {
        let Raw { name, aliases, version, body } = raw;
        let held = match type_url {
            LISTENER => self.listeners.get(&name).map(|leaf| &leaf.version),
            ROUTE_CONFIGURATION => self.routes.get(&name).map(|leaf| &leaf.version),
            CLUSTER => self.clusters.get(&name).map(|leaf| &leaf.version),
            CLUSTER_LOAD_ASSIGNMENT => self.assignments.get(&name).map(|leaf| &leaf.version),
            _ => return Err(Unusable::new("type_url", format_args!("{type_url:?} is not known"))),
        };
        if !version.is_empty() && held == Some(&version) {
            return Ok(());
        }
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
                self.listeners.insert(name, Leaf { version, aliases, value });
                self.changed = true;
            }
            ROUTE_CONFIGURATION => {
                let wire: outrigger_proto::xds::route::RouteConfiguration = open(&body, ROUTE_CONFIGURATION)?;
                same_name("name", &wire.name)?;
                let value = Arc::new(RouteTable::decode(wire)?);
                self.routes.insert(name, Leaf { version, aliases, value });
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
                self.clusters
                    .insert(name, Leaf { version, aliases, value: (Arc::new(cluster), of_endpoints) });
                self.changed = true;
            }
            _ => {
                let wire: outrigger_proto::xds::endpoint::ClusterLoadAssignment =
                    open(&body, CLUSTER_LOAD_ASSIGNMENT)?;
                same_name("cluster_name", &wire.cluster_name)?;
                let value = Assignment::decode(wire)?;
                // A cluster that waited for its first assignment may be published now.
                self.changed |=
                    self.assignments.insert(name.clone(), Leaf { version, aliases, value }).is_none();
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
            handle.store(Endpoints { version: self.endpoints_version, list, overprovisioning });
        }
    }
}

fn known_type(type_url: &str) -> &'static str {
    [LISTENER, ROUTE_CONFIGURATION, CLUSTER, CLUSTER_LOAD_ASSIGNMENT]
        .into_iter()
        .find(|known| *known == type_url)
        .unwrap_or("unknown")
}
