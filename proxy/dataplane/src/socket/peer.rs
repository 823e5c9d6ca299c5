//! Determines whether a client that has closed its side of a connection still reads the other side, or is gone.
//!
//! TCP signals both with a FIN. Most clients of a sidecar are applications in its own network namespace, where the kernel knows
//! more: whether the client's own socket still belongs to a process (sock_diag(7), one exchange over netlink). The kernel is
//! queried only when a client closes its side while a response is owed to it.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

use super::address::{ClientAddress, OriginalDestination, canonical};

/// The state of a client that has closed its side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// It has closed its side and still reads the other.
    Reads,
    /// It has closed or reset the connection.
    Gone,
    /// Unknown, because it is on another machine.
    Unknown,
}

/// Queries the kernel about the client at the other end of `stream`.
pub(super) fn ask(stream: &TcpStream) -> Peer {
    let (Ok(client), Ok(local)) = (stream.peer_addr().map(canonical), stream.local_addr().map(canonical))
    else {
        return Peer::Gone;
    };
    // The socket of a redirected client is connected to the original destination.
    let dialled = OriginalDestination::of(stream).ok().flatten().map_or(local, |original| original.0);
    let is_local = ClientAddress(client).is_local(local);
    judge(inode(client, dialled), is_local, || inode(local, client))
}

/// Interprets the kernel's answer about the client's socket. `ours` is its answer about the other end, which exists. If the
/// kernel does not answer, the state is unknown; the caller then waits for a while, whatever the client does.
fn judge(
    client: io::Result<Option<u32>>,
    is_local: bool,
    ours: impl FnOnce() -> io::Result<Option<u32>>,
) -> Peer {
    match client {
        Ok(Some(0)) => Peer::Gone,
        Ok(Some(_)) => Peer::Reads,
        // The client is on this machine, and no process has its socket any more. A kernel without this diagnosis gives the same
        // answer for every socket.
        Ok(None) if is_local && matches!(ours(), Ok(Some(_))) => Peer::Gone,
        Ok(None) | Err(_) => Peer::Unknown,
    }
}

/// linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h.
const AF_NETLINK: i32 = 16;
const NETLINK_SOCK_DIAG: i32 = 4;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const IPPROTO_TCP: u8 = 6;
const HEADER_BYTES: usize = 16;
/// The offset of `inet_diag_msg.idiag_inode` in an answer.
const INODE_AT: usize = HEADER_BYTES + 4 + 48 + 16;

/// Returns the inode of this machine's socket that is bound to `local` and connected to `remote`, or 0 if no process has it
/// open. Returns `None` if there is no such socket in this network namespace.
fn inode(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
    let netlink =
        Socket::new(Domain::from(AF_NETLINK), Type::DGRAM, Some(Protocol::from(NETLINK_SOCK_DIAG)))?;
    // The kernel answers within the call that sends the query.
    netlink.set_nonblocking(true)?;
    netlink.send(&question(local, remote))?;
    let mut answer = [0; 512];
    let got = (&netlink).read(&mut answer)?;
    let field = |at: usize| -> Option<[u8; 4]> { answer[..got].get(at..at + 4)?.try_into().ok() };
    let kind = field(4).map(|word| u16::from_ne_bytes([word[0], word[1]]));
    match kind {
        Some(SOCK_DIAG_BY_FAMILY) => Ok(field(INODE_AT).map(u32::from_ne_bytes)),
        Some(NLMSG_ERROR) => {
            let error = io::Error::from_raw_os_error(-field(HEADER_BYTES).map_or(0, i32::from_ne_bytes));
            if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(error) }
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Returns an `inet_diag_req_v2` after its netlink header.
fn question(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    const FAMILIES: (u8, u8) = (2, 10);
    let family = if local.is_ipv4() { FAMILIES.0 } else { FAMILIES.1 };
    let mut bytes = Vec::with_capacity(72);
    bytes.extend_from_slice(&72_u32.to_ne_bytes());
    bytes.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    // Family, protocol, no extensions, padding; every state.
    bytes.extend_from_slice(&[family, IPPROTO_TCP, 0, 0]);
    bytes.extend_from_slice(&u32::MAX.to_ne_bytes());
    bytes.extend_from_slice(&local.port().to_be_bytes());
    bytes.extend_from_slice(&remote.port().to_be_bytes());
    for address in [local.ip(), remote.ip()] {
        let mut octets = [0; 16];
        match address {
            IpAddr::V4(v4) => octets[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => octets = v6.octets(),
        }
        bytes.extend_from_slice(&octets);
    }
    // Any interface, no cookie.
    bytes.extend_from_slice(&0_u32.to_ne_bytes());
    bytes.extend_from_slice(&[0xff; 8]);
    bytes
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn without_an_answer_from_the_kernel_no_client_counts_as_gone() {
        let fails = || Err(io::ErrorKind::Unsupported.into());
        for (client, is_local, ours, peer) in [
            (Ok(Some(7)), false, fails(), Peer::Reads),
            (Ok(Some(0)), false, fails(), Peer::Gone),
            (Ok(None), true, Ok(Some(8)), Peer::Gone),
            (Ok(None), false, Ok(Some(8)), Peer::Unknown),
            (Ok(None), true, Ok(None), Peer::Unknown),
            (Ok(None), true, fails(), Peer::Unknown),
            (fails(), true, Ok(Some(8)), Peer::Unknown),
        ] {
            let asked = format!("{client:?} {is_local} {ours:?}");
            assert_eq!(judge(client, is_local, || ours), peer, "{asked}");
        }
    }

    #[tokio::test]
    async fn a_half_closed_client_is_distinguished_from_one_that_is_gone() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            assert_eq!(ask(&accepted), Peer::Reads);
            client.shutdown().await.unwrap();
            assert_eq!(ask(&accepted), Peer::Reads, "half-closed");
            drop(client);
            assert_eq!(ask(&accepted), Peer::Gone, "closed");
        }
    }
}
