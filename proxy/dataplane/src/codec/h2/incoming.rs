//! Receives a body on a stream. The window reopens only as bytes are consumed, which provides back-pressure.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use h2::RecvStream;
use http::HeaderMap;
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;

use super::field_value::{OUTER_WHITESPACE, has_outer_whitespace};
use super::seen::{Fault, Seen};
use super::unread::{Receiver, Unconsumed};
use crate::codec::body::Frame;
use crate::codec::hop;
use crate::codec::limits::{FieldSize, Limits};

/// The receiving half of a stream.
#[derive(Debug)]
pub(super) struct Incoming {
    receiver: Receiver,
    data_ended: bool,
    limits: Rc<Limits>,
    seen: Rc<Seen>,
    errors: ErrorMapping,
}

/// Maps faults of a body to failures of the side that sends it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ErrorMapping {
    /// Maps an error of the stream.
    pub(super) error: fn(&h2::Error) -> Failure,
    /// Maps a violation of a rule by the peer.
    pub(super) broken: fn(&str) -> Failure,
    /// Maps trailers that are too large.
    pub(super) too_large: fn(&str) -> Failure,
}

impl Incoming {
    pub(super) fn new(
        stream: RecvStream,
        limits: &Rc<Limits>,
        seen: &Rc<Seen>,
        errors: ErrorMapping,
    ) -> Self {
        Self {
            receiver: Receiver::new(stream),
            data_ended: false,
            limits: Rc::clone(limits),
            seen: Rc::clone(seen),
            errors,
        }
    }

    /// Returns the next frame, or `None` at END_STREAM.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        while !self.data_ended {
            let Some(stream) = self.receiver.stream() else { return Poll::Ready(Some(Err(given_up()))) };
            match ready!(stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.receiver.consume(data.len());
                    if !data.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::Data(data))));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err((self.errors.error)(&error)))),
                None => self.data_ended = true,
            }
        }
        let Some(stream) = self.receiver.stream() else { return Poll::Ready(Some(Err(given_up()))) };
        let trailers = match ready!(stream.poll_trailers(cx)) {
            Ok(Some(trailers)) => trailers,
            Ok(None) => return Poll::Ready(None),
            Err(error) => return Poll::Ready(Some(Err((self.errors.error)(&error)))),
        };
        let fault = self.seen.fault_of_trailers(stream.stream_id().as_u32());
        Poll::Ready(match fault {
            Some(Fault::PseudoField) => Some(Err((self.errors.broken)("a pseudo-field among trailers"))),
            Some(Fault::TooLarge) => Some(Err(self.too_large())),
            None => self.check(trailers).transpose(),
        })
    }

    /// Checks that trailers contain nothing that would change framing or routing. Trailers that are too large are refused, not
    /// truncated.
    fn check(&self, trailers: HeaderMap) -> Result<Option<Frame>, Failure> {
        if !self.limits.allow(FieldSize::of(&trailers)) {
            return Err(self.too_large());
        }
        if has_outer_whitespace(&trailers) {
            return Err((self.errors.broken)(OUTER_WHITESPACE));
        }
        let forbidden: Vec<_> =
            trailers.keys().filter(|name| hop::is_forbidden_in_trailers(name)).cloned().collect();
        let mut trailers = trailers;
        for name in forbidden {
            trailers.remove(name);
        }
        Ok((!trailers.is_empty()).then_some(Frame::Trailers(trailers)))
    }

    fn too_large(&self) -> Failure {
        (self.errors.too_large)("the trailer section is too large")
    }

    pub(super) fn unconsumed(&mut self) -> Unconsumed {
        self.receiver.unconsumed()
    }

    pub(super) fn give_up(&mut self) {
        self.receiver.give_up();
    }
}

fn given_up() -> Failure {
    Failure::local(
        Reason::UpstreamOverflow,
        "the body stood still while others needed its place in the window",
    )
}
