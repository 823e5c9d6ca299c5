//! Bytes without requests: TCP echo and sink, and WebSocket.

use std::io;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite;

/// Bytes that one read may return.
const READ: usize = 64 << 10;

/// Returns what arrives.
pub(super) async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = vec![0; READ];
    loop {
        let read = stream.read(&mut bytes).await?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(bytes.get(..read).unwrap_or_default()).await?;
    }
}

/// Reads and drops what arrives.
pub(super) async fn sink(mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = vec![0; READ];
    while stream.read(&mut bytes).await? > 0 {}
    Ok(())
}

/// Returns each message. Pings are answered by the library.
pub(super) async fn websocket(stream: TcpStream) -> Result<(), tungstenite::Error> {
    let mut stream = tokio_tungstenite::accept_async(stream).await?;
    while let Some(message) = stream.next().await.transpose()? {
        if message.is_binary() || message.is_text() {
            stream.send(message).await?;
        }
    }
    Ok(())
}
