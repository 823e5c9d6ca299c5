//! The bytes of a connection on their way to and from h2, with an eye on the frames in them.
//!
//! h2 tells what is asked of it and not what it does by itself: which streams it refused, whether the windows of the
//! connection are used up, that it cut trailers short. [`Seen`] knows, because every frame passes here. Nothing is copied
//! or changed.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::seen::Seen;
use super::walker::Walker;
use crate::socket::stream::Stream;

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
}

impl Wire {
    /// A client's connection, of which `first` was already read to learn what is spoken on it.
    pub(super) fn from_client(first: Bytes, stream: Stream, seen: Rc<Seen>) -> Self {
        Self { first, stream, coming: Walker::new(PREFACE), going: Walker::new(0), seen }
    }

    /// A connection to a server.
    pub(super) fn to_server(stream: Stream, seen: Rc<Seen>) -> Self {
        Self { first: Bytes::new(), stream, coming: Walker::new(0), going: Walker::new(PREFACE), seen }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.seen.holds_back() {
            // The server asks again as soon as it has taken the heads that wait.
            return Poll::Pending;
        }
        let before = into.filled().len();
        if this.first.is_empty() {
            ready!(Pin::new(&mut this.stream).poll_read(cx, into))?;
        } else {
            let length = this.first.len().min(into.remaining());
            into.put_slice(&this.first[..length]);
            this.first.advance(length);
        }
        let seen = &this.seen;
        seen.heard();
        this.coming.walk(&into.filled()[before..], |frame| seen.came(frame));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
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
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
