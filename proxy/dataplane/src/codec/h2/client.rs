//! The client side: many requests at a time on one connection.
//!
//! Each connection has a task of its own on the worker, which ends when its last user is gone or the connection has ended.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Ping, PingPong, RecvStream};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;
use tokio::sync::watch;

use super::incoming::Incoming;
use super::outgoing::{Cut, Outgoing};
use super::{FRAME_SIZE, PENDING_RESETS, SEND_BUFFER, failure};
use crate::codec::answer::Answer;
use crate::codec::body::{Body, Frame, Source};
use crate::codec::head::{RequestHead, ResponseHead, expects_continue};
use crate::codec::hop;
use crate::codec::limits::{CONTINUE_WAIT, FieldSize, Limits};
use crate::codec::watchdog::Watchdog;
use crate::socket::stream::Stream;

/// How often a peer that has requests of ours is asked whether it is still there, and how long it may take to answer.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams that are begun before the peer has said how many it takes.
const STREAMS_BEFORE_SETTINGS: usize = 100;

/// A connection, shared by its clones.
#[derive(Clone)]
pub(crate) struct Connection {
    send: SendRequest<Bytes>,
    streams: Rc<Cell<usize>>,
    ended: watch::Receiver<()>,
    limits: Rc<Limits>,
}

impl Connection {
    /// Starts a connection. An encrypted one leads to another proxy, which is asked with PING whether it is still there:
    /// a host that vanishes leaves its connections silent. An application is not, since some count PINGs as abuse.
    pub(crate) async fn start(stream: Stream, limits: &Limits) -> Result<Self, Failure> {
        let asked = stream.is_encrypted();
        Self::start_asking(stream, limits, asked).await
    }

    pub(in crate::codec) async fn start_asking(
        stream: Stream,
        limits: &Limits,
        asked: bool,
    ) -> Result<Self, Failure> {
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window)
            .max_frame_size(FRAME_SIZE)
            .max_header_list_size(limits.http2_list_bytes())
            .initial_max_send_streams(STREAMS_BEFORE_SETTINGS)
            .max_concurrent_reset_streams(PENDING_RESETS)
            .max_local_error_reset_streams(Some(PENDING_RESETS * 4))
            .max_send_buffer_size(SEND_BUFFER);
        let (send, mut connection) = builder
            .handshake::<_, Bytes>(stream)
            .await
            .map_err(|error| failure::upstream(&error, Reached::NotWritten))?;
        let (alive, ended) = watch::channel(());
        let streams = Rc::<Cell<usize>>::default();
        let silence = silence(asked.then(|| connection.ping_pong()).flatten(), streams.clone());
        tokio::task::spawn_local(async move {
            // Each stream is told, by the error or by the connection that is dropped; this is for whoever debugs.
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "upstream HTTP/2 connection ended");
                },
                () = silence => tracing::debug!("upstream HTTP/2 connection was silent"),
            }
            drop(alive);
        });
        Ok(Self { send, streams, ended, limits: Rc::new(limits.clone()) })
    }

    pub(crate) fn capacity(&self) -> usize {
        if !self.is_open() {
            return 0;
        }
        self.send.current_max_send_streams().saturating_sub(self.streams.get())
    }

    pub(crate) fn streams(&self) -> usize {
        self.streams.get()
    }

    pub(crate) fn is_open(&self) -> bool {
        let polled = self.send.clone().poll_ready(&mut Context::from_waker(Waker::noop()));
        self.ended.has_changed().is_ok() && !matches!(polled, Poll::Ready(Err(_)))
    }

    pub(crate) async fn closed(&self) {
        // Nothing is ever sent: this resolves when the task has dropped its end.
        let _ = self.ended.clone().changed().await;
    }

    pub(crate) fn send(&self, head: RequestHead, body: Body) -> Exchange {
        self.streams.set(self.streams.get() + 1);
        let slot = Slot(self.streams.clone());
        let state = State::Waiting { send: self.send.clone(), head, body };
        Exchange { state, slot: Some(slot), limits: self.limits.clone(), interims: 0 }
    }
}

/// Resolves when the peer leaves a PING without answer while requests are under way.
async fn silence(pings: Option<PingPong>, streams: Rc<Cell<usize>>) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        tokio::time::sleep(PING_EVERY).await;
        if streams.get() == 0 {
            continue;
        }
        match tokio::time::timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await {
            Err(_) => return,
            Ok(Ok(_)) => {}
            // The connection has ended and says so itself.
            Ok(Err(_)) => return std::future::pending().await,
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("streams", &self.streams.get()).finish_non_exhaustive()
    }
}

/// One of the connection's streams is in use.
#[derive(Debug)]
struct Slot(Rc<Cell<usize>>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A request under way on a stream.
pub(crate) struct Exchange {
    state: State,
    slot: Option<Slot>,
    limits: Rc<Limits>,
    interims: usize,
}

#[allow(clippy::large_enum_variant, reason = "boxed as a whole by its one owner")]
enum State {
    /// For the connection to take a stream.
    Waiting {
        send: SendRequest<Bytes>,
        head: RequestHead,
        body: Body,
    },
    /// For the response.
    Sent {
        response: ResponseFuture,
        sending: Sending,
    },
    Over,
}

impl Exchange {
    pub(crate) async fn answer(&mut self) -> Result<Answer, Failure> {
        let answer = poll_fn(|cx| self.poll_answer(cx)).await;
        if !matches!(answer, Ok(Answer::Interim(_))) {
            self.state = State::Over;
            self.slot = None;
        }
        answer
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Failure>> {
        if let State::Waiting { send, .. } = &mut self.state {
            ready!(send.poll_ready(cx)).map_err(|error| failure::upstream(&error, Reached::NotWritten))?;
            self.begin()?;
        }
        let State::Sent { response, sending } = &mut self.state else {
            return Poll::Ready(Err(Failure::local(Reason::LocalError, "the exchange is over")));
        };
        sending.poll(cx)?;
        if let Poll::Ready(Some(interim)) = response.poll_informational(cx) {
            let interim = interim.map_err(|error| failure::upstream(&error, Reached::Maybe))?;
            self.interims += 1;
            let broken = if interim.status() == StatusCode::SWITCHING_PROTOCOLS {
                // RFC 9113 section 8.6.
                Some("a 101, which HTTP/2 does not have")
            } else if !self.limits.allow(FieldSize::of(interim.headers())) {
                Some("the response's head is too large")
            } else {
                (self.interims > self.limits.interim_responses).then_some("too many interim responses")
            };
            if let Some(rule) = broken {
                let failure = Failure::upstream(Reason::UpstreamProtocolError, Reached::Maybe, rule);
                return Poll::Ready(Err(failure));
            }
            if interim.status() == StatusCode::CONTINUE {
                // Sent from the next poll on: reading the body before this 100 was passed on would make a second one.
                sending.held = None;
            }
            let (parts, ()) = interim.into_parts();
            let head = ResponseHead { status: parts.status, headers: parts.headers, upgrade: None };
            return Poll::Ready(Ok(Answer::Interim(head)));
        }
        let response = ready!(std::pin::Pin::new(response).poll(cx))
            .map_err(|error| failure::upstream(&error, Reached::Maybe))?;
        Poll::Ready(self.take_response(response))
    }

    /// Begins the stream. What h2 refuses was not written.
    fn begin(&mut self) -> Result<(), Failure> {
        let State::Waiting { mut send, head, body } = std::mem::replace(&mut self.state, State::Over) else {
            return Ok(());
        };
        let held = !body.is_ended() && expects_continue(&head.headers);
        let request = request(head, &body)?;
        let (response, stream) = send
            .send_request(request, body.is_ended())
            .map_err(|error| failure::upstream(&error, Reached::NotWritten))?;
        let held = held.then(|| {
            let mut watchdog = Watchdog::new();
            watchdog.set(CONTINUE_WAIT);
            watchdog
        });
        let outgoing = (!body.is_ended()).then(|| Outgoing::new(stream, body));
        self.state = State::Sent { response, sending: Sending { outgoing, held } };
        Ok(())
    }

    fn take_response(&mut self, response: Response<RecvStream>) -> Result<Answer, Failure> {
        let State::Sent { sending, .. } = std::mem::replace(&mut self.state, State::Over) else {
            return Err(Failure::local(Reason::LocalError, "the exchange is over"));
        };
        let (parts, incoming) = response.into_parts();
        if !self.limits.allow(FieldSize::of(&parts.headers)) {
            let failure = Failure::upstream(
                Reason::UpstreamProtocolError,
                Reached::Maybe,
                "the response's head is too large",
            );
            return Err(failure);
        }
        let head = ResponseHead { status: parts.status, headers: parts.headers, upgrade: None };
        if incoming.is_end_stream() {
            return Ok(Answer::Final(head, Body::empty()));
        }
        let length =
            head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let meaning = |error: &h2::Error| failure::upstream(error, Reached::ResponseStarted);
        let source = ResponseBody {
            incoming: RefCell::new(Incoming::new(incoming, &self.limits, meaning)),
            sending: RefCell::new(sending),
            _slot: self.slot.take(),
        };
        Ok(Answer::Final(head, Body::streamed(Rc::new(source), 0, length)))
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Waiting { .. } => "waiting",
            State::Sent { .. } => "sent",
            State::Over => "over",
        };
        f.debug_struct("Exchange").field("state", &state).finish_non_exhaustive()
    }
}

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
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = head.headers;
    let headers = request.headers_mut();
    hop::strip(headers);
    match body.length() {
        // Of nothing, END_STREAM says enough.
        Some(0) if !headers.contains_key(header::CONTENT_LENGTH) => {}
        Some(length) => drop(headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length))),
        None => drop(headers.remove(header::CONTENT_LENGTH)),
    }
    Ok(request)
}

/// The request's body, on its way.
struct Sending {
    /// `None` when all of it was sent, or the peer wants no more of it.
    outgoing: Option<Outgoing>,
    /// The body is held back until a 100 comes or this passes.
    held: Option<Watchdog>,
}

impl Sending {
    /// Goes on. Fails when the body fails; what happens to the stream, the response says.
    fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        if let Some(watchdog) = &mut self.held {
            if watchdog.poll_passed(cx).is_pending() {
                return Ok(());
            }
            self.held = None;
        }
        let Some(outgoing) = &mut self.outgoing else { return Ok(()) };
        match outgoing.poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(()) | Err(Cut::Stream(_))) => {
                self.outgoing = None;
                Ok(())
            }
            Poll::Ready(Err(Cut::Body(mut failure))) => {
                self.outgoing = None;
                // What failed says how far it had come itself; the head of the request has come further.
                failure.reached = failure.reached.max(Reached::Maybe);
                Err(failure)
            }
        }
    }
}

struct ResponseBody {
    incoming: RefCell<Incoming>,
    sending: RefCell<Sending>,
    _slot: Option<Slot>,
}

impl Source for ResponseBody {
    fn poll_frame(&self, _turn: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        if let Err(failure) = self.sending.borrow_mut().poll(cx) {
            return Poll::Ready(Some(Err(Failure { reached: Reached::ResponseStarted, ..failure })));
        }
        self.incoming.borrow_mut().poll_frame(cx)
    }

    fn poll_progress(&self, _turn: u64, cx: &mut Context<'_>) {
        // Its failure resets the stream, and comes back when the body is read.
        let _ = self.sending.borrow_mut().poll(cx);
    }
}
