//! Sends requests to an upstream: one at a time on an HTTP/1 connection, or many on an HTTP/2 connection.
//!
//! The pool above owns the connections. A failure says how far the request came ([`Reached`]), so that the caller knows
//! whether another attempt is safe.
//!
//! [`Reached`]: outrigger_core::error::Reached

use std::future::Future;
use std::rc::Rc;

use outrigger_core::error::Failure;

use super::answer::Answer;
use super::body::Body;
pub(crate) use super::h1::client::{ConnectionOwner, Http1Connection};
use super::head::RequestHead;
use super::limits::Limits;
use super::usage::Usage;
use super::{h1, h2};
use crate::socket::stream::Stream;

/// A connection that speaks HTTP/2. Clones share it; it closes when the last clone and the last exchange are gone.
#[derive(Debug, Clone)]
pub(crate) struct Http2Connection {
    inner: h2::client::ClientConnection,
}

impl Http2Connection {
    /// Starts HTTP/2 on a new connection, with prior knowledge or after ALPN. Spawns the connection's task on this worker; the
    /// task ends with the connection. `usage` is notified when the connection carries requests, and is kept until the last
    /// exchange is dropped.
    pub(crate) fn start(stream: Stream, limits: &Limits, usage: Rc<dyn Usage>) -> Self {
        Self { inner: h2::client::ClientConnection::start(stream, limits, usage) }
    }

    /// Returns how many more requests may be sent now: the streams that the peer allows, less those in use. Returns 0 if the
    /// connection is closing.
    pub(crate) fn capacity(&self) -> usize {
        self.inner.capacity()
    }

    /// Returns the number of requests in flight.
    pub(crate) fn streams(&self) -> usize {
        self.inner.streams()
    }

    /// Returns whether new requests may be sent: neither GOAWAY was received nor has the connection failed or ended.
    pub(crate) fn is_open(&self) -> bool {
        self.inner.is_open()
    }

    /// Returns whether stalled bodies have used up the connection's window for a while, in either direction. If so, another
    /// connection is better for a new request.
    pub(crate) fn is_crowded(&self) -> bool {
        self.inner.is_crowded()
    }

    /// Sends a PING to find out whether the peer is still there, unless one was sent just before.
    pub(crate) fn ask(&self) {
        self.inner.ask();
    }

    /// Returns whether a PING was sent and nothing was received from the peer for a while. If so, another connection is better
    /// for a new request.
    pub(crate) fn is_quiet(&self) -> bool {
        self.inner.is_quiet()
    }

    /// Begins a request. If no stream is available, or others wait for one, it waits with a copy of `head`.
    ///
    /// Dropping the exchange, or the response's body before its end, resets the stream with CANCEL.
    ///
    /// A head with `upgrade` becomes an extended CONNECT (RFC 8441). The exchange fails if the peer does not support it.
    pub(crate) fn send(&self, head: &RequestHead, body: Body) -> Exchange {
        Exchange { inner: ExchangeInner::H2(self.inner.send(head, body)) }
    }

    /// Like [`Self::send`], but keeps `place` while the request waits for a stream. If `place` resolves first, the exchange
    /// fails with its failure.
    pub(crate) fn send_queued(
        &self,
        head: &RequestHead,
        body: Body,
        place: impl Future<Output = Failure> + 'static,
    ) -> Exchange {
        Exchange { inner: ExchangeInner::H2(self.inner.send(head, body).queued(place)) }
    }
}

/// A request in flight. Its body is sent while the response is awaited and while the response's body is read.
#[derive(Debug)]
pub(crate) struct Exchange {
    inner: ExchangeInner,
}

#[derive(Debug)]
enum ExchangeInner {
    H1(h1::client::Exchange),
    H2(h2::client::Exchange),
}

impl From<h1::client::Exchange> for Exchange {
    fn from(inner: h1::client::Exchange) -> Self {
        Self { inner: ExchangeInner::H1(inner) }
    }
}

impl Exchange {
    /// Returns the next head from the upstream. To be called until the head is not an interim one. Cancel-safe.
    pub(crate) async fn answer(&mut self) -> Result<Answer, Failure> {
        match &mut self.inner {
            ExchangeInner::H1(inner) => inner.answer().await,
            ExchangeInner::H2(inner) => inner.answer().await,
        }
    }
}
