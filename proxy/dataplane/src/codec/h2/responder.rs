//! Writes the response to one request of a stream: interim heads, the final head and its body, or a refusal.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::Reason as Code;
use h2::server::SendResponse;
use http::{HeaderValue, Response, StatusCode, header};
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;

use super::cause::Because;
use super::head_memory::HeadPermit;
use super::outgoing::{Outgoing, SendError};
use super::seen::Seen;
use super::tunnel::Tunnel;
use super::unread::Receiver;
use super::{failure, websocket};
use crate::codec::allowance::{Patience, StillSince};
use crate::codec::body::Body;
use crate::codec::head::ResponseHead;
use crate::codec::limits::Limits;
use crate::codec::{date, hop};
use crate::socket::stream::Stream;

/// Responds to one request of an HTTP/2 connection.
pub(crate) struct Responder {
    exchange: Rc<ServerStream>,
    limits: Rc<Limits>,
    head_only: bool,
    /// The client's side of the stream, if it has requested a tunnel.
    tunnel: Option<Rc<RefCell<Receiver>>>,
}

impl Responder {
    pub(super) fn new(
        exchange: Rc<ServerStream>,
        limits: Rc<Limits>,
        head_only: bool,
        tunnel: Option<Rc<RefCell<Receiver>>>,
    ) -> Self {
        Self { exchange, limits, head_only, tunnel }
    }

    pub(crate) fn still_since(&self) -> StillSince {
        Rc::clone(&self.exchange.still_since)
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
        let mut response = Response::new(());
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        let headers = response.headers_mut();
        hop::strip(headers);
        if head.status == StatusCode::NO_CONTENT {
            headers.remove(header::CONTENT_LENGTH);
        } else if !bodiless || !headers.contains_key(header::CONTENT_LENGTH) {
            // h2 enforces the announced length, so the body's own length is announced. For an empty body, END_STREAM is
            // sufficient.
            match length {
                Some(0) if bodiless || !headers.contains_key(header::CONTENT_LENGTH) => {}
                Some(length) => drop(headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length))),
                None => drop(headers.remove(header::CONTENT_LENGTH)),
            }
        }
        if !headers.contains_key(header::DATE) {
            headers.insert(header::DATE, date::now());
        }
        self.exchange.answered.set(true);
        let begun = self.exchange.respond.borrow_mut().send_response(response, body.is_ended());
        let stream = begun.map_err(|error| failure::downstream(&error))?;
        if body.is_ended() {
            return Ok(());
        }
        let mut outgoing = Outgoing::new(stream, body).in_order(Rc::clone(&self.exchange.seen));
        let mut patience = Patience::new(self.limits.write_timeout, Rc::clone(&self.exchange.still_since));
        let sent = poll_fn(|cx| {
            if let Poll::Ready(sent) = outgoing.poll(cx) {
                return Poll::Ready(Some(sent));
            }
            // A client may read slowly, but it has to make progress.
            patience.poll_used_up(cx, outgoing.is_blocked(), outgoing.bytes).map(|()| None)
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
        let Some(receive) = self.tunnel else {
            return Err(Failure::local(Reason::LocalError, "the client asked for no tunnel"));
        };
        let mut response = Response::new(());
        hop::strip(&mut head.headers);
        websocket::answered(&mut head.headers);
        head.headers.remove(header::CONTENT_LENGTH);
        *response.headers_mut() = head.headers;
        self.exchange.answered.set(true);
        let send = self.exchange.respond.borrow_mut().send_response(response, false);
        let send = send.map_err(|error| failure::downstream(&error))?;
        Ok(Stream::Tunnel(Box::new(Tunnel::new(send, receive))))
    }

    pub(crate) fn refuse(self) {
        self.exchange.answered.set(true);
        self.exchange.respond.borrow_mut().send_reset(Code::REFUSED_STREAM);
    }
}

impl std::fmt::Debug for Responder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Responder").field("head_only", &self.head_only).finish_non_exhaustive()
    }
}

/// The state that the handler, the body and the responder of a stream share.
pub(super) struct ServerStream {
    respond: RefCell<SendResponse<Bytes>>,
    /// Whether the response has begun, or the request was refused.
    answered: Cell<bool>,
    /// Whether the client waits for a 100 before it sends its body (RFC 9110 section 10.1.1).
    owes_continue: Cell<bool>,
    /// The time since which the client has read nothing of the response.
    still_since: StillSince,
    /// The state of the connection.
    seen: Rc<Seen>,
    _head: HeadPermit,
}

impl ServerStream {
    pub(super) fn new(
        respond: SendResponse<Bytes>,
        wants_continue: bool,
        head: HeadPermit,
        seen: &Rc<Seen>,
    ) -> Rc<Self> {
        Rc::new(Self {
            respond: RefCell::new(respond),
            answered: Cell::new(false),
            owes_continue: Cell::new(wants_continue),
            still_since: Rc::default(),
            seen: Rc::clone(seen),
            _head: head,
        })
    }

    /// Records that the body is being read: sends a 100 if the client waits for one. A failure is returned with the body.
    pub(super) fn body_is_read(&self) {
        if self.owes_continue.get() && !self.answered.get() {
            let _ = self.interim(ResponseHead::new(StatusCode::CONTINUE));
        }
    }

    /// Ready when the client has reset the stream before the response began. Returns the reset code.
    pub(super) fn poll_given_up(&self, cx: &mut Context<'_>) -> Poll<Code> {
        if self.answered.get() {
            return Poll::Pending;
        }
        // An error is the end of the connection.
        let given_up = self.respond.borrow_mut().poll_reset(cx).map(|reset| reset.unwrap_or(Code::CANCEL));
        if given_up.is_ready() {
            self.answered.set(true);
        }
        given_up
    }

    /// Fails the request if its handler has returned without a response.
    pub(super) fn finish(&self) {
        if !self.answered.get() {
            let failure = Failure::local(Reason::LocalError, "a request was left without an answer");
            let mut response = Response::new(());
            *response.status_mut() = failure.reason.status();
            response.headers_mut().insert(Reason::FIELD, HeaderValue::from_static(failure.reason.name()));
            // Fails if the stream has already ended.
            let _ = self.respond.borrow_mut().send_response(response, true);
        }
    }

    fn interim(&self, head: ResponseHead) -> Result<(), Failure> {
        if head.status == StatusCode::CONTINUE {
            self.owes_continue.set(false);
        }
        let mut response = Response::new(());
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        self.respond.borrow_mut().send_informational(response).map_err(|error| failure::downstream(&error))
    }
}

/// Responds to a refused request.
pub(super) fn refuse(mut respond: SendResponse<Bytes>, failure: &Failure) {
    let mut response = Response::new(());
    *response.status_mut() = failure.reason.status();
    response.headers_mut().insert(Reason::FIELD, HeaderValue::from_static(failure.reason.name()));
    // Fails if the stream has already ended.
    let _ = respond.send_response(response, true);
}
