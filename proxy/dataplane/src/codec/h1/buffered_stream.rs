//! A stream with two buffers: bytes that were read and not yet parsed, and bytes that were written and not yet sent.
//!
//! Both buffers are bounded: reading stops until the bytes are parsed, writing until they are sent. An empty buffer belongs to
//! the worker ([`buffers`]).

use std::future::{Future, pending, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::write::Outgoing;
use crate::codec::buffers;
use crate::socket::stream::Stream;

/// The size of a first read.
const READ_MIN: usize = buffers::SIZE;
/// The maximum size of a read, while bodies arrive fast.
const READ_MAX: usize = 64 * 1024;

/// Timeout for closing a connection.
const LINGER: Duration = Duration::from_secs(1);

/// A stream and its two buffers.
#[derive(Debug)]
pub(crate) struct BufferedStream {
    pub(crate) stream: Stream,
    pub(crate) read: BytesMut,
    pub(crate) out: Outgoing,
    read_size: usize,
    /// Whether bytes were passed to the socket since this was last cleared.
    pub(crate) wrote: bool,
    needs_flush: bool,
    /// The number of bytes that the socket has accepted.
    pub(crate) written: u64,
}

impl BufferedStream {
    /// Creates the buffers of `stream`, from which `first` was already read.
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

    /// Reads once. Returns the number of bytes, 0 at the end of the stream.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.read.capacity() == 0 {
            let fits = self.read_size <= buffers::SIZE;
            self.read = if fits { buffers::take() } else { BytesMut::with_capacity(self.read_size) };
        }
        let mut room = self.read.capacity() - self.read.len();
        // The rest of a buffer that a head still shares is used up before another is allocated.
        if room < self.read_size / 4 {
            self.read.reserve(self.read_size);
            room = self.read.capacity() - self.read.len();
        }
        let Poll::Ready(got) = pin!(self.stream.read_buf(&mut self.read)).poll(cx)? else {
            self.return_read_buffer();
            return Poll::Pending;
        };
        self.read_size = if got == room { (self.read_size * 2).min(READ_MAX) } else { READ_MIN };
        Poll::Ready(Ok(got))
    }

    /// Holds no memory for what is empty, until the next read or write.
    pub(crate) fn rest(&mut self) {
        self.return_read_buffer();
        self.out.rest();
    }

    fn return_read_buffer(&mut self) {
        if self.read.is_empty() {
            buffers::give(std::mem::take(&mut self.read));
        }
    }

    /// Sends all queued bytes.
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

    /// Sends queued bytes once.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.written += ready!(self.out.poll_write(cx, &mut self.stream))? as u64;
        self.wrote = true;
        // TLS may buffer a record if the socket is full; plain TCP buffers nothing.
        self.needs_flush = self.stream.is_encrypted();
        Poll::Ready(Ok(()))
    }

    /// Resets the connection, so that the peer sees an error instead of a clean end: for a body that was cut off.
    pub(crate) fn reset(self) {
        self.stream.reset();
    }

    /// Closes the sending side.
    pub(crate) async fn shutdown(&mut self) {
        // A client that is gone, or reads nothing, does not have to be notified.
        let said = poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx));
        let _ = tokio::time::timeout(LINGER, said).await;
    }

    /// Closes the sending side and waits until the client has closed its own, for 1 s at most, so that the response is not lost to a
    /// reset (RFC 9112 section 9.6). Of what the client sends meanwhile, 1 MiB is read; the rest fills the buffers of the kernel.
    pub(crate) async fn linger(mut self) {
        self.shutdown().await;
        let closed = async {
            let mut left = 1024 * 1024_usize;
            while left > 0 {
                self.read.clear();
                match poll_fn(|cx| self.poll_fill(cx)).await {
                    Ok(got) if got > 0 => left = left.saturating_sub(got),
                    _ => return,
                }
            }
            self.read = BytesMut::new();
            pending().await
        };
        let _ = tokio::time::timeout(LINGER, closed).await;
    }

    /// Returns the raw stream and the bytes that were read beyond the last head.
    pub(crate) fn into_parts(mut self) -> (Stream, Bytes) {
        let rest = self.read.copy_to_bytes(self.read.remaining());
        (self.stream, rest)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::time::Instant;

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

    #[tokio::test]
    async fn reads_grow_while_bytes_arrive_fast() {
        let (mut peer, stream) = tokio::io::duplex(256 * 1024);
        let mut connection = BufferedStream::new(Stream::Memory(stream), Bytes::new());
        peer.write_all(&[b'x'; 150 * 1024]).await.unwrap();
        let mut reads = Vec::new();
        for _ in 0..5 {
            reads.push(poll_fn(|cx| connection.poll_fill(cx)).await.unwrap() / 1024);
            // As a body is passed on.
            drop(connection.read.split());
        }
        assert_eq!(reads, [8, 16, 32, 64, 30]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_uploads_faster_than_it_reads_has_a_second_for_the_response() {
        let (mut client, stream) = tokio::io::duplex(64 * 1024);
        let mut connection = BufferedStream::new(Stream::Memory(stream), Bytes::new());
        connection.out.push(Bytes::from_static(b"413"));
        poll_fn(|cx| connection.poll_flush(cx)).await.unwrap();
        let began = Instant::now();
        let upload = async {
            while client.write_all(&[0; 16 * 1024]).await.is_ok() {}
            began.elapsed()
        };
        let ((), reset) = tokio::join!(connection.linger(), upload);
        assert_eq!(reset, LINGER);
    }
}
