//! The server side: one request after another on one connection (RFC 9112 section 9).
//!
//! [`serve`] owns the connection's task. A request's handler runs within it, beside a watch for the client going away.
//! The request's body and responder share the connection with it; each use is of one turn and refused when that is over.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Version};
use outrigger_core::drain::DrainGuard;
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;

use super::Malformed;
use super::connection::Connection;
use super::fields::Search;
use super::framing::{Decoded, Decoder, Framing};
use super::parse::{self, Request};
use super::transfer::{Cut, Transfer};
use super::write::{self, Answering};
use crate::codec::body::{Body, Frame, Source};
use crate::codec::head::{RequestHead, ResponseHead, Scheme};
use crate::codec::limits::Limits;
use crate::codec::upgrade::Upgraded;
use crate::codec::watchdog::Watchdog;
use crate::socket::stream::Stream;

/// Bytes of an unread request body that are thrown away to keep the connection.
const DISCARD: usize = 64 * 1024;

/// Serves `stream` until it ends, drains or was upgraded.
pub(crate) async fn serve<C, F, R>(
    stream: Stream,
    first: Bytes,
    limits: Rc<Limits>,
    drain: DrainGuard,
    call: C,
    refused: R,
) -> Result<(), Failure>
where
    C: Fn(RequestHead, Body, Responder) -> F,
    F: Future<Output = ()>,
    R: Fn(&Failure),
{
    let shared = Rc::new(Shared::new(stream, first, limits, drain.clone()));
    let mut drain = drain;
    let mut drained = pin!(drain.started());
    // One poll registers this task to be woken; whether it was by a drain is asked of a flag, which costs less.
    let mut registered = false;
    loop {
        shared.listen();
        let request = match poll_fn(|cx| shared.poll_head(cx, drained.as_mut(), &mut registered)).await {
            Ok(request) => request,
            Err(Stop::End) => break,
            Err(Stop::Refused(failure)) => {
                refused(&failure);
                shared.answer_refusal(&failure).await;
                return Err(failure);
            }
            Err(Stop::Lost(failure)) => return Err(failure),
        };
        let (head, body, responder) = shared.begin(request);
        let mut handling = pin!(call(head, body, responder));
        let gone = poll_fn(|cx| match handling.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => shared.poll_client_gone(cx).map(Some),
        })
        .await;
        if let Some(failure) = gone {
            return Err(failure);
        }
        match shared.finish() {
            Finished::Reuse => {}
            Finished::Close => break,
            Finished::Taken => return Ok(()),
            Finished::Unanswered => {
                let failure = Failure::local(Reason::LocalError, "a request was left without an answer");
                shared.answer_refusal(&failure).await;
                return Err(failure);
            }
        }
    }
    shared.close().await;
    Ok(())
}

/// The connection, shared by its task, a request's body and its responder.
#[derive(Debug)]
struct Shared {
    connection: RefCell<Option<Connection>>,
    state: RefCell<State>,
    limits: Rc<Limits>,
    drain: DrainGuard,
}

#[derive(Debug)]
struct State {
    search: Search,
    /// Counts requests. A body or responder of an earlier one does nothing.
    turn: u64,
    body: Decoder,
    /// The client waits for a 100 before it sends its body (RFC 9110 section 10.1.1).
    owes_continue: bool,
    answer: Answer,
    watchdog: Watchdog,
    /// A head is half there: the time for it runs.
    in_head: bool,
}

/// How far the answer to this turn's request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Awaited,
    Started,
    Complete { keep_alive: bool },
}

/// Why no request came.
enum Stop {
    /// The client has closed, was idle for too long, or we drain.
    End,
    /// What came is no request: it is answered and recorded.
    Refused(Failure),
    /// The connection broke in a head.
    Lost(Failure),
}

/// What becomes of the connection after a request.
enum Finished {
    Reuse,
    Close,
    Unanswered,
    Taken,
}

impl Shared {
    fn new(stream: Stream, first: Bytes, limits: Rc<Limits>, drain: DrainGuard) -> Self {
        let state = State {
            search: Search::default(),
            turn: 0,
            body: Decoder::new(Framing::None),
            owes_continue: false,
            answer: Answer::Complete { keep_alive: true },
            watchdog: Watchdog::new(),
            in_head: false,
        };
        Self {
            connection: RefCell::new(Some(Connection::new(stream, first))),
            state: RefCell::new(state),
            limits,
            drain,
        }
    }

    /// Begins to wait for a request.
    fn listen(&self) {
        self.state.borrow_mut().watchdog.set(self.limits.idle_timeout);
    }

    fn poll_head(
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
        if state.watchdog.poll_passed(cx).is_ready() {
            let late = || Failure::downstream(Reason::DownstreamTimeout, "the head came too slowly");
            return Poll::Ready(Err(if state.in_head { Stop::Refused(late()) } else { Stop::End }));
        }
        if !*registered {
            *registered = drained.poll(cx).is_pending();
        }
        if !state.in_head && self.drain.is_draining() { Poll::Ready(Err(Stop::End)) } else { Poll::Pending }
    }

    fn begin(self: &Rc<Self>, request: Request) -> (RequestHead, Body, Responder) {
        let state = &mut *self.state.borrow_mut();
        state.turn += 1;
        state.body = Decoder::new(request.framing);
        state.owes_continue = request.expects_continue;
        state.answer = Answer::Awaited;
        let body = match request.framing {
            Framing::None => Body::empty(),
            framing => Body::streamed(self.clone(), state.turn, framing.known()),
        };
        let answering = Answering {
            method: request.head.method.clone(),
            http10: request.head.version == Version::HTTP_10,
            accepts_trailers: request.head.accepts_trailers(),
            keep_alive: request.keep_alive,
        };
        let tunnel = request.head.asks_for_tunnel();
        (request.head, body, Responder { shared: self.clone(), turn: state.turn, answering, tunnel })
    }

    /// Ready when the client has closed while its request is handled. Looks only where nothing else would be read: behind the
    /// body, and not once a next request is there.
    fn poll_client_gone(&self, cx: &mut Context<'_>) -> Poll<Failure> {
        let state = self.state.borrow();
        let connection = &mut *self.connection.borrow_mut();
        let Some(connection) = connection else { return Poll::Pending };
        if !state.body.is_ended()
            || !connection.read.is_empty()
            || matches!(state.answer, Answer::Complete { .. })
        {
            return Poll::Pending;
        }
        match ready!(connection.poll_fill(cx)) {
            Ok(0) => Poll::Ready(Failure::downstream(
                Reason::DownstreamConnectionTermination,
                "the client closed before its answer was complete",
            )),
            Ok(_) => Poll::Pending,
            Err(error) => Poll::Ready(gone(&error)),
        }
    }

    fn finish(&self) -> Finished {
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

    /// Answers what the codec refuses, and closes.
    async fn answer_refusal(&self, failure: &Failure) {
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

    async fn close(&self) {
        let unread = !self.state.borrow().body.is_ended();
        let Some(mut connection) = self.connection.take() else { return };
        if unread || !connection.read.is_empty() {
            connection.linger().await;
        } else {
            connection.shutdown().await;
        }
    }

    fn is_over(&self, turn: u64) -> bool {
        self.state.borrow().turn != turn
    }
}

impl Source for Shared {
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

/// Answers one request of an HTTP/1 connection.
#[derive(Debug)]
pub(crate) struct Responder {
    shared: Rc<Shared>,
    turn: u64,
    answering: Answering,
    tunnel: bool,
}

impl Responder {
    pub(crate) fn version(&self) -> Version {
        if self.answering.http10 { Version::HTTP_10 } else { Version::HTTP_11 }
    }

    pub(crate) async fn interim(&mut self, head: ResponseHead) -> Result<(), Failure> {
        if self.answering.http10 {
            return Ok(());
        }
        self.write(|connection, state| {
            state.owes_continue &= head.status != StatusCode::CONTINUE;
            write::bare_response(&mut connection.out, &head);
        })?;
        self.flush().await
    }

    pub(crate) async fn respond(mut self, head: ResponseHead, body: Body) -> (u64, Result<(), Failure>) {
        self.answering.keep_alive &= !self.shared.drain.is_draining() && !self.owes_continue();
        let (answering, length) = (&self.answering, body.length());
        let begun = self.write(|connection, state| {
            state.answer = Answer::Started;
            write::response(&mut connection.out, &head, length, answering)
        });
        let (encoder, keep_alive) = match begun {
            Ok(begun) => begun,
            Err(failure) => return (0, Err(failure)),
        };
        let mut transfer = Transfer::new(body, encoder);
        let mut stalled = None;
        let sent = poll_fn(|cx| match transfer.poll(cx, &self.shared.connection) {
            Poll::Pending => self.shared.poll_stalled(cx, &mut stalled).map(|()| {
                Err(Cut::Socket(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing")))
            }),
            done => done,
        })
        .await;
        let outcome = match sent {
            Ok(()) => {
                self.shared.state.borrow_mut().answer = Answer::Complete { keep_alive };
                return (transfer.bytes, Ok(()));
            }
            Err(Cut::Body(mut failure)) => {
                failure.reached = Reached::ResponseStarted;
                failure
            }
            Err(Cut::Socket(error)) => gone(&error),
        };
        // Cut off: the client must not take what it got for the whole.
        if let Some(connection) = self.shared.connection.take() {
            connection.reset();
        }
        (transfer.bytes, Err(outcome))
    }

    pub(crate) async fn upgrade(self, head: ResponseHead) -> Result<Upgraded, Failure> {
        if !self.tunnel {
            return Err(Failure::local(Reason::LocalError, "the client asked for no tunnel"));
        }
        self.write(|connection, state| {
            state.answer = Answer::Started;
            write::bare_response(&mut connection.out, &head);
        })?;
        self.flush().await?;
        let connection = self.shared.connection.take().ok_or_else(over)?;
        let (stream, read) = connection.into_parts();
        Ok(Upgraded { stream, read })
    }

    fn owes_continue(&self) -> bool {
        self.shared.state.borrow().owes_continue
    }

    fn write<T>(&self, write: impl FnOnce(&mut Connection, &mut State) -> T) -> Result<T, Failure> {
        if self.shared.is_over(self.turn) {
            return Err(over());
        }
        let state = &mut *self.shared.state.borrow_mut();
        let connection = &mut *self.shared.connection.borrow_mut();
        Ok(write(connection.as_mut().ok_or_else(over)?, state))
    }

    async fn flush(&self) -> Result<(), Failure> {
        poll_fn(|cx| match &mut *self.shared.connection.borrow_mut() {
            Some(connection) => connection.poll_flush(cx).map_err(|error| gone(&error)),
            None => Poll::Ready(Err(over())),
        })
        .await
    }
}

impl Shared {
    /// Ready when bytes have waited for the client to read for too long, none of them leaving.
    fn poll_stalled(&self, cx: &mut Context<'_>, stalled: &mut Option<usize>) -> Poll<()> {
        let waiting = self.connection.borrow().as_ref().map_or(0, |connection| connection.out.waiting());
        let watchdog = &mut self.state.borrow_mut().watchdog;
        if waiting == 0 {
            *stalled = None;
            return Poll::Pending;
        }
        if *stalled != Some(waiting) {
            *stalled = Some(waiting);
            watchdog.set(self.limits.write_timeout);
        }
        watchdog.poll_passed(cx)
    }
}

fn over() -> Failure {
    Failure::downstream(Reason::DownstreamConnectionTermination, "the request is over")
}

fn gone(error: &io::Error) -> Failure {
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
