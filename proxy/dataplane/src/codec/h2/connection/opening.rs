//! Opens streams for the requests of a client, as many at a time as the server allows, in the order in which they asked.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use http::{HeaderMap, Method};

use super::super::frame::{MAX_WINDOW, write};
use super::super::hpack::{Encoder, Pseudo};
use super::Connection;
use super::error::StreamError;
use super::stream::{Receiving, Sending};
use super::streams::StreamKey;

/// The requests that wait for a stream.
#[derive(Debug, Default)]
pub(super) struct Opening {
    waiting: VecDeque<(u64, Waker)>,
    tickets: u64,
}

impl Opening {
    pub(super) fn wake_all(&mut self) {
        self.waiting.iter().for_each(|(_, waker)| waker.wake_by_ref());
    }
}

impl Connection {
    /// Returns whether requests can be opened, now or later: neither has the connection ended nor is it about to.
    pub(in super::super) fn is_open(&self) -> bool {
        self.end.is_none() && self.peer_leaves.is_none() && self.streams.newest < MAX_WINDOW - 2
    }

    /// Returns how many streams the peer allows at a time.
    pub(in super::super) fn stream_limit(&self) -> usize {
        self.peer.concurrent_streams as usize
    }

    /// Returns whether a stream may be opened now: one is available, and no request waits for one.
    pub(in super::super) fn opens_at_once(&self) -> bool {
        self.is_open() && self.opening.waiting.is_empty() && self.has_a_stream()
    }

    /// Returns whether the peer allows one more stream, and reads what is written.
    fn has_a_stream(&self) -> bool {
        self.streams.active < self.peer.concurrent_streams && !self.output.is_full()
    }

    /// Ready when a stream may be opened now. Otherwise the task has a place in the queue, which `ticket` names; it is 0 at first.
    /// [`Self::cancel_open`] is to be called if no stream is opened then.
    pub(in super::super) fn poll_open(
        &mut self,
        ticket: &mut u64,
        cx: &Context<'_>,
    ) -> Poll<Result<(), StreamError>> {
        if let Some(error) = self.error_of(None) {
            return Poll::Ready(Err(error));
        }
        if !self.is_open() {
            return Poll::Ready(Err(StreamError::NotProcessed));
        }
        let is_first = self.opening.waiting.front().is_none_or(|(first, _)| first == ticket);
        let opens = is_first && self.has_a_stream();
        let waiting = &mut self.opening.waiting;
        if opens {
            if waiting.pop_front().is_some() {
                *ticket = 0;
            }
            return Poll::Ready(Ok(()));
        }
        match waiting.iter_mut().find(|(other, _)| other == ticket) {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => {
                self.opening.tickets += 1;
                *ticket = self.opening.tickets;
                waiting.push_back((*ticket, cx.waker().clone()));
            }
        }
        Poll::Pending
    }

    /// Gives up a place in the queue, or the stream that [`Self::poll_open`] was ready for.
    pub(in super::super) fn cancel_open(&mut self, ticket: u64) {
        if ticket != 0 {
            self.opening.waiting.retain(|(other, _)| *other != ticket);
        }
        self.wake_opening();
    }

    /// Wakes the request that is next, if there is a stream for it.
    pub(super) fn wake_opening(&mut self) {
        if self.has_a_stream()
            && let Some((_, first)) = self.opening.waiting.front()
        {
            first.wake_by_ref();
        }
    }

    /// Opens a stream with the head of a request. To be called when [`Self::poll_open`] is ready. `end`: nothing follows.
    /// `fields` has no connection-specific fields (RFC 9113 section 8.2.2). Fails if the connection has ended.
    pub(in super::super) fn open(
        &mut self,
        pseudo: Pseudo<'_>,
        fields: &HeaderMap,
        end: bool,
    ) -> Result<StreamKey, StreamError> {
        if let Some(error) = self.error_of(None) {
            return Err(error);
        }
        if !self.is_open() {
            return Err(StreamError::NotProcessed);
        }
        let id = if self.streams.newest == 0 { 1 } else { self.streams.newest + 2 };
        self.streams.newest = id;
        let key = self.streams.insert(id, self.now);
        if let Some(stream) = self.streams.at(key.index) {
            stream.receiving = Receiving::Head;
            stream.sending = if end { Sending::Ended } else { Sending::Body };
            stream.window = i64::from(self.config.stream_window);
            stream.send_window = i64::from(self.peer.initial_window);
            stream.bodiless = matches!(pseudo, Pseudo::Request { method: &Method::HEAD, .. });
            stream.tunnel = matches!(pseudo, Pseudo::Request { method: &Method::CONNECT, .. });
        }
        let encode = |out: &mut Vec<u8>| Encoder::encode(&mut self.encoder, pseudo, fields, out);
        write::headers(self.output.frames(), id, end, self.peer.frame_size, encode);
        self.driver.wake();
        self.wake_opening();
        Ok(key)
    }
}
