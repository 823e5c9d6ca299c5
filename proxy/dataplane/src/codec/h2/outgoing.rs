//! A body on its way out on a stream, as the peer's windows allow. The last frame of data carries END_STREAM.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason as Code, SendStream};
use outrigger_core::error::Failure;

use super::failure;
use crate::codec::body::{Body, Frame};

/// The sending half of a stream, and the body that it sends.
#[derive(Debug)]
pub(super) struct Outgoing {
    stream: SendStream<Bytes>,
    body: Body,
    /// Data that waits for the window.
    data: Option<Bytes>,
    /// What follows the data, when that is known already.
    next: Next,
    /// Bytes handed to the stream.
    pub(super) bytes: u64,
}

#[derive(Debug)]
enum Next {
    Unknown,
    Data(Bytes),
    Trailers(http::HeaderMap),
    End,
}

/// Why a body did not get through.
#[derive(Debug)]
pub(super) enum Cut {
    /// It could not be read. The stream was reset.
    Body(Failure),
    /// The peer reset the stream or the connection ended.
    Stream(h2::Error),
}

impl Outgoing {
    pub(super) fn new(stream: SendStream<Bytes>, body: Body) -> Self {
        Self { stream, body, data: None, next: Next::Unknown, bytes: 0 }
    }

    /// Goes on; ready when all of it was handed to the stream.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cut>> {
        loop {
            if let Poll::Ready(reset) = self.stream.poll_reset(cx) {
                return Poll::Ready(Err(Cut::Stream(reset.map_or_else(|error| error, h2::Error::from))));
            }
            // One frame ahead, so that the last one is known to be the last.
            let ahead = self.poll_ahead(cx).map_err(|failure| {
                self.stream.send_reset(failure::code_for(&failure));
                Cut::Body(failure)
            })?;
            let Some(data) = &mut self.data else {
                match std::mem::replace(&mut self.next, Next::Unknown) {
                    Next::Data(data) => {
                        self.stream.reserve_capacity(data.len());
                        self.data = Some(data);
                        continue;
                    }
                    Next::Trailers(trailers) => {
                        return Poll::Ready(self.stream.send_trailers(trailers).map_err(Cut::Stream));
                    }
                    Next::End => {
                        return Poll::Ready(self.stream.send_data(Bytes::new(), true).map_err(Cut::Stream));
                    }
                    Next::Unknown => return Poll::Pending,
                }
            };
            if self.stream.capacity() == 0 {
                match self.stream.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Cut::Stream(error))),
                    Poll::Ready(None) => return Poll::Ready(Err(Cut::Stream(Code::CANCEL.into()))),
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
            let last = done && matches!(self.next, Next::End);
            self.bytes += piece.len() as u64;
            self.stream.send_data(piece, last).map_err(Cut::Stream)?;
            if done {
                self.data = None;
                if last {
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// Whether data waits for the peer to open its windows.
    pub(super) fn is_blocked(&self) -> bool {
        self.data.is_some()
    }

    /// Gives up.
    pub(super) fn reset(&mut self, code: Code) {
        self.stream.send_reset(code);
    }

    /// Lets the body go, of which nothing more is sent.
    pub(super) fn drop_body(&mut self) {
        self.body = Body::empty();
        self.data = None;
        self.next = Next::End;
    }

    /// The stream, of a body that was none.
    pub(super) fn into_stream(self) -> SendStream<Bytes> {
        self.stream
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        if matches!(self.next, Next::Unknown) {
            self.next = match ready!(self.body.poll_frame(cx)).transpose()? {
                Some(Frame::Data(data)) => Next::Data(data),
                Some(Frame::Trailers(trailers)) => Next::Trailers(trailers),
                None => Next::End,
            };
        }
        Poll::Ready(Ok(()))
    }
}
