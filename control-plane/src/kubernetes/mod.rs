//! The control plane in a Kubernetes cluster: its resources come from the API server.
//!
//! [`source`] starts one reflector for each kind, and feeds what they report to the assembler, as the watched directory does on
//! Linux. [`pod_watch`] makes workloads of the pods. The API server may be away for any time: what was read stays, and the
//! reflectors list again when it is back. [`status`] writes back what became of them. [`replica`] starts what the replicas share: the
//! election ([`lease`]), the CA ([`authority`], [`rotation`]) and the trust roots ([`trust_roots`]). [`capture_repair`] replaces pods
//! that the CNI plugin has missed. [`mtls_check`] is for `outrigger check`.

pub(crate) mod webhook;
pub(crate) mod capture_repair;
pub mod mtls_check;
mod mtls_findings;
mod cluster_check;
mod workload_findings;
mod cluster_findings;
mod workload_name;
pub mod replica_status;
pub(crate) mod replica;
mod authority;
mod rotation;
mod trust_roots;
mod root_record;
mod missing_sidecar;
pub(crate) mod lease;
pub(crate) mod source;
pub(crate) mod pod_watch;
mod workloads;
pub(crate) mod uncaptured;
mod pod;
mod capture;
mod objects;
pub(crate) mod events;
pub(crate) mod status;
mod reflector;
mod discovery;
pub mod client;

/// The namespace of the mesh.
const NAMESPACE: &str = "outrigger-system";

#[cfg(test)]
mod tests;
