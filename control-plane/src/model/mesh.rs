//! The mesh: what translation reads.
//!
//! An immutable value. A change creates a new version that shares all unchanged parts; [`Mesh::changes`] returns the changed
//! parts. The cost of a changed EndpointSlice or registration depends on its services, not on the size of the mesh.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use imbl::OrdMap;
use outrigger_core::Name;

use super::address_index::AddressIndex;
use super::caller_policies::{self, CallerPolicies};
use super::changed_keys::changed_keys;
use super::endpoint::{Endpoint, Endpoints};
use super::policy::{Meaning, NamespacePolicies, Policy, ROOT_NAMESPACE};
use super::registration::{NamespaceLabels, Registrations, WorkloadEntry, WorkloadKey};
use super::route::{RouteTable, ServiceRoutes};
use super::service::{Overload, Service, ServiceKey, ServiceType};

/// One version of the mesh.
#[derive(Debug, Clone, Default)]
pub struct Mesh {
    services: OrdMap<ServiceKey, ServiceEntry>,
    by_ip: AddressIndex<IpAddr, ServiceKey>,
    by_external_ip: AddressIndex<IpAddr, ServiceKey>,
    by_endpoint: AddressIndex<SocketAddr, (ServiceKey, u16)>,
    /// Of those, the endpoints of headless services.
    headless: AddressIndex<SocketAddr, (ServiceKey, u16)>,
    registrations: Registrations,
    /// The namespaces with labels of ours.
    namespaces: OrdMap<Name, NamespaceLabels>,
    /// The policies of the namespaces that have any.
    policies: OrdMap<Name, Arc<NamespacePolicies>>,
}

/// A service with its endpoints and routes. Each part is shared between versions on its own; comparing a shared part is
/// cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceEntry {
    /// The service itself.
    pub service: Arc<Service>,
    /// The endpoints from EndpointSlices. [`Mesh::endpoints`] returns the registered ones too.
    pub endpoints: Arc<Endpoints>,
    /// Its routes.
    pub routes: Arc<ServiceRoutes>,
}

impl Mesh {
    /// Returns the same mesh with other registered workloads. [`Mesh::changes`] finds the difference.
    pub fn with_registrations(&self, registrations: Registrations) -> Self {
        Self { registrations, ..self.clone() }
    }

    /// Returns the service of this name.
    pub fn service(&self, key: &ServiceKey) -> Option<&ServiceEntry> {
        self.services.get(key)
    }

    /// Returns every service, in order.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceKey, &ServiceEntry)> {
        self.services.iter()
    }

    /// Returns every service of a namespace, in order.
    pub fn services_in(&self, namespace: &Name) -> impl Iterator<Item = &ServiceEntry> {
        let first = ServiceKey { namespace: namespace.clone(), name: "".into() };
        let services = self.services.range(first..);
        services.take_while(move |(key, _)| key.namespace == *namespace).map(|(_, entry)| entry)
    }

    /// Returns the labels of a namespace.
    pub fn namespace(&self, name: &Name) -> NamespaceLabels {
        self.namespaces.get(name).copied().unwrap_or_default()
    }

    /// Returns the policies of a namespace that are of one kind, the oldest first.
    pub fn policies<S: Meaning>(&self, namespace: &Name) -> &[Policy<S>] {
        self.policies.get(namespace).map_or(&[], |policies| S::of(policies))
    }

    /// Returns the active policies of a kind, of all namespaces.
    pub(super) fn all_policies<S: Meaning + 'static>(&self) -> impl Iterator<Item = &Policy<S>> {
        self.policies.values().flat_map(|policies| S::of(policies))
    }

    /// Returns the policies about the callers of a service port.
    pub fn caller_policies(&self, key: &ServiceKey, port: u16) -> CallerPolicies<'_> {
        let policies = self.policies.get(&key.namespace);
        policies.map(|policies| CallerPolicies::of(policies, key, port)).unwrap_or_default()
    }

    /// Returns what the sidecars of a service port do about overload of the application: as its policy says, or else its annotation.
    pub fn overload(&self, key: &ServiceKey, port: u16) -> Option<Overload> {
        let entry = self.service(key)?;
        let policy = self.caller_policies(key, port).traffic.and_then(|traffic| traffic.overload);
        Some(policy.unwrap_or(entry.service.overload))
    }

    /// Returns the namespaces whose labels differ from those in an older version.
    pub fn changed_namespaces(&self, old: &Self) -> Vec<Name> {
        changed_keys(&old.namespaces, &self.namespaces, PartialEq::eq)
    }

    /// Returns the number of services.
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// Returns true if there is no service.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Returns the service that has this cluster IP, or else external IP, the first by name if several claim it. A cluster IP comes
    /// first: the API server assigns it, while any service may claim any external IP.
    pub fn service_by_ip(&self, ip: &IpAddr) -> Option<&ServiceKey> {
        self.by_ip.of(ip).chain(self.by_external_ip.of(ip)).next()
    }

    /// Returns the endpoints of a service port, from EndpointSlices and from registrations, in order of address. If both name
    /// an address, the registration takes precedence, since it comes from the workload itself.
    pub fn endpoints(&self, key: &ServiceKey, port: u16) -> Vec<Endpoint> {
        let registered = self.registrations.of_service(key);
        let mut all: Vec<_> = registered.iter().flat_map(|workload| workload.endpoints(key, port)).collect();
        if let Some(entry) = self.services.get(key) {
            let sliced = entry.endpoints.of_port(port).iter().cloned();
            all.extend(sliced.filter_map(|endpoint| self.registrations.complete(endpoint, &key.namespace)));
        }
        all.sort_by_key(|endpoint| endpoint.address);
        all.dedup_by_key(|endpoint| endpoint.address);
        all
    }

    /// Returns the service port that has an endpoint at this address, the first of several, a headless service before others. It
    /// identifies the service if a client of the namespace `viewer` connects to an instance directly: DNS has the addresses of a
    /// headless service's endpoints.
    pub fn service_by_endpoint(&self, address: &SocketAddr, viewer: &str) -> Option<(ServiceKey, u16)> {
        let may_claim = |(key, _): &&(ServiceKey, u16)| {
            self.registrations.may_claim(&address.ip(), &key.namespace, viewer)
        };
        if let Some(owner) = self.headless.of(address).find(may_claim) {
            return Some(owner.clone());
        }
        let sliced = self.by_endpoint.of(address).find(may_claim).cloned();
        sliced.into_iter().chain(self.registered_at(address)).min()
    }

    /// Returns true if a service port has an endpoint at this address.
    pub fn serves_endpoint(&self, address: &SocketAddr, key: &ServiceKey, port: u16) -> bool {
        let owner = (key.clone(), port);
        self.by_endpoint.contains(address, &owner) || self.registered_at(address).any(|other| other == owner)
    }

    /// Returns true if a headless service has an endpoint at this address, so that clients of the namespace `viewer` connect to it
    /// directly.
    pub fn is_dialed_directly(&self, address: &SocketAddr, viewer: &str) -> bool {
        let is_headless = |(key, _)| {
            self.service(&key).is_some_and(|entry| entry.service.service_type == ServiceType::Headless)
        };
        let mut headless = self.headless.of(address);
        headless.any(|(key, _)| self.registrations.may_claim(&address.ip(), &key.namespace, viewer))
            || self.registered_at(address).any(is_headless)
    }

    /// Returns the services with an endpoint at an address of a pod, possibly with duplicates.
    fn services_of_pod(&self, ip: &IpAddr) -> impl Iterator<Item = &ServiceKey> {
        let claims = self.by_endpoint.from(&SocketAddr::new(*ip, 0));
        claims.take_while(move |(address, _)| address.ip() == *ip).map(|(_, (service, _))| service)
    }

    fn registered_at(&self, address: &SocketAddr) -> impl Iterator<Item = (ServiceKey, u16)> {
        let ports = self.registrations.claimant(address).into_iter().flat_map(|workload| &workload.ports);
        let ports = ports.filter(move |port| port.advertised == *address);
        ports.flat_map(|port| port.services.iter().map(|key| (key.clone(), port.service_port)))
    }

    /// Returns the routes that clients of `namespace` use on a service port. None means that requests go to the service itself.
    pub fn routes(&self, key: &ServiceKey, port: u16, namespace: &str) -> Option<&Arc<RouteTable>> {
        self.services.get(key)?.routes.seen_from(namespace, port)
    }

    /// Returns a registered workload.
    pub fn workload(&self, key: &WorkloadKey) -> Option<&Arc<WorkloadEntry>> {
        self.registrations.workload(key)
    }

    /// Returns every registered workload.
    pub fn registrations(&self) -> &Registrations {
        &self.registrations
    }

    /// Returns the workloads that were added, removed or changed, or that have other policies in these namespaces.
    fn changed_workloads(&self, old: &Self, namespaces: &[Name]) -> Vec<WorkloadKey> {
        let mut changed = self.registrations.changed_workloads(&old.registrations);
        if !namespaces.is_empty() {
            let all = namespaces.iter().any(|namespace| **namespace == *ROOT_NAMESPACE);
            let keys = self.registrations.workloads().map(|workload| &workload.key);
            let of = |key: &&WorkloadKey| {
                all || namespaces.iter().any(|namespace| **namespace == *key.identity.namespace())
            };
            changed.extend(keys.filter(of).cloned());
            changed.sort_unstable();
            changed.dedup();
        }
        changed
    }

    /// Returns what differs from an older version. The cost depends on the difference only: shared parts are not compared.
    pub fn changes(&self, old: &Self) -> Changed {
        let part = |same: fn(&ServiceEntry, &ServiceEntry) -> bool| {
            changed_keys(&old.services, &self.services, same)
        };
        let mut endpoints = part(|a, b| a.endpoints == b.endpoints);
        endpoints.extend(self.registrations.changed_services(&old.registrations));
        let pod_ips = self.registrations.changed_pod_addresses(&old.registrations);
        endpoints.extend(pod_ips.iter().flat_map(|ip| self.services_of_pod(ip)).cloned());
        endpoints.sort_unstable();
        endpoints.dedup();
        let namespaces = changed_keys(&old.policies, &self.policies, PartialEq::eq);
        let callers = |namespace: &Name| {
            let [old, new] = [old, self].map(|mesh| mesh.policies.get(namespace).map(|policies| &**policies));
            caller_policies::changed(old, new)
        };
        let callers: Vec<_> = namespaces.iter().flat_map(callers).collect();
        let mut routes = part(|a, b| a.routes == b.routes);
        if !callers.is_empty() {
            // The sessions of a route are those of the policies of its backends.
            let leads_there = |(_, entry): &(_, &ServiceEntry)| entry.routes.lead_to(&callers);
            routes.extend(self.services.iter().filter(leads_there).map(|(key, _)| key.clone()));
            routes.sort_unstable();
            routes.dedup();
        }
        Changed {
            services: part(|a, b| a.service == b.service),
            endpoints,
            routes,
            callers,
            workloads: self.changed_workloads(old, &namespaces),
            pod_ips: pod_ips.into_iter().collect(),
        }
    }
}

/// What differs between two versions of the mesh. Each list is in order and without duplicates. A service that was added or
/// removed is in all of the first three.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// Services that were added or removed, or have other ports, addresses or annotations.
    pub services: Vec<ServiceKey>,
    /// Services with other endpoints, in a slice or by registration.
    pub endpoints: Vec<ServiceKey>,
    /// Services with other routes, or with routes to one of `callers`.
    pub routes: Vec<ServiceKey>,
    /// Services with other policies about their callers.
    pub callers: Vec<ServiceKey>,
    /// Registered workloads that were added, removed or changed, or have other policies: their inbound resources change.
    pub workloads: Vec<WorkloadKey>,
    /// Addresses of pods that were added, removed or changed.
    pub pod_ips: Vec<IpAddr>,
}

impl Changed {
    /// Returns true if the two versions are equal.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
            && self.endpoints.is_empty()
            && self.routes.is_empty()
            && self.callers.is_empty()
            && self.workloads.is_empty()
            && self.pod_ips.is_empty()
    }
}

/// Builds a mesh of services, for tests.
impl FromIterator<ServiceEntry> for Mesh {
    fn from_iter<I: IntoIterator<Item = ServiceEntry>>(entries: I) -> Self {
        let mut mesh = Self::default();
        for entry in entries {
            mesh.insert(entry);
        }
        mesh
    }
}

impl Mesh {
    /// Inserts or replaces a service, and updates the indexes.
    pub(super) fn insert(&mut self, entry: ServiceEntry) {
        let old = self.services.insert(entry.service.key.clone(), entry.clone());
        let same_type =
            old.as_ref().is_some_and(|old| old.service.service_type == entry.service.service_type);
        let same_ips = old.as_ref().is_some_and(|old| old.service.external_ips == entry.service.external_ips);
        if !same_type || !same_ips {
            self.reindex_ips(old.as_ref(), Some(&entry));
        }
        if !same_type || old.as_ref().is_none_or(|old| !Arc::ptr_eq(&old.endpoints, &entry.endpoints)) {
            self.reindex_endpoints(old.as_ref(), Some(&entry));
        }
    }

    /// Sets the labels of a namespace.
    pub(super) fn set_namespace(&mut self, name: Name, labels: NamespaceLabels) {
        match labels == NamespaceLabels::default() {
            true => self.namespaces.remove(&name),
            false => self.namespaces.insert(name, labels),
        };
    }

    /// Sets the policies of a namespace. Equal ones stay shared.
    pub(super) fn set_policies(&mut self, namespace: Name, policies: NamespacePolicies) {
        match self.policies.get(&namespace) {
            Some(old) if **old == policies => {}
            None if policies == NamespacePolicies::default() => {}
            Some(_) if policies == NamespacePolicies::default() => drop(self.policies.remove(&namespace)),
            _ => drop(self.policies.insert(namespace, policies.into())),
        }
    }

    /// Removes a service.
    pub(super) fn remove(&mut self, key: &ServiceKey) {
        let old = self.services.remove(key);
        self.reindex_ips(old.as_ref(), None);
        self.reindex_endpoints(old.as_ref(), None);
    }

    fn reindex_ips(&mut self, old: Option<&ServiceEntry>, new: Option<&ServiceEntry>) {
        for service in old.iter().map(|entry| &entry.service) {
            service.cluster_ips().iter().for_each(|ip| self.by_ip.remove(ip, &service.key));
            service.external_ips.iter().for_each(|ip| self.by_external_ip.remove(ip, &service.key));
        }
        for service in new.iter().map(|entry| &entry.service) {
            service.cluster_ips().iter().for_each(|ip| self.by_ip.insert(*ip, service.key.clone()));
            service.external_ips.iter().for_each(|ip| self.by_external_ip.insert(*ip, service.key.clone()));
        }
    }

    fn reindex_endpoints(&mut self, old: Option<&ServiceEntry>, new: Option<&ServiceEntry>) {
        for (service, port, address) in old.into_iter().flat_map(addresses) {
            let owner = (service.key.clone(), port);
            self.by_endpoint.remove(&address, &owner);
            if service.service_type == ServiceType::Headless {
                self.headless.remove(&address, &owner);
            }
        }
        for (service, port, address) in new.into_iter().flat_map(addresses) {
            let owner = (service.key.clone(), port);
            if service.service_type == ServiceType::Headless {
                self.headless.insert(address, owner.clone());
            }
            self.by_endpoint.insert(address, owner);
        }
    }
}

/// Returns every endpoint address of a service from its slices, with the service port.
fn addresses(entry: &ServiceEntry) -> impl Iterator<Item = (&Service, u16, SocketAddr)> {
    let ports = entry.endpoints.ports.iter();
    ports.flat_map(move |(port, all)| all.iter().map(move |at| (&*entry.service, *port, at.address)))
}
