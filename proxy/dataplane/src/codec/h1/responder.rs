//! Writes the response to one request: interim heads, the final head and its body, or the head that opens a tunnel.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;

use http::{StatusCode, Version};
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;

use super::buffered_stream::BufferedStream;
use super::session::{ResponseState, Session, SessionState, gone, over};
use super::transfer::{Transfer, TransferError};
use super::write::{self, Answering};
use crate::codec::allowance::StillSince;
use crate::codec::body::Body;
use crate::codec::head::{RequestHead, ResponseHead};
use crate::codec::limits::CUT_WITHIN;
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
        Rc::clone(&self.session.still_since)
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
        self.flush().await
    }

    pub(crate) async fn respond(mut self, head: ResponseHead, body: Body) -> Result<(), Failure> {
        self.answering.keep_alive &= !self.session.is_ending() && !self.owes_continue();
        let (answering, length) = (&self.answering, body.length());
        let begun = self.write(|connection, state| {
            state.response = ResponseState::Started;
            write::response(&mut connection.out, &head, length, answering)
        });
        let (encoder, keep_alive) = begun?;
        let mut transfer = Transfer::new(body, encoder);
        let mut patience = self.session.patience();
        let sent = poll_fn(|cx| match transfer.poll(cx, &self.session.connection) {
            Poll::Pending => self
                .session
                .poll_stalled(cx, &mut patience)
                .map(|()| Err(TransferError::Socket(reads_nothing()))),
            done => done,
        })
        .await;
        let failure = match sent {
            Ok(()) => {
                self.session.state.borrow_mut().response = ResponseState::Complete { keep_alive };
                return Ok(());
            }
            Err(TransferError::Body(mut failure)) => {
                failure.reached = Reached::ResponseStarted;
                // The client receives what preceded the failure.
                let _ = tokio::time::timeout(CUT_WITHIN, self.flush()).await;
                failure
            }
            Err(TransferError::Socket(error)) => gone(&error),
        };
        // Cut off: the client must not take what it got for the whole.
        if let Some(connection) = self.session.connection.take() {
            connection.reset();
        }
        Err(failure)
    }

    pub(crate) async fn upgrade(self, head: ResponseHead) -> Result<Upgraded, Failure> {
        if !self.tunnel {
            return Err(Failure::local(Reason::LocalError, "the client asked for no tunnel"));
        }
        self.write(|connection, state| {
            state.response = ResponseState::Started;
            write::bare_response(&mut connection.out, &head);
        })?;
        self.flush().await?;
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

    async fn flush(&self) -> Result<(), Failure> {
        let mut patience = self.session.patience();
        poll_fn(|cx| {
            let flushed = match &mut *self.session.connection.borrow_mut() {
                Some(connection) => connection.poll_flush(cx).map_err(|error| gone(&error)),
                None => Poll::Ready(Err(over())),
            };
            match flushed {
                Poll::Pending => {
                    self.session.poll_stalled(cx, &mut patience).map(|()| Err(gone(&reads_nothing())))
                }
                flushed => flushed,
            }
        })
        .await
    }
}

fn reads_nothing() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing")
}
