//! Evicts pods that were started before the CNI plugin was on their node, for as long as it is polled.
//!
//! Such a pod has no redirection: its init container `outrigger-capture-check` fails, and nothing after it starts. The plugin is called only
//! when the network of a pod is created, so the pod must be replaced. The leader evicts it once the plugin is ready on its node. A pod
//! that no controller would replace is left alone.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, Preconditions, Status};
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::{Api, Client, ResourceExt as _};

use super::lease::Leadership;
use crate::injection::layout::{CAPTURE_CHECK_CONTAINER, STATUS_ANNOTATION};

/// How often pods are listed.
const INTERVAL: Duration = Duration::from_secs(5);
/// Maximum number of pods that are evicted each time. A new pod may land on the same node, and fail again.
const AT_ONCE: usize = 10;
/// The namespace of the DaemonSet, and the label of its pods.
const PLUGIN_NAMESPACE: &str = "outrigger-cni";
const PLUGIN_LABEL: &str = "app.kubernetes.io/name=outrigger-cni";

/// Evicts pods while this replica leads.
pub(crate) async fn run(client: Client, mut leadership: Leadership) {
    let mut failed = false;
    loop {
        if leadership.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        let round = repair(&client).await;
        if let Err(error) = round.as_ref()
            && !failed
        {
            tracing::warn!(%error, "pods without redirection cannot be evicted now");
        }
        failed = round.is_err();
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn repair(client: &Client) -> Result<(), kube::Error> {
    // From the API server's cache.
    let pending = ListParams::default().fields("status.phase=Pending").match_any();
    let pods = Api::<Pod>::all(client.clone()).list(&pending).await?.items;
    if !pods.iter().any(has_failed) {
        return Ok(());
    }
    let plugins: Api<Pod> = Api::namespaced(client.clone(), PLUGIN_NAMESPACE);
    let plugins = plugins.list(&ListParams::default().labels(PLUGIN_LABEL)).await?.items;
    let mut outcome = Ok(());
    for pod in to_evict(&pods, &plugins).into_iter().take(AT_ONCE) {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        match evict(client, &namespace, &name, pod.uid()).await {
            Ok(()) => {
                tracing::info!(namespace, pod = name, "evicted a pod that was started without the CNI plugin")
            }
            Err(error) => outcome = Err(error),
        }
    }
    outcome
}

/// Evicts one pod. One that is gone, or was replaced under the same name, is left alone.
async fn evict(client: &Client, namespace: &str, name: &str, uid: Option<String>) -> Result<(), kube::Error> {
    let eviction = Eviction {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        delete_options: Some(DeleteOptions {
            preconditions: Some(Preconditions { uid, ..Preconditions::default() }),
            ..DeleteOptions::default()
        }),
    };
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    match api.create_subresource::<_, Status>("eviction", name, &PostParams::default(), &eviction).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        other => other.map(drop),
    }
}

/// Returns the pods that have no redirection, and that would have it if they were created now.
fn to_evict<'a>(pods: &'a [Pod], plugins: &[Pod]) -> Vec<&'a Pod> {
    let node = |pod: &Pod| pod.spec.as_ref()?.node_name.clone();
    let nodes: BTreeSet<_> = plugins.iter().filter(|plugin| is_ready(plugin)).filter_map(node).collect();
    let replaced = |pod: &Pod| {
        pod.metadata.deletion_timestamp.is_none()
            && pod.owner_references().iter().any(|owner| owner.controller == Some(true))
    };
    let on_ready_node = |pod: &Pod| node(pod).is_some_and(|node| nodes.contains(&node));
    pods.iter().filter(|pod| has_failed(pod) && replaced(pod) && on_ready_node(pod)).collect()
}

/// Returns true if the redirection of a pod was verified, and is missing. After its first failure, the kubelet starts the container again.
fn has_failed(pod: &Pod) -> bool {
    let containers = |status: &PodStatus| status.init_container_statuses.clone().unwrap_or_default();
    let all = pod.status.as_ref().map(containers).unwrap_or_default();
    let check = all.iter().find(|container| container.name == CAPTURE_CHECK_CONTAINER);
    pod.annotations().contains_key(STATUS_ANNOTATION)
        && check.is_some_and(|check| !check.ready && check.restart_count > 0)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(node: &str, change: Value) -> Pod {
        let mut pod = json!({
            "metadata": {
                "name": "web", "annotations": { "outrigger.dev/status": "{}" },
                "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "w", "uid": "u", "controller": true }],
            },
            "spec": { "nodeName": node, "containers": [] },
            "status": {
                "conditions": [{ "type": "Ready", "status": "True" }],
                "initContainerStatuses": [{
                    "name": "outrigger-capture-check", "ready": false, "restartCount": 1, "image": "", "imageID": "",
                }],
            },
        });
        json_patch(&mut pod, change);
        serde_json::from_value(pod).unwrap()
    }

    /// Sets fields by JSON pointer.
    fn json_patch(pod: &mut Value, change: Value) {
        for (at, value) in change.as_object().unwrap() {
            *pod.pointer_mut(at).unwrap() = value.clone();
        }
    }

    #[test]
    fn a_pod_that_waits_for_its_redirection_is_evicted_once_its_node_has_the_plugin() {
        let check = "/status/initContainerStatuses/0";
        let pods = [
            pod("a", json!({})),
            pod("b", json!({ "/metadata/name": "on a node whose plugin is not ready" })),
            pod("c", json!({ "/metadata/name": "on a node without the plugin" })),
            pod("a", json!({ "/metadata/ownerReferences": [] })),
            pod("a", json!({ "/metadata/annotations": {} })),
            pod("a", json!({ format!("{check}/restartCount"): 0 })),
            pod("a", json!({ format!("{check}/ready"): true })),
            pod("a", json!({ format!("{check}/name"): "other" })),
        ];
        let unready = json!({ "/status/conditions/0/status": "False" });
        let evicted = to_evict(&pods, &[pod("a", json!({})), pod("b", unready)]);
        assert_eq!(evicted.iter().map(|pod| pod.name_any()).collect::<Vec<_>>(), ["web"]);
        assert!(std::ptr::eq(evicted[0], &pods[0]) && to_evict(&pods, &[]).is_empty());
    }
}
