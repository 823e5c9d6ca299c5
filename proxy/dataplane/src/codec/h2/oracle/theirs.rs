//! The server of the `h2` crate, which receives bytes and never responds, over a transport in memory.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use h2::server::{Connection, Handshake, SendResponse};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ours::STREAMS;
use super::{Verdict, verdict};
use crate::codec::h2::frame::Code;

pub(super) struct Theirs {
    wire: Wire,
    state: State,
    /// Those that were accepted: dropping them would reset their streams.
    requests: Vec<(http::Request<h2::RecvStream>, SendResponse<Bytes>)>,
}

enum State {
    Greets(Handshake<Wire, Bytes>),
    Serves(Connection<Wire, Bytes>),
    Ended,
}

impl Theirs {
    pub(super) fn start() -> Self {
        let wire = Wire::default();
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(STREAMS).enable_connect_protocol().max_header_list_size(1 << 16);
        Self { state: State::Greets(builder.handshake(wire.clone())), wire, requests: Vec::new() }
    }

    /// Receives bytes. Returns what it makes of them.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> (Verdict, Option<Code>) {
        self.wire.0.borrow_mut().read.extend_from_slice(bytes);
        // It writes some frames a call later.
        for _ in 0..4 {
            self.poll();
        }
        let written = std::mem::take(&mut self.wire.0.borrow_mut().written);
        verdict(&written, self.requests.len())
    }

    fn poll(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        if let State::Greets(handshake) = &mut self.state {
            match Pin::new(handshake).poll(&mut cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(connection)) => self.state = State::Serves(connection),
                Poll::Ready(Err(_)) => self.state = State::Ended,
            }
        }
        while let State::Serves(connection) = &mut self.state {
            match connection.poll_accept(&mut cx) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(request))) => self.requests.push(request),
                Poll::Ready(Some(Err(_)) | None) => self.state = State::Ended,
            }
        }
    }
}

/// What was sent to the server and not read, and what the server has written.
#[derive(Clone, Default)]
struct Wire(Rc<RefCell<Buffers>>);

#[derive(Default)]
struct Buffers {
    read: BytesMut,
    written: Vec<u8>,
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = &mut self.0.borrow_mut().read;
        if read.is_empty() {
            return Poll::Pending;
        }
        let length = read.len().min(to.remaining());
        to.put_slice(&read[..length]);
        read.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().written.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
