//! Writes the response to one request of a stream: interim heads, the final head and its body, or a refusal.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderValue, StatusCode, header};
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;
use tokio::time::Instant;

use super::cause::Because;
use super::connection::StreamError;
use super::frame::Code;
use super::handle::Handle;
use super::head_memory::HeadPermit;
use super::hpack::Pseudo;
use super::incoming::Incoming;
use super::outgoing::{Outgoing, SendError};
use super::tunnel::Tunnel;
use super::{failure, length, websocket};
use crate::codec::allowance::{Patience, StillSince, Stillness};
use crate::codec::body::Body;
use crate::codec::head::ResponseHead;
use crate::codec::{date, maps};
use crate::socket::stream::Stream;

/// Responds to one request of an HTTP/2 connection.
pub(crate) struct Responder {
    exchange: Rc<ServerStream>,
    head_only: bool,
    /// Whether the client has requested a tunnel.
    tunnel: bool,
}

impl Responder {
    pub(super) fn new(exchange: Rc<ServerStream>, head_only: bool, tunnel: bool) -> Self {
        Self { exchange, head_only, tunnel }
    }

    pub(crate) fn still_since(&self) -> StillSince {
        Rc::clone(&self.exchange) as StillSince
    }

    pub(crate) fn interim(&mut self, head: ResponseHead) -> Result<(), Failure> {
        self.exchange.interim(head)
    }

    pub(crate) async fn respond(self, head: ResponseHead, body: Body) -> Result<(), Failure> {
        let bodiless = self.head_only
            || head.status == StatusCode::NO_CONTENT
            || head.status == StatusCode::NOT_MODIFIED;
        let length = body.length();
        let body = if bodiless { Body::empty() } else { body };
        let mut headers = head.headers;
        if head.status == StatusCode::NO_CONTENT {
            headers.remove(header::CONTENT_LENGTH);
        } else if !bodiless || !headers.contains_key(header::CONTENT_LENGTH) {
            length::announce(&mut headers, length);
        }
        if !headers.contains_key(header::DATE) {
            headers.insert(header::DATE, date::now());
        }
        self.exchange.begin(head.status, &headers, body.is_ended())?;
        maps::give(headers);
        if body.is_ended() {
            return Ok(());
        }
        let mut outgoing = Outgoing::new(self.exchange.handle().clone(), body);
        let mut patience = Patience::new(self.exchange.incoming.limits().write_timeout, self.still_since());
        let sent = poll_fn(|cx| {
            if let Poll::Ready(sent) = outgoing.poll(cx) {
                return Poll::Ready(Some(sent));
            }
            // A client may read slowly, but it has to make progress.
            patience.poll_used_up(cx, outgoing.is_blocked(), outgoing.bytes()).map(|()| None)
        })
        .await;
        let Some(sent) = sent else {
            outgoing.reset(Code::CANCEL);
            let failure =
                Failure::downstream(Reason::DownstreamConnectionTermination, "the client reads nothing");
            return Err(failure);
        };
        let outcome = match sent {
            Ok(()) => Ok(()),
            Err(SendError::Body(failure)) => Err(Failure { reached: Reached::ResponseStarted, ..failure }),
            Err(SendError::Stream(error)) => Err(failure::downstream(&error)),
        };
        // The body is dropped, and with it the exchange that it comes from, with the client's reset code if there is one.
        let code = outcome.as_ref().err().and_then(|failure| failure.code);
        let because = code.map(|code| Because::of_reset(code.into()));
        drop(outgoing);
        drop(because);
        outcome
    }

    /// Opens the tunnel with a 2xx (RFC 9113 section 8.5), where HTTP/1 may have sent a 101 (RFC 8441 section 5).
    pub(crate) fn upgrade(self, mut head: ResponseHead) -> Result<Stream, Failure> {
        if !self.tunnel {
            return Err(Failure::local(Reason::LocalError, "the client asked for no tunnel"));
        }
        websocket::answered(&mut head.headers);
        head.headers.remove(header::CONTENT_LENGTH);
        self.exchange.begin(StatusCode::OK, &head.headers, false)?;
        Ok(Stream::Tunnel(Box::new(Tunnel::new(self.exchange.handle().clone()))))
    }

    pub(crate) fn refuse(self) {
        self.exchange.answered.set(true);
        self.exchange.handle().reset(Code::REFUSED_STREAM);
    }
}

impl std::fmt::Debug for Responder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Responder").field("head_only", &self.head_only).finish_non_exhaustive()
    }
}

/// The body of the request, and the state that it shares with the handler and the responder of its stream.
pub(super) struct ServerStream {
    pub(super) incoming: Incoming,
    /// Whether the response has begun, or the request was refused.
    answered: Cell<bool>,
    /// Whether the client waits for a 100 before it sends its body (RFC 9110 section 10.1.1).
    owes_continue: Cell<bool>,
    /// The time since which the client has read nothing of the response.
    still_since: Cell<Option<Instant>>,
    _head: HeadPermit,
}

impl ServerStream {
    pub(super) fn new(incoming: Incoming, owes_continue: bool, head: HeadPermit) -> Rc<Self> {
        Rc::new(Self {
            incoming,
            answered: Cell::new(false),
            owes_continue: Cell::new(owes_continue),
            still_since: Cell::new(None),
            _head: head,
        })
    }

    pub(super) fn handle(&self) -> &Handle {
        self.incoming.handle()
    }

    /// Records that the body is being read: sends a 100 if the client waits for one. A failure is returned with the body.
    pub(super) fn body_is_read(&self) {
        if self.owes_continue.get() && !self.answered.get() {
            let _ = self.interim(ResponseHead::new(StatusCode::CONTINUE));
        }
    }

    /// Ready when the stream has ended before the response began. Returns the code of the reset.
    pub(super) fn poll_given_up(&self, cx: &mut Context<'_>) -> Poll<Code> {
        if self.answered.get() {
            return Poll::Pending;
        }
        let code = match self.handle().poll_reset(cx) {
            Poll::Ready(StreamError::Reset(code) | StreamError::Violation(code, _)) => code,
            // The body of the request fails with it.
            Poll::Ready(StreamError::GaveUp) | Poll::Pending => return Poll::Pending,
            Poll::Ready(_) => Code::CANCEL,
        };
        self.answered.set(true);
        Poll::Ready(code)
    }

    /// Fails the request if its handler has returned without a response.
    pub(super) fn finish(&self) {
        if !self.answered.get() {
            refuse(
                self.handle(),
                &Failure::local(Reason::LocalError, "a request was left without an answer"),
            );
        }
    }

    /// Sends the head of the final response.
    fn begin(&self, status: StatusCode, fields: &HeaderMap, ended: bool) -> Result<(), Failure> {
        self.answered.set(true);
        self.send_head(status, fields, ended)
    }

    fn interim(&self, mut head: ResponseHead) -> Result<(), Failure> {
        // It has no content, and clients refuse one that announces a length (RFC 9110 section 8.6).
        head.headers.remove(header::CONTENT_LENGTH);
        if head.status == StatusCode::CONTINUE {
            self.owes_continue.set(false);
        }
        self.send_head(head.status, &head.headers, false)
    }

    fn send_head(&self, status: StatusCode, fields: &HeaderMap, ended: bool) -> Result<(), Failure> {
        let sent = self.handle().send_head(Pseudo::Response(status), fields, ended);
        sent.map_err(|error| failure::downstream(&error))
    }
}

impl Stillness for ServerStream {
    fn since(&self) -> &Cell<Option<Instant>> {
        &self.still_since
    }
}

/// Responds to a refused request.
pub(super) fn refuse(handle: &Handle, failure: &Failure) {
    let name = HeaderValue::from_static(failure.reason.name());
    let fields = HeaderMap::from_iter([(http::HeaderName::from_static(Reason::FIELD), name)]);
    // Fails if the stream has already ended.
    let _ = handle.send_head(Pseudo::Response(failure.reason.status()), &fields, true);
}
