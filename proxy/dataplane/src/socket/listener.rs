//! Listening sockets: created only here, named, and lent to workers.
//!
//! Each worker has its own member of a `SO_REUSEPORT` group, so that workers share no accept queue. The process keeps
//! the members: closing one resets what waits in its queue, and a parent or predecessor may have supplied them.

use std::cell::Cell;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener as StdListener};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outrigger_core::Name;
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout_at};

use super::address::{ClientAddress, canonical};
use super::stream::prepare;

/// Connections that may wait for `accept` per member; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// How long handshakes that are under way when a listener closes may take to complete: the client has our SYN-ACK, takes itself
/// for connected, and would be reset. So it is longer than most round trips. Those of this machine's own clients complete at
/// once.
const SETTLE: Duration = Duration::from_millis(200);
const SETTLE_LOOPBACK: Duration = Duration::from_millis(1);

/// How long closing may take where the kernel could not be told to begin no further handshakes.
const CLOSE: Duration = Duration::from_millis(500);

/// One listening address: a socket per worker, kept open by the process and lent to the workers.
#[derive(Debug)]
pub struct ListenerGroup {
    name: Name,
    address: SocketAddr,
    members: Vec<StdListener>,
    retired: AtomicBool,
}

/// What one worker accepts on.
#[derive(Debug)]
pub struct Listener {
    name: Name,
    socket: TcpListener,
    errors: Cell<u64>,
    /// When closing ends; `None` before it began.
    closes: Cell<Option<Instant>>,
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
        Ok(Self { name, address, members, retired: AtomicBool::new(false) })
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
        Ok(Self { name, address, members, retired: AtomicBool::new(false) })
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
        Ok(Listener { name: self.name.clone(), socket, errors: Cell::new(0), closes: Cell::new(None) })
    }

    /// The group will be closed: workers that stop accepting on it close their members, as [`Listener::last`] does.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// Whether the group will be closed.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Refuses connections from now on. For a group that is not lent: what waits in the members' queues is reset.
    pub fn close(&self) {
        self.retire();
        self.members.iter().for_each(stop_listening);
    }
}

/// Every further connection is refused, even if another process holds the socket. What waits in the queue is reset.
fn stop_listening(socket: &impl AsFd) {
    if let Err(error) = SockRef::from(socket).shutdown(Shutdown::Both) {
        tracing::debug!(%error, "a listening socket does not close");
    }
}

/// Drops packets that would begin a handshake (SYN without ACK, RFC 9293 section 3.1) and no others. A client sends its SYN
/// again after a second, and is refused then.
fn begin_no_handshakes(socket: &impl AsFd) -> io::Result<()> {
    const LOAD_BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
    const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
    const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    SockRef::from(socket).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
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

    /// The next of the connections that the kernel has accepted already; `None` when there is none left, and the socket
    /// refuses every client.
    ///
    /// So each client is served or refused, and none is reset after it was let in: handshakes that are under way complete,
    /// no others begin. Cancel-safe.
    pub async fn last(&self) -> Option<Accepted> {
        let now = Instant::now();
        let closes = self.closes.get().unwrap_or_else(|| {
            if let Err(error) = begin_no_handshakes(&self.socket) {
                tracing::debug!(listener = %self.name, %error, "no filter while a listening socket closes");
            }
            now + CLOSE
        });
        self.closes.set(Some(closes));
        let local = self.address().is_ok_and(|address| canonical(address).ip().is_loopback());
        let settle = if local { SETTLE_LOOPBACK } else { SETTLE };
        if let Ok(accepted) = timeout_at(closes.min(now + settle), self.accept()).await {
            return Some(accepted);
        }
        stop_listening(&self.socket);
        None
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

    /// Clients that connect again and again while the sockets close, from threads of their own, are all accepted or refused.
    #[tokio::test]
    async fn a_closing_listener_resets_no_connection() {
        let group = ListenerGroup::bind("test".into(), "127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let address = group.address();
        let (connected, seen) = std::sync::mpsc::channel();
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let connected = connected.clone();
                std::thread::spawn(move || {
                    while let Ok(mut stream) = std::net::TcpStream::connect(address) {
                        connected.send(()).unwrap();
                        let mut greeting = [0];
                        io::Read::read_exact(&mut stream, &mut greeting).expect("it was let in");
                    }
                })
            })
            .collect();
        drop(connected);
        let members = [group.lend(0).unwrap(), group.lend(1).unwrap()];
        let mut served = 0;
        let mut serve = async |accepted: Accepted| {
            served += 1;
            tokio::io::AsyncWriteExt::write_all(&mut { accepted.stream }, b"!").await.unwrap();
        };
        for _ in 0..200 {
            let accepted = tokio::select! { a = members[0].accept() => a, a = members[1].accept() => a };
            serve(accepted).await;
        }
        for member in &members {
            while let Some(accepted) = member.last().await {
                serve(accepted).await;
            }
        }
        let clients = tokio::task::spawn_blocking(move || clients.into_iter().try_for_each(|one| one.join()));
        clients.await.unwrap().expect("a client that was connected was served");
        assert_eq!(seen.iter().count(), served);
    }

    #[tokio::test]
    async fn what_waits_in_the_queue_is_served_before_the_socket_closes() {
        let group = ListenerGroup::bind("test".into(), "127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let listener = group.lend(0).unwrap();
        let waiting = [TcpStream::connect(group.address()).await, TcpStream::connect(group.address()).await];
        assert!(listener.last().await.is_some() && listener.last().await.is_some());
        assert!(listener.last().await.is_none());
        let refused = TcpStream::connect(group.address()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        drop(waiting);
    }

    #[test]
    fn an_address_in_use_is_refused_by_name() {
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
