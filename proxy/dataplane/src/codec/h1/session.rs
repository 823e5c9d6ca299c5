//! A server's connection as its task, a request's body and its responder share it: whose turn it is, and how far.
//!
//! A body or responder that outlives its turn does nothing: it never reads or writes what belongs to the next request.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use outrigger_core::drain::DrainGuard;
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use tokio::time::Instant;

use super::Malformed;
use super::connection::Connection;
use super::fields::Search;
use super::framing::{Decoded, Decoder, Framing};
use super::parse::{self, Request};
use super::write::{self, Answering};
use crate::codec::allowance::{Patience, StillSince};
use crate::codec::body::{Body, Frame, Source};
use crate::codec::head::{ResponseHead, Scheme};
use crate::codec::limits::{FIRST_REQUEST, HALF_CLOSED, LOOK_AFTER, Limits};
use crate::codec::watchdog::Watchdog;
use crate::socket::stream::{Peer, Stream};

/// Bytes of an unread request body that are thrown away to keep the connection.
const DISCARD: usize = 64 * 1024;
/// Idle for longer than this, a connection gives its buffers back.
const REST_AFTER: Duration = Duration::from_secs(5);
/// Bytes that are read ahead of their reader, to hear whether the client is still there behind them.
const READ_AHEAD: usize = 16 * 1024;

/// The connection, shared by its task, a request's body and its responder.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: RefCell<Option<Connection>>,
    pub(crate) state: RefCell<State>,
    pub(crate) limits: Rc<Limits>,
    pub(crate) drain: DrainGuard,
    /// Of the answer.
    pub(crate) still_since: StillSince,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) search: Search,
    /// Requests so far.
    requests: u32,
    began: Instant,
    /// While we drain: passes when the first request has had its time to come.
    first: Option<Watchdog>,
    /// Passes when the connection has been there for long enough.
    life: Watchdog,
    /// It has: or it has had its number of requests.
    ending: bool,
    /// Counts what begins and ends. A body or responder of an earlier one does nothing.
    pub(crate) turn: u64,
    pub(crate) body: Decoder,
    /// The client waits for a 100 before it sends its body (RFC 9110 section 10.1.1).
    pub(crate) owes_continue: bool,
    pub(crate) answer: Answer,
    pub(crate) watchdog: Watchdog,
    /// A head is half there: the time for it runs.
    pub(crate) in_head: bool,
    /// Idle for so long that the buffers were given back.
    resting: bool,
    /// When the kernel is next asked whether the client is still there.
    look: Watchdog,
    looking: bool,
    /// Since when the client's side is closed.
    half_closed: Option<Instant>,
}

/// How far the answer to this turn's request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Awaited,
    Started,
    Complete { keep_alive: bool },
}

/// Why no request came.
pub(crate) enum Stop {
    /// The client has closed, was idle for too long, or we drain.
    End,
    /// What came is no request: it is answered and recorded.
    Refused(Failure),
    /// The connection broke in a head.
    Lost(Failure),
}

/// What becomes of the connection after a request.
pub(crate) enum Finished {
    Reuse,
    Close,
    Unanswered,
    Taken,
}

impl State {
    /// Ready when no first request is about to come: closing before it would reset a client that was just let in.
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.requests > 0 {
            return Poll::Ready(());
        }
        let began = self.began;
        let first = self.first.get_or_insert_with(|| {
            let mut first = Watchdog::new();
            first.set(FIRST_REQUEST.saturating_sub(began.elapsed()));
            first
        });
        first.poll_passed(cx)
    }
}

impl Session {
    pub(crate) fn new(stream: Stream, first: Bytes, limits: Rc<Limits>, drain: DrainGuard) -> Self {
        let mut life = Watchdog::new();
        if let Some(longest) = limits.longest_life {
            life.set(longest);
        }
        let state = State {
            requests: 0,
            began: Instant::now(),
            first: None,
            life,
            ending: false,
            search: Search::default(),
            turn: 0,
            body: Decoder::new(Framing::None),
            owes_continue: false,
            answer: Answer::Complete { keep_alive: true },
            watchdog: Watchdog::new(),
            in_head: false,
            resting: false,
            look: Watchdog::new(),
            looking: false,
            half_closed: None,
        };
        Self {
            connection: RefCell::new(Some(Connection::new(stream, first))),
            state: RefCell::new(state),
            limits,
            drain,
            still_since: Rc::default(),
        }
    }

    /// How long the client may be silent before its next request.
    fn longest_silence(&self, requests: u32) -> Duration {
        let Limits { idle_timeout, first_byte_timeout, .. } = *self.limits;
        if requests > 0 { idle_timeout } else { idle_timeout.min(first_byte_timeout) }
    }

    /// Begins to wait for a request.
    pub(crate) fn listen(&self) {
        let state = &mut *self.state.borrow_mut();
        state.resting = false;
        state.watchdog.set(REST_AFTER.min(self.longest_silence(state.requests)));
    }

    pub(crate) fn poll_head(
        &self,
        cx: &mut Context<'_>,
        drained: Pin<&mut impl Future<Output = ()>>,
        registered: &mut bool,
    ) -> Poll<Result<Request, Stop>> {
        let state = &mut *self.state.borrow_mut();
        let connection = &mut *self.connection.borrow_mut();
        let Some(connection) = connection else { return Poll::Ready(Err(Stop::End)) };
        let scheme = if connection.stream.is_encrypted() { Scheme::Https } else { Scheme::Http };
        loop {
            if state.in_head || parse::skip_empty_line(&mut connection.read) {
                match parse::request(&mut connection.read, &mut state.search, scheme, &self.limits) {
                    Ok(Some(request)) => {
                        state.in_head = false;
                        return Poll::Ready(Ok(request));
                    }
                    Ok(None) if !connection.read.is_empty() && !state.in_head => {
                        state.in_head = true;
                        state.watchdog.set(self.limits.head_timeout);
                    }
                    Ok(None) => {}
                    Err(malformed) => return Poll::Ready(Err(Stop::Refused(refusal(malformed)))),
                }
            }
            match connection.poll_fill(cx) {
                Poll::Ready(Ok(got)) if got > 0 => {}
                Poll::Ready(_) if connection.read.is_empty() => return Poll::Ready(Err(Stop::End)),
                Poll::Ready(_) => {
                    let failure = Failure::downstream(
                        Reason::DownstreamConnectionTermination,
                        "the connection ended inside a head",
                    );
                    return Poll::Ready(Err(Stop::Lost(failure)));
                }
                Poll::Pending => break,
            }
        }
        while state.watchdog.poll_passed(cx).is_ready() {
            if state.in_head {
                let late = Failure::downstream(Reason::DownstreamTimeout, "the head came too slowly");
                return Poll::Ready(Err(Stop::Refused(late)));
            }
            if state.resting {
                return Poll::Ready(Err(Stop::End));
            }
            state.resting = true;
            connection.rest();
            state.watchdog.set(self.longest_silence(state.requests).saturating_sub(REST_AFTER));
        }
        if !*registered {
            *registered = drained.poll(cx).is_pending();
        }
        state.ending |= state.life.poll_passed(cx).is_ready();
        if state.in_head {
            return Poll::Pending;
        }
        if state.ending || self.drain.is_draining() && state.poll_first(cx).is_ready() {
            Poll::Ready(Err(Stop::End))
        } else {
            Poll::Pending
        }
    }

    /// Begins a turn; its body and its number.
    pub(crate) fn begin(self: &Rc<Self>, framing: Framing, expects_continue: bool) -> (Body, u64) {
        let state = &mut *self.state.borrow_mut();
        state.turn += 1;
        state.requests = state.requests.saturating_add(1);
        state.ending |= self.limits.requests.is_some_and(|most| state.requests >= most);
        state.body = Decoder::new(framing);
        state.owes_continue = expects_continue;
        state.answer = Answer::Awaited;
        state.looking = false;
        state.half_closed = None;
        let body = match framing {
            Framing::None => Body::empty(),
            framing => Body::streamed(self.clone(), state.turn, framing.known()),
        };
        (body, state.turn)
    }

    /// Ready when the client has gone while its request is handled, also when nobody reads its body: what stands before the
    /// end is read ahead, within bounds, and beyond them the kernel is asked once a second.
    ///
    /// A client that closes its side behind a whole request is not gone: it is owed its answer (RFC 9112 section 9.6). It is
    /// told from one that has closed the connection by asking for it, once a second too.
    pub(crate) fn poll_client_gone(&self, cx: &mut Context<'_>) -> Poll<Failure> {
        let state = &mut *self.state.borrow_mut();
        let connection = &mut *self.connection.borrow_mut();
        let Some(connection) = connection else { return Poll::Pending };
        if matches!(state.answer, Answer::Complete { .. }) {
            return Poll::Pending;
        }
        while state.half_closed.is_none() && connection.read.len() < READ_AHEAD {
            match ready!(connection.poll_fill(cx)) {
                Ok(0) if state.body.is_whole_in(&connection.read, &self.limits) => {
                    if state.is_gone(&mut connection.stream) {
                        return Poll::Ready(left());
                    }
                }
                Ok(0) => return Poll::Ready(left()),
                Ok(_) => {}
                Err(error) => return Poll::Ready(gone(&error)),
            }
        }
        if !state.looking {
            state.looking = true;
            state.look.set(LOOK_AFTER);
        }
        while state.look.poll_passed(cx).is_ready() {
            let closed = state.half_closed.is_some() || connection.stream.has_left();
            if closed && state.is_gone(&mut connection.stream) {
                return Poll::Ready(left());
            }
            state.look.set(LOOK_AFTER);
        }
        Poll::Pending
    }

    pub(crate) fn finish(&self) -> Finished {
        let state = &mut *self.state.borrow_mut();
        let connection = &mut *self.connection.borrow_mut();
        // Whoever still holds this turn's body or responder holds nothing.
        state.turn += 1;
        let Some(open) = connection else { return Finished::Taken };
        match state.answer {
            Answer::Awaited => Finished::Unanswered,
            Answer::Started => {
                if let Some(cut) = connection.take() {
                    cut.reset();
                }
                Finished::Taken
            }
            Answer::Complete { keep_alive } => {
                let mut left = DISCARD;
                while let Ok(Decoded::Data(data)) = state.body.decode(&mut open.read, &self.limits) {
                    left = left.saturating_sub(data.len());
                    if left == 0 {
                        return Finished::Close;
                    }
                }
                if keep_alive && state.body.is_ended() { Finished::Reuse } else { Finished::Close }
            }
        }
    }

    /// Whether the answer that begins now is the connection's last.
    pub(crate) fn is_ending(&self) -> bool {
        let state = &mut *self.state.borrow_mut();
        state.ending |= state.life.has_passed();
        state.ending || self.drain.is_draining()
    }

    /// Answers what the codec refuses, and closes.
    pub(crate) async fn answer_refusal(&self, failure: &Failure) {
        let Some(mut connection) = self.connection.take() else { return };
        let mut head = ResponseHead::new(failure.reason.status());
        head.headers.insert("x-outrigger-reason", HeaderValue::from_static(failure.reason.name()));
        let answering =
            Answering { method: Method::GET, http10: false, accepts_trailers: false, keep_alive: false };
        write::response(&mut connection.out, &head, Some(0), &answering);
        let written = poll_fn(|cx| connection.poll_flush(cx));
        if matches!(tokio::time::timeout(self.limits.head_timeout, written).await, Ok(Ok(()))) {
            connection.linger().await;
        }
    }

    pub(crate) async fn close(&self) {
        let unread = !self.state.borrow().body.is_ended();
        let Some(mut connection) = self.connection.take() else { return };
        if unread || !connection.read.is_empty() {
            connection.linger().await;
        } else {
            connection.shutdown().await;
        }
    }

    /// Ready when bytes have waited for the client to read for too long.
    pub(crate) fn poll_stalled(&self, cx: &mut Context<'_>, patience: &mut Patience) -> Poll<()> {
        let connection = self.connection.borrow();
        let (waiting, written) =
            connection.as_ref().map_or((0, 0), |connection| (connection.out.waiting(), connection.written));
        patience.poll_used_up(cx, waiting > 0, written)
    }

    /// Waits for the client to read what is sent to it.
    pub(crate) fn patience(&self) -> Patience {
        Patience::new(self.limits.write_timeout, Rc::clone(&self.still_since))
    }

    /// Whether the request that `turn` numbers is no longer the current one.
    pub(crate) fn is_over(&self, turn: u64) -> bool {
        self.state.borrow().turn != turn
    }
}

impl State {
    /// Whether a client whose side is closed reads no answer any more.
    fn is_gone(&mut self, stream: &mut Stream) -> bool {
        let since = *self.half_closed.get_or_insert_with(Instant::now);
        match stream.peer() {
            Peer::Reads => false,
            Peer::Gone => true,
            Peer::Unknown => since.elapsed() >= HALF_CLOSED,
        }
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
            if state.owes_continue && state.answer == Answer::Awaited {
                // Somebody reads the body, and nobody has told the client to send it.
                state.owes_continue = false;
                write::bare_response(&mut connection.out, &ResponseHead::new(StatusCode::CONTINUE));
            }
            if state.answer == Answer::Awaited && connection.out.waiting() > 0 {
                // An error of writing comes back when the answer is written.
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

fn left() -> Failure {
    let detail = "the client closed before its answer was complete";
    Failure::downstream(Reason::DownstreamConnectionTermination, detail)
}

pub(crate) fn over() -> Failure {
    Failure::downstream(Reason::DownstreamConnectionTermination, "the request is over")
}

pub(crate) fn gone(error: &io::Error) -> Failure {
    Failure::downstream(Reason::DownstreamConnectionTermination, error)
}

fn refusal(malformed: Malformed) -> Failure {
    let reason = match malformed {
        Malformed::TooLarge => Reason::HeadersTooLarge,
        Malformed::TargetTooLong => Reason::UriTooLong,
        Malformed::Rule(_) => Reason::DownstreamProtocolError,
    };
    Failure::downstream(reason, malformed)
}
