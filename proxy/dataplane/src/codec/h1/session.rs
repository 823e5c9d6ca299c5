//! The state of a server connection, shared by its task, the request body and the responder: which request is current, and how
//! far it has come.
//!
//! A body or responder that outlives its request does nothing: it never reads or writes what belongs to the next one.

use std::cell::Cell;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode};
use outrigger_core::drain::DrainGuard;
use outrigger_core::error::Failure;
use outrigger_core::explanation::{Explanation, FailedRequest};
use outrigger_core::reason::Reason;
use tokio::time::Instant;

use super::Malformed;
use super::buffered_stream::BufferedStream;
use super::fields::Search;
use super::framing::{Decoded, Decoder, Framing};
use super::write::{self, Answering};
use crate::codec::allowance::Patience;
use crate::codec::body::{Body, Frame, Source};
use crate::codec::head::ResponseHead;
use crate::codec::limits::Limits;
use crate::codec::watchdog::Watchdog;
use crate::socket::stream::Stream;

/// The number of bytes of an unread request body that are discarded to keep the connection.
const DISCARD: usize = 64 * 1024;

/// The connection, shared by its task, a request's body and its responder.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: RefCell<Option<BufferedStream>>,
    pub(crate) state: RefCell<SessionState>,
    pub(crate) limits: Rc<Limits>,
    pub(crate) drain: DrainGuard,
    /// Of the response.
    pub(crate) still_since: Rc<Cell<Option<Instant>>>,
}

#[derive(Debug)]
pub(crate) struct SessionState {
    pub(crate) search: Search,
    /// The number of requests so far.
    pub(super) requests: u32,
    pub(super) began: Instant,
    /// While draining: passes when the client had its time to send its first request.
    pub(super) first: Option<Watchdog>,
    /// Passes at the maximum lifetime of the connection.
    pub(super) life: Watchdog,
    /// The connection ends with this request: it has reached its maximum lifetime or number of requests.
    pub(super) ending: bool,
    /// Incremented when a request begins and ends. A body or responder of an earlier turn does nothing.
    pub(crate) turn: u64,
    pub(crate) body: Decoder,
    /// The client waits for a 100 before it sends its body (RFC 9110 section 10.1.1).
    pub(crate) owes_continue: bool,
    pub(crate) response: ResponseState,
    pub(crate) watchdog: Watchdog,
    /// A head was partly received: its timeout runs.
    pub(crate) in_head: bool,
    /// When the kernel is next asked whether the client is still there.
    pub(super) look: Watchdog,
    pub(super) looking: bool,
    /// Since when the client's side is closed.
    pub(super) half_closed: Option<Instant>,
}

/// The progress of the response to the current request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResponseState {
    Awaited,
    Started,
    Complete { keep_alive: bool },
}

/// What happens to the connection after a request.
pub(crate) enum Disposition {
    Reuse,
    Close,
    /// It is answered with this failure, and the connection closes.
    Unanswered(Failure),
    Taken,
}

impl Session {
    pub(crate) fn new(stream: Stream, first: Bytes, limits: Rc<Limits>, drain: DrainGuard) -> Self {
        let mut life = Watchdog::new();
        if let Some(longest) = limits.longest_life {
            life.set(longest);
        }
        let state = SessionState {
            requests: 0,
            began: Instant::now(),
            first: None,
            life,
            ending: false,
            search: Search::default(),
            turn: 0,
            body: Decoder::new(Framing::None),
            owes_continue: false,
            response: ResponseState::Complete { keep_alive: true },
            watchdog: Watchdog::new(),
            in_head: false,
            look: Watchdog::new(),
            looking: false,
            half_closed: None,
        };
        Self {
            connection: RefCell::new(Some(BufferedStream::new(stream, first))),
            state: RefCell::new(state),
            limits,
            drain,
            still_since: Rc::default(),
        }
    }

    /// Begins a turn. Returns the request body and the number of the turn.
    pub(crate) fn begin(self: &Rc<Self>, framing: Framing, expects_continue: bool) -> (Body, u64) {
        let state = &mut *self.state.borrow_mut();
        state.turn += 1;
        state.requests = state.requests.saturating_add(1);
        state.ending |= self.limits.requests.is_some_and(|most| state.requests >= most);
        state.body = Decoder::new(framing);
        state.owes_continue = expects_continue;
        state.response = ResponseState::Awaited;
        state.looking = false;
        state.half_closed = None;
        let body = match framing {
            Framing::None => Body::empty(),
            framing => Body::streamed(self.clone(), state.turn, framing.known()),
        };
        (body, state.turn)
    }

    pub(crate) fn finish(&self) -> Disposition {
        let state = &mut *self.state.borrow_mut();
        let connection = &mut *self.connection.borrow_mut();
        // From here on, the body and the responder of this turn do nothing.
        state.turn += 1;
        let Some(open) = connection else { return Disposition::Taken };
        match state.response {
            ResponseState::Awaited => Disposition::Unanswered(Failure::local(
                Reason::LocalError,
                "a request was left without an answer",
            )),
            ResponseState::Started => {
                if let Some(cut) = connection.take() {
                    cut.reset();
                }
                Disposition::Taken
            }
            ResponseState::Complete { keep_alive } => {
                let mut left = DISCARD;
                while let Ok(Decoded::Data(data)) = state.body.decode(&mut open.read, &self.limits) {
                    left = left.saturating_sub(data.len());
                    if left == 0 {
                        return Disposition::Close;
                    }
                }
                if keep_alive && state.body.is_ended() { Disposition::Reuse } else { Disposition::Close }
            }
        }
    }

    /// Returns whether the response that begins now is the last one of the connection.
    pub(crate) fn is_ending(&self) -> bool {
        let state = &mut *self.state.borrow_mut();
        state.ending |= state.life.has_passed();
        state.ending || self.drain.is_draining()
    }

    /// Responds to a refused request, and closes. Returns why it was refused.
    pub(crate) async fn answer_refusal(&self, failure: Failure) -> Result<(), Failure> {
        let Some(mut connection) = self.connection.take() else { return Err(failure) };
        let mut head = ResponseHead::new(failure.reason.status());
        head.headers.insert(Reason::FIELD, HeaderValue::from_static(failure.reason.name()));
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        let text = format!("{}\n", Explanation::new(failure.reason, FailedRequest::default()));
        let answering =
            Answering { method: Method::GET, http10: false, accepts_trailers: false, keep_alive: false };
        write::response(&mut connection.out, &head, Some(text.len() as u64), &answering);
        connection.out.push(Bytes::from(text));
        let written = poll_fn(|cx| connection.poll_flush(cx));
        if matches!(tokio::time::timeout(self.limits.head_timeout, written).await, Ok(Ok(()))) {
            connection.linger().await;
        }
        Err(failure)
    }

    /// Resets the connection: the client must not take what it got for the whole.
    pub(crate) fn reset(&self) {
        if let Some(connection) = self.connection.take() {
            connection.reset();
        }
    }

    pub(crate) async fn close(&self) -> Result<(), Failure> {
        let unread = !self.state.borrow().body.is_ended();
        let Some(mut connection) = self.connection.take() else { return Ok(()) };
        if unread || !connection.read.is_empty() {
            connection.linger().await;
        } else {
            connection.shutdown().await;
        }
        Ok(())
    }

    /// Ready when the client has stalled for too long.
    pub(crate) fn poll_stalled(&self, cx: &mut Context<'_>, patience: &mut Patience) -> Poll<()> {
        let connection = self.connection.borrow();
        let (waiting, written) =
            connection.as_ref().map_or((0, 0), |connection| (connection.out.waiting(), connection.written));
        patience.poll_used_up(cx, waiting > 0, written)
    }

    /// Creates the patience for the client to read what is sent to it.
    pub(crate) fn patience(&self) -> Patience {
        Patience::new(self.limits.write_timeout, self.still_since.clone())
    }

    /// Returns whether the request of `turn` is no longer the current one.
    pub(crate) fn is_over(&self, turn: u64) -> bool {
        self.state.borrow().turn != turn
    }
}

impl Source for Session {
    fn poll_frame(&self, turn: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        let state = &mut *self.state.borrow_mut();
        let connection = &mut *self.connection.borrow_mut();
        let terminated = |detail: &str| Failure::downstream(Reason::DownstreamConnectionTermination, detail);
        let Some(connection) = connection.as_mut().filter(|_| state.turn == turn) else {
            return Poll::Ready(Some(Err(terminated("the request is over"))));
        };
        loop {
            match state.body.decode(&mut connection.read, &self.limits) {
                Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(Frame::Data(data)))),
                Ok(Decoded::Trailers(trailers)) => return Poll::Ready(Some(Ok(Frame::Trailers(trailers)))),
                Ok(Decoded::End) => return Poll::Ready(None),
                Ok(Decoded::More) => {}
                Err(malformed) => return Poll::Ready(Some(Err(refusal(malformed)))),
            }
            if state.owes_continue && state.response == ResponseState::Awaited {
                // The body is being read, and the client waits for a 100 before it sends it.
                state.owes_continue = false;
                write::bare_response(&mut connection.out, &ResponseHead::new(StatusCode::CONTINUE));
            }
            if state.response == ResponseState::Awaited && connection.out.waiting() > 0 {
                // A write error is returned when the response is written.
                let _ = connection.poll_flush(cx);
            }
            match ready!(connection.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(Some(Err(terminated("the connection ended inside a body")))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(gone(&error)))),
            }
        }
    }
}

pub(crate) fn over() -> Failure {
    Failure::downstream(Reason::DownstreamConnectionTermination, "the request is over")
}

pub(crate) fn gone(error: &io::Error) -> Failure {
    Failure::downstream(Reason::DownstreamConnectionTermination, error)
}

pub(super) fn refusal(malformed: Malformed) -> Failure {
    let reason = match malformed {
        Malformed::TooLarge => Reason::HeadersTooLarge,
        Malformed::TargetTooLong => Reason::UriTooLong,
        Malformed::Rule(_) => Reason::DownstreamProtocolError,
    };
    Failure::downstream(reason, malformed)
}
