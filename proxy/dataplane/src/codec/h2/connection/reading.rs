//! Reads what was received on a stream. The windows open as bytes are read, which provides back-pressure.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;

use super::super::frame::{Code, write};
use super::super::hpack::Section;
use super::Connection;
use super::error::{Fault, StreamError};
use super::stream::{BadTrailers, Receiving};
use super::streams::StreamKey;
use crate::codec::limits::FieldSize;

/// What is received on a stream after the head.
#[derive(Debug)]
pub(in super::super) enum Received {
    /// Bytes, not empty.
    Data(Bytes),
    /// The trailers, not empty, and their size. Nothing follows.
    Trailers(HeaderMap, FieldSize),
    /// END_STREAM.
    End,
}

/// The head of a response.
#[derive(Debug)]
pub(in super::super) struct ResponseSection {
    /// Its fields. If `too_large`, some are missing.
    pub(in super::super) section: Box<Section>,
    /// Whether it ends the stream.
    pub(in super::super) ended: bool,
}

impl Connection {
    /// Returns the next head of a response: the interim ones, then the final one.
    pub(in super::super) fn poll_head(
        &mut self,
        key: StreamKey,
        cx: &Context<'_>,
    ) -> Poll<Result<ResponseSection, StreamError>> {
        let mut fault = None;
        if let Some(stream) = self.streams.get(key) {
            if let Some((section, _)) = stream.interim.pop_front() {
                return Poll::Ready(Ok(ResponseSection { section, ended: false }));
            }
            if let Some(section) = stream.head.take() {
                let ended = stream.receiving == Receiving::Ended
                    && stream.unread == 0
                    && stream.trailers.is_none()
                    && stream.bad_trailers.is_none();
                return Poll::Ready(Ok(ResponseSection { section, ended }));
            }
            fault = stream.fault;
        }
        if let Some(error) = self.error_of(fault) {
            return Poll::Ready(Err(error));
        }
        match self.streams.get(key) {
            Some(stream) => stream.reader.wait(cx),
            None => return Poll::Ready(Err(StreamError::Local(Code::CANCEL))),
        }
        Poll::Pending
    }

    /// Returns what comes next. What was received comes before an error. After the end or an error, returns the same again.
    pub(in super::super) fn poll_receive(
        &mut self,
        key: StreamKey,
        cx: &Context<'_>,
    ) -> Poll<Result<Received, StreamError>> {
        let Some(stream) = self.streams.get(key) else {
            return Poll::Ready(Err(StreamError::Local(Code::CANCEL)));
        };
        if let Some(fault @ (Fault::Local(_) | Fault::GaveUp)) = stream.fault {
            // What was received is incomplete, since it was dropped.
            return Poll::Ready(Err(fault.into()));
        }
        if let Some(data) = stream.read(self.now) {
            let length = data.len() as u32;
            if let Some(increment) = stream.consumed(length)
                && self.end.is_none()
            {
                write::window_update(self.output.frames(), key.id, increment);
                self.driver.wake();
            }
            self.consumed(length);
            return Poll::Ready(Ok(Received::Data(data)));
        }
        if let Some((fields, size, _)) = stream.trailers.take() {
            return Poll::Ready(Ok(Received::Trailers(fields, size)));
        }
        match stream.bad_trailers {
            Some(BadTrailers::TooLarge) => return Poll::Ready(Err(StreamError::TooLarge)),
            Some(BadTrailers::Malformed(rule)) => {
                return Poll::Ready(Err(StreamError::MalformedTrailers(rule)));
            }
            None => {}
        }
        let (fault, ended) = (stream.fault, stream.receiving == Receiving::Ended);
        if ended {
            return Poll::Ready(Ok(Received::End));
        }
        if fault.is_none() && self.end.is_none() {
            stream.reader.wait(cx);
            return Poll::Pending;
        }
        Poll::Ready(self.error_of(fault).map_or(Ok(Received::End), Err))
    }
}
