//! A request in flight on a stream of a client connection: its head, its body and its response.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;

use super::connection::{Connection, ResponseSection, StreamError, StreamKey};
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

enum ExchangeState {
    /// The request waits for a stream.
    Waiting(Box<Waiting>),
    /// The request was sent and waits for the response. It asks for a tunnel or not.
    Sent(Rc<Sent>, bool),
    Over,
}

struct Waiting {
    head: RequestHead,
    body: Body,
    /// Names its place in the queue of the connection.
    ticket: u64,
    /// Its slot in the queue of the caller.
    queued: Option<QueueWait>,
}

/// A slot in the queue for a stream. Resolves when the request has waited for too long.
type QueueWait = Pin<Box<dyn Future<Output = Failure>>>;

impl Exchange {
    /// Sends a request if a stream is available and no other request waits for one. Otherwise the request waits, with a copy of its
    /// head; so does one that asks for a tunnel, until the peer's SETTINGS are known.
    pub(super) fn new(head: &RequestHead, body: Body, slot: Slot) -> Self {
        let connection = &slot.shared().connection;
        let at_once = head.upgrade.is_none() && connection.borrow().opens_at_once();
        let state = match at_once.then(|| open(connection, head, &body)) {
            Some(Ok(key)) => ExchangeState::Sent(Sent::new(&slot, key, head, body), false),
            // The failure is found again when it is polled.
            Some(Err(_)) | None => {
                let waiting = Waiting { head: offered(head, &body), body, ticket: 0, queued: None };
                ExchangeState::Waiting(Box::new(waiting))
            }
        };
        Self { state, slot: Some(slot), interims: 0, proof: None }
    }

    /// Keeps `place`, its slot in the queue, while the request waits for a stream. Fails with the failure of `place` if that
    /// resolves first.
    pub(crate) fn queued(mut self, place: impl Future<Output = Failure> + 'static) -> Self {
        if let ExchangeState::Waiting(waiting) = &mut self.state {
            waiting.queued = Some(Box::pin(place));
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
        if let ExchangeState::Waiting(waiting) = &mut self.state {
            let mut connection = shared.connection.borrow_mut();
            ready!(connection.poll_open(&mut waiting.ticket, cx)).map_err(|error| not_written(&error))?;
            if waiting.head.upgrade.is_some() {
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
        let ExchangeState::Sent(sent, _) = &self.state else { return Poll::Ready(Err(over())) };
        sent.sending.borrow_mut().poll(cx)?;
        let response = ready!(sent.handle().poll_head(cx))
            .map_err(|error| failure::upstream(&error, Reached::Maybe, sent.handle().id()))?;
        let ResponseSection { mut section, ended } = response;
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
        let (headers, length) = (std::mem::take(&mut section.fields), section.content_length);
        section.give();
        let head = ResponseHead { status, headers, upgrade: None };
        if !is_interim {
            return Poll::Ready(self.take_response(head, length, ended));
        }
        if status == StatusCode::CONTINUE {
            // The body is sent from the next poll on: reading it before this 100 was passed on would generate a second one.
            sent.sending.borrow_mut().held = None;
        }
        Poll::Ready(Ok(Answer::Interim(head)))
    }

    /// Resolves when the request has waited for a stream for too long.
    fn poll_queue_wait(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        match &mut self.state {
            ExchangeState::Waiting(waiting) => match &mut waiting.queued {
                Some(place) => place.as_mut().poll(cx),
                None => Poll::Pending,
            },
            _ => Poll::Pending,
        }
    }

    /// Sends a request that has waited. If that fails, it still has its turn, which [`Self::end`] leaves to the next one.
    fn begin(&mut self) -> Result<(), Failure> {
        let (Some(slot), ExchangeState::Waiting(waiting)) = (&self.slot, &mut self.state) else {
            return Ok(());
        };
        let tunnel = waiting.head.upgrade.is_some();
        if tunnel {
            self.proof = websocket::asking(&mut waiting.head.headers);
        }
        let key = open(&slot.shared().connection, &waiting.head, &waiting.body)?;
        let body = std::mem::replace(&mut waiting.body, Body::empty());
        self.state = ExchangeState::Sent(Sent::new(slot, key, &waiting.head, body), tunnel);
        Ok(())
    }

    fn take_response(
        &mut self,
        mut head: ResponseHead,
        length: Option<u64>,
        ended: bool,
    ) -> Result<Answer, Failure> {
        let ExchangeState::Sent(sent, tunnel) = std::mem::replace(&mut self.state, ExchangeState::Over)
        else {
            return Err(over());
        };
        if tunnel && head.status.is_success() {
            websocket::opened(&mut head, self.proof.take());
            let stream = Stream::Tunnel(Box::new(Tunnel::new(sent.handle().clone())));
            return Ok(Answer::Final(head, Payload::Tunnel(Upgraded { stream, read: Bytes::new() })));
        }
        if ended {
            return Ok(Answer::Final(head, Payload::Body(Body::empty())));
        }
        sent.slot.set(self.slot.take());
        Ok(Answer::Final(head, Payload::Body(Body::streamed(sent, 0, length))))
    }

    /// Gives up the place in the queue, or resets the stream.
    fn end(&mut self) {
        if let (ExchangeState::Waiting(waiting), Some(slot)) = (&self.state, &self.slot) {
            slot.shared().connection.borrow_mut().cancel_open(waiting.ticket);
        }
        self.state = ExchangeState::Over;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.end();
    }
}

/// Returns a copy of `head` with only the upgrade that HTTP/2 has: a WebSocket. Others may be ignored (RFC 9110 section 7.8). A
/// WebSocket handshake is a GET with a key (RFC 6455 section 4.1).
fn offered(head: &RequestHead, body: &Body) -> RequestHead {
    let is_handshake =
        head.method == Method::GET && body.is_ended() && head.headers.contains_key(header::SEC_WEBSOCKET_KEY);
    let mut head = head.clone();
    head.upgrade = head.upgrade.filter(|offered| is_handshake && websocket::is_among(offered));
    head
}

/// Opens a stream with the head of a request, an extended CONNECT (RFC 8441) if it offers an upgrade. Fails if none can be opened.
fn open(connection: &RefCell<Connection>, head: &RequestHead, body: &Body) -> Result<StreamKey, Failure> {
    let authority = head.authority.as_ref();
    let authority =
        authority.ok_or_else(|| Failure::local(Reason::LocalError, "a request without authority"))?;
    let tunnel = head.upgrade.is_some();
    let is_connect = head.method == Method::CONNECT;
    let pseudo = Pseudo::Request {
        method: if tunnel { &Method::CONNECT } else { &head.method },
        scheme: (!is_connect).then(|| head.scheme.as_str()),
        authority: Some(authority.as_str()),
        path: (!is_connect).then(|| head.path.as_str()),
        protocol: tunnel.then_some(websocket::NAME),
    };
    let fields = length::announced(&head.headers, body.length());
    let opened = connection.borrow_mut().open(pseudo, &fields, body.is_ended() && !tunnel);
    opened.map_err(|error| not_written(&error))
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
            ExchangeState::Waiting(_) => "waiting",
            ExchangeState::Sent(..) => "sent",
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

/// A request that was sent, and the body of its response.
struct Sent {
    incoming: Incoming,
    sending: RefCell<Sending>,
    /// Set once the response body owns the slot.
    slot: Cell<Option<Slot>>,
}

impl Sent {
    /// The request with `head` was sent on the stream `key`, which is still to get `body`.
    fn new(slot: &Slot, key: StreamKey, head: &RequestHead, body: Body) -> Rc<Self> {
        let shared = slot.shared();
        let handle = Handle::new(&shared.connection, key);
        let held = (!body.is_ended() && expects_continue(&head.headers)).then(|| {
            let mut watchdog = Watchdog::new();
            watchdog.set(CONTINUE_WAIT);
            watchdog
        });
        let outgoing = (!body.is_ended()).then(|| Outgoing::new(handle.clone(), body));
        Rc::new(Self {
            incoming: Incoming::new(handle, Rc::clone(&shared.limits), from_server),
            sending: RefCell::new(Sending { outgoing, held }),
            slot: Cell::new(None),
        })
    }

    fn handle(&self) -> &Handle {
        self.incoming.handle()
    }
}

impl Source for Sent {
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
