//! The names of a pod: its own, and what people call the workload that it belongs to.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use outrigger_core::Name;

/// The namespace and name of a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PodKey {
    pub(super) namespace: Name,
    pub(super) name: Name,
}

impl PodKey {
    /// Returns the key of a pod.
    pub(super) fn of(metadata: &ObjectMeta) -> Self {
        let name = |field: &Option<String>| field.as_deref().unwrap_or_default().into();
        Self { namespace: name(&metadata.namespace), name: name(&metadata.name) }
    }
}

/// Returns the name of the workload that a pod belongs to: of its Deployment, StatefulSet or Job, else its own.
pub(super) fn workload_name(pod: &Pod) -> String {
    let owner = pod.owner_references().first();
    let hash = pod.labels().get("pod-template-hash");
    match (owner, hash) {
        (Some(owner), Some(hash)) => {
            owner.name.strip_suffix(&format!("-{hash}")).unwrap_or(&owner.name).to_owned()
        }
        (Some(owner), None) => owner.name.clone(),
        (None, _) => pod.name_any(),
    }
}
