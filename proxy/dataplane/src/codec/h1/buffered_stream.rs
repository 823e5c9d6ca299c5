//! The bytes of one connection, both ways: what was read and not yet understood, what was written and not yet sent.
//!
//! Both buffers are bounded: reading stops while somebody has to understand, writing while somebody has to send.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::write::Outgoing;
use crate::socket::stream::Stream;

/// Bytes of a first read; enough for nearly every head.
const READ_MIN: usize = 8 * 1024;
/// Bytes of a read while bodies arrive faster than that.
const READ_MAX: usize = 64 * 1024;

/// How long a connection that is being closed is waited for.
const LINGER: Duration = Duration::from_secs(1);

/// A connection and its two buffers.
#[derive(Debug)]
pub(crate) struct BufferedStream {
    pub(crate) stream: Stream,
    pub(crate) read: BytesMut,
    pub(crate) out: Outgoing,
    read_size: usize,
    /// Bytes were handed to the socket since this was last cleared.
    pub(crate) wrote: bool,
    needs_flush: bool,
    /// Bytes that the socket took.
    pub(crate) written: u64,
}

impl BufferedStream {
    /// `first` was already read from `stream`.
    pub(crate) fn new(stream: Stream, first: Bytes) -> Self {
        let read = if first.is_empty() { BytesMut::new() } else { BytesMut::from(first) };
        Self {
            stream,
            read,
            out: Outgoing::default(),
            read_size: READ_MIN,
            wrote: false,
            needs_flush: false,
            written: 0,
        }
    }

    /// Reads once; the number of bytes, 0 at the end of the connection.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = self.read.capacity() - self.read.len();
        // What is left of a buffer that a head still shares is used up before another is allocated.
        if room < self.read_size / 4 {
            self.read.reserve(self.read_size);
            room = self.read.capacity() - self.read.len();
        }
        let got = ready!(pin!(self.stream.read_buf(&mut self.read)).poll(cx))?;
        self.read_size = if got == room { (self.read_size * 2).min(READ_MAX) } else { READ_MIN };
        Poll::Ready(Ok(got))
    }

    /// Gives back the memory of empty buffers; the next read or write takes it anew.
    pub(crate) fn rest(&mut self) {
        if self.read.is_empty() {
            self.read = BytesMut::new();
        }
        self.out.rest();
    }

    /// Sends all that waits.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.out.waiting() > 0 {
            ready!(self.poll_write(cx))?;
        }
        if self.needs_flush {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.needs_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends once of what waits.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.written += ready!(self.out.poll_write(cx, &mut self.stream))? as u64;
        self.wrote = true;
        // TLS may keep a record back when the socket is full; plain TCP keeps nothing.
        self.needs_flush = self.stream.is_encrypted();
        Poll::Ready(Ok(()))
    }

    /// Closes so that the peer sees an error and never an end: for a body that was cut off.
    pub(crate) fn reset(self) {
        self.stream.reset();
    }

    /// Says that nothing follows.
    pub(crate) async fn shutdown(&mut self) {
        // A client that is gone already, or reads nothing, needs no word.
        let said = poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx));
        let _ = tokio::time::timeout(LINGER, said).await;
    }

    /// Says that nothing follows, and reads what still comes for a moment, so that the answer is not lost to a reset
    /// (RFC 9112 section 9.6). Bounded by 1 s and 1 MiB.
    pub(crate) async fn linger(mut self) {
        self.shutdown().await;
        let drained = async {
            let mut left = 1024 * 1024_usize;
            loop {
                self.read.clear();
                match poll_fn(|cx| self.poll_fill(cx)).await {
                    Ok(got) if got > 0 && got < left => left -= got,
                    _ => return,
                }
            }
        };
        let _ = tokio::time::timeout(LINGER, drained).await;
    }

    /// The raw connection and what was read beyond the last head.
    pub(crate) fn into_parts(mut self) -> (Stream, Bytes) {
        let rest = self.read.copy_to_bytes(self.read.remaining());
        (self.stream, rest)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn what_rests_holds_no_memory_and_loses_nothing() {
        let (mut peer, stream) = tokio::io::duplex(64);
        let mut connection = BufferedStream::new(Stream::Memory(stream), Bytes::new());
        for text in [&b"one"[..], b"two"] {
            peer.write_all(text).await.unwrap();
            poll_fn(|cx| connection.poll_fill(cx)).await.unwrap();
            connection.rest();
            assert_eq!(&connection.read[..], text, "what is there stays");
            connection.read.clear();
            connection.rest();
            assert_eq!(connection.read.capacity(), 0);
        }
    }
}
