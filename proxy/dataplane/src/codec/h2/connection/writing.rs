//! Sends heads, DATA and trailers on a stream. What the windows allow goes to the output at once, in the order of the calls;
//! the rest is queued in its stream and sent in turns with others.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use tokio::time::Instant;

use super::super::frame::{Code, write};
use super::super::hpack::{Encoder, Pseudo};
use super::Connection;
use super::error::StreamError;
use super::stream::Sending;
use super::streams::StreamKey;
use crate::codec::maps;

/// The largest DATA frame that is sent, so that streams take turns often.
const FRAME: usize = 16 * 1024;

impl Connection {
    /// Sends the head of a response, or an interim one if the status is 1xx. `fields` has no connection-specific fields (RFC 9113
    /// section 8.2.2). `end`: nothing follows. Fails if the stream has ended.
    pub(in super::super) fn send_head(
        &mut self,
        key: StreamKey,
        pseudo: Pseudo<'_>,
        fields: &HeaderMap,
        end: bool,
    ) -> Result<(), StreamError> {
        self.check_sending(key, Sending::Head)?;
        let interim = matches!(pseudo, Pseudo::Response(status) if status.is_informational());
        let encode = |out: &mut Vec<u8>| Encoder::encode(&mut self.encoder, pseudo, fields, out);
        write::headers(self.output.frames(), key.id, end, self.peer.frame_size, encode);
        if let Some(stream) = self.streams.get(key)
            && !interim
        {
            stream.sending = if end { Sending::Ended } else { Sending::Body };
            self.floods.responded();
        }
        self.driver.wake();
        if end {
            self.settle(key.index);
        }
        Ok(())
    }

    /// Ready when data may be queued: if the windows are closed, when nothing is queued, else when little is. Fails if the stream
    /// has ended.
    pub(in super::super) fn poll_capacity(
        &mut self,
        key: StreamKey,
        cx: &Context<'_>,
    ) -> Poll<Result<(), StreamError>> {
        self.check_sending(key, Sending::Body)?;
        match self.streams.get(key) {
            Some(stream) if !stream.has_capacity() => {
                stream.writer.wait(cx);
                Poll::Pending
            }
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Sends data of any length, after the head. `end`: nothing follows. Fails if the stream has ended, not for want of capacity.
    pub(in super::super) fn send_data(
        &mut self,
        key: StreamKey,
        mut data: Bytes,
        end: bool,
    ) -> Result<(), StreamError> {
        self.check_sending(key, Sending::Body)?;
        let Some(stream) = self.streams.get(key) else { return Ok(()) };
        if data.len() >= self.sending.left() {
            // The time since when the window is exhausted counts. The driver may have been idle.
            self.now = self.now.max(Instant::now());
        }
        if stream.queued() == 0 && self.schedule.is_empty() {
            while !data.is_empty() && self.output.has_capacity() {
                let window = self.sending.left().min(usize::try_from(stream.send_window).unwrap_or(0));
                let length = data.len().min(window).min(FRAME);
                if length == 0 {
                    break;
                }
                let piece = data.split_to(length);
                stream.send_window -= length as i64;
                self.sending.spend(length, self.now);
                if end && data.is_empty() {
                    stream.sending = Sending::Ended;
                }
                self.output.data(key.id, piece, end && data.is_empty());
            }
        }
        if !data.is_empty() {
            stream.enqueue(data);
            if end {
                stream.sending = Sending::Ending;
            }
            self.schedule(key.index);
        } else if end && stream.sending == Sending::Body {
            if stream.queued() == 0 {
                stream.sending = Sending::Ended;
                self.output.data(key.id, Bytes::new(), true);
            } else {
                stream.sending = Sending::Ending;
            }
        }
        self.driver.wake();
        if end {
            self.settle(key.index);
        }
        Ok(())
    }

    /// Sends the trailers, behind what is queued. Nothing follows. Fails if the stream has ended.
    pub(in super::super) fn send_trailers(
        &mut self,
        key: StreamKey,
        fields: HeaderMap,
    ) -> Result<(), StreamError> {
        self.check_sending(key, Sending::Body)?;
        let Some(stream) = self.streams.get(key) else { return Ok(()) };
        if stream.queued() > 0 {
            stream.sending = Sending::Ending;
            stream.last = Some(fields);
        } else {
            stream.sending = Sending::Ended;
            self.write_trailers(key.id, fields);
            self.settle(key.index);
        }
        self.driver.wake();
        Ok(())
    }

    fn write_trailers(&mut self, id: u32, fields: HeaderMap) {
        let encode = |out: &mut Vec<u8>| Encoder::encode(&mut self.encoder, Pseudo::None, &fields, out);
        write::headers(self.output.frames(), id, true, self.peer.frame_size, encode);
        maps::give(fields);
    }

    /// Returns how many bytes of data are queued and not yet in the output.
    pub(in super::super) fn queued(&mut self, key: StreamKey) -> usize {
        self.streams.get(key).map_or(0, |stream| stream.queued())
    }

    /// Ready when everything that was sent is in the output, so that a reset does not overtake it. Fails if the stream has ended
    /// before.
    pub(in super::super) fn poll_sent(
        &mut self,
        key: StreamKey,
        cx: &Context<'_>,
    ) -> Poll<Result<(), StreamError>> {
        let Some(stream) = self.streams.get(key) else {
            return Poll::Ready(Err(StreamError::Local(Code::CANCEL)));
        };
        if stream.sending == Sending::Ended {
            return Poll::Ready(Ok(()));
        }
        let (fault, queued) = (stream.fault, stream.queued());
        if let Some(error) = self.error_of(fault) {
            return Poll::Ready(Err(error));
        }
        if queued == 0 {
            return Poll::Ready(Ok(()));
        }
        if let Some(stream) = self.streams.get(key) {
            stream.writer.wait(cx);
        }
        Poll::Pending
    }

    /// Moves DATA from the streams to the output, as the windows and the output allow.
    pub(super) fn fill(&mut self) {
        while self.output.has_capacity() && self.end.is_none() {
            let window = self.sending.left();
            if window == 0 {
                break;
            }
            let Some(key) = self.schedule.pop() else { break };
            let Some(stream) = self.streams.entry(key).filter(|stream| stream.scheduled) else { continue };
            stream.scheduled = false;
            let most = window.min(usize::try_from(stream.send_window).unwrap_or(0)).min(FRAME);
            let Some(data) = stream.dequeue(most).filter(|data| !data.is_empty()) else { continue };
            stream.send_window -= data.len() as i64;
            self.sending.spend(data.len(), self.now);
            let empty = stream.queued() == 0;
            let ends = empty && stream.sending == Sending::Ending;
            let trailers = if ends { stream.last.take() } else { None };
            if ends {
                stream.sending = Sending::Ended;
            }
            if ends || empty || stream.has_capacity() {
                stream.writer.wake();
            }
            self.output.data(key.id, data, ends && trailers.is_none());
            if let Some(fields) = trailers {
                self.write_trailers(key.id, fields);
            }
            if ends {
                self.settle(key.index);
            } else {
                self.schedule(key.index);
            }
        }
    }

    /// Fails if the stream has ended or is not at that step.
    fn check_sending(&mut self, key: StreamKey, step: Sending) -> Result<(), StreamError> {
        let Some(stream) = self.streams.get(key) else { return Err(StreamError::Local(Code::CANCEL)) };
        if stream.fault.is_none() && stream.sending == step && self.end.is_none() {
            return Ok(());
        }
        let fault = stream.fault;
        Err(self.error_of(fault).unwrap_or(StreamError::Local(Code::NO_ERROR)))
    }
}
