//! Free ports of loopback for everything that the demo starts.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Picks free ports of loopback, never the same one twice.
#[derive(Default)]
pub(super) struct Ports(HashSet<u16>);

impl Ports {
    /// Fails when the machine has none.
    pub(super) fn pick(&mut self) -> Result<SocketAddr, String> {
        loop {
            let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
            let address = probe.map_err(|error| format!("no free port on loopback: {error}"))?;
            if self.0.insert(address.port()) {
                return Ok(address);
            }
        }
    }
}
