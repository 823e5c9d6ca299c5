//! A stream that CONNECT turned into a byte stream: its bytes are DATA frames, its half-closes END_STREAM (RFC 9113 section
//! 8.5). The windows provide back-pressure.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::{End, Received, StreamError};
use super::frame::Code;
use super::handle::Handle;
use crate::socket::stream;

/// The largest piece that a write takes.
const PIECE: usize = 16 * 1024;

/// Both halves of a tunnel's stream. The stream is reset if this is dropped before its end.
pub(super) struct Tunnel {
    handle: Handle,
    /// Bytes that were received and not yet read.
    read: Bytes,
    shut: bool,
}

impl Tunnel {
    pub(super) fn new(handle: Handle) -> Self {
        Self { handle, read: Bytes::new(), shut: false }
    }
}

impl stream::Tunnel for Tunnel {
    fn reset(self: Box<Self>) {
        self.handle.reset(Code::CONNECT_ERROR);
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.read.is_empty() {
            match ready!(this.handle.poll_receive(cx)) {
                Ok(Received::Data(data)) => this.read = data,
                // Trailers have no meaning for a tunnel.
                Ok(Received::Trailers(..)) => {}
                Ok(Received::End) => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(broken(&error))),
            }
        }
        let length = this.read.len().min(into.remaining());
        into.put_slice(&this.read[..length]);
        this.read.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(this.handle.poll_capacity(cx)).map_err(|error| broken(&error))?;
        let piece = &bytes[..bytes.len().min(PIECE)];
        this.handle.send_data(Bytes::copy_from_slice(piece), false).map_err(|error| broken(&error))?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The task of the connection writes.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.shut, true) {
            this.handle.send_data(Bytes::new(), true).map_err(|error| broken(&error))?;
        }
        // A tunnel that is dropped after this does not lose what is still queued.
        this.handle.poll_sent(cx).map_err(|error| broken(&error))
    }
}

fn broken(error: &StreamError) -> io::Error {
    let kind = match error {
        StreamError::Connection(End::Io(error)) => error.kind(),
        _ => io::ErrorKind::ConnectionReset,
    };
    io::Error::new(kind, error.to_string())
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").field("shut", &self.shut).finish_non_exhaustive()
    }
}
