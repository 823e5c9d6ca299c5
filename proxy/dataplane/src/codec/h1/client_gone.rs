//! Detects that the client has gone while its request is handled.

use std::task::{Context, Poll, ready};

use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use tokio::time::Instant;

use super::session::{ResponseState, Session, SessionState, gone};
use crate::codec::limits::{HALF_CLOSED, LOOK_AFTER};
use crate::socket::stream::{Peer, Stream};

/// The number of bytes that are read ahead of their reader, to notice the end of the stream behind them.
const READ_AHEAD: usize = 16 * 1024;

impl Session {
    /// Ready when the client has gone while its request is handled, even if its body is not read: bytes before the end are
    /// read ahead, within limits, and beyond them the kernel is asked once a second.
    ///
    /// A client that half-closes after a complete request is still owed the response (RFC 9112 section 9.6). Once a second,
    /// the kernel is asked whether it has closed the connection instead.
    pub(crate) fn poll_client_gone(&self, cx: &mut Context<'_>) -> Poll<Failure> {
        let state = &mut *self.state.borrow_mut();
        let connection = &mut *self.connection.borrow_mut();
        let Some(connection) = connection else { return Poll::Pending };
        if matches!(state.response, ResponseState::Complete { .. }) {
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
}

impl SessionState {
    /// Returns whether a client that has half-closed no longer reads the response.
    fn is_gone(&mut self, stream: &mut Stream) -> bool {
        let since = *self.half_closed.get_or_insert_with(Instant::now);
        match stream.peer() {
            Peer::Reads => false,
            Peer::Gone => true,
            Peer::Unknown => since.elapsed() >= HALF_CLOSED,
        }
    }
}

fn left() -> Failure {
    let detail = "the client closed before its answer was complete";
    Failure::downstream(Reason::DownstreamConnectionTermination, detail)
}
