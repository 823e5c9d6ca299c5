//! What a pod is to the CNI plugin: one that installs it, or one that it has missed. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use outrigger_core::Name;

use crate::injection::layout::STATUS_ANNOTATION;

/// The namespace of the plugin's DaemonSet, and the label of its pods.
const PLUGIN_NAMESPACE: &str = "outrigger-cni";
const PLUGIN_LABEL: (&str, &str) = ("app.kubernetes.io/name", "outrigger-cni");

/// What a pod is to the plugin, if anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::kubernetes) enum CniRole {
    /// A pod of the plugin's DaemonSet that is ready.
    Plugin { node: Name, ready_since: Timestamp },
    /// A pod without redirection.
    Missed(MissedPod),
}

/// A pod without redirection, which its owner replaces if it is evicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::kubernetes) struct MissedPod {
    pub(in crate::kubernetes) uid: Name,
    /// The UID of its controller.
    pub(in crate::kubernetes) owner: Name,
    pub(in crate::kubernetes) node: Name,
    pub(in crate::kubernetes) started: Timestamp,
}

/// The fields of a pod that decide what it is to the plugin.
pub(in crate::kubernetes) struct Observed<'a> {
    pub(in crate::kubernetes) metadata: &'a ObjectMeta,
    pub(in crate::kubernetes) node: Option<&'a str>,
    pub(in crate::kubernetes) started: Option<Timestamp>,
    /// Since when it is ready. None if it is not.
    pub(in crate::kubernetes) ready_since: Option<Timestamp>,
    /// Its redirection was verified, and is missing.
    pub(in crate::kubernetes) check_failed: bool,
}

/// Returns true if a pod is of the plugin's DaemonSet.
pub(in crate::kubernetes) fn is_plugin(metadata: &ObjectMeta) -> bool {
    let label = metadata.labels.as_ref().and_then(|labels| labels.get(PLUGIN_LABEL.0));
    metadata.namespace.as_deref() == Some(PLUGIN_NAMESPACE)
        && label.is_some_and(|label| label == PLUGIN_LABEL.1)
}

impl CniRole {
    /// Returns what a pod is to the plugin. Returns None if it is nothing, terminates, or would not be replaced.
    pub(in crate::kubernetes) fn of(pod: &Observed<'_>) -> Option<Self> {
        let Observed { metadata, node, started, ready_since, check_failed } = *pod;
        let node: Name = node?.into();
        if metadata.deletion_timestamp.is_some() {
            return None;
        }
        if is_plugin(metadata) {
            return Some(Self::Plugin { node, ready_since: ready_since? });
        }
        let injected = metadata.annotations.as_ref().is_some_and(|all| all.contains_key(STATUS_ANNOTATION));
        if !check_failed || !injected {
            return None;
        }
        let owner =
            metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
        let uid = metadata.uid.as_deref()?.into();
        Some(Self::Missed(MissedPod { uid, owner: owner.uid.as_str().into(), node, started: started? }))
    }
}
