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

impl ClientAddress {
    /// Returns true if the client is in the same network namespace. `accepted_at` is the local address of its connection.
    ///
    /// The kernel redirects connections from inside to a loopback address, which no client outside reaches; the client's address
    /// is then one of the network namespace.
    pub(crate) fn is_local(self, accepted_at: SocketAddr) -> bool {
        let (client, accepted_at) = (canonical(self.0).ip(), canonical(accepted_at).ip());
        client.is_loopback() || accepted_at.is_loopback() || client == accepted_at
    }
}

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

    #[test]
    fn a_client_inside_is_distinguished_from_one_outside() {
        for (client, accepted_at, local) in [
            ("127.0.0.1:9", "127.0.0.1:15001", true),
            ("10.1.0.7:9", "127.0.0.1:15001", true),
            ("[::ffff:10.1.0.7]:9", "[::ffff:127.0.0.1]:15001", true),
            ("[fd00::7]:9", "[::1]:15001", true),
            ("10.1.0.7:9", "10.1.0.7:8080", true),
            ("10.1.0.8:9", "10.1.0.7:15006", false),
            ("[fd00::8]:9", "[fd00::7]:15006", false),
        ] {
            let client_address = ClientAddress(client.parse().unwrap());
            assert_eq!(
                client_address.is_local(accepted_at.parse().unwrap()),
                local,
                "{client} at {accepted_at}"
            );
        }
    }

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
