//! Sends a body: reads it from its source, frames it and writes it, with back-pressure.
//!
//! Used by the server for responses and by the client for requests.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll, ready};

use outrigger_core::error::Failure;

use super::buffered_stream::BufferedStream;
use super::write::{Encoder, HIGH_WATER};
use crate::codec::body::{Body, Frame};

/// A body whose head was already written.
#[derive(Debug)]
pub(crate) struct Transfer {
    body: Body,
    encoder: Encoder,
    ended: bool,
}

/// Why a body was not sent completely.
#[derive(Debug)]
pub(crate) enum TransferError {
    /// Reading failed, or its length is not the announced one.
    Body(Failure),
    /// Writing failed.
    Socket(io::Error),
}

impl Transfer {
    /// Creates the transfer of `body`, which is dropped at once if the encoder sends no body.
    pub(crate) fn new(body: Body, encoder: Encoder) -> Self {
        let ended = encoder == Encoder::None;
        let body = if ended { Body::empty() } else { body };
        Self { body, encoder, ended }
    }

    /// Continues. Ready when all of it was passed to the kernel. The connection is not borrowed while the body is read, since
    /// reading may lead back to it.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        connection: &RefCell<Option<BufferedStream>>,
    ) -> Poll<Result<(), TransferError>> {
        loop {
            let starved = !self.gather(cx, connection)?;
            let wrote = {
                let connection = &mut *connection.borrow_mut();
                let connection = connection.as_mut().ok_or_else(over)?;
                if starved || self.ended {
                    let flushed = connection.poll_flush(cx).map_err(TransferError::Socket);
                    if self.ended {
                        ready!(flushed)?;
                        return Poll::Ready(Ok(()));
                    }
                    if let Poll::Ready(Err(cut)) = flushed {
                        return Poll::Ready(Err(cut));
                    }
                    return Poll::Pending;
                }
                connection.poll_write(cx).map_err(TransferError::Socket)?
            };
            if wrote.is_pending() {
                self.body.poll_progress(cx);
                return Poll::Pending;
            }
        }
    }

    /// Reads the body until enough is queued. Returns false if no more is available now.
    fn gather(
        &mut self,
        cx: &mut Context<'_>,
        connection: &RefCell<Option<BufferedStream>>,
    ) -> Result<bool, TransferError> {
        while !self.ended {
            if connection.borrow().as_ref().is_none_or(|connection| connection.out.waiting() >= HIGH_WATER) {
                return Ok(true);
            }
            let Poll::Ready(frame) = self.body.poll_frame(cx) else { return Ok(false) };
            let frame = frame.transpose().map_err(TransferError::Body)?;
            let connection = &mut *connection.borrow_mut();
            let out = &mut connection.as_mut().ok_or_else(over)?.out;
            match frame {
                Some(Frame::Data(data)) => self.encoder.data(out, data),
                Some(Frame::Trailers(trailers)) => {
                    self.ended = true;
                    self.encoder.end(out, Some(&trailers))
                }
                None => {
                    self.ended = true;
                    self.encoder.end(out, None)
                }
            }
            .map_err(TransferError::Body)?;
        }
        Ok(true)
    }
}

fn over() -> TransferError {
    TransferError::Socket(io::ErrorKind::NotConnected.into())
}
