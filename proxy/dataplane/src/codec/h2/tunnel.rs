//! A stream that CONNECT turned into a byte stream: its bytes are DATA frames, its half-closes END_STREAM (RFC 9113 section
//! 8.5). The windows provide back-pressure.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason as Code, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::unread::Receiver;
use crate::socket::stream;

/// Both halves of a tunnel's stream. The stream is reset if this is dropped before its end.
pub(super) struct Tunnel {
    send: SendStream<Bytes>,
    receive: Rc<RefCell<Receiver>>,
    /// Bytes that were received and not yet read.
    read: Bytes,
    shut: bool,
}

impl Tunnel {
    pub(super) fn new(send: SendStream<Bytes>, receive: Rc<RefCell<Receiver>>) -> Self {
        Self { send, receive, read: Bytes::new(), shut: false }
    }
}

impl stream::Tunnel for Tunnel {
    fn reset(mut self: Box<Self>) {
        self.send.send_reset(Code::CONNECT_ERROR);
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut receiver = this.receive.borrow_mut();
        while this.read.is_empty() {
            let Some(stream) = receiver.stream() else {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            };
            match ready!(stream.poll_data(cx)) {
                Some(Ok(data)) => this.read = data,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = this.read.len().min(into.remaining());
        into.put_slice(&this.read[..length]);
        this.read.advance(length);
        receiver.consume(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.send.reserve_capacity(bytes.len());
        while this.send.capacity() == 0 {
            match ready!(this.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let length = bytes.len().min(this.send.capacity());
        this.send.send_data(Bytes::copy_from_slice(&bytes[..length]), false).map_err(broken)?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The task of the connection writes.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.shut, true) {
            this.send.send_data(Bytes::new(), true).map_err(broken)?;
        }
        Poll::Ready(Ok(()))
    }
}

fn broken(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").field("shut", &self.shut).finish_non_exhaustive()
    }
}
