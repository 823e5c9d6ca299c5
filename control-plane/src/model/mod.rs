//! The mesh as the operator wrote it: services, endpoints and routes, with Gateway API's rules applied.
//!
//! Sources bring resources in; translation reads a [`mesh::Mesh`], an immutable value whose unchanged parts are
//! shared with the version before it. No YAML and no type of Gateway API or Kubernetes passes this boundary.

pub(crate) mod mesh_builder;
mod conditions;
mod attachment;
mod inventory;
pub mod status;
pub mod resource;
pub mod mesh;
pub mod registration;
pub mod route;
pub mod endpoint;
pub mod service;
mod address_index;
mod changed_keys;
