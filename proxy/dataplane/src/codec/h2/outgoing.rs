//! Sends a body on a stream, as the windows of the peer permit. The last DATA frame carries END_STREAM.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason as Code, SendStream};
use outrigger_core::error::Failure;

use super::failure;
use super::seen::Seen;
use crate::codec::body::{Body, Frame};
use crate::codec::limits::CUT_WITHIN;
use crate::codec::watchdog::Watchdog;

/// The sending half of a stream, and the body that it sends.
#[derive(Debug)]
pub(super) struct Outgoing {
    stream: SendStream<Bytes>,
    body: Body,
    /// Data that waits for the window.
    data: Option<Bytes>,
    /// The frame after `data`, if it is already known.
    ahead: Lookahead,
    /// Why the body ends early, kept while the data before the failure is being written.
    failed: Option<BodyFailure>,
    /// The state of the connection, if frames before a reset are to be written first.
    seen: Option<Rc<Seen>>,
    /// The number of bytes passed to the stream.
    pub(super) bytes: u64,
}

#[derive(Debug)]
enum Lookahead {
    Unknown,
    Data(Bytes),
    Trailers(http::HeaderMap),
    End,
}

#[derive(Debug)]
struct BodyFailure {
    failure: Failure,
    /// When the whole body was queued, in the count of [`super::written`].
    queued: Option<u64>,
    patience: Watchdog,
}

/// Why a body was not sent completely.
#[derive(Debug)]
pub(super) enum SendError {
    /// It could not be read. The stream was reset.
    Body(Failure),
    /// The peer reset the stream or the connection ended.
    Stream(h2::Error),
}

impl Outgoing {
    pub(super) fn new(stream: SendStream<Bytes>, body: Body) -> Self {
        Self { stream, body, data: None, ahead: Lookahead::Unknown, failed: None, seen: None, bytes: 0 }
    }

    /// Makes a failed body reset the stream only after the data before the failure was written, if the peer accepts it soon.
    pub(super) fn in_order(mut self, seen: Rc<Seen>) -> Self {
        self.seen = Some(seen);
        self
    }

    /// Continues sending. Ready when the whole body was passed to the stream.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        loop {
            if let Poll::Ready(reset) = self.stream.poll_reset(cx) {
                // The first event counts.
                return Poll::Ready(Err(match self.failed.take() {
                    Some(failed) => SendError::Body(failed.failure),
                    None => SendError::Stream(reset.map_or_else(|error| error, h2::Error::from)),
                }));
            }
            // One frame is read ahead, to know which frame is the last.
            let ahead = self.poll_ahead(cx);
            if let Poll::Ready(failure) = self.poll_failed(cx) {
                self.stream.send_reset(failure::code_for(&failure));
                return Poll::Ready(Err(SendError::Body(failure)));
            }
            let Some(data) = &mut self.data else {
                match std::mem::replace(&mut self.ahead, Lookahead::Unknown) {
                    Lookahead::Data(data) => {
                        self.stream.reserve_capacity(data.len());
                        self.data = Some(data);
                        continue;
                    }
                    Lookahead::Trailers(trailers) => {
                        return Poll::Ready(self.stream.send_trailers(trailers).map_err(SendError::Stream));
                    }
                    Lookahead::End => {
                        return Poll::Ready(
                            self.stream.send_data(Bytes::new(), true).map_err(SendError::Stream),
                        );
                    }
                    Lookahead::Unknown => return Poll::Pending,
                }
            };
            if self.stream.capacity() == 0 {
                match self.stream.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(SendError::Stream(error))),
                    Poll::Ready(None) => return Poll::Ready(Err(SendError::Stream(Code::CANCEL.into()))),
                    Poll::Pending => {
                        if ahead.is_ready() {
                            self.body.poll_progress(cx);
                        }
                        return Poll::Pending;
                    }
                }
                if self.stream.capacity() == 0 {
                    continue;
                }
            }
            let piece = data.split_to(data.len().min(self.stream.capacity()));
            let done = data.is_empty();
            let last = done && matches!(self.ahead, Lookahead::End);
            self.bytes += piece.len() as u64;
            self.stream.send_data(piece, last).map_err(SendError::Stream)?;
            if done {
                self.data = None;
                if last {
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// Returns whether data waits for the peer to open its window.
    pub(super) fn is_blocked(&self) -> bool {
        self.data.is_some()
    }

    /// Resets the stream.
    pub(super) fn reset(&mut self, code: Code) {
        self.stream.send_reset(code);
    }

    /// Drops the body; no more of it is sent.
    pub(super) fn drop_body(&mut self) {
        self.body = Body::empty();
        self.data = None;
        self.ahead = Lookahead::End;
    }

    /// Returns the stream of an empty body.
    pub(super) fn into_stream(self) -> SendStream<Bytes> {
        self.stream
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.failed.is_some() {
            return Poll::Pending;
        }
        if matches!(self.ahead, Lookahead::Unknown) {
            self.ahead = match ready!(self.body.poll_frame(cx)) {
                Some(Ok(Frame::Data(data))) => Lookahead::Data(data),
                Some(Ok(Frame::Trailers(trailers))) => Lookahead::Trailers(trailers),
                Some(Err(failure)) => {
                    let mut patience = Watchdog::new();
                    patience.set(CUT_WITHIN);
                    self.failed = Some(BodyFailure { failure, queued: None, patience });
                    return Poll::Pending;
                }
                None => Lookahead::End,
            };
        }
        Poll::Ready(())
    }

    /// Ready when the body has failed and the stream is to be reset.
    fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        let Some(failed) = &mut self.failed else { return Poll::Pending };
        if let Some(seen) = &self.seen
            && failed.patience.poll_passed(cx).is_pending()
        {
            if self.data.is_some() {
                return Poll::Pending;
            }
            let queued = *failed.queued.get_or_insert_with(|| seen.written.now());
            ready!(seen.written.poll_after(queued, cx));
        }
        self.failed.take().map_or(Poll::Pending, |failed| Poll::Ready(failed.failure))
    }
}
