//! The workloads of a cluster: its pods with a sidecar, as registrations are on plain Linux. Pure.
//!
//! The ports of a pod are those of the Services that select it, and those that its containers declare. They follow from the Services
//! alone, not from EndpointSlices: a pod that terminates leaves the slices, and must serve to the end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use kube::core::object::{NotUsed, Object};
use kube::runtime::watcher::Event;
use outrigger_core::Name;
use outrigger_core::identity::{SpiffeId, TrustDomain};

use super::cni::state::CniState;
use super::pod::{ApiPod, Pod, Sidecar};
use super::pod_name::PodKey;
use crate::injection::decision::has_opted_in;
use crate::injection::layout::RESERVED_PORTS;
use crate::model::mesh::Mesh;
use crate::model::registration::{
    MtlsMode, PodNetwork, Registrations, WorkloadEntry, WorkloadKey, WorkloadPort,
};
use crate::model::service::{AppProtocol, Service, ServiceKey, ServiceType, TargetPort};

/// The port of the listener that all inbound connections of a pod are redirected to: `[::]`, also where a pod has IPv4 addresses only.
const CAPTURE_PORT: u16 = 15006;

/// The label of a node with its zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// A node of the API server. Only its metadata is read.
pub(super) type ApiNode = Object<NotUsed, NotUsed>;

/// The pods that run without the sidecar that they are to have, with their UIDs.
pub(crate) type MissingSidecars = Arc<BTreeMap<PodKey, Name>>;

/// The pods of the cluster, and the workloads that they are.
#[derive(Debug)]
pub(super) struct Workloads {
    trust_domain: TrustDomain,
    pods: BTreeMap<PodKey, KnownPod>,
    /// The zones of the nodes that have one.
    zones: BTreeMap<Name, Name>,
    /// The pods of a list that is not complete yet.
    listing: Option<BTreeSet<PodKey>>,
    mesh: Arc<Mesh>,
    registrations: Registrations,
    changed: bool,
    /// The pods that run without the sidecar that they are to have, with their UIDs.
    without_sidecar: BTreeMap<PodKey, Name>,
    without_sidecar_changed: bool,
    cni: CniState,
    cni_changed: bool,
}

#[derive(Debug)]
struct KnownPod {
    pod: Pod,
    workload: Option<WorkloadKey>,
}

impl Workloads {
    pub(super) fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            pods: BTreeMap::new(),
            zones: BTreeMap::new(),
            listing: None,
            mesh: Arc::default(),
            registrations: Registrations::of_cluster(),
            changed: true,
            without_sidecar: BTreeMap::new(),
            without_sidecar_changed: false,
            cni: CniState::default(),
            cni_changed: false,
        }
    }

    /// Applies an event of the pods.
    pub(super) fn apply(&mut self, event: Event<ApiPod>) {
        match event {
            Event::Init => self.listing = Some(BTreeSet::new()),
            Event::InitApply(pod) => {
                let key = PodKey::of(&pod.metadata);
                self.set(key.clone(), Pod::read(pod));
                self.listing.get_or_insert_default().insert(key);
            }
            Event::InitDone => {
                let Some(listed) = self.listing.take() else { return };
                let gone: Vec<_> = self.pods.keys().filter(|key| !listed.contains(key)).cloned().collect();
                gone.into_iter().for_each(|key| self.set(key, None));
            }
            Event::Apply(pod) => self.set(PodKey::of(&pod.metadata), Pod::read(pod)),
            Event::Delete(pod) => self.set(PodKey::of(&pod.metadata), None),
        }
    }

    /// Applies an event of the nodes. What is kept of a node that has gone has no effect.
    pub(super) fn apply_node(&mut self, event: Event<ApiNode>) {
        let (Event::InitApply(node) | Event::Apply(node)) = event else { return };
        let name: Name = node.metadata.name.unwrap_or_default().into();
        let zone = node.metadata.labels.unwrap_or_default().remove(ZONE).map(Name::from);
        if self.zones.get(&name) == zone.as_ref() {
            return;
        }
        match zone {
            Some(zone) => self.zones.insert(name.clone(), zone),
            None => self.zones.remove(&name),
        };
        let on_node = |known: &KnownPod| {
            known.pod.sidecar.as_ref().is_some_and(|sidecar| sidecar.node.as_ref() == Some(&name))
        };
        let affected: Vec<_> =
            self.pods.iter().filter(|(_, known)| on_node(known)).map(|(key, _)| key.clone()).collect();
        affected.iter().for_each(|key| self.register(key));
    }

    /// Sets the mesh, whose Services and namespaces determine the ports of the pods.
    pub(super) fn set_mesh(&mut self, mesh: Arc<Mesh>) {
        let old = std::mem::replace(&mut self.mesh, mesh);
        let mut affected = BTreeSet::new();
        for key in self.mesh.changes(&old).services {
            let versions = [&old, &self.mesh].into_iter().filter_map(|mesh| mesh.service(&key));
            for entry in versions {
                let selected = self.sidecars_in(&key.namespace);
                let selected = selected.filter(|(_, sidecar)| entry.service.selects(&sidecar.labels));
                affected.extend(selected.map(|(key, _)| key.clone()));
            }
        }
        for namespace in self.mesh.changed_namespaces(&old) {
            affected.extend(self.sidecars_in(&namespace).map(|(key, _)| key.clone()));
            let pods: Vec<_> = self.pods_in(&namespace).map(|(key, _)| key.clone()).collect();
            pods.iter().for_each(|key| self.judge(key));
        }
        affected.iter().for_each(|key| self.register(key));
    }

    /// Returns the registrations if they differ from those of the last call.
    pub(super) fn take_changed(&mut self) -> Option<Registrations> {
        std::mem::take(&mut self.changed).then(|| self.registrations.clone())
    }

    /// Returns the pods that run without the sidecar that they are to have, with their UIDs, if they differ from those of the last call.
    pub(super) fn take_without_sidecar(&mut self) -> Option<BTreeMap<PodKey, Name>> {
        std::mem::take(&mut self.without_sidecar_changed).then(|| self.without_sidecar.clone())
    }

    /// Returns what pods are to the CNI plugin, if it differs from that of the last call.
    pub(super) fn take_cni(&mut self) -> Option<CniState> {
        std::mem::take(&mut self.cni_changed).then(|| self.cni.clone())
    }

    /// Decides whether a pod runs without the sidecar that it is to have.
    fn judge(&mut self, key: &PodKey) {
        let missing = self.pods.get(key).and_then(|known| known.pod.without_sidecar.as_ref()).filter(|pod| {
            let injected = self.mesh.namespace(&key.namespace).injected;
            has_opted_in(&key.namespace, injected, pod.inject.as_deref())
        });
        let uid = missing.map(|pod| pod.uid.clone());
        if self.without_sidecar.get(key) == uid.as_ref() {
            return;
        }
        self.without_sidecar_changed = true;
        match uid {
            Some(uid) => self.without_sidecar.insert(key.clone(), uid),
            None => self.without_sidecar.remove(key),
        };
    }

    /// Sets a pod. None removes it.
    fn set(&mut self, key: PodKey, pod: Option<Pod>) {
        if self.pods.get(&key).map(|known| &known.pod) == pod.as_ref() {
            return;
        }
        self.changed = true;
        let role = pod.as_ref().and_then(|pod| pod.cni.as_ref());
        if self.pods.get(&key).and_then(|old| old.pod.cni.as_ref()) != role {
            self.cni.set(&key, role.cloned());
            self.cni_changed = true;
        }
        let workload = self.pods.remove(&key).and_then(|old| {
            self.set_plain(&key, &old.pod, false);
            old.workload
        });
        match pod {
            Some(pod) => {
                self.set_plain(&key, &pod, true);
                self.pods.insert(key.clone(), KnownPod { pod, workload });
                self.register(&key);
            }
            None => {
                workload.iter().for_each(|workload| drop(self.registrations.remove(workload)));
            }
        }
        self.judge(&key);
    }

    fn set_plain(&mut self, key: &PodKey, pod: &Pod, present: bool) {
        if pod.sidecar.is_none() {
            let set = match pod.host_network {
                true => Registrations::set_host_network_pod,
                false => Registrations::set_plain_pod,
            };
            for ip in &pod.ips {
                set(&mut self.registrations, &key.namespace, &key.name, *ip, present);
            }
        }
    }

    /// Makes the workload of a pod again.
    fn register(&mut self, key: &PodKey) {
        let Some(known) = self.pods.get_mut(key) else { return };
        let new = workload(&self.trust_domain, key, &known.pod, &self.mesh, &self.zones);
        let old = std::mem::replace(&mut known.workload, new.as_ref().map(|new| new.key.clone()));
        if let Some(new) = &new
            && old.as_ref() == Some(&new.key)
            && self.registrations.workload(&new.key).is_some_and(|same| **same == *new)
        {
            return;
        }
        self.changed = true;
        old.iter().for_each(|old| drop(self.registrations.remove(old)));
        new.into_iter().for_each(|new| self.registrations.insert(Arc::new(new)));
    }

    /// Returns the pods of a namespace that have a sidecar.
    fn sidecars_in<'a>(&'a self, namespace: &'a Name) -> impl Iterator<Item = (&'a PodKey, &'a Sidecar)> {
        self.pods_in(namespace).filter_map(|(key, known)| Some((key, known.pod.sidecar.as_ref()?)))
    }

    fn pods_in<'a>(&'a self, namespace: &'a Name) -> impl Iterator<Item = (&'a PodKey, &'a KnownPod)> {
        let first = PodKey { namespace: namespace.clone(), name: "".into() };
        self.pods.range(first..).take_while(move |(key, _)| key.namespace == *namespace)
    }
}

/// Returns the workload that a pod is. Returns None without a sidecar or an address.
fn workload(
    trust_domain: &TrustDomain,
    key: &PodKey,
    pod: &Pod,
    mesh: &Mesh,
    zones: &BTreeMap<Name, Name>,
) -> Option<WorkloadEntry> {
    let Pod { ips, host_network: _, sidecar, without_sidecar: _, cni: _ } = pod;
    let (ip, sidecar) = (*ips.first()?, sidecar.as_ref()?);
    let identity = SpiffeId::new(trust_domain.clone(), &key.namespace, &sidecar.service_account);
    let identity = match identity {
        Ok(identity) => identity,
        Err(error) => {
            tracing::warn!(namespace = %key.namespace, pod = %key.name, %error, "a pod has no identity");
            return None;
        }
    };
    let capture = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), CAPTURE_PORT);
    Some(WorkloadEntry {
        key: WorkloadKey { identity, instance: key.name.clone() },
        ports: ports(key, sidecar, mesh, ip, capture),
        capture: Some(capture),
        // Permissive is where a namespace starts: its callers may have no sidecars yet.
        mtls: mesh.namespace(&key.namespace).mtls.unwrap_or(MtlsMode::Permissive),
        labels: sidecar.labels.clone(),
        ready: sidecar.ready,
        draining: sidecar.terminating,
        pod: Some(PodNetwork {
            ips: ips.clone(),
            uncaptured: sidecar.excluded.iter().copied().chain(RESERVED_PORTS).collect(),
            node: sidecar.node.clone(),
            zone: sidecar.node.as_ref().and_then(|node| zones.get(node)).cloned(),
        }),
    })
}

/// Returns the captured ports of a pod, by number.
fn ports(key: &PodKey, sidecar: &Sidecar, mesh: &Mesh, ip: IpAddr, capture: SocketAddr) -> Vec<WorkloadPort> {
    // A port with a mode of its own need not be declared.
    let declared = sidecar.ports.iter().map(|(_, number)| *number).chain(sidecar.mtls.keys().copied());
    let mut served: BTreeMap<u16, Vec<ServedBy>> = declared.map(|number| (number, Vec::new())).collect();
    for entry in mesh.services_in(&key.namespace) {
        let service = &entry.service;
        if !service.selects(&sidecar.labels) {
            continue;
        }
        for port in &service.ports {
            if let Some(target) = target_port(&port.target, sidecar) {
                served.entry(target).or_default().push(ServedBy::new(service, port.number, port.protocol));
            }
        }
    }
    let captured = served.into_iter().filter(|(number, _)| !sidecar.excluded.contains(number));
    let port = |(number, mut by): (u16, Vec<ServedBy>)| {
        by.sort();
        let service_port = by.first().map_or(number, |first| first.port);
        let of_service = by.first().map_or(AppProtocol::Detect, |first| first.protocol);
        let protocol = match sidecar.opaque.contains(&number) {
            true => AppProtocol::Tcp,
            // Clients of each Service speak as that one says.
            false => AppProtocol::common(by.iter().map(|one| one.protocol)).unwrap_or(AppProtocol::Detect),
        };
        let same_port = by.into_iter().filter(|one| one.port == service_port);
        let application = SocketAddr::new(ip, number);
        WorkloadPort {
            services: same_port.map(|one| one.service).collect(),
            service_port,
            protocol: (protocol != of_service).then_some(protocol),
            advertised: application,
            listen: capture,
            application,
            original_destination: true,
            mtls: sidecar.mtls.get(&number).copied(),
        }
    };
    captured.map(port).collect()
}

/// A Service port that a port of a pod serves. The first one names it in telemetry: one with a cluster IP before others.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ServedBy {
    headless: bool,
    service: ServiceKey,
    port: u16,
    protocol: AppProtocol,
}

impl ServedBy {
    fn new(service: &Service, port: u16, protocol: AppProtocol) -> Self {
        let headless = service.service_type == ServiceType::Headless;
        Self { headless, service: service.key.clone(), port, protocol }
    }
}

/// Returns the port of the pod that a Service port targets. Returns None if no container declares the name.
fn target_port(target: &TargetPort, sidecar: &Sidecar) -> Option<u16> {
    match target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => {
            sidecar.ports.iter().find(|(declared, _)| declared == name).map(|(_, number)| *number)
        }
    }
}

#[cfg(test)]
mod tests;
