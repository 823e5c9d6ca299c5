//! Receives a body on a stream. The window reopens only as bytes are consumed, which provides back-pressure.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::HeaderMap;
use outrigger_core::error::Failure;

use super::connection::{Received, StreamError};
use super::handle::Handle;
use crate::codec::body::Frame;
use crate::codec::limits::{FieldSize, Limits};

/// Maps an error to a failure of the side that sends the body.
pub(super) type ErrorMapping = fn(&StreamError, u32) -> Failure;

/// The receiving half of a stream.
#[derive(Debug)]
pub(super) struct Incoming {
    handle: Handle,
    limits: Rc<Limits>,
    errors: ErrorMapping,
}

impl Incoming {
    /// Receives what follows the head on `handle`. Trailers must be within `limits`; errors are mapped by `errors`, which gets the
    /// stream identifier too.
    pub(super) fn new(handle: Handle, limits: Rc<Limits>, errors: ErrorMapping) -> Self {
        Self { handle, limits, errors }
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns the next frame, or `None` at END_STREAM.
    pub(super) fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        Poll::Ready(match ready!(self.handle.poll_receive(cx)) {
            Ok(Received::Data(data)) => Some(Ok(Frame::Data(data))),
            Ok(Received::Trailers(trailers, size)) => self.check(trailers, size).transpose(),
            Ok(Received::End) => None,
            Err(error) => Some(Err((self.errors)(&error, self.handle.id()))),
        })
    }

    /// Checks the size of trailers: those that are too large are refused, not truncated.
    fn check(&self, trailers: HeaderMap, size: FieldSize) -> Result<Option<Frame>, Failure> {
        if !self.limits.allow(size) {
            return Err((self.errors)(&StreamError::TooLarge, self.handle.id()));
        }
        Ok((!trailers.is_empty()).then_some(Frame::Trailers(trailers)))
    }
}
