//! The names of a workload's inbound resources. The control plane makes them; the proxy binds its sockets under the same names.

use std::net::SocketAddr;

use crate::Name;

/// What the names of inbound listeners, filter chains and clusters begin with.
pub const INBOUND_PREFIX: &str = "inbound|";

/// Returns the name of the inbound listener at `address`, or of the cluster whose application listens at `address`.
pub fn inbound_name(address: SocketAddr) -> Name {
    format!("{INBOUND_PREFIX}{address}").into()
}
