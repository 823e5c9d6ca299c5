//! Writes the response to one request: interim heads, the final head and its body, or the head that opens a tunnel.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};

use http::{StatusCode, Version};
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;
use tokio::time::error::Elapsed;

use super::buffered_stream::BufferedStream;
use super::session::{ResponseState, Session, SessionState, gone, over};
use super::transfer::{Transfer, TransferError};
use super::write::{self, Answering};
use crate::codec::allowance::StillSince;
use crate::codec::body::Body;
use crate::codec::head::{RequestHead, ResponseHead};
use crate::codec::limits::CUT_WITHIN;
use crate::codec::maps;
use crate::codec::upgrade::Upgraded;

/// Responds to one request of an HTTP/1 connection.
#[derive(Debug)]
pub(crate) struct Responder {
    session: Rc<Session>,
    turn: u64,
    answering: Answering,
    tunnel: bool,
}

impl Responder {
    /// Creates the responder for the request with `head` in that turn.
    pub(crate) fn new(session: Rc<Session>, turn: u64, head: &RequestHead, keep_alive: bool) -> Self {
        let answering = Answering {
            method: head.method.clone(),
            http10: head.version == Version::HTTP_10,
            accepts_trailers: head.accepts_trailers(),
            keep_alive,
        };
        Self { session, turn, answering, tunnel: head.asks_for_tunnel() }
    }

    pub(crate) fn still_since(&self) -> StillSince {
        self.session.still_since.clone()
    }

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
        flush(Rc::clone(&self.session)).await
    }

    /// Queues the head at once, so that the future does not hold it; the future sends it and the body. It can be moved while it
    /// is polled, and so has one place in what holds it.
    pub(crate) fn respond(
        mut self,
        head: ResponseHead,
        body: Body,
    ) -> impl Future<Output = Result<(), Failure>> + Unpin + use<> {
        self.answering.keep_alive &= !self.session.is_ending() && !self.owes_continue();
        let (answering, length) = (&self.answering, body.length());
        let begun = self.write(|connection, state| {
            state.response = ResponseState::Started;
            write::response(&mut connection.out, &head, length, answering)
        });
        maps::give(head.headers);
        let session = self.session;
        let mut begun =
            begun.map(|(encoder, keep_alive)| (Transfer::new(body, encoder), session.patience(), keep_alive));
        let mut cut = None::<Cut>;
        poll_fn(move |cx| {
            let (transfer, patience, keep_alive) = begun.as_mut().map_err(|failure| failure.clone())?;
            if cut.is_none() {
                let sent = match transfer.poll(cx, &session.connection) {
                    Poll::Pending => session
                        .poll_stalled(cx, patience)
                        .map(|()| Err(TransferError::Socket(reads_nothing()))),
                    done => done,
                };
                match ready!(sent) {
                    Ok(()) => {
                        session.state.borrow_mut().response =
                            ResponseState::Complete { keep_alive: *keep_alive };
                        return Poll::Ready(Ok(()));
                    }
                    Err(TransferError::Body(failure)) => {
                        let failure = Failure { reached: Reached::ResponseStarted, ..failure };
                        let flushed = tokio::time::timeout(CUT_WITHIN, flush(Rc::clone(&session)));
                        cut = Some(Cut { failure, flushed: Box::pin(flushed) });
                    }
                    Err(TransferError::Socket(error)) => {
                        session.reset();
                        return Poll::Ready(Err(gone(&error)));
                    }
                }
            }
            if let Some(Cut { failure, flushed }) = &mut cut {
                // The client receives what preceded the failure.
                let _ = ready!(flushed.as_mut().poll(cx));
                session.reset();
                return Poll::Ready(Err(failure.clone()));
            }
            Poll::Pending
        })
    }

    pub(crate) async fn upgrade(self, head: ResponseHead) -> Result<Upgraded, Failure> {
        if !self.tunnel {
            return Err(Failure::local(Reason::LocalError, "the client asked for no tunnel"));
        }
        self.write(|connection, state| {
            state.response = ResponseState::Started;
            write::bare_response(&mut connection.out, &head);
        })?;
        flush(Rc::clone(&self.session)).await?;
        let connection = self.session.connection.take().ok_or_else(over)?;
        let (stream, read) = connection.into_parts();
        Ok(Upgraded { stream, read })
    }

    fn owes_continue(&self) -> bool {
        self.session.state.borrow().owes_continue
    }

    fn write<T>(
        &self,
        write: impl FnOnce(&mut BufferedStream, &mut SessionState) -> T,
    ) -> Result<T, Failure> {
        if self.session.is_over(self.turn) {
            return Err(over());
        }
        let state = &mut *self.session.state.borrow_mut();
        let connection = &mut *self.session.connection.borrow_mut();
        Ok(write(connection.as_mut().ok_or_else(over)?, state))
    }
}

type Flushed = Result<Result<(), Failure>, Elapsed>;

/// A response whose body failed: what was queued before is sent first.
struct Cut {
    failure: Failure,
    flushed: Pin<Box<dyn Future<Output = Flushed>>>,
}

/// Sends what is queued, as long as the client reads.
async fn flush(session: Rc<Session>) -> Result<(), Failure> {
    let mut patience = session.patience();
    poll_fn(|cx| {
        let flushed = match &mut *session.connection.borrow_mut() {
            Some(connection) => connection.poll_flush(cx).map_err(|error| gone(&error)),
            None => Poll::Ready(Err(over())),
        };
        match flushed {
            Poll::Pending => session.poll_stalled(cx, &mut patience).map(|()| Err(gone(&reads_nothing()))),
            flushed => flushed,
        }
    })
    .await
}

fn reads_nothing() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing")
}
