//! The proxy's configuration: compiled xDS resources, and the immutable snapshots built from them.
//!
//! Discovery compiles resources ([`compiled::Compiled`]), passes the warm ones to [`build::Builder`] and publishes the
//! resulting snapshot. The data path reads the snapshot and requests missing destinations through [`on_demand`]. Neither
//! depends on the other. A module uses only modules listed below it.

pub mod on_demand;
pub mod binding;
pub mod publish;
pub mod build;
pub mod resources;
pub mod compiled;
pub mod snapshot;
mod adopt;
pub mod listener;
pub mod host;
pub mod destination;
mod handler;
pub mod http_manager;
pub mod tcp_proxy;
pub mod route;
pub mod cluster;
pub mod endpoint;
pub mod verify;
pub mod secrets;
pub mod tls;
pub mod host_tls;
mod common_tls;
mod wire;
pub mod name;

/// A hash map keyed by name. The hash does not resist chosen keys: keys come from the control plane or are bounded in number.
pub type Map<V> = foldhash::HashMap<outrigger_core::Name, V>;
