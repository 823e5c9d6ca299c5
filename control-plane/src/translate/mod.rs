//! Translates the mesh to xDS resources: on request, once for all clients that request the same, and again only if the mesh
//! changed.
//!
//! [`catalog`] returns the resource of a name for a viewer. Each type of resource has a file, and [`defaults`] has the default
//! of every policy.

pub mod catalog;
mod cache;
mod wildcard;
mod pod;
mod inbound;
mod inbound_chains;
mod port_policies;
mod authentication;
mod token;
mod key_cluster;
mod authorization;
mod rate_limit;
mod external_authorization;
mod rbac;
mod fault;
mod applied;
mod listener;
mod dns;
mod route;
mod action;
mod external_auth;
mod sessions;
mod other_names;
mod matching;
mod cluster;
mod backend_traffic;
mod health_check;
mod hedging;
mod endpoint;
mod defaults;
mod balancing;
mod wire;
pub mod destination;
pub mod resource;
mod map_order;
pub mod scope;
