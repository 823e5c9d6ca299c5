//! Waits for the next request on a server connection, within the timeouts for idle and slow clients.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;

use super::parse::{self, Request};
use super::session::{Session, SessionState, refusal};
use crate::codec::head::Scheme;
use crate::codec::limits::{FIRST_REQUEST, Limits};
use crate::codec::watchdog::Watchdog;

/// Why there is no next request.
pub(crate) enum NoRequest {
    /// The client has closed or was idle for too long, or the connection drains.
    End,
    /// The bytes are not a request: they are answered and recorded.
    Refused(Failure),
    /// The connection failed within a head.
    Lost(Failure),
}

impl Session {
    /// Returns how long the client may be silent before its next request.
    fn longest_silence(&self, requests: u32) -> Duration {
        let Limits { idle_timeout, first_byte_timeout, .. } = *self.limits;
        if requests > 0 { idle_timeout } else { idle_timeout.min(first_byte_timeout) }
    }

    /// Starts to wait for a request.
    pub(crate) fn listen(&self) {
        let state = &mut *self.state.borrow_mut();
        if let Some(connection) = &mut *self.connection.borrow_mut() {
            connection.rest();
        }
        state.watchdog.set(self.longest_silence(state.requests));
    }

    pub(crate) fn poll_head(
        &self,
        cx: &mut Context<'_>,
        drained: Pin<&mut impl Future<Output = ()>>,
        registered: &mut bool,
    ) -> Poll<Result<Request, NoRequest>> {
        let state = &mut *self.state.borrow_mut();
        let connection = &mut *self.connection.borrow_mut();
        let Some(connection) = connection else { return Poll::Ready(Err(NoRequest::End)) };
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
                    Err(malformed) => return Poll::Ready(Err(NoRequest::Refused(refusal(malformed)))),
                }
            }
            match connection.poll_fill(cx) {
                Poll::Ready(Ok(got)) if got > 0 => {}
                Poll::Ready(_) if connection.read.is_empty() => return Poll::Ready(Err(NoRequest::End)),
                Poll::Ready(_) => {
                    let failure = Failure::downstream(
                        Reason::DownstreamConnectionTermination,
                        "the connection ended inside a head",
                    );
                    return Poll::Ready(Err(NoRequest::Lost(failure)));
                }
                Poll::Pending => break,
            }
        }
        if state.watchdog.poll_passed(cx).is_ready() {
            if state.in_head {
                let late = Failure::downstream(Reason::DownstreamTimeout, "the head came too slowly");
                return Poll::Ready(Err(NoRequest::Refused(late)));
            }
            return Poll::Ready(Err(NoRequest::End));
        }
        if !*registered {
            *registered = drained.poll(cx).is_pending();
        }
        state.ending |= state.life.poll_passed(cx).is_ready();
        if state.in_head {
            return Poll::Pending;
        }
        if state.ending || self.drain.is_draining() && state.poll_first(cx).is_ready() {
            Poll::Ready(Err(NoRequest::End))
        } else {
            Poll::Pending
        }
    }
}

impl SessionState {
    /// Ready when the client had its time to send its first request: closing earlier would reset a client whose connection was
    /// just accepted.
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
