//! A request in flight on a stream of a client connection: its head, its body and its response.

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use h2::ext::Protocol;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;

use super::field_value::{OUTER_WHITESPACE, has_outer_whitespace};
use super::incoming::{ErrorMapping, Incoming};
use super::outgoing::{Outgoing, SendError};
use super::slot::{Shared, Slot};
use super::tunnel::Tunnel;
use super::unread::{Receiver, Receiving, Unconsumed};
use super::{cause, failure, websocket};
use crate::codec::answer::{Answer, Payload};
use crate::codec::body::{Body, Frame, Source};
use crate::codec::head::{RequestHead, ResponseHead, expects_continue};
use crate::codec::hop;
use crate::codec::limits::{CONTINUE_WAIT, FieldSize};
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
        send: SendRequest<Bytes>,
        head: RequestHead,
        body: Body,
        /// Its slot in the queue.
        queued: Option<QueueWait>,
    },
    /// The request was sent and waits for the response.
    Sent {
        response: ResponseFuture,
        sending: Sending,
        tunnel: bool,
        /// Present until the connection has a stream for it, if no stream was available when it was sent.
        opening: Option<(SendRequest<Bytes>, QueueWait)>,
    },
    Over,
}

/// A slot in the queue for a stream. Resolves when the request has waited for too long.
type QueueWait = Pin<Box<dyn Future<Output = Failure>>>;

impl Exchange {
    pub(super) fn new(send: SendRequest<Bytes>, mut head: RequestHead, body: Body, slot: Slot) -> Self {
        // Other upgrades do not exist in HTTP/2, and an offered upgrade may be ignored (RFC 9110 section 7.8). A WebSocket
        // handshake is a GET with a key (RFC 6455 section 4.1).
        let is_handshake = head.method == Method::GET
            && body.is_ended()
            && head.headers.contains_key(header::SEC_WEBSOCKET_KEY);
        head.upgrade = head.upgrade.filter(|offered| is_handshake && websocket::is_among(offered));
        let state = ExchangeState::Waiting { send, head, body, queued: None };
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
            self.state = ExchangeState::Over;
        }
        // A tunnel lasts as long as the exchange.
        if matches!(answer, Ok(Answer::Final(_, Payload::Body(_))) | Err(_)) {
            self.slot = None;
        }
        answer
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Failure>> {
        let Some(slot) = &self.slot else { return Poll::Ready(Err(over())) };
        let shared = slot.shared();
        if let ExchangeState::Waiting { send, head, .. } = &mut self.state {
            ready!(send.poll_ready(cx)).map_err(|error| failure::upstream(&error, Reached::NotWritten))?;
            if head.upgrade.is_some() {
                // The peer's SETTINGS state whether it accepts WebSockets (RFC 8441 section 3).
                ready!(shared.seen.poll_settings(cx));
                if !send.is_extended_connect_protocol_enabled() {
                    return Poll::Ready(Err(Failure::local(
                        Reason::UpgradeRefused,
                        "the endpoint speaks HTTP/2 and takes no WebSockets: its SETTINGS do not enable extended CONNECT",
                    )));
                }
            }
            self.begin()?;
        }
        let Some(slot) = &self.slot else { return Poll::Ready(Err(over())) };
        let Shared { limits, seen, .. } = slot.shared();
        let ExchangeState::Sent { response, sending, opening, .. } = &mut self.state else {
            return Poll::Ready(Err(over()));
        };
        if opening.as_mut().is_some_and(|(send, _)| matches!(send.poll_ready(cx), Poll::Ready(Ok(())))) {
            *opening = None;
        }
        let reached = if opening.is_some() { Reached::NotWritten } else { Reached::Maybe };
        let stream = response.stream_id().as_u32();
        let failed = |error: &h2::Error| failure::upstream_of(error, reached, seen.came_last(stream));
        sending.poll(cx)?;
        if let Poll::Ready(Some(interim)) = response.poll_informational(cx) {
            let interim = interim.map_err(|error| failed(&error))?;
            self.interims += 1;
            let broken = if interim.status() == StatusCode::SWITCHING_PROTOCOLS {
                // RFC 9113 section 8.6.
                Some((Reason::UpstreamProtocolError, "a 101, which HTTP/2 does not have"))
            } else if has_outer_whitespace(interim.headers()) {
                Some((Reason::UpstreamProtocolError, OUTER_WHITESPACE))
            } else if !limits.allow(FieldSize::of(interim.headers())) {
                Some((Reason::UpstreamHeadersTooLarge, "the response's head is too large"))
            } else {
                (self.interims > limits.interim_responses)
                    .then_some((Reason::UpstreamProtocolError, "too many interim responses"))
            };
            if let Some((reason, rule)) = broken {
                let failure = Failure::upstream(reason, Reached::Maybe, rule);
                return Poll::Ready(Err(failure));
            }
            if interim.status() == StatusCode::CONTINUE {
                // The body is sent from the next poll on: reading it before this 100 was passed on would generate a second one.
                sending.held = None;
            }
            let (parts, ()) = interim.into_parts();
            let head = ResponseHead { status: parts.status, headers: parts.headers, upgrade: None };
            return Poll::Ready(Ok(Answer::Interim(head)));
        }
        let response = ready!(Pin::new(response).poll(cx)).map_err(|error| failed(&error))?;
        Poll::Ready(self.take_response(response))
    }

    /// Resolves when the request has waited for a stream for too long.
    fn poll_queue_wait(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        match &mut self.state {
            ExchangeState::Waiting { queued: Some(place), .. }
            | ExchangeState::Sent { opening: Some((_, place)), .. } => place.as_mut().poll(cx),
            _ => Poll::Pending,
        }
    }

    /// Opens the stream. A request that h2 refuses was not written.
    fn begin(&mut self) -> Result<(), Failure> {
        let ExchangeState::Waiting { mut send, mut head, body, queued } =
            std::mem::replace(&mut self.state, ExchangeState::Over)
        else {
            return Ok(());
        };
        let tunnel = head.upgrade.is_some();
        if tunnel {
            self.proof = websocket::asking(&mut head.headers);
        }
        let held = !body.is_ended() && expects_continue(&head.headers);
        let request = request(head, &body)?;
        let ended = body.is_ended() && !tunnel;
        let (response, stream) = send
            .send_request(request, ended)
            .map_err(|error| failure::upstream(&error, Reached::NotWritten))?;
        let held = held.then(|| {
            let mut watchdog = Watchdog::new();
            watchdog.set(CONTINUE_WAIT);
            watchdog
        });
        let done = body.is_ended();
        let sending = Sending { outgoing: Some(Outgoing::new(stream, body)), done, held };
        let opening = queued.map(|place| (send, place));
        self.state = ExchangeState::Sent { response, sending, tunnel, opening };
        Ok(())
    }

    fn take_response(&mut self, response: Response<RecvStream>) -> Result<Answer, Failure> {
        let ExchangeState::Sent { mut sending, tunnel, .. } =
            std::mem::replace(&mut self.state, ExchangeState::Over)
        else {
            return Err(over());
        };
        let Some(slot) = &self.slot else { return Err(over()) };
        let shared = slot.shared();
        let (parts, incoming) = response.into_parts();
        if !shared.limits.allow(FieldSize::of(&parts.headers)) {
            let failure = Failure::upstream(
                Reason::UpstreamHeadersTooLarge,
                Reached::Maybe,
                "the response's head is too large",
            );
            return Err(failure);
        }
        if has_outer_whitespace(&parts.headers) {
            return Err(Failure::upstream(Reason::UpstreamProtocolError, Reached::Maybe, OUTER_WHITESPACE));
        }
        let mut head = ResponseHead { status: parts.status, headers: parts.headers, upgrade: None };
        if tunnel && head.status.is_success() {
            let Some(outgoing) = sending.outgoing.take() else { return Err(over()) };
            websocket::opened(&mut head, self.proof.take());
            let receive = Rc::new(RefCell::new(Receiver::new(incoming)));
            let watched: Weak<RefCell<Receiver>> = Rc::downgrade(&receive);
            shared.unread.watch(watched);
            let stream = Stream::Tunnel(Box::new(Tunnel::new(outgoing.into_stream(), receive)));
            return Ok(Answer::Final(head, Payload::Tunnel(Upgraded { stream, read: Bytes::new() })));
        }
        if incoming.is_end_stream() {
            // A head without a body looks like faulty trailers.
            let _ = shared.seen.fault_of_trailers(incoming.stream_id().as_u32());
            return Ok(Answer::Final(head, Payload::Body(Body::empty())));
        }
        let length =
            head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = Rc::new(ResponseBody {
            incoming: RefCell::new(Incoming::new(incoming, &shared.limits, &shared.seen, FROM_SERVER)),
            sending: RefCell::new(sending),
            slot: self.slot.take(),
        });
        if let Some(slot) = &body.slot {
            let watched: Weak<ResponseBody> = Rc::downgrade(&body);
            slot.shared().unread.watch(watched);
        }
        Ok(Answer::Final(head, Payload::Body(Body::streamed(body, 0, length))))
    }
}

const FROM_SERVER: ErrorMapping = ErrorMapping {
    error: |error| failure::upstream(error, Reached::ResponseStarted),
    broken: |rule| Failure::upstream(Reason::UpstreamProtocolError, Reached::ResponseStarted, rule),
    too_large: |what| Failure::upstream(Reason::UpstreamHeadersTooLarge, Reached::ResponseStarted, what),
};

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

/// Converts a request to its HTTP/2 form. An upgrade becomes an extended CONNECT (RFC 8441 section 4).
fn request(head: RequestHead, body: &Body) -> Result<Request<()>, Failure> {
    let invalid = |detail: &str| Failure::local(Reason::LocalError, detail);
    let mut uri = http::uri::Parts::default();
    let connect = head.method == Method::CONNECT;
    uri.authority = Some(head.authority.ok_or_else(|| invalid("a request without authority"))?);
    if !connect {
        uri.scheme = head.scheme.as_str().parse().ok();
        uri.path_and_query = Some(head.path);
    }
    let mut request = Request::new(());
    *request.uri_mut() =
        Uri::from_parts(uri).map_err(|_| invalid("a request target that is none in HTTP/2"))?;
    *request.method_mut() = head.method;
    if head.upgrade.is_some() {
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(Protocol::from_static(websocket::NAME));
    }
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = head.headers;
    let headers = request.headers_mut();
    hop::strip(headers);
    match body.length() {
        // For an empty body, END_STREAM is sufficient.
        Some(0) if !headers.contains_key(header::CONTENT_LENGTH) => {}
        Some(length) => drop(headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length))),
        None => drop(headers.remove(header::CONTENT_LENGTH)),
    }
    Ok(request)
}

/// The request body that is being sent.
struct Sending {
    /// Kept after the whole body was sent, to reset the stream with; `None` once a tunnel owns it.
    outgoing: Option<Outgoing>,
    /// Whether the whole body was sent, or the peer accepts no more of it.
    done: bool,
    /// The body is held back until a 100 is received or this timer expires.
    held: Option<Watchdog>,
}

impl Sending {
    /// Continues sending. Returns an error if the body fails; the outcome of the stream is returned with the response.
    fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        if self.done {
            return Ok(());
        }
        if let Some(watchdog) = &mut self.held {
            if watchdog.poll_passed(cx).is_pending() {
                return Ok(());
            }
            self.held = None;
        }
        let Some(outgoing) = &mut self.outgoing else { return Ok(()) };
        match outgoing.poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(()) | Err(SendError::Stream(_))) => {
                self.finish();
                Ok(())
            }
            Poll::Ready(Err(SendError::Body(mut failure))) => {
                self.finish();
                // The failure of the body has its own progress; the head of the request has got further.
                failure.reached = failure.reached.max(Reached::Maybe);
                Err(failure)
            }
        }
    }

    /// Drops the body, which is no longer needed.
    fn finish(&mut self) {
        self.done = true;
        if let Some(outgoing) = &mut self.outgoing {
            outgoing.drop_body();
        }
    }
}

impl Drop for Sending {
    /// h2 resets a stream that is dropped before its end with CANCEL, unless it was already reset.
    fn drop(&mut self) {
        if let (Some(code), Some(outgoing)) = (cause::code(), &mut self.outgoing) {
            outgoing.reset(code);
        }
    }
}

struct ResponseBody {
    incoming: RefCell<Incoming>,
    sending: RefCell<Sending>,
    slot: Option<Slot>,
}

impl Receiving for ResponseBody {
    fn unconsumed(&self) -> Unconsumed {
        self.incoming.borrow_mut().unconsumed()
    }

    fn give_up(&self) {
        self.incoming.borrow_mut().give_up();
    }
}

impl Source for ResponseBody {
    fn poll_frame(&self, _turn: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        if let Err(failure) = self.sending.borrow_mut().poll(cx) {
            return Poll::Ready(Some(Err(Failure { reached: Reached::ResponseStarted, ..failure })));
        }
        self.incoming.borrow_mut().poll_frame(cx)
    }

    fn poll_progress(&self, _turn: u64, cx: &mut Context<'_>) {
        // Its failure resets the stream, and is returned when the body is read.
        let _ = self.sending.borrow_mut().poll(cx);
    }
}
