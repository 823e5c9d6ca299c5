//! HTTP/2 clients over the `h2` crate.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Connects in the clear, with prior knowledge (RFC 9113 section 3.3).
pub async fn connect(to: SocketAddr) -> SendRequest<Bytes> {
    over(TcpStream::connect(to).await.unwrap()).await
}

/// Speaks HTTP/2 on `stream`, until all clones of what is returned are dropped.
pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> SendRequest<Bytes> {
    let mut builder = h2::client::Builder::new();
    let (sender, connection) = builder.initial_max_send_streams(1024).handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}
