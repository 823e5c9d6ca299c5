//! What people call the workload that a pod belongs to.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

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
