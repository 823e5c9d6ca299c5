//! The registered workloads of the mesh.
//!
//! The registration service decides which workloads may register and for how long, and passes those that it admitted to
//! `Mesh::with_registrations`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use imbl::OrdMap;
use outrigger_core::Name;
use outrigger_core::identity::SpiffeId;

use super::changed_keys::changed_keys;
use super::endpoint::{Endpoint, EndpointHealth, Peer};
use super::pod_index::{PodClaim, PodIndex};
use super::service::{AppProtocol, ServiceKey};

/// Every workload: those that registered themselves, or the pods of a cluster. Like the mesh, versions share what did not change.
#[derive(Debug, Clone, Default)]
pub struct Registrations {
    workloads: OrdMap<WorkloadKey, Arc<WorkloadEntry>>,
    by_service: OrdMap<ServiceKey, Arc<[Arc<WorkloadEntry>]>>,
    by_address: OrdMap<SocketAddr, Arc<WorkloadEntry>>,
    pods: PodIndex<WorkloadKey>,
}

impl Registrations {
    /// Returns the pods of a cluster, none at first.
    pub fn of_cluster() -> Self {
        Self { pods: PodIndex::of_cluster(), ..Self::default() }
    }

    /// Adds or removes an address of a pod without a sidecar.
    pub fn set_plain_pod(&mut self, namespace: &Name, name: &Name, ip: IpAddr, present: bool) {
        self.pods.set(ip, PodClaim::Plain(namespace.clone(), name.clone()), present);
    }

    /// Adds or removes a pod in the network of its node, which has the node's address.
    pub fn set_host_network_pod(&mut self, namespace: &Name, name: &Name, ip: IpAddr, present: bool) {
        self.pods.set(ip, PodClaim::HostNetwork(namespace.clone(), name.clone()), present);
    }

    /// Returns the pod with a sidecar that has this address. Returns None if it is the address of a pod without one.
    ///
    /// An address may pass to another pod while its old pod still terminates: then it is the other one's.
    pub fn pod(&self, ip: &IpAddr) -> Option<&Arc<WorkloadEntry>> {
        let pods = self.pods.claims(ip).filter_map(|claim| self.workloads.get(claim.sidecar()?));
        let pod = pods.min_by_key(|pod| pod.draining)?;
        let is_plain = || self.pods.claims(ip).any(|claim| claim.sidecar().is_none());
        (!pod.draining || !is_plain()).then_some(pod)
    }

    /// Returns true if a service of `namespace` determines where clients of the namespace `viewer` get that dial this address.
    ///
    /// An EndpointSlice may name any address. Its service must not determine where clients of another namespace's pods get, nor
    /// where clients of other namespaces get that dial an address which is no pod's. The address of a node is no pod's.
    pub(super) fn may_claim(&self, ip: &IpAddr, namespace: &str, viewer: &str) -> bool {
        let own = |claim: &&PodClaim<_>| !matches!(claim, PodClaim::HostNetwork(..));
        let mut claims = self.pods.claims(ip).filter(own).peekable();
        match claims.peek() {
            None => !self.pods.in_cluster() || namespace == viewer,
            Some(_) => claims.any(|claim| pod_name(claim).0 == namespace),
        }
    }

    /// Returns the endpoint of an EndpointSlice in `namespace` with what its pod adds to it. Returns None if the pod is not known
    /// yet: the events of slices and of pods arrive independently, and whether it has a sidecar decides how it is called.
    pub(super) fn complete(&self, mut endpoint: Endpoint, namespace: &str) -> Option<Endpoint> {
        let ip = endpoint.address.ip();
        if endpoint.peer.identity().is_some() {
            return Some(endpoint);
        }
        let pod = match (&endpoint.peer, &endpoint.instance) {
            // Another pod may have the same address: the one that had it before and still terminates.
            (Peer::Pod, Some(name)) if self.pods.in_cluster() => {
                let named = |claim: &&PodClaim<_>| pod_name(claim) == (namespace, name);
                let claim = self.pods.claims(&ip).find(named)?;
                claim.sidecar().and_then(|key| self.workloads.get(key))
            }
            _ => self.pod(&ip),
        };
        endpoint.peer = Peer::Plaintext;
        if let Some(pod) = pod {
            let uncaptured =
                pod.pod.as_ref().is_some_and(|pod| pod.uncaptured.contains(&endpoint.address.port()));
            if !uncaptured {
                endpoint.peer = Peer::Sidecar(pod.key.identity.clone());
            }
            endpoint.version = version(&pod.labels).or(endpoint.version);
        }
        Some(endpoint)
    }

    /// Returns the addresses of pods that were added, removed or changed between the two versions.
    pub(super) fn changed_pod_addresses(&self, old: &Self) -> BTreeSet<IpAddr> {
        let mut all: BTreeSet<_> = self.pods.changes(&old.pods).collect();
        for key in self.changed_workloads(old) {
            let versions = [old.workload(&key), self.workload(&key)].into_iter().flatten();
            all.extend(versions.filter_map(|workload| workload.pod.as_ref()).flat_map(|pod| &pod.ips));
        }
        all
    }

    /// Inserts or replaces a workload.
    ///
    /// Nothing is refused here: the caller has checked [`claimant`](Self::claimant).
    pub fn insert(&mut self, workload: Arc<WorkloadEntry>) {
        self.remove(&workload.key);
        match &workload.pod {
            Some(pod) => pod.ips.iter().for_each(|ip| {
                self.pods.set(*ip, PodClaim::Sidecar(workload.key.clone()), true);
            }),
            None => workload.ports.iter().for_each(|port| {
                self.by_address.insert(port.advertised, Arc::clone(&workload));
            }),
        }
        for service in services(&workload) {
            let mut all = self.of_service(service).to_vec();
            all.push(Arc::clone(&workload));
            all.sort_unstable_by(|a, b| a.key.cmp(&b.key));
            self.by_service.insert(service.clone(), all.into());
        }
        self.workloads.insert(workload.key.clone(), workload);
    }

    /// Removes a workload.
    pub fn remove(&mut self, key: &WorkloadKey) -> Option<Arc<WorkloadEntry>> {
        let gone = self.workloads.remove(key)?;
        for ip in gone.pod.iter().flat_map(|pod| &pod.ips) {
            self.pods.set(*ip, PodClaim::Sidecar(key.clone()), false);
        }
        for port in &gone.ports {
            if self.by_address.get(&port.advertised).is_some_and(|holder| holder.key == *key) {
                self.by_address.remove(&port.advertised);
            }
        }
        for service in services(&gone) {
            let mut rest = self.of_service(service).to_vec();
            rest.retain(|other| other.key != *key);
            if rest.is_empty() {
                self.by_service.remove(service);
            } else {
                self.by_service.insert(service.clone(), rest.into());
            }
        }
        Some(gone)
    }

    /// Returns the workload of this identity and instance.
    pub fn workload(&self, key: &WorkloadKey) -> Option<&Arc<WorkloadEntry>> {
        self.workloads.get(key)
    }

    /// Returns every workload, in order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<WorkloadEntry>> {
        self.workloads.values()
    }

    /// Returns the workloads that serve a service, by identity and instance.
    pub fn of_service(&self, service: &ServiceKey) -> &[Arc<WorkloadEntry>] {
        self.by_service.get(service).map_or(&[], |workloads| workloads)
    }

    /// Returns the workload that advertises this address. No two do: the later one is refused.
    pub fn claimant(&self, advertised: &SocketAddr) -> Option<&Arc<WorkloadEntry>> {
        self.by_address.get(advertised)
    }

    /// Returns the services whose registered endpoints differ between the two versions.
    pub(super) fn changed_services(&self, old: &Self) -> Vec<ServiceKey> {
        changed_keys(&old.by_service, &self.by_service, PartialEq::eq)
    }

    /// Returns the workloads that were added, removed or changed between the two versions.
    pub(super) fn changed_workloads(&self, old: &Self) -> Vec<WorkloadKey> {
        changed_keys(&old.workloads, &self.workloads, PartialEq::eq)
    }
}

/// Returns the namespace and the name of a pod.
fn pod_name(claim: &PodClaim<WorkloadKey>) -> (&str, &str) {
    match claim {
        PodClaim::Sidecar(key) => (key.identity.namespace(), &key.instance),
        PodClaim::Plain(namespace, name) | PodClaim::HostNetwork(namespace, name) => (namespace, name),
    }
}

/// Returns the services of a workload, each once.
fn services(workload: &WorkloadEntry) -> Vec<&ServiceKey> {
    let mut all: Vec<_> = workload.ports.iter().flat_map(|port| &port.services).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Identifies a workload. The instances of a service account share an identity; their instance names differ.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadKey {
    /// The identity in its certificate.
    pub identity: SpiffeId,
    /// The name of the instance, chosen by the workload.
    pub instance: Name,
}

impl std::fmt::Display for WorkloadKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, instance {}", self.identity, self.instance)
    }
}

/// A workload with a sidecar: one that registered itself, or a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadEntry {
    /// Its identity and instance.
    pub key: WorkloadKey,
    /// The ports it serves. A port that the sidecar does not capture is not one of them.
    pub ports: Vec<WorkloadPort>,
    /// The listener to which connections to all its ports are redirected. It serves undeclared ports too. None if each port
    /// has a listener or a redirection of its own.
    pub capture: Option<SocketAddr>,
    /// Whether ports without a mode of their own, and undeclared ports, require mTLS.
    pub mtls: MtlsMode,
    /// Its labels.
    pub labels: BTreeMap<Name, Name>,
    /// Its application is ready.
    pub ready: bool,
    /// It is draining: no new requests.
    pub draining: bool,
    /// Its addresses if it is a pod. None if it registered itself.
    pub pod: Option<PodNetwork>,
}

/// The addresses of a pod with a sidecar. Its endpoints are those of EndpointSlices with such an address, not its ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodNetwork {
    /// At most one of each family, the primary one first.
    pub ips: Vec<IpAddr>,
    /// The ports that the sidecar does not capture. They are called in plaintext.
    pub uncaptured: BTreeSet<u16>,
    /// Its node.
    pub node: Option<Name>,
    /// The zone of its node, when known.
    pub zone: Option<Name>,
}

impl WorkloadEntry {
    /// Returns its health. Draining takes precedence over ready.
    pub fn health(&self) -> EndpointHealth {
        match (self.draining, self.ready) {
            (true, _) => EndpointHealth::Draining,
            (false, true) => EndpointHealth::Ready,
            (false, false) => EndpointHealth::NotReady,
        }
    }

    /// Returns its zone: that of a pod's node, else that of its label.
    pub fn zone(&self) -> Option<&Name> {
        let of_node = self.pod.as_ref().and_then(|pod| pod.zone.as_ref());
        of_node.or_else(|| self.labels.get("topology.kubernetes.io/zone"))
    }

    /// Returns its endpoints on one port of one service.
    pub(super) fn endpoints(&self, service: &ServiceKey, port: u16) -> impl Iterator<Item = Endpoint> {
        let serves = move |offered: &&WorkloadPort| {
            self.pod.is_none() && offered.service_port == port && offered.services.contains(service)
        };
        self.ports.iter().filter(serves).map(|offered| Endpoint {
            address: offered.advertised,
            health: self.health(),
            peer: Peer::Sidecar(self.key.identity.clone()),
            instance: Some(self.key.instance.clone()),
            version: version(&self.labels),
            zone: self.zone().cloned(),
            node: None,
            hostname: None,
        })
    }
}

/// Returns the version that labels name: by Kubernetes' recommended label, else by the common short one.
pub(super) fn version(labels: &BTreeMap<Name, Name>) -> Option<Name> {
    labels.get("app.kubernetes.io/version").or_else(|| labels.get("version")).cloned()
}

/// Whether a port requires mTLS of its clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MtlsMode {
    /// Connections without mTLS are refused.
    #[default]
    Strict,
    /// Connections without mTLS are served, too. Their clients have no identity.
    Permissive,
}

/// The labels of a namespace that concern its pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NamespaceLabels {
    /// The mTLS mode (`outrigger.dev/mtls`), if there is one.
    pub mtls: Option<MtlsMode>,
    /// Whether pods get a sidecar (`outrigger.dev/inject: enabled`).
    pub injected: bool,
}

/// A port that a workload serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadPort {
    /// The services that it serves, all in the workload's namespace. Empty for a port of a pod that no Service has.
    pub services: Vec<ServiceKey>,
    /// The port of those services. Without services, the port of the application.
    pub service_port: u16,
    /// The application's protocol, if it differs from the service's `appProtocol`.
    pub protocol: Option<AppProtocol>,
    /// The address that others connect to.
    pub advertised: SocketAddr,
    /// The address that the sidecar listens on.
    pub listen: SocketAddr,
    /// The address that the application listens on.
    pub application: SocketAddr,
    /// Connections are redirected, and their original destination selects the port.
    pub original_destination: bool,
    /// Whether it requires mTLS, if it differs from the workload.
    pub mtls: Option<MtlsMode>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cart(instance: &str, port: u16) -> Arc<WorkloadEntry> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Arc::new(WorkloadEntry {
            key: WorkloadKey {
                identity: SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap(),
                instance: instance.into(),
            },
            ports: vec![WorkloadPort {
                services: vec![ServiceKey::new("shop", "cart")],
                service_port: 80,
                protocol: None,
                advertised: address,
                listen: address,
                application: address,
                original_destination: false,
                mtls: None,
            }],
            labels: BTreeMap::from([("version".into(), "v2".into())]),
            capture: None,
            mtls: MtlsMode::Strict,
            ready: true,
            draining: false,
            pod: None,
        })
    }

    #[test]
    fn a_workload_replaces_its_previous_version() {
        let mut all = Registrations::default();
        all.insert(cart("a", 1));
        all.insert(cart("b", 2));
        let before = all.clone();
        all.insert(cart("a", 3));
        let key = ServiceKey::new("shop", "cart");
        let addresses = |all: &Registrations| -> Vec<u16> {
            all.of_service(&key).iter().map(|workload| workload.ports[0].advertised.port()).collect()
        };
        assert_eq!((addresses(&before), addresses(&all)), (vec![1, 2], vec![3, 2]));
        assert!(all.claimant(&SocketAddr::from(([127, 0, 0, 1], 1))).is_none());
        assert_eq!(all.changed_services(&before), [key]);
        assert_eq!(all.changed_workloads(&before), [cart("a", 1).key.clone()]);
    }

    #[test]
    fn removal_leaves_nothing_behind() {
        let mut all = Registrations::default();
        all.insert(cart("a", 1));
        all.remove(&cart("a", 1).key);
        assert!(all.workloads.is_empty() && all.by_service.is_empty() && all.by_address.is_empty());
    }
}
