//! Opens the connections of a worker: TCP, and TLS on it if the target has it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::failure::Failure;
use super::recorder::Shared;
use super::spec::Tls;

/// Where a worker's connections go.
pub(super) struct Connector {
    address: SocketAddr,
    tls: Option<Tls>,
    shared: Arc<Shared>,
}

impl Connector {
    /// Opened connections are counted in `shared`.
    pub(super) fn new(address: SocketAddr, tls: Option<Tls>, shared: Arc<Shared>) -> Self {
        Self { address, tls, shared }
    }

    /// Opens a connection. Returns why it failed: not accepted, or refused in the handshake.
    pub(super) async fn connect(&self) -> Result<Io, Failure> {
        let refused = |error: io::Error| Failure::Connect(error.kind());
        let stream = TcpStream::connect(self.address).await.map_err(refused)?;
        stream.set_nodelay(true).map_err(refused)?;
        let Some(tls) = &self.tls else {
            self.shared.connections.fetch_add(1, Ordering::Relaxed);
            return Ok(Io::Plain(stream));
        };
        let connector = TlsConnector::from(Arc::clone(&tls.config));
        let stream = connector
            .connect(tls.server_name.clone(), stream)
            .await
            .map_err(|error| Failure::Tls(error.to_string()))?;
        let offered = &tls.config.alpn_protocols;
        if offered.iter().all(|name| name == b"h2")
            && !offered.is_empty()
            && stream.get_ref().1.alpn_protocol().is_none()
        {
            return Err(Failure::Protocol("the server does not speak HTTP/2 over TLS (no ALPN h2)".into()));
        }
        self.shared.connections.fetch_add(1, Ordering::Relaxed);
        Ok(Io::Tls(Box::new(stream)))
    }
}

/// An open connection.
pub(super) enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, into),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
