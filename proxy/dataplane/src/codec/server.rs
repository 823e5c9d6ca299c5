//! Serves one downstream connection: reads requests, hands each to the [`Service`], carries the answers out.
//!
//! Called by workers for each accepted connection. What is malformed is answered here (400, 408, 414, 431, or an HTTP/2
//! error) and only reported to the service. A request whose client goes away is dropped: its future is cancelled at an
//! await, and its guards say so.

use std::future::Future;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http::{StatusCode, Version};
use outrigger_core::drain::DrainGuard;
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::allowance::StillSince;
use super::body::Body;
use super::head::{RequestHead, ResponseHead};
use super::limits::{FIRST_REQUEST, Limits};
use super::upgrade::Upgraded;
use super::{h1, h2};
use crate::socket::stream::Stream;

/// What is done with requests.
pub(crate) trait Service {
    /// Handles one request. Answers through `responder`; one that is dropped unused becomes a 500.
    ///
    /// The future is dropped when the client goes away. Requests of one HTTP/1 connection come one after another, those
    /// of an HTTP/2 connection side by side, all on this connection's task.
    fn call(&self, head: RequestHead, body: Body, responder: Responder) -> impl Future<Output = ()>;

    /// A request was refused by the codec, which has answered it: for the record only.
    fn refused(&self, failure: &Failure);
}

/// Which version a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1 and HTTP/1.0.
    Http1,
    /// HTTP/2.
    Http2,
    /// HTTP/2 if the client begins with its preface (RFC 9113 section 3.4), else HTTP/1.
    Detect,
}

/// Serves `stream`, of which `first` was already read, until it ends, drains or was upgraded.
///
/// On drain, HTTP/1 answers what is in flight with `Connection: close`, HTTP/2 sends GOAWAY twice (RFC 9113 section 6.8).
/// Fails with what broke the connection; a clean end, an idle timeout and a drain are no failure.
pub(crate) async fn serve<S: Service>(
    stream: Stream,
    first: Bytes,
    protocol: Protocol,
    limits: Rc<Limits>,
    drain: DrainGuard,
    service: &S,
) -> Result<(), Failure> {
    let (stream, first, http2) = match protocol {
        Protocol::Http1 => (stream, first, false),
        Protocol::Http2 => (stream, first, true),
        Protocol::Detect => match detect(stream, first, &limits, drain.clone()).await {
            Some(detected) => detected,
            None => return Ok(()),
        },
    };
    let refused = |failure: &Failure| service.refused(failure);
    if http2 {
        let call =
            |head, body, inner| Box::pin(service.call(head, body, Responder { inner: Inner::H2(inner) }));
        h2::server::serve(stream, first, limits, drain, call, refused).await
    } else {
        // Boxed, so that idle connections are small.
        let call =
            |head, body, inner| Box::pin(service.call(head, body, Responder { inner: Inner::H1(inner) }));
        h1::server::serve(stream, first, limits, drain, call, refused).await
    }
}

/// Reads until the bytes are, or can no longer be, the beginning of HTTP/2's preface. Returns None if the client
/// said nothing in time, or before a drain closed the connection.
async fn detect(
    mut stream: Stream,
    first: Bytes,
    limits: &Limits,
    mut drain: DrainGuard,
) -> Option<(Stream, Bytes, bool)> {
    let mut read = BytesMut::from(first);
    let mut deadline =
        Instant::now() + if read.is_empty() { limits.first_byte_timeout } else { limits.head_timeout };
    let first = Instant::now() + FIRST_REQUEST;
    let mut draining = false;
    while read.len() < PREFACE.len() && PREFACE.starts_with(&read) {
        let silent = read.is_empty();
        let more = tokio::select! {
            more = stream.read_buf(&mut read) => more.unwrap_or(0),
            () = tokio::time::sleep_until(deadline) => 0,
            () = drain.started(), if !draining => {
                // A client that was just let in is about to speak.
                draining = true;
                deadline = deadline.min(first);
                continue;
            }
        };
        let late = Instant::now() >= deadline;
        if more == 0 && read.is_empty() && (draining || late) {
            let _ = tokio::time::timeout(FIRST_REQUEST, stream.shutdown()).await;
            return None;
        }
        if silent {
            deadline = Instant::now() + limits.head_timeout;
        }
        // The end, an error or silence: HTTP/1 says what that means.
        if more == 0 {
            break;
        }
    }
    let http2 = read.starts_with(PREFACE);
    Some((stream, read.freeze(), http2))
}

/// What a client begins HTTP/2 with (RFC 9113 section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Answers one request.
#[derive(Debug)]
pub(crate) struct Responder {
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    H1(h1::Responder),
    H2(h2::Responder),
}

impl Responder {
    /// The version of the connection.
    pub(crate) fn version(&self) -> Version {
        match &self.inner {
            Inner::H1(inner) => inner.version(),
            Inner::H2(_) => Version::HTTP_2,
        }
    }

    /// Since when the client takes nothing of the answer that waits for it; `None` while nothing waits.
    pub(crate) fn still_since(&self) -> StillSince {
        match &self.inner {
            Inner::H1(inner) => inner.still_since(),
            Inner::H2(inner) => inner.still_since(),
        }
    }

    /// Sends an interim response (1xx, not 101). An HTTP/1.0 client gets none (RFC 9110 section 15.2); that is no error.
    pub(crate) async fn interim(&mut self, head: ResponseHead) -> Result<(), Failure> {
        if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Failure::local(Reason::LocalError, "that is no interim response"));
        }
        match &mut self.inner {
            Inner::H1(inner) => inner.interim(head).await,
            Inner::H2(inner) => inner.interim(head),
        }
    }

    /// Sends the final response and its body, and returns when the last byte was handed over: to the kernel (HTTP/1) or to
    /// the connection's flow control (HTTP/2).
    ///
    /// Drives `body`, and with it what feeds it. If the body fails, the client sees it: HTTP/1 resets the connection, HTTP/2
    /// the stream. The answer to HEAD and statuses 204 and 304 go without body. `content-length` among the fields is kept
    /// for HEAD and 304; elsewhere the body's own length is written. `date` is added where it is missing.
    ///
    /// Returns an error if not all of the body was delivered: of the body (upstream) or of the client (downstream).
    pub(crate) async fn respond(self, head: ResponseHead, body: Body) -> Result<(), Failure> {
        if head.status.is_informational() {
            return Err(Failure::local(Reason::LocalError, "that is no final response"));
        }
        match self.inner {
            Inner::H1(inner) => inner.respond(head, body).await,
            Inner::H2(inner) => inner.respond(head, body).await,
        }
    }

    /// Agrees to a tunnel that the client asked for: 101 with `head.upgrade`, or a 2xx to CONNECT, and the raw connection
    /// after it; on an HTTP/2 stream a 200, and its DATA frames.
    pub(crate) async fn upgrade(self, head: ResponseHead) -> Result<Upgraded, Failure> {
        match self.inner {
            Inner::H1(inner) => inner.upgrade(head).await,
            Inner::H2(inner) => Ok(Upgraded { stream: inner.upgrade(head)?, read: Bytes::new() }),
        }
    }

    /// Says that the request was not processed, so that the client may try again elsewhere, a POST included: REFUSED_STREAM
    /// (RFC 9113 section 8.7). HTTP/1 has no such word, and gives the responder back for an answer.
    pub(crate) fn refuse(self) -> Result<(), Self> {
        match self.inner {
            Inner::H1(_) => Err(self),
            Inner::H2(inner) => {
                inner.refuse();
                Ok(())
            }
        }
    }
}
