//! The pods that the CNI plugin has missed, and their repair.
//!
//! The plugin is called only when the network of a pod is created: a pod that was started on a node before the plugin has no redirection.
//! [`role`] reads what each pod is to the plugin, [`state`] has all of them, and [`repair`] evicts those that were missed.

pub(crate) mod repair;
pub(crate) mod state;
pub(super) mod role;
