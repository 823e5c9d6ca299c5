//! The pods of the cluster that the CNI plugin has missed, and where it is ready. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use outrigger_core::Name;

use super::capture::{Capture, Uncaptured};
use super::pod::PodKey;

/// The pods without redirection, and the nodes that have the plugin.
#[derive(Debug, Clone, Default)]
pub(crate) struct CaptureState {
    plugins: BTreeMap<PodKey, (Name, Timestamp)>,
    uncaptured: BTreeMap<PodKey, Uncaptured>,
}

impl CaptureState {
    /// Sets what a pod is to the plugin.
    pub(super) fn set(&mut self, key: &PodKey, capture: Option<Capture>) {
        self.plugins.remove(key);
        self.uncaptured.remove(key);
        match capture {
            Some(Capture::Plugin { node, ready_since }) => {
                self.plugins.insert(key.clone(), (node, ready_since));
            }
            Some(Capture::Missing(pod)) => {
                self.uncaptured.insert(key.clone(), pod);
            }
            None => {}
        }
    }

    /// Returns the pods without redirection. Each has the time at which the plugin on its node became ready; None if it is not ready.
    pub(super) fn uncaptured(&self) -> Vec<(&PodKey, &Uncaptured, Option<Timestamp>)> {
        if self.uncaptured.is_empty() {
            return Vec::new();
        }
        let mut nodes = BTreeMap::new();
        for (node, ready_since) in self.plugins.values() {
            let latest = nodes.entry(node).or_insert(*ready_since);
            *latest = (*latest).max(*ready_since);
        }
        self.uncaptured.iter().map(|(key, pod)| (key, pod, nodes.get(&pod.node).copied())).collect()
    }
}
