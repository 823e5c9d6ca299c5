//! Sockets that an embedding process has bound, such as `outrigger run`, which holds them while a crashed sidecar is started again.
//!
//! A flag whose address such a socket has takes it instead of binding another.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::{Socket, Type};

/// The sockets that no flag has taken yet.
#[derive(Debug, Default)]
pub(crate) struct InheritedSockets(Vec<Socket>);

impl InheritedSockets {
    /// Creates the set.
    pub(crate) fn new(sockets: Vec<OwnedFd>) -> Self {
        Self(sockets.into_iter().map(Socket::from).collect())
    }

    /// Takes the socket with this type and local address. Returns None if there is none.
    pub(crate) fn take(&mut self, kind: Type, address: SocketAddr) -> Option<Socket> {
        let is_it = |socket: &Socket| {
            socket.r#type().is_ok_and(|its| its == kind)
                && socket.local_addr().is_ok_and(|local| local.as_socket() == Some(address))
        };
        self.0.iter().position(is_it).map(|at| self.0.swap_remove(at))
    }
}
