//! One connection, encrypted or not: the only stream type above the sockets.
//!
//! Vectored writes are passed down, so that a head and a body leave in one system call and one TLS record.

use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use outrigger_core::error::{Failure, Reached, Side};
use outrigger_core::reason::Reason;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

use super::address::EndpointAddress;
pub(crate) use super::peer::Peer;
use super::peer::ask;

/// A connection.
#[derive(Debug)]
#[non_exhaustive]
pub(crate) enum Stream {
    /// Bytes as they are.
    Plain(TcpStream),
    /// TLS, we are the server.
    TlsServer(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    /// TLS, we are the client.
    TlsClient(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    /// Within another connection.
    Tunnel(Box<dyn Tunnel>),
    /// In tests: memory.
    #[cfg(test)]
    Memory(tokio::io::DuplexStream),
}

/// A connection within another, such as an HTTP/2 CONNECT opens.
pub(crate) trait Tunnel: AsyncRead + AsyncWrite + fmt::Debug + Unpin {
    /// Ends it at once, so that the peer cannot take what it got for the whole.
    fn reset(self: Box<Self>);
}

/// Silence after which a peer is asked whether it is still there (`TCP_KEEPIDLE`), how often it is asked again, and how
/// often in all. So a peer that vanished without a word is noticed a minute after its last byte, and one that is merely
/// quiet is never cut off.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// How long what was sent to an endpoint may stay unacknowledged, or untaken where the endpoint reads nothing
/// (`TCP_USER_TIMEOUT`; tcp(7)). Keepalive asks nothing while bytes are on their way, and the kernel by itself gives up
/// after some 15 minutes. It stands for keepalive's last answer too, so that it is longer than the probes take. Not set
/// towards clients: one that reads nothing for a while is for the codec and for idle timeouts to judge.
const UNACKNOWLEDGED: Duration = Duration::from_secs(120);

/// The priority (`SO_PRIORITY`, socket(7)) of connections to the original destination of a redirected connection. A capture must
/// not redirect them again. Values up to 6 need no privilege, and 4 is queued like the default.
pub const ORIGINAL_DESTINATION_PRIORITY: u32 = 4;

/// Dials an endpoint within `timeout`, with `TCP_NODELAY` set. `is_original` is whether it is the original destination of a
/// redirected connection. A failure is safe to retry elsewhere: nothing was written.
pub(crate) async fn connect(
    endpoint: EndpointAddress,
    is_original: bool,
    timeout: Duration,
) -> Result<TcpStream, Failure> {
    let failed = |detail: String| {
        Failure::upstream(
            Reason::UpstreamConnectionFailure,
            Reached::NotWritten,
            format!("{endpoint}: {detail}"),
        )
    };
    let refused = |error: io::Error| {
        let side = if is_ours(&error) { Side::Local } else { Side::Upstream };
        Failure { side, ..failed(error.to_string()) }
    };
    let socket = if endpoint.0.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(refused)?;
    if is_original {
        SockRef::from(&socket).set_priority(ORIGINAL_DESTINATION_PRIORITY).map_err(refused)?;
    }
    let stream = tokio::time::timeout(timeout, socket.connect(endpoint.0))
        .await
        .map_err(|_| failed(format!("no connection within {} ms", timeout.as_millis())))?
        .map_err(refused)?;
    let socket = SockRef::from(&stream);
    // These fail only on a connection that has ended already; its first read will say so.
    let _ = prepare(&socket);
    let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    Ok(stream)
}

/// Whether no endpoint could have been dialled: descriptors, ports or memory are used up here.
fn is_ours(error: &io::Error) -> bool {
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::ADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| ours.iter().any(|errno| errno.raw_os_error() == code))
}

/// Sets what every connection of ours has: no delay for small writes, and probes that find a peer that vanished. What is
/// set on a listening socket its connections inherit (Linux), so that it costs them nothing.
pub(super) fn prepare(socket: &SockRef<'_>) -> io::Result<()> {
    let (time, interval, retries) = KEEPALIVE;
    let keepalive = TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(retries);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)
}

impl Stream {
    /// Closes at once, so that the peer sees a reset and cannot take what it got for the whole.
    pub(crate) fn reset(self) {
        if let Self::Tunnel(tunnel) = self {
            tunnel.reset();
        } else if let Some(stream) = self.tcp() {
            // Fails only on a socket that is gone already.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// Whether the peer has neither closed the connection nor sent anything, asked of the kernel itself: one system call.
    pub(crate) fn is_quiet(&self) -> bool {
        let Some(stream) = self.tcp() else { return true };
        let mut byte = [MaybeUninit::uninit()];
        SockRef::from(stream).peek(&mut byte).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether the peer has closed its side or the connection has broken, whatever is still unread: one system call.
    pub(crate) fn has_left(&self) -> bool {
        let Some(stream) = self.tcp() else { return false };
        let mut asked = [PollFd::new(stream, PollFlags::RDHUP)];
        // An error means that nothing was learnt; the next read or write will.
        poll(&mut asked, Some(&Timespec::default())).is_ok() && !asked[0].revents().is_empty()
    }

    /// What became of a peer whose side is closed: a few system calls.
    pub(crate) fn peer(&mut self) -> Peer {
        #[cfg(test)]
        if let Self::Memory(stream) = self {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let broken = matches!(Pin::new(stream).poll_write(&mut cx, &[]), Poll::Ready(Err(_)));
            return if broken { Peer::Gone } else { Peer::Reads };
        }
        let Some(stream) = self.tcp() else { return Peer::Unknown };
        let mut asked = [PollFd::new(stream, PollFlags::RDHUP)];
        let broken = PollFlags::HUP | PollFlags::ERR;
        match poll(&mut asked, Some(&Timespec::default())) {
            Ok(_) if asked[0].revents().intersects(broken) => Peer::Gone,
            // TLS alone was closed, in this direction (RFC 8446 section 6.1).
            Ok(_) if asked[0].revents().is_empty() => Peer::Reads,
            _ => ask(stream),
        }
    }

    /// Returns the socket, if bytes are sent as they are.
    pub(crate) fn plain(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            _ => None,
        }
    }

    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::TlsServer(stream) => Some(stream.get_ref().0),
            Self::TlsClient(stream) => Some(stream.get_ref().0),
            Self::Tunnel(_) => None,
            #[cfg(test)]
            Self::Memory(_) => None,
        }
    }

    /// Whether bytes are encrypted.
    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self, Self::TlsServer(_) | Self::TlsClient(_))
    }
}

macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self {
            Stream::Plain($stream) => $call,
            Stream::TlsServer($stream) => $call,
            Stream::TlsClient($stream) => $call,
            Stream::Tunnel($stream) => $call,
            #[cfg(test)]
            Stream::Memory($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, into))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_endpoint_that_vanishes_is_noticed_also_while_bytes_are_on_their_way() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = EndpointAddress(listener.local_addr().unwrap());
        let dialled = connect(endpoint, false, Duration::from_secs(5)).await.unwrap();
        let socket = SockRef::from(&dialled);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED));
        let (time, interval, retries) = KEEPALIVE;
        assert!(UNACKNOWLEDGED >= time + interval * retries, "the probes have their time");
    }

    #[tokio::test]
    async fn a_connection_to_the_original_destination_is_told_apart_by_its_priority() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = EndpointAddress(listener.local_addr().unwrap());
        for (is_original, priority) in [(false, 0), (true, ORIGINAL_DESTINATION_PRIORITY)] {
            let stream = connect(endpoint, is_original, Duration::from_secs(5)).await.unwrap();
            assert_eq!(SockRef::from(&stream).priority().unwrap(), priority);
        }
    }
}
