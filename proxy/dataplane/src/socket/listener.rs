//! Listening sockets: made here and nowhere else, named, and lent to workers.
//!
//! Each worker has its own member of a `SO_REUSEPORT` group, so that workers share no accept queue. The process keeps
//! the members: closing one resets what waits in its queue, and a parent or predecessor may have supplied them.

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use outrigger_core::Name;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};

use super::address::{ClientAddress, canonical};
use super::stream::prepare;

/// Connections that may wait for `accept` per member; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// One listening address: a socket per worker, kept open by the process and lent to the workers.
#[derive(Debug)]
pub struct ListenerGroup {
    name: Name,
    address: SocketAddr,
    members: Vec<StdListener>,
}

/// What one worker accepts on.
#[derive(Debug)]
pub struct Listener {
    name: Name,
    socket: TcpListener,
    errors: Cell<u64>,
}

/// A connection that came in.
#[derive(Debug)]
pub struct Accepted {
    /// The connection, with `TCP_NODELAY` and keepalive, which the listening socket passed on.
    pub stream: TcpStream,
    /// Who dialled.
    pub client: ClientAddress,
}

/// A listening socket that could not be made. The text says what and where.
#[derive(Debug, Error)]
#[error("listener {name}: cannot listen on {address}: {source}")]
pub struct ListenError {
    name: Name,
    address: SocketAddr,
    source: io::Error,
}

impl ListenerGroup {
    /// Makes `workers` sockets (at least one) that share `address`. Port 0 picks one free port for all of them.
    pub fn bind(name: Name, address: SocketAddr, workers: usize) -> Result<Self, ListenError> {
        let failed = |source| ListenError { name: name.clone(), address, source };
        let first = listen(address).map_err(failed)?;
        let address = first.local_addr().map_err(failed)?;
        let mut members = vec![first];
        for _ in 1..workers {
            members.push(listen(address).map_err(failed)?);
        }
        Ok(Self { name, address, members })
    }

    /// Takes sockets that listen already: from a parent, from systemd, from the process before this one.
    ///
    /// Fails when `members` is empty or a member does not listen.
    pub fn adopt(name: Name, members: Vec<StdListener>) -> io::Result<Self> {
        let first = members.first().ok_or_else(|| io::Error::other("no listening socket was supplied"))?;
        let address = first.local_addr()?;
        for member in &members {
            member.set_nonblocking(true)?;
            prepare(&SockRef::from(member))?;
        }
        Ok(Self { name, address, members })
    }

    /// What the group is called in logs and metrics.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The address, with the port that was picked.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lends a member to worker number `worker`; workers beyond the members share them. Call it on that worker's runtime.
    pub fn lend(&self, worker: usize) -> io::Result<Listener> {
        let member = &self.members[worker % self.members.len()];
        let socket = TcpListener::from_std(member.try_clone()?)?;
        Ok(Listener { name: self.name.clone(), socket, errors: Cell::new(0) })
    }
}

fn listen(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 too, as on every Linux server; an explicit IPv6 address is only itself anyway.
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    prepare(&SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Listener {
    /// The next connection. Never ends and never fails: what an accept error means is decided here.
    ///
    /// A connection that was reset while it waited costs nothing. When descriptors or memory run out, the error stays
    /// until something closes, so accepting pauses for 5 ms, doubling up to 1 s (accept(2), "Error handling"). Cancel-safe.
    pub async fn accept(&self) -> Accepted {
        let mut pause = Duration::from_millis(5);
        loop {
            match self.socket.accept().await {
                Ok((stream, client)) => {
                    return Accepted { stream, client: ClientAddress(canonical(client)) };
                }
                Err(error) if is_of_one_connection(&error) => self.errors.set(self.errors.get() + 1),
                Err(error) => {
                    self.errors.set(self.errors.get() + 1);
                    tracing::warn!(listener = %self.name, %error, pause_ms = pause.as_millis() as u64, "accept failed");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
            }
        }
    }

    /// How many calls of accept have failed since this was last asked.
    pub fn take_errors(&self) -> u64 {
        self.errors.take()
    }

    /// What the listener is called in logs and metrics.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// Whether an error of accept concerns the one connection that it would have returned. Linux passes pending network
/// errors of the new socket through accept.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkDown,
        NetworkUnreachable, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | TimedOut
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn workers_share_one_port_and_a_lent_socket_outlives_its_borrower() {
        let group = ListenerGroup::bind("test".into(), "127.0.0.1:0".parse().unwrap(), 2).unwrap();
        assert_ne!(group.address().port(), 0);
        drop(group.lend(0).unwrap());
        let (zero, one) = (group.lend(0).unwrap(), group.lend(1).unwrap());
        let client = TcpStream::connect(group.address()).await.unwrap();
        let accepted = tokio::select! { a = zero.accept() => a, a = one.accept() => a };
        assert_eq!(accepted.client.0, client.local_addr().unwrap());
        let socket = SockRef::from(&accepted.stream);
        assert!(accepted.stream.nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(30));
        assert_eq!(socket.tcp_user_timeout().unwrap(), None, "a client may read nothing for a while");
    }

    #[test]
    fn a_taken_address_is_refused_by_name() {
        let taken = StdListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = ListenerGroup::bind("admin".into(), address, 1).unwrap_err().to_string();
        assert!(error.starts_with(&format!("listener admin: cannot listen on {address}: ")), "{error}");
    }

    #[test]
    fn an_empty_gift_is_refused() {
        assert!(ListenerGroup::adopt("test".into(), vec![]).is_err());
    }
}
