//! How streams and the connection end: resets, GOAWAY in two steps (RFC 9113 section 6.8), and violations.

use std::io;
use std::rc::Rc;

use super::super::frame::{Code, Error, MAX_WINDOW, write};
use super::error::{End, Fault, StreamError};
use super::stream::{BadTrailers, Receiving, Sending, Stream};
use super::streams::{Found, StreamKey};
use super::{Connection, Role};

/// The payload of the PING between the two GOAWAYs of a graceful end.
pub(super) const LEAVING: [u8; 8] = *b"\0leaving";

/// How far this side has ended the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    /// GOAWAY with the highest identifier was sent: requests that are on their way are served.
    Announced,
    /// Streams above this one are not processed.
    Final(u32),
}

impl Connection {
    /// Begins a graceful end: GOAWAY with 2^31-1 and a PING; after its ACK the final GOAWAY.
    pub(in super::super) fn shut_down_gracefully(&mut self) {
        if self.end.is_none() && self.leaving == Leaving::No {
            self.leaving = Leaving::Announced;
            write::goaway(self.output.frames(), MAX_WINDOW, Code::NO_ERROR, "");
            write::ping(self.output.frames(), LEAVING);
            self.driver.wake();
        }
    }

    /// Sends the final GOAWAY of a graceful end.
    pub(super) fn leave(&mut self) {
        if self.leaving == Leaving::Announced {
            let newest = self.streams.newest;
            self.leaving = Leaving::Final(newest);
            write::goaway(self.output.frames(), newest, Code::NO_ERROR, "");
        }
    }

    /// Ends at once with GOAWAY, which is still to be transmitted.
    pub(in super::super) fn shut_down(&mut self, code: Code) {
        self.end_with(code, "", End::Local(code));
    }

    /// The peer has closed its side of the transport.
    pub(in super::super) fn end_of_input(&mut self) {
        let end = match self.peer_code {
            Code::NO_ERROR => End::Closed,
            code => End::GoAway(code),
        };
        self.ended(end);
    }

    /// The transport failed.
    pub(in super::super) fn fail(&mut self, error: io::Error) {
        let end = match self.peer_code {
            Code::NO_ERROR => End::Io(Rc::new(error)),
            code => End::GoAway(code),
        };
        self.ended(end);
    }

    /// Returns whether a graceful end is complete: the final GOAWAY was sent and no stream is left.
    pub(in super::super) fn is_drained(&self) -> bool {
        matches!(self.leaving, Leaving::Final(_)) && self.streams.active == 0 && self.accepting.is_empty()
    }

    /// Handles a violation: of the connection, or of a stream.
    pub(super) fn violated(&mut self, error: Error) {
        let Some(id) = error.stream else { return self.violated_on(0, error) };
        match self.streams.find(id) {
            Found::Stream(index) if self.streams.at(index).is_some_and(|stream| !stream.is_closed()) => {
                self.stream_violated(index, error.code, error.rule);
            }
            // Reset here: what comes late is ignored (RFC 9113 section 5.1, closed).
            Found::Stream(index)
                if self.streams.at(index).is_some_and(|stream| stream.fault.is_some_and(Fault::was_sent)) =>
            {
                self.idle_frame();
            }
            // Complete in both directions. The peer may not know yet.
            Found::Stream(_) | Found::Closed => {
                write::rst_stream(self.output.frames(), id, error.code);
                self.count_error();
                self.idle_frame();
            }
            Found::Idle => self.violated_on(id, Error::connection(error.code, error.rule)),
            Found::Reset => self.idle_frame(),
        }
    }

    /// Ends the connection because of a violation in a frame of stream `stream`.
    pub(super) fn violated_on(&mut self, stream: u32, error: Error) {
        let Error { code, rule, .. } = error;
        let end = if self.role == Role::Client && !self.peer.received {
            End::NotHttp2 { code, rule }
        } else {
            End::Violation { code, rule, stream }
        };
        self.end_with(code, rule, end);
    }

    /// Ends the connection because the peer sends too much of what costs it nothing.
    pub(super) fn flooded(&mut self, rule: &'static str) {
        self.violated_on(0, Error::connection(Code::ENHANCE_YOUR_CALM, rule));
    }

    /// Resets a stream because of a violation by the peer.
    pub(super) fn stream_violated(&mut self, index: u32, code: Code, rule: &'static str) {
        if self.streams.at(index).is_some_and(|stream| stream.fault.is_none()) {
            self.reset_at(index, code, Fault::Violation(code, rule));
        }
        self.count_error();
    }

    /// Resets a stream that has no entry, because of a violation by the peer or a limit.
    pub(super) fn refuse(&mut self, id: u32, code: Code) {
        write::rst_stream(self.output.frames(), id, code);
        self.streams.remember(id);
        self.count_error();
    }

    fn count_error(&mut self) {
        if !self.floods.error() {
            self.flooded("too many errors of streams");
        }
    }

    fn end_with(&mut self, code: Code, rule: &str, end: End) {
        if self.end.is_none() {
            let last = if self.role == Role::Server { self.streams.newest } else { 0 };
            write::goaway(self.output.frames(), last, code, rule);
            self.driver.wake();
            self.ended(end);
        }
    }

    /// Ends every stream.
    fn ended(&mut self, end: End) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(end);
        for (_, stream) in self.streams.all() {
            stream.drop_queue();
            stream.wake();
        }
        self.settings_wanted.drain(..).for_each(std::task::Waker::wake);
        self.opening.wake_all();
        self.driver.wake();
    }

    /// Resets the stream with `code`, unless it has ended. What is queued or unread is dropped.
    pub(in super::super) fn reset(&mut self, key: StreamKey, code: Code) {
        if self.streams.get(key).is_some() {
            self.reset_at(key.index, code, Fault::Local(code));
        }
    }

    /// Adds a holder of a key, which is to release it too.
    pub(in super::super) fn hold(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get(key) {
            stream.holders += 1;
        }
    }

    /// Chooses the code of the reset that a release is about to cause; does nothing if it causes none.
    pub(in super::super) fn cancel(&mut self, key: StreamKey, code: Code) {
        let role = self.role;
        if self.streams.get(key).is_some_and(|stream| stream.holders == 1 && is_cut_short(role, stream)) {
            self.reset(key, code);
        }
    }

    /// Ends the use of a key by one holder. When the last one releases it, a stream that has not ended is reset: with NO_ERROR if
    /// its response is complete (RFC 9113 section 8.1), else with CANCEL. What was queued up to its end is still sent by a server.
    pub(in super::super) fn release(&mut self, key: StreamKey) {
        let role = self.role;
        let Some(stream) = self.streams.get(key) else { return };
        stream.holders -= 1;
        if stream.is_held() {
            return;
        }
        let unread = stream.discard();
        if is_cut_short(role, stream) {
            self.reset_at(key.index, Code::CANCEL, Fault::Local(Code::CANCEL));
        } else if let (Some(BadTrailers::Malformed(rule)), Sending::Ended, None) =
            (stream.bad_trailers, stream.sending, stream.fault)
        {
            // The response to a malformed request is complete; the client is told what it was (RFC 9113 section 8.1.1).
            stream.fault = Some(Fault::Violation(Code::PROTOCOL_ERROR, rule));
            write::rst_stream(self.output.frames(), key.id, Code::PROTOCOL_ERROR);
            self.driver.wake();
            self.count_error();
        }
        self.consumed(unread);
        self.settle(key.index);
    }

    /// Resets a stream that is not closed.
    pub(super) fn reset_at(&mut self, index: u32, code: Code, fault: Fault) {
        let Some(stream) = self.streams.at(index).filter(|stream| !stream.is_closed()) else { return };
        stream.fault = Some(fault);
        stream.drop_queue();
        let unread = if matches!(fault, Fault::Violation(..)) { 0 } else { stream.discard() };
        stream.wake();
        let id = stream.id;
        if self.end.is_none() {
            write::rst_stream(self.output.frames(), id, code);
            self.driver.wake();
        }
        self.consumed(unread);
        self.settle(index);
    }

    /// Ends a stream without a reset of this side.
    pub(super) fn lose(&mut self, index: u32, fault: Fault) {
        let Some(stream) = self.streams.at(index).filter(|stream| stream.fault.is_none()) else { return };
        stream.fault = Some(fault);
        stream.drop_queue();
        stream.wake();
        self.settle(index);
    }

    /// Follows up on a change of a stream's state: a closed one is no longer concurrent, and is freed when its key was released.
    pub(super) fn settle(&mut self, index: u32) {
        let Some(stream) = self.streams.at(index).filter(|stream| stream.id != 0) else { return };
        if !stream.is_closed() {
            if !stream.is_held() && stream.sending == Sending::Ended {
                // Nobody reads the rest of the request.
                self.reset_at(index, Code::NO_ERROR, Fault::Local(Code::NO_ERROR));
            }
            return;
        }
        let held = stream.is_held();
        if std::mem::take(&mut stream.active) {
            self.streams.active -= 1;
            self.wake_opening();
            if self.streams.active == 0 {
                // It may have drained.
                self.driver.wake();
            }
        }
        if !held {
            self.streams.remove(index);
        }
    }

    /// Why nothing more can be sent or received on a stream of which the key is known, if so.
    pub(super) fn error_of(&self, fault: Option<Fault>) -> Option<StreamError> {
        fault.map(StreamError::from).or_else(|| self.end.clone().map(StreamError::Connection))
    }
}

/// Returns whether a stream whose key is released now has to be reset: a server has not sent its whole response, or a client has not
/// received it or not sent its whole request.
fn is_cut_short(role: Role, stream: &Stream) -> bool {
    match (role, stream.sending) {
        (Role::Server, sending) => matches!(sending, Sending::Head | Sending::Body),
        (Role::Client, sending) => sending != Sending::Ended || stream.receiving != Receiving::Ended,
    }
}
