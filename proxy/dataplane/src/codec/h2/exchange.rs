//! A request in flight on a stream of a client connection: its head, its body and its response.

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;

use super::connection::{ResponseSection, StreamError};
use super::handle::Handle;
use super::hpack::Pseudo;
use super::incoming::Incoming;
use super::outgoing::{Outgoing, SendError};
use super::slot::Slot;
use super::tunnel::Tunnel;
use super::{failure, length, websocket};
use crate::codec::answer::{Answer, Payload};
use crate::codec::body::{Body, Frame, Source};
use crate::codec::head::{RequestHead, ResponseHead, expects_continue};
use crate::codec::limits::CONTINUE_WAIT;
use crate::codec::upgrade::Upgraded;
use crate::codec::watchdog::Watchdog;
use crate::socket::stream::Stream;

/// A request in flight on a stream.
pub(crate) struct Exchange {
    state: ExchangeState,
    /// `None` once the response body owns the slot.
    slot: Option<Slot>,
    interims: usize,
    /// For a WebSocket, the proof of the client's key (RFC 6455 section 4.2.2).
    proof: Option<HeaderValue>,
}

#[allow(clippy::large_enum_variant, reason = "boxed as a whole by its one owner")]
enum ExchangeState {
    /// The request waits for a stream.
    Waiting {
        head: RequestHead,
        body: Body,
        /// Names its place in the queue of the connection.
        ticket: u64,
        /// Its slot in the queue of the caller.
        queued: Option<QueueWait>,
    },
    /// The request was sent and waits for the response.
    Sent {
        handle: Rc<Handle>,
        sending: Sending,
        tunnel: bool,
    },
    Over,
}

/// A slot in the queue for a stream. Resolves when the request has waited for too long.
type QueueWait = Pin<Box<dyn Future<Output = Failure>>>;

impl Exchange {
    pub(super) fn new(mut head: RequestHead, body: Body, slot: Slot) -> Self {
        // Other upgrades do not exist in HTTP/2, and an offered upgrade may be ignored (RFC 9110 section 7.8). A WebSocket
        // handshake is a GET with a key (RFC 6455 section 4.1).
        let is_handshake = head.method == Method::GET
            && body.is_ended()
            && head.headers.contains_key(header::SEC_WEBSOCKET_KEY);
        head.upgrade = head.upgrade.filter(|offered| is_handshake && websocket::is_among(offered));
        let state = ExchangeState::Waiting { head, body, ticket: 0, queued: None };
        Self { state, slot: Some(slot), interims: 0, proof: None }
    }

    /// Keeps `place`, its slot in the queue, while the request waits for a stream. Fails with the failure of `place` if that
    /// resolves first.
    pub(crate) fn queued(mut self, place: impl Future<Output = Failure> + 'static) -> Self {
        if let ExchangeState::Waiting { queued, .. } = &mut self.state {
            *queued = Some(Box::pin(place));
        }
        self
    }

    pub(crate) async fn answer(&mut self) -> Result<Answer, Failure> {
        let answer = poll_fn(|cx| match self.poll_answer(cx) {
            Poll::Pending => self.poll_queue_wait(cx).map(Err),
            answer => answer,
        })
        .await;
        if !matches!(answer, Ok(Answer::Interim(_))) {
            self.end();
        }
        // A tunnel lasts as long as the exchange.
        if matches!(answer, Ok(Answer::Final(_, Payload::Body(_))) | Err(_)) {
            self.slot = None;
        }
        answer
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Failure>> {
        let Some(slot) = &self.slot else { return Poll::Ready(Err(over())) };
        let shared = Rc::clone(slot.shared());
        if let ExchangeState::Waiting { head, ticket, .. } = &mut self.state {
            let mut connection = shared.connection.borrow_mut();
            ready!(connection.poll_open(ticket, cx)).map_err(|error| not_written(&error))?;
            if head.upgrade.is_some() {
                // The peer's SETTINGS state whether it accepts WebSockets (RFC 8441 section 3).
                let served = ready!(connection.poll_extended_connect(cx));
                if !served.map_err(|end| not_written(&StreamError::Connection(end)))? {
                    return Poll::Ready(Err(Failure::local(
                        Reason::UpgradeRefused,
                        "the endpoint speaks HTTP/2 and takes no WebSockets: its SETTINGS do not enable extended CONNECT",
                    )));
                }
            }
            drop(connection);
            self.begin()?;
        }
        let ExchangeState::Sent { handle, sending, .. } = &mut self.state else {
            return Poll::Ready(Err(over()));
        };
        sending.poll(cx)?;
        let response = ready!(handle.poll_head(cx))
            .map_err(|error| failure::upstream(&error, Reached::Maybe, handle.id()))?;
        let ResponseSection { section, ended } = response;
        let status = section.status.unwrap_or_default();
        let is_interim = status.is_informational();
        self.interims += usize::from(is_interim);
        let broken = if status == StatusCode::SWITCHING_PROTOCOLS {
            // RFC 9113 section 8.6.
            Some((Reason::UpstreamProtocolError, "a 101, which HTTP/2 does not have"))
        } else if section.too_large || !shared.limits.allow(section.size) {
            Some((Reason::UpstreamHeadersTooLarge, "the response's head is too large"))
        } else {
            (self.interims > shared.limits.interim_responses)
                .then_some((Reason::UpstreamProtocolError, "too many interim responses"))
        };
        if let Some((reason, rule)) = broken {
            return Poll::Ready(Err(Failure::upstream(reason, Reached::Maybe, rule)));
        }
        let head = ResponseHead { status, headers: section.fields, upgrade: None };
        if !is_interim {
            return Poll::Ready(self.take_response(head, section.content_length, ended));
        }
        if status == StatusCode::CONTINUE {
            // The body is sent from the next poll on: reading it before this 100 was passed on would generate a second one.
            sending.held = None;
        }
        Poll::Ready(Ok(Answer::Interim(head)))
    }

    /// Resolves when the request has waited for a stream for too long.
    fn poll_queue_wait(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        match &mut self.state {
            ExchangeState::Waiting { queued: Some(place), .. } => place.as_mut().poll(cx),
            _ => Poll::Pending,
        }
    }

    /// Opens the stream.
    fn begin(&mut self) -> Result<(), Failure> {
        let invalid = || Failure::local(Reason::LocalError, "a request without authority");
        if matches!(&self.state, ExchangeState::Waiting { head, .. } if head.authority.is_none()) {
            return Err(invalid());
        }
        let (Some(slot), ExchangeState::Waiting { mut head, body, .. }) =
            (&self.slot, std::mem::replace(&mut self.state, ExchangeState::Over))
        else {
            return Ok(());
        };
        let tunnel = head.upgrade.is_some();
        if tunnel {
            self.proof = websocket::asking(&mut head.headers);
        }
        let held = !body.is_ended() && expects_continue(&head.headers);
        length::announce(&mut head.headers, body.length());
        let authority = head.authority.as_ref().ok_or_else(invalid)?;
        let is_connect = head.method == Method::CONNECT;
        let pseudo = Pseudo::Request {
            method: if tunnel { &Method::CONNECT } else { &head.method },
            scheme: (!is_connect).then(|| head.scheme.as_str()),
            authority: Some(authority.as_str()),
            path: (!is_connect).then(|| head.path.as_str()),
            protocol: tunnel.then_some(websocket::NAME),
        };
        let ended = body.is_ended() && !tunnel;
        let connection = &slot.shared().connection;
        let opened = connection.borrow_mut().open(pseudo, &head.headers, ended);
        let handle = Handle::new(connection, opened.map_err(|error| not_written(&error))?);
        let held = held.then(|| {
            let mut watchdog = Watchdog::new();
            watchdog.set(CONTINUE_WAIT);
            watchdog
        });
        let done = body.is_ended();
        let outgoing = (!done).then(|| Outgoing::new(Rc::clone(&handle), body));
        self.state = ExchangeState::Sent { handle, sending: Sending { outgoing, held }, tunnel };
        Ok(())
    }

    fn take_response(
        &mut self,
        mut head: ResponseHead,
        length: Option<u64>,
        ended: bool,
    ) -> Result<Answer, Failure> {
        let ExchangeState::Sent { handle, sending, tunnel } =
            std::mem::replace(&mut self.state, ExchangeState::Over)
        else {
            return Err(over());
        };
        let Some(slot) = &self.slot else { return Err(over()) };
        if tunnel && head.status.is_success() {
            websocket::opened(&mut head, self.proof.take());
            let stream = Stream::Tunnel(Box::new(Tunnel::new(handle)));
            return Ok(Answer::Final(head, Payload::Tunnel(Upgraded { stream, read: Bytes::new() })));
        }
        if ended {
            return Ok(Answer::Final(head, Payload::Body(Body::empty())));
        }
        let limits = Rc::clone(&slot.shared().limits);
        let body = Rc::new(ResponseBody {
            incoming: Incoming::new(handle, limits, from_server),
            sending: RefCell::new(sending),
            _slot: self.slot.take(),
        });
        Ok(Answer::Final(head, Payload::Body(Body::streamed(body, 0, length))))
    }

    /// Gives up the place in the queue, or resets the stream.
    fn end(&mut self) {
        if let (ExchangeState::Waiting { ticket, .. }, Some(slot)) = (&self.state, &self.slot) {
            slot.shared().connection.borrow_mut().cancel_open(*ticket);
        }
        self.state = ExchangeState::Over;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.end();
    }
}

fn from_server(error: &StreamError, id: u32) -> Failure {
    failure::upstream(error, Reached::ResponseStarted, id)
}

fn not_written(error: &StreamError) -> Failure {
    failure::upstream(error, Reached::NotWritten, 0)
}

fn over() -> Failure {
    Failure::local(Reason::LocalError, "the exchange is over")
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            ExchangeState::Waiting { .. } => "waiting",
            ExchangeState::Sent { .. } => "sent",
            ExchangeState::Over => "over",
        };
        f.debug_struct("Exchange").field("state", &state).finish_non_exhaustive()
    }
}

/// The request body that is being sent.
struct Sending {
    /// `None` when the whole body was sent, or the peer accepts no more of it.
    outgoing: Option<Outgoing>,
    /// The body is held back until a 100 is received or this timer expires.
    held: Option<Watchdog>,
}

impl Sending {
    /// Continues sending. Returns an error if the body fails; the outcome of the stream is returned with the response.
    fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        let Some(outgoing) = &mut self.outgoing else { return Ok(()) };
        if let Some(watchdog) = &mut self.held {
            if watchdog.poll_passed(cx).is_pending() {
                return Ok(());
            }
            self.held = None;
        }
        let sent = match outgoing.poll(cx) {
            Poll::Pending => return Ok(()),
            Poll::Ready(sent) => sent,
        };
        // The body is dropped, which is no longer needed.
        self.outgoing = None;
        match sent {
            Ok(()) | Err(SendError::Stream(_)) => Ok(()),
            Err(SendError::Body(mut failure)) => {
                // The failure of the body has its own progress; the head of the request has got further.
                failure.reached = failure.reached.max(Reached::Maybe);
                Err(failure)
            }
        }
    }
}

struct ResponseBody {
    incoming: Incoming,
    sending: RefCell<Sending>,
    _slot: Option<Slot>,
}

impl Source for ResponseBody {
    fn poll_frame(&self, _turn: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        if let Err(failure) = self.sending.borrow_mut().poll(cx) {
            return Poll::Ready(Some(Err(Failure { reached: Reached::ResponseStarted, ..failure })));
        }
        self.incoming.poll_frame(cx)
    }

    fn poll_progress(&self, _turn: u64, cx: &mut Context<'_>) {
        // Its failure resets the stream, and is returned when the body is read.
        let _ = self.sending.borrow_mut().poll(cx);
    }
}
