//! The control plane in a Kubernetes cluster: its resources come from the API server.
//!
//! [`source`] starts one reflector for each kind, and feeds what they report to the assembler, as the watched directory does on
//! Linux. [`pod_watch`] makes workloads of the pods. The API server may be away for any time: what was read stays, and the
//! reflectors list again when it is back. [`secret_watch`] reads the Secrets that policies refer to. [`status`] writes the status of routes. [`replica`] starts what the replicas share: the
//! election ([`lease`]), and the CA with its trust roots ([`authority`]). [`cni`] replaces pods that the CNI plugin has missed.
//! [`check`] is for `outrigger check`, [`replica_status`] for `outrigger status`, and [`scrape`] for `outrigger policy denials`.

pub mod check;
pub mod scrape;
pub mod replica_status;
pub(crate) mod webhook;
pub(crate) mod replica;
mod authority;
mod missing_sidecar;
pub(crate) mod source;
pub(crate) mod pod_watch;
mod workloads;
mod pod;
pub(crate) mod cni;
pub(crate) mod lease;
mod pod_name;
mod objects;
pub(crate) mod events;
pub(crate) mod status;
mod secret_watch;
mod reflector;
mod discovery;
pub mod client;

/// The namespace of the mesh.
const NAMESPACE: &str = "outrigger-system";

#[cfg(test)]
mod tests;
