//! The catalog of all xDS resources: translated on request, and cached until the mesh changes.
//!
//! All streams of the process share it. A change of the mesh invalidates only the resources of the changed services, and
//! [`Affected`] determines which streams to wake. Clients that request the same get the same bytes. Names that do not exist are not
//! cached, so requests for invented names use no memory; the resources that exist are bounded by the mesh.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outrigger_core::Name;
use outrigger_core::dns_name::DNS_PREFIX;
use outrigger_core::inbound_name::INBOUND_PREFIX;

use super::cache::{Audience, CALLER_KINDS, Cache, ENDPOINT_KINDS, ROUTE_KINDS};
use super::destination::{Destination, Host, Target};
use super::resource::{Kind, Resource};
use super::scope::{Dialect, Location, MeshSettings, Mode, Scope, Viewer};
use super::{cluster, dns, endpoint, inbound, listener, pod, route, wildcard};
use crate::model::mesh::{Changed, Mesh};
use crate::model::registration::{WorkloadEntry, WorkloadKey};
use crate::model::service::{Service, ServiceKey, ServiceType, TrafficPolicy};

/// Something that the resource of a name depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Dependency {
    /// A service of this name.
    Service(ServiceKey),
    /// The service or the pod that has this IP.
    Ip(IpAddr),
    /// The services that have an endpoint at this address.
    Endpoint(SocketAddr),
    /// The registration of a workload.
    Workload(WorkloadKey),
    /// Any service.
    Mesh,
}

/// The resources that a change affects.
#[derive(Debug, Default)]
pub struct Affected {
    /// What changed, with the kinds of resources that depend on it.
    pub dependencies: Vec<(Dependency, BTreeSet<Kind>)>,
    /// The affected names in a wildcard subscription.
    pub names: Vec<(Kind, Name)>,
    /// The inbound resources of changed workloads.
    pub inbound: Vec<(WorkloadKey, Vec<(Kind, Name)>)>,
    /// The workloads whose node or zone changed: which endpoints they call depends on it.
    pub relocated: Vec<WorkloadKey>,
}

/// The catalog.
#[derive(Debug)]
pub struct Catalog {
    settings: MeshSettings,
    state: Mutex<CatalogState>,
}

#[derive(Debug, Default)]
struct CatalogState {
    /// None until every source has synced.
    mesh: Option<Arc<Mesh>>,
    cache: Cache,
}

impl Catalog {
    /// Creates an empty catalog, which is not ready.
    pub fn new(settings: MeshSettings) -> Self {
        Self { settings, state: Mutex::default() }
    }

    /// Returns true once a mesh was published.
    pub fn is_ready(&self) -> bool {
        self.state().mesh.is_some()
    }

    /// Publishes the next version of the mesh. Returns what it affects.
    pub fn publish(&self, mesh: Arc<Mesh>) -> Affected {
        let mut state = self.state();
        let old = state.mesh.replace(Arc::clone(&mesh)).unwrap_or_default();
        let changed = mesh.changes(&old);
        state.cache.invalidate(&changed);
        drop(state);
        self.affected(&changed, &old, &mesh)
    }

    /// Returns the resource of this name for this viewer. Returns None if it does not exist.
    pub fn resource(&self, viewer: &Viewer, kind: Kind, name: &str) -> Option<Arc<Resource>> {
        let mesh = self.state().mesh.clone()?;
        let scope = Scope { mesh: &mesh, viewer, settings: &self.settings };
        if name.starts_with(INBOUND_PREFIX) {
            return inbound_resource(scope, kind, name);
        }
        if let (Kind::Listener, Some(host)) = (kind, name.strip_prefix(DNS_PREFIX)) {
            return dns::listener(scope, name, host).map(|made| Resource::new(kind, name, &made));
        }
        let target = resolve_name(scope, kind, name)?;
        if let Some(mesh) = pod::mesh_of(&mesh, &target) {
            let scope = Scope { mesh: &mesh, ..scope };
            return translate(scope, &mesh.service(&target.service)?.service, &target, (kind, name));
        }
        let service = &mesh.service(&target.service)?.service;
        if !exists(&mesh, service, &target) {
            return None;
        }
        let audience = audience(scope, &target, kind);
        if let Some(found) = self.state().cache.get(&target.service, kind, name, &audience) {
            return Some(found);
        }
        let made = translate(scope, service, &target, (kind, name))?;
        let mut state = self.state();
        // If the mesh was replaced meanwhile, the resource is not cached. The stream is woken by that change. The listener of an
        // instance by name changes with the endpoints, unlike other listeners.
        let is_instance =
            kind == Kind::Listener && target.only.is_some_and(|address| address.to_string() != name);
        if !is_instance && state.mesh.as_ref().is_some_and(|latest| Arc::ptr_eq(latest, &mesh)) {
            state.cache.insert(target.service, audience, Arc::clone(&made));
        }
        Some(made)
    }

    /// Returns the names that `*` stands for: the viewer's inbound resources, and those of every service in wildcard mode.
    pub fn wildcard(&self, viewer: &Viewer, kind: Kind) -> Vec<Name> {
        let Some(mesh) = self.state().mesh.clone() else { return Vec::new() };
        let own = mesh.workload(&viewer.workload).map(|workload| inbound_names(&mesh, workload, kind));
        let mut names = own.unwrap_or_default();
        if is_mesh_wide(viewer, kind) {
            names.extend(wildcard::names(&mesh, kind, viewer.namespace(), &self.settings.cluster_domain));
        }
        names
    }

    /// Returns true if `*` includes this name, provided that it exists.
    pub fn in_wildcard(&self, viewer: &Viewer, kind: Kind, name: &str) -> bool {
        let domain = &self.settings.cluster_domain;
        let of_mesh = || {
            let mesh = self.state().mesh.clone();
            mesh.is_some_and(|mesh| wildcard::means(&mesh, kind, name, viewer.namespace(), domain))
        };
        kind.has_wildcard() && (name.starts_with(INBOUND_PREFIX) || (is_mesh_wide(viewer, kind) && of_mesh()))
    }

    /// Returns what the resource of a name depends on. This follows from the name alone, whether or not the resource exists.
    pub fn dependencies(&self, viewer: &Viewer, kind: Kind, name: &str) -> Vec<Dependency> {
        let domain = &self.settings.cluster_domain;
        if name == "*" && kind.has_wildcard() {
            let all = is_mesh_wide(viewer, kind).then_some(Dependency::Mesh);
            return all.into_iter().chain([Dependency::Workload(viewer.workload.clone())]).collect();
        }
        if name.starts_with(INBOUND_PREFIX) {
            return vec![Dependency::Workload(viewer.workload.clone())];
        }
        if kind != Kind::Listener {
            let Some(Target { service, port: _, only }) = Target::parse(name, domain) else {
                return Vec::new();
            };
            let only = only.map(|address| [Dependency::Ip(address.ip()), Dependency::Endpoint(address)]);
            return only.into_iter().flatten().chain([Dependency::Service(service)]).collect();
        }
        if let Some(host) = name.strip_prefix(DNS_PREFIX) {
            return match Host::parse(host, viewer.namespace(), domain) {
                Some(Host::Service(key) | Host::Instance(key, _)) => vec![Dependency::Service(key)],
                None => Vec::new(),
            };
        }
        match Destination::parse(name, viewer.namespace(), domain) {
            Some(Destination::Service(key, _) | Destination::Instance(key, _, _)) => {
                vec![Dependency::Service(key)]
            }
            Some(Destination::Address(address)) => {
                vec![Dependency::Ip(address.ip()), Dependency::Endpoint(address)]
            }
            None => Vec::new(),
        }
    }

    fn affected(&self, changed: &Changed, old: &Mesh, new: &Mesh) -> Affected {
        let Changed { services, endpoints, routes, callers, workloads, pod_ips } = changed;
        let kinds: [(&[ServiceKey], &[Kind]); 4] = [
            (services, &Kind::ALL),
            (endpoints, &ENDPOINT_KINDS),
            (routes, &ROUTE_KINDS),
            (callers, &CALLER_KINDS),
        ];
        let mut touched: HashMap<&ServiceKey, BTreeSet<Kind>> = HashMap::new();
        for (keys, kinds) in kinds {
            keys.iter().for_each(|key| touched.entry(key).or_default().extend(kinds));
        }
        let relocated = workloads.iter().filter(|key| Location::of(old, key) != Location::of(new, key));
        let mut affected = Affected { relocated: relocated.cloned().collect(), ..Affected::default() };
        // Many services may share an address, which is affected once.
        let mut dependencies: HashMap<Dependency, BTreeSet<Kind>> = HashMap::new();
        dependencies.extend(pod_ips.iter().map(|ip| (Dependency::Ip(*ip), BTreeSet::from(Kind::ALL))));
        let mut workloads: BTreeSet<_> = workloads.iter().cloned().collect();
        for (key, mut kinds) in touched {
            // All resources that are named by an endpoint's address come and go with the endpoint.
            for address in addresses_of(old, key).chain(addresses_of(new, key)) {
                dependencies.entry(address).or_default().extend(kinds.iter().copied().chain(ROUTE_KINDS));
            }
            affected.names.extend(self.wildcard_names(key, &kinds, [old, new]));
            // The inbound listeners of its workloads depend on the protocol of the service's port, and on TCPRoutes.
            if services.binary_search(key).is_ok() || routes.binary_search(key).is_ok() {
                workloads
                    .extend(new.registrations().of_service(key).iter().map(|workload| workload.key.clone()));
            }
            // The names of instances lead to endpoints.
            let headless = |mesh: &Mesh| {
                mesh.service(key).is_some_and(|entry| entry.service.service_type == ServiceType::Headless)
            };
            if headless(old) || headless(new) {
                kinds.extend(ROUTE_KINDS);
            }
            dependencies.entry(Dependency::Service(key.clone())).or_default().extend(kinds);
        }
        if !affected.names.is_empty() {
            dependencies.insert(Dependency::Mesh, BTreeSet::from(Kind::ALL));
        }
        affected.dependencies = dependencies.into_iter().collect();
        for key in workloads {
            let entries = [old, new].into_iter().filter_map(|mesh| Some((mesh, mesh.workload(&key)?)));
            let names = entries.flat_map(|(mesh, entry)| {
                Kind::ALL.into_iter().flat_map(move |kind| {
                    inbound_names(mesh, entry, kind).into_iter().map(move |n| (kind, n))
                })
            });
            let names: BTreeSet<_> = names.collect();
            affected.inbound.push((key, names.into_iter().collect()));
        }
        affected
    }

    /// Returns the names of a changed service in a wildcard subscription.
    fn wildcard_names(
        &self,
        key: &ServiceKey,
        kinds: &BTreeSet<Kind>,
        meshes: [&Mesh; 2],
    ) -> BTreeSet<(Kind, Name)> {
        let domain = &self.settings.cluster_domain;
        let mut all = BTreeSet::new();
        for mesh in meshes {
            let canonical = mesh.service(key).map(|entry| wildcard::canonical_names(&entry.service, domain));
            let canonical = canonical.unwrap_or_default();
            for kind in kinds.iter().filter(|kind| kind.has_wildcard()) {
                all.extend(canonical.iter().map(|name| (*kind, name.clone())));
            }
            // All resources that are named by an endpoint's address come and go with the endpoint.
            for kind in [Kind::Cluster, Kind::Listener] {
                if kinds.contains(&Kind::Cluster) {
                    // Addresses that are no pod's are those of the service for clients of its namespace alone.
                    let direct = wildcard::direct_names(mesh, key, kind, &key.namespace, domain);
                    all.extend(direct.into_iter().map(|name| (kind, name)));
                }
            }
        }
        all
    }

    /// Locks the state. The lock cannot be poisoned halfway through a change.
    fn state(&self) -> MutexGuard<'_, CatalogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns true if `*` means the whole mesh to this viewer. LDS gives Envoy its inbound listeners alone: it rejects a
/// listener without an address, and accepts an `api_listener` from its bootstrap configuration only.
fn is_mesh_wide(viewer: &Viewer, kind: Kind) -> bool {
    let dialect = match viewer.dialect {
        Dialect::Outrigger => true,
        Dialect::Envoy => kind != Kind::Listener,
    };
    viewer.mode == Mode::Wildcard && kind.has_wildcard() && dialect
}

/// Resolves a name. An address is that of a service, or else of an endpoint.
fn resolve_name(scope: Scope<'_>, kind: Kind, name: &str) -> Option<Target> {
    if kind != Kind::Listener {
        return Target::parse(name, scope.domain());
    }
    let address = match Destination::parse(name, scope.viewer.namespace(), scope.domain())? {
        Destination::Service(key, port) => return Some(Target::service(key, port)),
        Destination::Instance(service, hostname, port) => {
            return instance(scope.mesh, service, &hostname, port);
        }
        Destination::Address(address) => address,
    };
    if let Some(key) = scope.mesh.service_by_ip(&address.ip()) {
        return Some(Target::service(key.clone(), address.port()));
    }
    match scope.mesh.service_by_endpoint(&address, scope.viewer.namespace()) {
        Some((service, port)) => Some(Target { service, port, only: Some(address) }),
        None => pod::target(scope.mesh, address),
    }
}

/// Returns the endpoint of a headless service that has this hostname.
fn instance(mesh: &Mesh, service: ServiceKey, hostname: &str, port: u16) -> Option<Target> {
    let ipv6 = mesh.service(&service)?.service.ipv6_first;
    let named = mesh.endpoints(&service, port).into_iter();
    let named = named.filter(|endpoint| endpoint.hostname.as_deref() == Some(hostname));
    let endpoint = named.min_by_key(|endpoint| endpoint.address.is_ipv6() != ipv6)?;
    Some(Target { service, port, only: Some(endpoint.address) })
}

fn translate(
    scope: Scope<'_>,
    service: &Service,
    target: &Target,
    (kind, name): (Kind, &str),
) -> Option<Arc<Resource>> {
    let port = service.port(target.port)?;
    Some(match kind {
        Kind::Cluster => Resource::new(kind, name, &cluster::cluster(scope, target, service, port)),
        Kind::Endpoints => Resource::new(kind, name, &endpoint::load_assignment(scope, target)),
        Kind::Listener => {
            let made = listener::destination(scope, name, target, port);
            let is_canonical = target.name(scope.domain()).as_ref() == name;
            let aliases = if is_canonical { addresses(scope.mesh, service, target.port) } else { Vec::new() };
            Resource::with_aliases(kind, name, &made, aliases)
        }
        Kind::Route => Resource::new(kind, name, &route::route_configuration(scope, target)?),
    })
}

/// Translates an inbound resource of the viewer. It is not cached, since no other client requests it.
fn inbound_resource(scope: Scope<'_>, kind: Kind, name: &str) -> Option<Arc<Resource>> {
    let workload = scope.mesh.workload(&scope.viewer.workload)?;
    match kind {
        Kind::Listener => Some(Resource::new(kind, name, &inbound::listener(scope, workload, name)?)),
        Kind::Cluster => Some(Resource::new(kind, name, &inbound::cluster(scope, workload, name)?)),
        Kind::Endpoints | Kind::Route => None,
    }
}

/// Returns true if the service has the port, and the endpoint if the target is one. Services outside the mesh have no
/// resources.
fn exists(mesh: &Mesh, service: &Service, target: &Target) -> bool {
    let endpoint = |only| mesh.serves_endpoint(&only, &target.service, target.port);
    !matches!(service.service_type, ServiceType::ExternalName(_))
        && service.port(target.port).is_some()
        && target.only.is_none_or(endpoint)
}

/// Returns the addresses of a service port. Clients in wildcard mode do not request `10.0.0.1:80`, so they need the aliases.
fn addresses(mesh: &Mesh, service: &Service, port: u16) -> Vec<Name> {
    let own = |ip: &&IpAddr| mesh.service_by_ip(ip) == Some(&service.key);
    let ips = service.ips().filter(own);
    ips.map(|ip| SocketAddr::new(*ip, port).to_string().into()).collect()
}

/// Returns the audience of a resource: all clients of the dialect, or those of one namespace that has routes of its own.
fn audience(scope: Scope<'_>, target: &Target, kind: Kind) -> Audience {
    let consumer = || {
        let entry = scope.mesh.service(&target.service)?;
        let (_, routes) = entry.routes.ports.iter().find(|(port, _)| *port == target.port)?;
        routes.consumers.get_key_value(scope.viewer.namespace()).map(|(namespace, _)| namespace.clone())
    };
    let namespace = ROUTE_KINDS.contains(&kind).then(consumer).flatten();
    let by_location =
        kind == Kind::Endpoints && endpoint::traffic_policy(scope.mesh, target) != TrafficPolicy::Cluster;
    Audience { namespace, location: by_location.then(|| scope.location()), dialect: scope.dialect() }
}

/// Returns the names of the inbound resources of a workload.
fn inbound_names(mesh: &Mesh, workload: &WorkloadEntry, kind: Kind) -> Vec<Name> {
    match kind {
        Kind::Listener => inbound::listener_names(workload),
        Kind::Cluster => inbound::cluster_names(mesh, workload),
        Kind::Endpoints | Kind::Route => Vec::new(),
    }
}

/// Returns the addresses by which clients reach a service: its cluster IPs, and those of its endpoints.
fn addresses_of<'a>(mesh: &'a Mesh, key: &'a ServiceKey) -> impl Iterator<Item = Dependency> + 'a {
    let entry = mesh.service(key);
    let ips = entry.into_iter().flat_map(|entry| entry.service.ips()).map(|ip| Dependency::Ip(*ip));
    let sliced = entry.into_iter().flat_map(|entry| &entry.endpoints.ports).flat_map(|(_, all)| all.iter());
    let registered = mesh.registrations().of_service(key).iter().flat_map(|workload| &workload.ports);
    ips.chain(sliced.map(|endpoint| Dependency::Endpoint(endpoint.address)))
        .chain(registered.map(|port| Dependency::Endpoint(port.advertised)))
}

#[cfg(test)]
mod tests;
