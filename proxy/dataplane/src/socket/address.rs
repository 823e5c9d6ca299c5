//! Addresses that must never be taken for one another: of the client, of what it dialled, of what we dial.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpStream;

/// Where a connection came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddress(pub SocketAddr);

/// What a redirected connection was for, before the kernel's REDIRECT rule brought it here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct OriginalDestination(pub SocketAddr);

/// Where an endpoint of a cluster listens: what we dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct EndpointAddress(pub SocketAddr);

impl OriginalDestination {
    /// Asks the kernel's connection tracking (`SO_ORIGINAL_DST`, `IP6T_SO_ORIGINAL_DST`) what `stream` was for.
    ///
    /// `None` when the connection was not redirected: connection tracking does not know it, or the answer is the address
    /// at which it was accepted. Other errors of the socket are passed on.
    pub(crate) fn of(stream: &TcpStream) -> io::Result<Option<Self>> {
        let local = canonical(stream.local_addr()?);
        let socket = SockRef::from(stream);
        let asked = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
        match asked {
            Ok(address) => {
                Ok(address.as_socket().map(canonical).filter(|original| *original != local).map(Self))
            }
            // ENOENT: not tracked. ENOPROTOOPT: no connection tracking in this kernel. EOPNOTSUPP: not this family.
            Err(error) if matches!(error.raw_os_error(), Some(2 | 92 | 95)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// An IPv4 address that arrived on a socket of both families, as IPv4.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for OriginalDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_was_not_redirected_has_no_original_destination() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address).await else { continue };
            let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            assert_eq!(OriginalDestination::of(&accepted).unwrap(), None, "{address}");
        }
    }
}
