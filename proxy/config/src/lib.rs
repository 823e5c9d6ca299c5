//! The immutable snapshot: built and published here; what the data path asks for.
//!
//! Discovery compiles resources ([`compiled::Compiled`]), brings those that are warm to [`build::Builder`] and publishes the
//! snapshot that it makes; the data path reads the snapshot and tells [`demand`] what it misses. Neither sees the other. As everywhere, a module uses only modules listed below it.

pub mod demand;
pub mod binding;
pub mod publish;
pub mod build;
pub mod resources;
pub mod compiled;
pub mod snapshot;
pub mod listener;
pub mod destination;
pub mod handler;
pub mod http_manager;
pub mod tcp_proxy;
pub mod route;
pub mod cluster;
pub mod endpoint;
pub mod verify;
pub mod secrets;
pub mod tls;
mod wire;
pub mod kind;
pub mod name;

/// A map by name, fast to look up. Its keys come from the control plane or are bounded in number, never a stranger's choice.
pub type Map<V> = foldhash::HashMap<outrigger_core::Name, V>;
