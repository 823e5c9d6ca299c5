//! Writing a request while the answer may already arrive. A client that reads nothing before all is written deadlocks with a server
//! that answers as it reads, once the buffers of both directions are full.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// Bytes that one read may return.
const READ: usize = 32 << 10;

/// Writes all of `bytes`. What arrives while the connection accepts no more is appended to `read`. Returns the error of a
/// write; an end of the other direction is left to the reader.
pub(crate) async fn write_all<S>(stream: &mut S, mut bytes: &[u8], read: &mut BytesMut) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut ended = false;
    poll_fn(|context| {
        while !bytes.is_empty() {
            if let Poll::Ready(written) = Pin::new(&mut *stream).poll_write(context, bytes) {
                match written? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    count => bytes = bytes.get(count..).unwrap_or_default(),
                }
                continue;
            }
            if ended {
                return Poll::Pending;
            }
            let mut chunk = [0; 16 << 10];
            let mut into = ReadBuf::new(&mut chunk);
            match ready!(Pin::new(&mut *stream).poll_read(context, &mut into)) {
                Ok(()) if !into.filled().is_empty() => read.extend_from_slice(into.filled()),
                _ => ended = true,
            }
        }
        // A TLS stream keeps what it has encrypted until it is flushed.
        Pin::new(&mut *stream).poll_flush(context)
    })
    .await
}

/// Appends what arrives next to `read`. Returns false at the end.
pub(crate) async fn fill<S: AsyncRead + Unpin>(stream: &mut S, read: &mut BytesMut) -> io::Result<bool> {
    read.reserve(READ);
    Ok(stream.read_buf(read).await? > 0)
}

/// Returns false if unsolicited bytes or the end of the connection have arrived: the connection is not to be used again.
pub(crate) async fn is_quiet<S: AsyncRead + Unpin>(stream: &mut S) -> bool {
    let mut byte = [0];
    let mut into = ReadBuf::new(&mut byte);
    poll_fn(|context| Poll::Ready(Pin::new(&mut *stream).poll_read(context, &mut into).is_pending())).await
}
