//! Calls an upstream: one HTTP/1 connection for one request at a time, or one HTTP/2 connection for many.
//!
//! The pool that owns the connections is above. A failure says how far the request had come ([`Reached`]), so that the
//! caller knows whether another try is safe.
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
    /// Starts HTTP/2 on a connection that was just made, with prior knowledge or after ALPN. Spawns the connection's task
    /// on this worker; it ends with the connection. `usage` is notified when the connection carries requests, and is kept
    /// until the last exchange is gone too.
    pub(crate) async fn start(
        stream: Stream,
        limits: &Limits,
        usage: Rc<dyn Usage>,
    ) -> Result<Self, Failure> {
        Ok(Self { inner: h2::client::ClientConnection::start(stream, limits, usage).await? })
    }

    /// How many more requests may be sent now: what the peer allows, less what is under way. 0 when it is closing.
    pub(crate) fn capacity(&self) -> usize {
        self.inner.capacity()
    }

    /// Requests under way.
    pub(crate) fn streams(&self) -> usize {
        self.inner.streams()
    }

    /// Whether requests may still be begun: no GOAWAY, no error, no end.
    pub(crate) fn is_open(&self) -> bool {
        self.inner.is_open()
    }

    /// Whether the connection's window has been used up for a while, by bodies that stand still, in either direction.
    /// Another connection is better for a new request.
    pub(crate) fn is_crowded(&self) -> bool {
        self.inner.is_crowded()
    }

    /// Asks the peer with a PING whether it is there, unless it was asked just before.
    pub(crate) fn ask(&self) {
        self.inner.ask();
    }

    /// Whether the peer was asked and nothing came from it for a while. Another connection is better for a new request.
    pub(crate) fn is_quiet(&self) -> bool {
        self.inner.is_quiet()
    }

    /// Begins a request. Nothing is written before the exchange is polled. Beyond [`Self::capacity`], it waits for a stream.
    ///
    /// Dropping the exchange, or the response's body before its end, resets the stream with CANCEL.
    ///
    /// A head with `upgrade` becomes an extended CONNECT (RFC 8441), if the peer takes those; if not, that is a failure.
    pub(crate) fn send(&self, head: RequestHead, body: Body) -> Exchange {
        Exchange { inner: ExchangeInner::H2(Box::new(self.inner.send(head, body))) }
    }

    /// The same, keeping `place` for as long as the request waits for a stream. When that is ready, it fails so.
    pub(crate) fn send_queued(
        &self,
        head: RequestHead,
        body: Body,
        place: impl Future<Output = Failure> + 'static,
    ) -> Exchange {
        Exchange { inner: ExchangeInner::H2(Box::new(self.inner.send(head, body).queued(place))) }
    }
}

/// A request under way. The request's body is sent while the response is awaited, and while its body is read.
#[derive(Debug)]
pub(crate) struct Exchange {
    inner: ExchangeInner,
}

#[derive(Debug)]
enum ExchangeInner {
    H1(h1::client::Exchange),
    H2(Box<h2::client::Exchange>),
}

impl From<h1::client::Exchange> for Exchange {
    fn from(inner: h1::client::Exchange) -> Self {
        Self { inner: ExchangeInner::H1(inner) }
    }
}

impl Exchange {
    /// The next head that the upstream sends. Call it until it is not an interim one. Cancel-safe.
    pub(crate) async fn answer(&mut self) -> Result<Answer, Failure> {
        match &mut self.inner {
            ExchangeInner::H1(inner) => inner.answer().await,
            ExchangeInner::H2(inner) => inner.answer().await,
        }
    }
}
