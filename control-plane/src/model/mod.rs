//! The mesh as the operator configured it: services, endpoints and routes, with Gateway API's rules applied.
//!
//! Sources provide resources; translation reads a [`mesh::Mesh`], an immutable value that shares its unchanged parts with the
//! previous version. No YAML and no type of Gateway API or Kubernetes crosses this boundary.

pub(crate) mod mesh_builder;
pub(crate) mod findings;
mod conditions;
mod unverified_claims;
mod question_cycles;
pub(crate) mod policies;
mod policy_targets;
mod both_kinds;
mod needed_service;
mod needed_secret;
mod backend_message;
mod attachment;
mod automatic_addresses;
mod inventory;
pub mod status;
pub mod resource;
pub mod mesh;
pub mod caller_policies;
pub mod policy;
pub mod registration;
pub mod authentication;
pub mod authorization;
pub mod gateway_traffic;
pub mod backend_traffic;
pub mod health_check;
pub mod hedging;
pub mod external_authorization;
pub mod slow_start;
pub mod locality;
pub mod fault_injection;
pub mod rate_limit;
pub mod route;
pub mod session_persistence;
pub mod endpoint;
pub mod service;
pub mod diagnostic;
pub(crate) mod similar;
mod pod_index;
mod address_index;
mod changed_keys;
