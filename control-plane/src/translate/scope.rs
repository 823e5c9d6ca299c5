//! The input of a translation: one version of the mesh, the viewer, and the settings of the mesh.

use outrigger_core::Name;
use outrigger_core::identity::TrustDomain;

use crate::model::mesh::Mesh;
use crate::model::registration::WorkloadKey;

/// The settings of the whole mesh.
#[derive(Debug, Clone)]
pub struct MeshSettings {
    /// The DNS suffix of services, without `svc.`: `cluster.local`.
    pub cluster_domain: Name,
    /// The trust domain of the workloads.
    pub trust_domain: TrustDomain,
}

/// The client that a resource is translated for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Viewer {
    /// The workload. Names are resolved in its namespace, and it determines the inbound resources.
    pub workload: WorkloadKey,
    /// Whether `*` means the whole mesh.
    pub mode: Mode,
    /// The dialect that it reads.
    pub dialect: Dialect,
    /// The zone that its node names. It counts if the workload is not registered: one that serves nothing is not.
    pub zone: Option<Name>,
    /// Whether it can pass the caller's identity to the application (`forward_client_cert_details`).
    pub forwards_client_certificates: bool,
}

impl Viewer {
    /// Returns the namespace of the workload.
    pub(crate) fn namespace(&self) -> &str {
        self.workload.identity.namespace()
    }
}

/// How a proxy subscribes to destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// To each that its application calls, on demand.
    OnDemand,
    /// To all.
    Wildcard,
}

/// How resources are written for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// As Envoy's API documents them.
    Envoy,
    /// With the extensions of our own proxy.
    Outrigger,
}

/// Where a client runs, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) node: Option<Name>,
    pub(super) zone: Option<Name>,
}

impl Location {
    /// Returns where a workload runs.
    pub(super) fn of(mesh: &Mesh, workload: &WorkloadKey) -> Self {
        let Some(workload) = mesh.workload(workload) else { return Self::default() };
        let node = workload.pod.as_ref().and_then(|pod| pod.node.clone());
        Self { node, zone: workload.zone().cloned() }
    }
}

/// The input of one translation. Its output is shared by all viewers of the same namespace and dialect, and of the same location if
/// endpoints depend on that, so only inbound resources may depend on more of the viewer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) viewer: &'a Viewer,
    pub(super) settings: &'a MeshSettings,
}

impl Scope<'_> {
    /// Returns the DNS suffix of services.
    pub(super) fn domain(&self) -> &str {
        &self.settings.cluster_domain
    }

    /// Returns where the viewer runs.
    pub(super) fn location(&self) -> Location {
        let Location { node, zone } = Location::of(self.mesh, &self.viewer.workload);
        Location { node, zone: zone.or_else(|| self.viewer.zone.clone()) }
    }

    /// Returns the dialect of the viewer.
    pub(super) fn dialect(&self) -> Dialect {
        self.viewer.dialect
    }
}
