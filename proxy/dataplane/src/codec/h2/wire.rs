//! Passes the bytes of a connection to and from h2, and observes the frames in them.
//!
//! h2 does not report what it does by itself: which streams it refused, whether the windows of the connection are exhausted,
//! that it truncated trailers. [`Seen`] records this, because every frame passes here. Nothing is copied or changed.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::seen::Seen;
use super::walker::Walker;
use crate::codec::limits::{HALF_CLOSED, LOOK_AFTER};
use crate::socket::stream::{Peer, Stream};

/// The length of the client's connection preface (RFC 9113 section 3.4).
const PREFACE: usize = 24;

/// Yields `first`, then what the stream yields.
#[derive(Debug)]
pub(super) struct Wire {
    first: Bytes,
    stream: Stream,
    coming: Walker,
    going: Walker,
    seen: Rc<Seen>,
    /// Set when the client has half-closed, until h2 is notified.
    half_closed: Option<HalfClosed>,
}

#[derive(Debug)]
struct HalfClosed {
    since: Instant,
    /// When the kernel is next queried whether the client is still there.
    look: Pin<Box<Sleep>>,
}

impl Wire {
    /// Wraps a client's connection. `first` was already read from it, to detect the protocol.
    pub(super) fn from_client(first: Bytes, stream: Stream, seen: Rc<Seen>) -> Self {
        Self { first, stream, coming: Walker::new(PREFACE), going: Walker::new(0), seen, half_closed: None }
    }

    /// Wraps a connection to a server.
    pub(super) fn to_server(stream: Stream, seen: Rc<Seen>) -> Self {
        Self {
            first: Bytes::new(),
            stream,
            coming: Walker::new(0),
            going: Walker::new(PREFACE),
            seen,
            half_closed: None,
        }
    }
}

impl Wire {
    /// Ready when h2 may be notified that the client has half-closed: no more responses are owed to it, not all of its requests
    /// are complete, or it is gone.
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.seen.owed.is_waited_for(cx) {
            return Poll::Ready(());
        }
        let (stream, seen) = (&mut self.stream, &self.seen);
        let half_closed = self.half_closed.get_or_insert_with(|| {
            seen.half_closes();
            HalfClosed { since: Instant::now(), look: Box::pin(sleep_until(Instant::now())) }
        });
        while half_closed.look.as_mut().poll(cx).is_ready() {
            let gone = match stream.peer() {
                Peer::Reads => false,
                Peer::Gone => true,
                Peer::Unknown => half_closed.since.elapsed() >= HALF_CLOSED,
            };
            if gone {
                return Poll::Ready(());
            }
            half_closed.look.as_mut().reset(Instant::now() + LOOK_AFTER);
        }
        Poll::Pending
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.seen.wanted();
        if this.seen.holds_back() {
            // The server polls again as soon as it has accepted the pending heads.
            return Poll::Pending;
        }
        let before = into.filled().len();
        if this.half_closed.is_some() {
            return this.poll_closed(cx).map(Ok);
        }
        if this.first.is_empty() {
            ready!(Pin::new(&mut this.stream).poll_read(cx, into))?;
            if into.filled().len() == before {
                return this.poll_closed(cx).map(Ok);
            }
        } else {
            let length = this.first.len().min(into.remaining());
            into.put_slice(&this.first[..length]);
            this.first.advance(length);
        }
        let seen = &this.seen;
        seen.heard();
        this.coming.walk(&into.filled()[before..], |frame| seen.came(frame));
        seen.paused(this.coming.is_within_a_head());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.seen.written.is_flushed(false);
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        let seen = &this.seen;
        this.going.walk(&bytes[..written.min(bytes.len())], |frame| seen.went(frame));
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.seen.written.is_flushed(false);
        let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, slices))?;
        let (seen, mut left) = (&this.seen, written);
        for slice in slices {
            let piece = &slice[..slice.len().min(left)];
            this.going.walk(piece, |frame| seen.went(frame));
            left -= piece.len();
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.seen.written.is_flushed(flushed.is_ready());
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
