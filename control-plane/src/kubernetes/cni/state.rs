//! The pods of the cluster that the CNI plugin has missed, and where it is ready. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use outrigger_core::Name;

use super::role::{CniRole, MissedPod};
use crate::kubernetes::pod_name::PodKey;

/// The pods without redirection, and the nodes that have the plugin.
#[derive(Debug, Clone, Default)]
pub(crate) struct CniState {
    plugins: BTreeMap<PodKey, (Name, Timestamp)>,
    missed: BTreeMap<PodKey, MissedPod>,
}

impl CniState {
    /// Sets what a pod is to the plugin.
    pub(in crate::kubernetes) fn set(&mut self, key: &PodKey, role: Option<CniRole>) {
        self.plugins.remove(key);
        self.missed.remove(key);
        match role {
            Some(CniRole::Plugin { node, ready_since }) => {
                self.plugins.insert(key.clone(), (node, ready_since));
            }
            Some(CniRole::Missed(pod)) => {
                self.missed.insert(key.clone(), pod);
            }
            None => {}
        }
    }

    /// Returns the pods without redirection. Each has the time at which the plugin on its node became ready; None if it is not ready.
    pub(super) fn missed(&self) -> Vec<(&PodKey, &MissedPod, Option<Timestamp>)> {
        if self.missed.is_empty() {
            return Vec::new();
        }
        let mut nodes = BTreeMap::new();
        for (node, ready_since) in self.plugins.values() {
            let latest = nodes.entry(node).or_insert(*ready_since);
            *latest = (*latest).max(*ready_since);
        }
        self.missed.iter().map(|(key, pod)| (key, pod, nodes.get(&pod.node).copied())).collect()
    }
}
