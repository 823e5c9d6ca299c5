//! A body that comes in on a stream. The window opens again only as its bytes are consumed, which is the back-pressure.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use h2::RecvStream;
use http::HeaderMap;
use outrigger_core::error::Failure;

use crate::codec::body::Frame;
use crate::codec::hop;
use crate::codec::limits::{FieldSize, Limits};

/// The receiving half of a stream.
#[derive(Debug)]
pub(crate) struct Incoming {
    stream: RecvStream,
    data_ended: bool,
    limits: Rc<Limits>,
    /// What an error of this stream means.
    meaning: fn(&h2::Error) -> Failure,
}

impl Incoming {
    pub(crate) fn new(stream: RecvStream, limits: &Rc<Limits>, meaning: fn(&h2::Error) -> Failure) -> Self {
        Self { stream, data_ended: false, limits: Rc::clone(limits), meaning }
    }

    /// The next frame; `None` at END_STREAM.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        while !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Fails only when more is released than came.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    if !data.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::Data(data))));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err((self.meaning)(&error)))),
                None => self.data_ended = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(Some(trailers)) => Poll::Ready(self.check(trailers).transpose()),
            Ok(None) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err((self.meaning)(&error)))),
        }
    }

    /// Trailers hold neither pseudo-fields, which h2 takes out, nor what would change framing or routing.
    fn check(&self, trailers: HeaderMap) -> Result<Option<Frame>, Failure> {
        if !self.limits.allow(FieldSize::of(&trailers)) {
            return Err((self.meaning)(&h2::Error::from(h2::Reason::ENHANCE_YOUR_CALM)));
        }
        let forbidden: Vec<_> =
            trailers.keys().filter(|name| hop::is_forbidden_in_trailers(name)).cloned().collect();
        let mut trailers = trailers;
        for name in forbidden {
            trailers.remove(name);
        }
        Ok((!trailers.is_empty()).then_some(Frame::Trailers(trailers)))
    }
}
