//! What a translation sees: one version of the mesh, who asks, and what is the same for all.

use outrigger_core::Name;
use outrigger_core::identity::TrustDomain;

use crate::model::mesh::Mesh;
use crate::model::registration::WorkloadKey;

/// What is the same for the whole mesh.
#[derive(Debug, Clone)]
pub struct MeshSettings {
    /// The DNS suffix of services, without `svc.`: `cluster.local`.
    pub cluster_domain: Name,
    /// Whose identities the workloads have.
    pub trust_domain: TrustDomain,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Viewer {
    /// The workload: its namespace decides what names mean, itself what its inbound side is.
    pub workload: WorkloadKey,
    /// Whether `*` means the whole mesh.
    pub mode: Mode,
    /// What it can read.
    pub dialect: Dialect,
}

impl Viewer {
    /// The namespace of the workload.
    pub(crate) fn namespace(&self) -> &str {
        self.workload.identity.namespace()
    }
}

/// How a proxy learns of destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By asking for each that its application calls.
    OnDemand,
    /// By being told of all.
    Wildcard,
}

/// How resources are written for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// As Envoy's API documents them.
    Envoy,
    /// With what only our own proxy knows.
    Outrigger,
}

/// What one translation sees. What it makes is shared by all that have the same namespace and dialect, so that nothing
/// but an inbound side may depend on more of the viewer than those.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) viewer: &'a Viewer,
    pub(super) settings: &'a MeshSettings,
}

impl Scope<'_> {
    /// The DNS suffix of services.
    pub(super) fn domain(&self) -> &str {
        &self.settings.cluster_domain
    }

    /// How resources are written.
    pub(super) fn dialect(&self) -> Dialect {
        self.viewer.dialect
    }
}
