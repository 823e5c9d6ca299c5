//! The sockets of the DNS answerer: UDP and TCP (RFC 7766) at one address.
//!
//! What is in progress is bounded: queries that wait, connections, and how long each may be idle. At the bound, the oldest is dropped for
//! a new one; its client repeats it. Known hosts are answered whatever else waits.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

use super::answerer::{Answerer, Step};
use super::bounded_tasks::BoundedTasks;
use super::counters::QueryOutcome;
use super::query::Transport;

/// The maximum number of queries over UDP that wait for the control plane or a name server.
const MAX_WAITING: usize = 256;
/// The maximum number of TCP connections.
const MAX_CONNECTIONS: usize = 64;
/// How long a TCP connection may be without a query, and a client may take for a query or a response.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest query over UDP.
const MAX_QUERY_SIZE: usize = 4096;
/// The pause after an error of a socket, such as that descriptors have run out.
const ERROR_PAUSE: Duration = Duration::from_millis(50);
/// How many ports are attempted until one is free for both protocols.
const PORT_ATTEMPTS: usize = 16;

/// Sockets of both protocols at one address.
#[derive(Debug)]
pub(crate) struct DnsSocket {
    udp: StdUdpSocket,
    tcp: StdTcpListener,
    address: SocketAddr,
}

impl DnsSocket {
    /// Binds both. Port 0 is one that is free for both.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let mut attempts = if address.port() == 0 { PORT_ATTEMPTS } else { 1 };
        loop {
            attempts -= 1;
            let tcp = StdTcpListener::bind(address)?;
            let bound = tcp.local_addr()?;
            match StdUdpSocket::bind(bound) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts > 0 => {}
                udp => return Self::adopt(udp?, tcp),
            }
        }
    }

    /// Takes sockets that are bound to the same address.
    pub(crate) fn adopt(udp: StdUdpSocket, tcp: StdTcpListener) -> io::Result<Self> {
        tcp.set_nonblocking(true)?;
        udp.set_nonblocking(true)?;
        let address = tcp.local_addr()?;
        Ok(Self { udp, tcp, address })
    }

    /// Returns the address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Serves a socket on the current runtime until the process ends.
pub(crate) fn serve(socket: DnsSocket, answerer: Arc<Answerer>) -> io::Result<()> {
    let (udp, tcp) = (UdpSocket::from_std(socket.udp)?, TcpListener::from_std(socket.tcp)?);
    tokio::spawn(serve_udp(Arc::new(udp), Arc::clone(&answerer)));
    tokio::spawn(serve_tcp(tcp, answerer));
    Ok(())
}

async fn serve_udp(socket: Arc<UdpSocket>, answerer: Arc<Answerer>) {
    let mut waiting = BoundedTasks::new(MAX_WAITING);
    let mut buffer = vec![0; MAX_QUERY_SIZE];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // Also what ICMP says about an earlier response.
            Err(error) => {
                tracing::debug!(%error, "DNS over UDP");
                sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        match answerer.at_once(buffer.get(..length).unwrap_or_default(), Transport::Udp) {
            Step::Done(response) => send(&socket, response.as_deref().unwrap_or_default(), client).await,
            Step::Wait(query) => {
                let (socket, same) = (Arc::clone(&socket), Arc::clone(&answerer));
                let dropped = waiting.spawn(async move {
                    let response = same.wait(&query, client.ip()).await;
                    send(&socket, &response, client).await;
                });
                if dropped {
                    answerer.counters.count(QueryOutcome::Dropped);
                }
            }
        }
    }
}

async fn send(socket: &UdpSocket, response: &[u8], client: SocketAddr) {
    if !response.is_empty()
        && let Err(error) = socket.send_to(response, client).await
    {
        tracing::debug!(%client, %error, "a DNS response was not sent");
    }
}

async fn serve_tcp(listener: TcpListener, answerer: Arc<Answerer>) {
    let mut connections = BoundedTasks::new(MAX_CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                let same = Arc::clone(&answerer);
                let dropped = connections.spawn(async move {
                    // The client has left, or was idle.
                    let _ = serve_connection(stream, client, &same).await;
                });
                if dropped {
                    answerer.counters.count(QueryOutcome::Dropped);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "DNS over TCP");
                sleep(ERROR_PAUSE).await;
            }
        }
    }
}

/// Answers the queries of a connection in order, until the client closes it.
async fn serve_connection(mut stream: TcpStream, client: SocketAddr, answerer: &Answerer) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let query = timeout(IDLE_TIMEOUT, async {
            let mut query = vec![0; usize::from(stream.read_u16().await?)];
            stream.read_exact(&mut query).await?;
            io::Result::Ok(query)
        });
        let query = query.await??;
        let response = match answerer.at_once(&query, Transport::Tcp) {
            Step::Done(Some(response)) => response,
            Step::Done(None) => return Ok(()),
            Step::Wait(query) => answerer.wait(&query, client.ip()).await,
        };
        let length = u16::try_from(response.len()).map_err(io::Error::other)?;
        let message = [&length.to_be_bytes()[..], &response].concat();
        timeout(IDLE_TIMEOUT, stream.write_all(&message)).await??;
    }
}
