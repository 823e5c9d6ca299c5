//! The client side: one request at a time on one connection, which is returned to its owner when it can be reused.
//!
//! The request body is sent while the response is awaited and read, without a task of its own. Bytes after a response are
//! never taken for the next one: the connection is closed.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;
use tokio::time::Instant;

use super::Malformed;
use super::buffered_stream::BufferedStream;
use super::fields::Search;
use super::framing::{Decoder, Framing};
use super::parse::{self, RequestFacts, Response};
use super::sending::Sending;
use super::transfer::{Transfer, TransferError};
use super::write;
use crate::codec::answer::{Answer, Payload};
use crate::codec::body::Body;
use crate::codec::head::{RequestHead, expects_continue};
use crate::codec::limits::Limits;
use crate::codec::upgrade::Upgraded;
use crate::socket::stream::Stream;

/// After this idle time the kernel is asked whether the peer has closed: one system call against a lost request.
const SUSPECT_AFTER: Duration = Duration::from_millis(50);

/// The owner of an HTTP/1 connection, to which the connection is returned when it can be reused.
///
/// Dropped with the connection, so that it may hold permits.
pub(crate) trait ConnectionOwner {
    /// Called when a request begins.
    fn begins(&self) {}

    /// Called when the last byte of the response was read and the connection can be reused. Runs within the poll of that
    /// response's body (or head, if there is no body): no request may be sent on the connection from here.
    fn idle(&self, connection: Http1Connection);
}

/// An HTTP/1.1 connection without a request in flight.
#[derive(Debug)]
pub(crate) struct Http1Connection {
    shared: Rc<Shared>,
}

impl Http1Connection {
    /// Wraps a new connection. It is returned to `owner` after each exchange that leaves it reusable.
    pub(crate) fn new(stream: Stream, limits: Rc<Limits>, owner: Rc<dyn ConnectionOwner>) -> Self {
        let shared = Rc::new_cyclic(|me| Shared {
            me: me.clone(),
            wire: RefCell::new(Some(BufferedStream::new(stream, Bytes::new()))),
            sending: RefCell::new(None),
            state: RefCell::new(ClientState::new()),
            limits,
            owner,
        });
        Self { shared }
    }

    /// Returns when it became idle.
    pub(crate) fn idle_since(&self) -> Instant {
        self.shared.state.borrow().idle_since
    }

    /// Returns whether it is still usable at `now`: the peer has neither closed it, nor sent anything unsolicited, nor announced
    /// that it is about to close it. Costs one system call if the connection was idle for more than 50 ms.
    pub(crate) fn is_open(&self, now: Instant) -> bool {
        let state = self.shared.state.borrow();
        if state.expires.is_some_and(|expires| now >= expires) {
            return false;
        }
        let wire = &mut *self.shared.wire.borrow_mut();
        let Some(wire) = wire else { return false };
        wire.read.is_empty()
            && wire.poll_fill(&mut Context::from_waker(Waker::noop())).is_pending()
            && (wire.stream.is_encrypted()
                || now.saturating_duration_since(state.idle_since) < SUSPECT_AFTER
                || wire.stream.is_quiet())
    }

    /// Begins a request with a copy of the relevant parts of `head`. Nothing is written before the exchange is polled.
    ///
    /// With `expect: 100-continue`, the body is held back until the upstream responds, for 1 s at most. Dropping the exchange,
    /// or the body of the response before its end, closes the connection.
    pub(crate) fn send(self, head: &RequestHead, body: Body) -> Exchange {
        self.shared.owner.begins();
        let state = &mut *self.shared.state.borrow_mut();
        state.turn += 1;
        state.interims = 0;
        state.search = Search::default();
        state.response = None;
        state.write_error = None;
        state.request = RequestFacts { method: head.method.clone(), upgrade: head.upgrade.clone() };
        if let Some(wire) = &mut *self.shared.wire.borrow_mut() {
            wire.wrote = false;
            let encoder = write::request(&mut wire.out, head, body.length());
            let wants_continue = !body.is_ended() && expects_continue(&head.headers);
            let sending = Sending::new(Transfer::new(body, encoder), wants_continue);
            *self.shared.sending.borrow_mut() = Some(sending);
        }
        Exchange { turn: state.turn, shared: Some(self.shared.clone()) }
    }
}

/// A request in flight on an HTTP/1 connection.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// `None` once the response body owns it, or after a failure. A tunnel keeps it, and with it the owner of the connection.
    shared: Option<Rc<Shared>>,
    turn: u64,
}

impl Exchange {
    pub(crate) async fn answer(&mut self) -> Result<Answer, Failure> {
        let Some(shared) = &self.shared else {
            return Err(Failure::local(Reason::LocalError, "the exchange is over"));
        };
        let answer = poll_fn(|cx| shared.poll_answer(self.turn, cx)).await;
        if matches!(answer, Ok(Answer::Final(_, Payload::Body(_))) | Err(_)) {
            self.shared = None;
        }
        answer
    }
}

pub(super) struct Shared {
    me: Weak<Self>,
    /// `None` after it was closed or upgraded.
    pub(super) wire: RefCell<Option<BufferedStream>>,
    /// The request that is being sent; `None` when all of it was sent.
    sending: RefCell<Option<Sending>>,
    pub(super) state: RefCell<ClientState>,
    pub(super) limits: Rc<Limits>,
    owner: Rc<dyn ConnectionOwner>,
}

#[derive(Debug)]
pub(super) struct ClientState {
    pub(super) turn: u64,
    request: RequestFacts,
    search: Search,
    interims: usize,
    /// Why the request could not be written. A response may have been received all the same.
    write_error: Option<String>,
    /// The response whose body is being read.
    pub(super) response: Option<ResponseInProgress>,
    idle_since: Instant,
    /// When the peer will close the connection, by its `Keep-Alive`, less one second.
    expires: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct ResponseInProgress {
    pub(super) body: Decoder,
    keep_alive: bool,
    idle_timeout: Option<u32>,
}

/// Why reading ended.
pub(super) enum ReadEnd {
    Closed,
    Failed(String),
}

impl ReadEnd {
    pub(super) fn detail(&self) -> &str {
        match self {
            Self::Closed => "the upstream closed the connection",
            Self::Failed(detail) => detail,
        }
    }
}

impl ClientState {
    fn new() -> Self {
        Self {
            turn: 0,
            request: RequestFacts { method: Method::GET, upgrade: None::<HeaderValue> },
            search: Search::default(),
            interims: 0,
            write_error: None,
            response: None,
            idle_since: Instant::now(),
            expires: None,
        }
    }
}

impl Shared {
    fn poll_answer(&self, turn: u64, cx: &mut Context<'_>) -> Poll<Result<Answer, Failure>> {
        self.poll_send(cx)?;
        loop {
            let parsed = {
                let state = &mut *self.state.borrow_mut();
                let wire = &mut *self.wire.borrow_mut();
                let Some(wire) = wire else { return Poll::Ready(Err(self.over())) };
                parse::response(&mut wire.read, &mut state.search, &state.request, &self.limits)
            };
            match parsed {
                Ok(Some(response)) => return Poll::Ready(self.take_response(turn, response)),
                Ok(None) => {}
                Err(malformed) => {
                    self.close();
                    return Poll::Ready(Err(refused(&malformed)));
                }
            }
            if let Err(ended) = ready!(self.poll_fill(cx)) {
                let wrote = self.wire.take().is_some_and(|wire| wire.wrote);
                self.close();
                let reached = if wrote { Reached::Maybe } else { Reached::NotWritten };
                let failure =
                    Failure::upstream(Reason::UpstreamConnectionTermination, reached, ended.detail());
                return Poll::Ready(Err(failure));
            }
        }
    }

    fn take_response(&self, turn: u64, response: Response) -> Result<Answer, Failure> {
        let Response { head, framing, keep_alive, idle_timeout } = response;
        let connected = head.status.is_success() && self.state.borrow().request.method == Method::CONNECT;
        if head.status == StatusCode::SWITCHING_PROTOCOLS || connected {
            if self.sending.borrow().is_some() {
                self.close();
                return Err(protocol("a tunnel was opened before the request was sent"));
            }
            let (stream, read) = self.wire.take().ok_or_else(|| self.over())?.into_parts();
            return Ok(Answer::Final(head, Payload::Tunnel(Upgraded { stream, read })));
        }
        if head.status.is_informational() {
            if let (StatusCode::CONTINUE, Some(sending)) = (head.status, &mut *self.sending.borrow_mut()) {
                sending.let_go();
            }
            let state = &mut *self.state.borrow_mut();
            state.interims += 1;
            if state.interims > self.limits.interim_responses {
                self.close();
                return Err(protocol("too many interim responses"));
            }
            return Ok(Answer::Interim(head));
        }
        self.state.borrow_mut().response =
            Some(ResponseInProgress { body: Decoder::new(framing), keep_alive, idle_timeout });
        let body = match (framing, self.me.upgrade()) {
            (Framing::None, _) | (_, None) => {
                self.finish();
                Body::empty()
            }
            (framing, Some(me)) => Body::streamed(me, turn, framing.known()),
        };
        Ok(Answer::Final(head, Payload::Body(body)))
    }

    /// Continues sending the request. Returns an error if its body fails. A socket error is kept, since a response that
    /// explains it may have been received (RFC 9112 section 9.5).
    pub(super) fn poll_send(&self, cx: &mut Context<'_>) -> Result<(), Failure> {
        let sending = &mut *self.sending.borrow_mut();
        let Some(under_way) = sending else { return Ok(()) };
        match under_way.poll(cx, &self.wire) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => *sending = None,
            Poll::Ready(Err(TransferError::Socket(error))) => {
                *sending = None;
                self.state.borrow_mut().write_error = Some(error.to_string());
            }
            Poll::Ready(Err(TransferError::Body(mut failure))) => {
                *sending = None;
                // The failure says how far the body's source had come; part of the request may have come further.
                if self.wire.take().is_some_and(|wire| wire.wrote) {
                    failure.reached = failure.reached.max(Reached::Maybe);
                }
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Reads once. Returns an error if nothing more can be read.
    pub(super) fn poll_fill(&self, cx: &mut Context<'_>) -> Poll<Result<(), ReadEnd>> {
        let wire = &mut *self.wire.borrow_mut();
        let Some(wire) = wire else {
            return Poll::Ready(Err(ReadEnd::Failed("the connection is closed".into())));
        };
        let ended = match ready!(wire.poll_fill(cx)) {
            Ok(0) => ReadEnd::Closed,
            Ok(_) => return Poll::Ready(Ok(())),
            Err(error) => ReadEnd::Failed(error.to_string()),
        };
        Poll::Ready(Err(match &self.state.borrow().write_error {
            Some(error) => ReadEnd::Failed(format!("{}; writing failed before: {error}", ended.detail())),
            None => ended,
        }))
    }

    /// Completes the response: returns the connection to its owner, or closes it if its state is in doubt.
    pub(super) fn finish(&self) {
        let reusable = {
            let state = &mut *self.state.borrow_mut();
            let response = state.response.take();
            let timeout = response.as_ref().and_then(|response| response.idle_timeout);
            state.idle_since = Instant::now();
            state.expires = timeout
                .map(|seconds| state.idle_since + Duration::from_secs(u64::from(seconds.saturating_sub(1))));
            state.turn += 1;
            if let Some(wire) = &mut *self.wire.borrow_mut() {
                wire.rest();
            }
            state.write_error.is_none()
                && response.is_some_and(|response| response.keep_alive && response.body.is_ended())
                && self.sending.borrow().is_none()
                && self.wire.borrow().as_ref().is_some_and(|wire| wire.read.is_empty())
        };
        match self.me.upgrade() {
            Some(shared) if reusable => self.owner.idle(Http1Connection { shared }),
            _ => self.close(),
        }
    }

    pub(super) fn close(&self) {
        self.wire.take();
        self.sending.take();
    }

    fn over(&self) -> Failure {
        Failure::upstream(
            Reason::UpstreamConnectionTermination,
            Reached::NotWritten,
            "the connection is closed",
        )
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("state", &self.state).finish_non_exhaustive()
    }
}

/// Returns the failure for a malformed response or trailer section.
pub(super) fn refused(malformed: &Malformed) -> Failure {
    match malformed {
        Malformed::TooLarge => Failure::upstream(Reason::UpstreamHeadersTooLarge, Reached::Maybe, malformed),
        Malformed::Rule(_) | Malformed::TargetTooLong => protocol(malformed),
    }
}

fn protocol(detail: impl fmt::Display) -> Failure {
    Failure::upstream(Reason::UpstreamProtocolError, Reached::Maybe, detail)
}
