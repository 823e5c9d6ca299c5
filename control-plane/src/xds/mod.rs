//! The delta ADS server: what proxies are told, and when.
//!
//! [`server`] does the I/O, [`hub`] knows which stream cares about what, [`stream`] is the protocol itself without
//! I/O or clock, and [`subscription`] the part of it that one resource type needs. State-of-the-world ADS and the
//! dialects of other clients find their place at [`node::Dialect`].

pub mod server;
mod hub;
pub mod status;
pub mod stream;
mod unserved;
pub mod subscription;
pub mod node;
