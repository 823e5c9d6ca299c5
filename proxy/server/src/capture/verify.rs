//! Proves the redirection with a connection of each IP family: to an address that no host has, so that it can be established
//! only if it is redirected.
//!
//! The connection arrives at a socket of our own or, while the sidecar runs, at the sidecar's. The rules of both directions are
//! set in one transaction, so an outbound connection proves both.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::process::geteuid;
use socket2::SockRef;

use super::CaptureError as Error;
use super::rules::{Redirection, probe_addresses};

/// How long the kernel may take for a connection to itself.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The outcome for one IP family.
#[derive(Debug, PartialEq, Eq)]
enum Probed {
    Redirected,
    /// This network namespace has no route for the family.
    NoRoute,
}

/// Returns an error unless connections are redirected in each IP family for which this network namespace has a route.
pub(super) fn verify(redirection: &Redirection) -> Result<(), Error> {
    if geteuid().as_raw() == redirection.proxy_uid {
        return Err(Error::ProxyUser(redirection.proxy_uid));
    }
    outbound(redirection.outbound_port)
}

/// The same for the connections of this process, which are redirected to `port`.
pub(super) fn outbound(port: u16) -> Result<(), Error> {
    let probed: Vec<_> = probe_addresses(port).into_iter().map(probe).collect::<Result<_, _>>()?;
    if probed.contains(&Probed::Redirected) { Ok(()) } else { Err(Error::NoRoute) }
}

fn probe(address: SocketAddr) -> Result<Probed, Error> {
    let not_redirected = |source| Error::NotRedirected { address, source };
    let loopback: IpAddr =
        if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let ours = match TcpListener::bind((loopback, address.port())) {
        Ok(listener) => Some(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
        // The kernel does not have this IP family.
        Err(error) if is_unroutable(&error) => return Ok(Probed::NoRoute),
        Err(error) => return Err(not_redirected(error)),
    };
    let client = match TcpStream::connect_timeout(&address, TIMEOUT) {
        Ok(client) => client,
        Err(error) if is_unroutable(&error) => return Ok(Probed::NoRoute),
        Err(error) => return Err(not_redirected(error)),
    };
    // A reset: the sidecar must not take it for a client that waits for the server's bytes.
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).map_err(not_redirected)?;
    let Some(listener) = ours else { return Ok(Probed::Redirected) };
    listener.set_nonblocking(true).map_err(not_redirected)?;
    let (accepted, from) = listener.accept().map_err(not_redirected)?;
    let socket = SockRef::from(&accepted);
    let original = if address.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    let is_ours = client.local_addr().is_ok_and(|local| local == from);
    match original.map_err(not_redirected)?.as_socket() {
        Some(original) if original == address && is_ours => Ok(Probed::Redirected),
        _ => Err(not_redirected(io::Error::other("another connection arrived"))),
    }
}

fn is_unroutable(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, NetworkUnreachable, Unsupported};
    const EAFNOSUPPORT: i32 = 97;
    matches!(error.kind(), AddrNotAvailable | NetworkUnreachable | Unsupported)
        || error.raw_os_error() == Some(EAFNOSUPPORT)
}
