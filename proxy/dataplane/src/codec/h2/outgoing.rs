//! Sends a body on a stream, as the windows of the peer permit. The last DATA frame carries END_STREAM.

use std::task::{Context, Poll};

use bytes::Bytes;
use outrigger_core::error::Failure;

use super::connection::StreamError;
use super::failure;
use super::frame::Code;
use super::handle::Handle;
use crate::codec::body::{Body, Frame};
use crate::codec::limits::CUT_WITHIN;
use crate::codec::watchdog::Watchdog;

/// The sending half of a stream, and the body that it sends.
#[derive(Debug)]
pub(super) struct Outgoing {
    handle: Handle,
    body: Body,
    /// Data that waits for capacity.
    data: Option<Bytes>,
    /// The frame after `data`, if it is already known.
    ahead: Lookahead,
    /// Whether the whole body was passed to the stream.
    ended: bool,
    /// Why the body ends early, kept while the data before the failure is being sent.
    failed: Option<BodyFailure>,
    /// The number of bytes passed to the stream.
    bytes: u64,
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
    patience: Watchdog,
}

/// Why a body was not sent completely.
#[derive(Debug)]
pub(super) enum SendError {
    /// It could not be read. The stream was reset.
    Body(Failure),
    /// The peer reset the stream or the connection ended.
    Stream(StreamError),
}

impl Outgoing {
    pub(super) fn new(handle: Handle, body: Body) -> Self {
        Self { handle, body, data: None, ahead: Lookahead::Unknown, ended: false, failed: None, bytes: 0 }
    }

    /// Continues sending. Ready when the whole body has left the stream's queue. If the body fails, the stream is reset after the
    /// data before the failure was sent, if the peer accepts it soon.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        loop {
            if self.ended {
                return self.handle.poll_sent(cx).map_err(SendError::Stream);
            }
            if let Poll::Ready(error) = self.handle.poll_reset(cx) {
                // The first event counts.
                return Poll::Ready(Err(match self.failed.take() {
                    Some(failed) => SendError::Body(failed.failure),
                    None => SendError::Stream(error),
                }));
            }
            // One frame is read ahead, to know which frame is the last.
            self.read_ahead(cx);
            if let Poll::Ready(failure) = self.poll_failed(cx) {
                self.handle.reset(failure::code_for(&failure));
                return Poll::Ready(Err(SendError::Body(failure)));
            }
            if self.data.is_some() {
                match self.handle.poll_capacity(cx) {
                    Poll::Ready(ready) => ready.map_err(SendError::Stream)?,
                    Poll::Pending => {
                        if !matches!(self.ahead, Lookahead::Unknown) {
                            self.body.poll_progress(cx);
                        }
                        return Poll::Pending;
                    }
                }
                let last = matches!(self.ahead, Lookahead::End);
                self.send(last)?;
                continue;
            }
            match std::mem::replace(&mut self.ahead, Lookahead::Unknown) {
                Lookahead::Data(data) => self.data = Some(data),
                Lookahead::Trailers(trailers) => {
                    self.ended = true;
                    self.handle.send_trailers(trailers).map_err(SendError::Stream)?;
                }
                Lookahead::End => self.send(true)?,
                Lookahead::Unknown => return Poll::Pending,
            }
        }
    }

    fn read_ahead(&mut self, cx: &mut Context<'_>) {
        if self.failed.is_some() || !matches!(self.ahead, Lookahead::Unknown) {
            return;
        }
        let Poll::Ready(frame) = self.body.poll_frame(cx) else { return };
        self.ahead = match frame {
            Some(Ok(Frame::Data(data))) => Lookahead::Data(data),
            Some(Ok(Frame::Trailers(trailers))) => Lookahead::Trailers(trailers),
            None => Lookahead::End,
            Some(Err(failure)) => {
                let mut patience = Watchdog::new();
                patience.set(CUT_WITHIN);
                self.failed = Some(BodyFailure { failure, patience });
                return;
            }
        };
    }

    /// Ready when the body has failed and the stream is to be reset.
    fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        let Some(failed) = &mut self.failed else { return Poll::Pending };
        if failed.patience.poll_passed(cx).is_pending()
            && (self.data.is_some() || self.handle.poll_sent(cx).is_pending())
        {
            return Poll::Pending;
        }
        self.failed.take().map_or(Poll::Pending, |failed| Poll::Ready(failed.failure))
    }

    fn send(&mut self, end: bool) -> Result<(), SendError> {
        let data = self.data.take().unwrap_or_default();
        self.bytes += data.len() as u64;
        self.ended = end;
        self.handle.send_data(data, end).map_err(SendError::Stream)
    }

    /// Returns whether data waits for the peer to open its window, or for others of the connection.
    pub(super) fn is_blocked(&self) -> bool {
        self.data.is_some() || self.handle.queued() > 0
    }

    /// Returns how many bytes have left for the peer.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.saturating_sub(self.handle.queued() as u64)
    }

    /// Resets the stream.
    pub(super) fn reset(&self, code: Code) {
        self.handle.reset(code);
    }
}
