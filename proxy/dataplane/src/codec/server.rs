//! Serves one downstream connection: reads requests, passes each to the [`Service`], and writes the responses.
//!
//! Called by a worker for each accepted connection. Malformed requests are answered here (400, 408, 414, 431, or an HTTP/2
//! error) and only reported to the service. If a client goes away, the future of its request is dropped.

use std::future::{Future, ready};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use futures_util::future::Either;
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

/// Handles requests.
pub(crate) trait Service {
    /// Handles one request and responds through `responder`. If the responder is dropped unused, the client receives a 500.
    ///
    /// The future is dropped if the client goes away. Requests of an HTTP/1 connection are handled one after another, those of
    /// an HTTP/2 connection concurrently, all on the connection's task.
    fn call(&self, head: RequestHead, body: Body, responder: Responder) -> impl Future<Output = ()>;

    /// Records a request that the codec has refused and answered.
    fn refused(&self, failure: &Failure);
}

/// The HTTP version of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1 and HTTP/1.0.
    Http1,
    /// HTTP/2.
    Http2,
    /// HTTP/2 if the client begins with its preface (RFC 9113 section 3.4), else HTTP/1.
    Detect,
}

/// Serves `stream`, from which `first` was already read, until it ends, drains or is upgraded.
///
/// While draining, HTTP/1 responds to the request in flight with `Connection: close`; HTTP/2 sends GOAWAY twice (RFC 9113
/// section 6.8). Returns an error if the connection broke. A clean end, an idle timeout and a drain are not errors.
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
        // Each is boxed, so that a connection takes no more than its version needs.
        Protocol::Detect => match Box::pin(detect(stream, first, &limits, drain.clone())).await {
            Some(detected) => detected,
            None => return Ok(()),
        },
    };
    let refused = |failure: &Failure| service.refused(failure);
    if http2 {
        let call = |head, body, inner| service.call(head, body, Responder { inner: Inner::H2(inner) });
        Box::pin(h2::server::serve(stream, first, limits, drain, call, refused)).await
    } else {
        let call =
            |head, body, inner| Box::pin(service.call(head, body, Responder { inner: Inner::H1(inner) }));
        Box::pin(h1::server::serve(stream, first, limits, drain, call, refused)).await
    }
}

/// Reads until the bytes are, or can no longer become, the HTTP/2 connection preface. Returns `None` if the client sent
/// nothing in time, or if nothing was received before a drain closed the connection.
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
                // A client whose connection was just accepted is about to send its request.
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
        // At the end of the stream, an error or a timeout, HTTP/1 decides what follows.
        if more == 0 {
            break;
        }
    }
    let http2 = read.starts_with(PREFACE);
    Some((stream, read.freeze(), http2))
}

/// The HTTP/2 connection preface (RFC 9113 section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Sends the response to one request.
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
    /// Returns the version of the connection.
    pub(crate) fn version(&self) -> Version {
        match &self.inner {
            Inner::H1(inner) => inner.version(),
            Inner::H2(_) => Version::HTTP_2,
        }
    }

    /// Returns since when the client has not read any of the response that is queued for it; `None` while nothing is queued.
    pub(crate) fn still_since(&self) -> StillSince {
        match &self.inner {
            Inner::H1(inner) => inner.still_since(),
            Inner::H2(inner) => inner.still_since(),
        }
    }

    /// Sends an interim response (1xx, but not 101). Does nothing for an HTTP/1.0 client (RFC 9110 section 15.2).
    pub(crate) async fn interim(&mut self, head: ResponseHead) -> Result<(), Failure> {
        if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Failure::local(Reason::LocalError, "that is no interim response"));
        }
        match &mut self.inner {
            Inner::H1(inner) => inner.interim(head).await,
            Inner::H2(inner) => inner.interim(head),
        }
    }

    /// Sends the final response and its body. Returns when the last byte was passed to the kernel (HTTP/1) or to the
    /// connection's flow control (HTTP/2).
    ///
    /// Polls `body`, which drives what it is read from. If the body fails, HTTP/1 resets the connection and HTTP/2 the stream,
    /// so that the client notices. Responses to HEAD and with status 204 or 304 have no body. A `content-length` field is kept
    /// for HEAD and 304; otherwise the length of `body` is written. Adds `date` if it is absent.
    ///
    /// Returns an error if the body was not delivered completely: an upstream failure if reading it failed, a downstream
    /// failure if writing it failed.
    pub(crate) fn respond(
        self,
        head: ResponseHead,
        body: Body,
    ) -> impl Future<Output = Result<(), Failure>> + Unpin + use<> {
        match self.inner {
            _ if head.status.is_informational() => {
                let failure = Failure::local(Reason::LocalError, "that is no final response");
                Either::Left(Either::Left(ready(Err(failure))))
            }
            Inner::H1(inner) => Either::Left(Either::Right(inner.respond(head, body))),
            // Boxed, so that it makes no request over HTTP/1 larger.
            Inner::H2(inner) => Either::Right(Box::pin(inner.respond(head, body))),
        }
    }

    /// Accepts the tunnel that the client requested and returns it: sends 101 with `head.upgrade`, or 2xx for CONNECT, and
    /// returns the raw connection; on an HTTP/2 stream, sends 200 and returns the stream of its DATA frames.
    pub(crate) async fn upgrade(self, head: ResponseHead) -> Result<Upgraded, Failure> {
        match self.inner {
            Inner::H1(inner) => inner.upgrade(head).await,
            Inner::H2(inner) => Ok(Upgraded { stream: inner.upgrade(head)?, read: Bytes::new() }),
        }
    }

    /// Tells the client that the request was not processed, so that it may be sent again, even a POST: REFUSED_STREAM (RFC
    /// 9113 section 8.7). HTTP/1 has no equivalent; then returns the responder for a response.
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
