//! The state of one stream: what was received and not yet read, what is queued and not yet sent, and who waits for it.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use tokio::time::Instant;

use super::super::frame::Priority;
use super::super::head_memory::HeadPermit;
use super::super::hpack::Section;
use super::super::wait::Wait;
use super::error::Fault;
use crate::codec::limits::FieldSize;

/// Bytes that may be queued for sending; more waits with its producer.
const QUEUE: usize = 128 * 1024;
/// Unread payloads up to this size are joined, so that small frames cost no more memory than large ones.
const JOINED: usize = 1024;
/// Bytes of joined payloads that are handed out at once.
const JOINED_PIECE: usize = 16 * 1024;
/// Entries of queues whose memory a later stream reuses.
const REUSED: usize = 16;
/// A credit below this is not announced.
const LEAST_CREDIT: i64 = 1024;

/// How far the peer's side of a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Receiving {
    /// The final head of the response is outstanding.
    Head,
    /// DATA or trailers are outstanding.
    Body,
    /// END_STREAM was received, and the message is well-formed.
    Ended,
}

/// How far this side of a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    /// The final head was not sent.
    Head,
    /// DATA or trailers may follow.
    Body,
    /// The rest is queued.
    Ending,
    /// END_STREAM is in the output.
    Ended,
}

/// What is wrong with the trailers. It ends only the receiving side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadTrailers {
    TooLarge,
    Malformed(&'static str),
}

/// One stream (RFC 9113 section 5). It is reused for others when it has ended and its key was released.
#[derive(Debug)]
pub(super) struct Stream {
    /// 0 if it is free.
    pub(super) id: u32,
    /// How many hold its key.
    pub(super) holders: u32,
    /// Whether it counts as concurrent.
    pub(super) active: bool,
    pub(super) receiving: Receiving,
    pub(super) sending: Sending,
    pub(super) fault: Option<Fault>,

    pub(super) interim: VecDeque<(Box<Section>, HeadPermit)>,
    pub(super) interims: usize,
    pub(super) head: Option<Box<Section>>,
    data: VecDeque<Bytes>,
    /// Small payloads behind `data`.
    joined: BytesMut,
    /// Tiny frames in `joined`.
    pub(super) tiny: u32,
    pub(super) trailers: Option<(HeaderMap, FieldSize, HeadPermit)>,
    pub(super) bad_trailers: Option<BadTrailers>,
    /// Bytes that were received and not read.
    pub(super) unread: u32,
    /// When bytes were last read.
    pub(super) read_at: Instant,
    /// Bytes that the peer may still send on it, and those that were consumed and not yet announced.
    pub(super) window: i64,
    credit: i64,
    /// The bytes of the body that are outstanding, if the head announced its length.
    pub(super) outstanding: Option<u64>,
    /// Whether the response has no body whatever its length says.
    pub(super) bodiless: bool,
    /// Whether a successful response opens a tunnel.
    pub(super) tunnel: bool,
    pub(super) opened_at: Instant,

    queue: VecDeque<Bytes>,
    queued: usize,
    /// Sent behind the queue.
    pub(super) last: Option<HeaderMap>,
    pub(super) send_window: i64,
    pub(super) priority: Priority,
    /// Whether it is in the schedule.
    pub(super) scheduled: bool,

    pub(super) reader: Wait,
    pub(super) writer: Wait,
    /// Waits for a reset.
    pub(super) watcher: Wait,
}

impl Stream {
    /// Creates a free stream.
    pub(super) fn free(now: Instant) -> Self {
        Self {
            id: 0,
            holders: 0,
            active: false,
            receiving: Receiving::Ended,
            sending: Sending::Ended,
            fault: None,
            interim: VecDeque::new(),
            interims: 0,
            head: None,
            data: VecDeque::new(),
            joined: BytesMut::new(),
            tiny: 0,
            trailers: None,
            bad_trailers: None,
            unread: 0,
            read_at: now,
            window: 0,
            credit: 0,
            outstanding: None,
            bodiless: false,
            tunnel: false,
            opened_at: now,
            queue: VecDeque::new(),
            queued: 0,
            last: None,
            send_window: 0,
            priority: Priority::default(),
            scheduled: false,
            reader: Wait::default(),
            writer: Wait::default(),
            watcher: Wait::default(),
        }
    }

    /// Makes it free. The memory of its queues is kept if it is little.
    pub(super) fn clear(&mut self) {
        let (mut data, mut queue) = (std::mem::take(&mut self.data), std::mem::take(&mut self.queue));
        data.clear();
        queue.clear();
        *self = Self::free(self.read_at);
        if data.capacity() <= REUSED {
            self.data = data;
        }
        if queue.capacity() <= REUSED {
            self.queue = queue;
        }
    }

    /// Returns whether its key was not yet released by all who hold it.
    pub(super) fn is_held(&self) -> bool {
        self.holders > 0
    }

    /// Returns whether nothing is sent or received on it any more.
    pub(super) fn is_closed(&self) -> bool {
        self.fault.is_some() || (self.receiving == Receiving::Ended && self.sending == Sending::Ended)
    }

    /// Wakes all who wait for it.
    pub(super) fn wake(&mut self) {
        self.reader.wake();
        self.writer.wake();
        self.watcher.wake();
    }

    /// Queues a received payload, not empty, for its reader.
    pub(super) fn received(&mut self, data: Bytes, tiny: bool) {
        // Less than a window.
        self.unread += data.len() as u32;
        let behind = !self.joined.is_empty();
        if data.len() <= JOINED && (behind || !self.data.is_empty()) {
            self.joined.extend_from_slice(&data);
            self.tiny += u32::from(tiny);
            return;
        }
        if behind {
            let joined = self.joined.split().freeze();
            self.data.push_back(joined);
            // A piece takes no more memory for having come in tiny frames.
            self.tiny = 0;
        }
        self.data.push_back(data);
    }

    /// Takes the next unread bytes.
    pub(super) fn read(&mut self, now: Instant) -> Option<Bytes> {
        let data = match self.data.pop_front() {
            Some(data) => data,
            None if self.joined.is_empty() => return None,
            None => {
                self.tiny = 0;
                self.joined.split_to(self.joined.len().min(JOINED_PIECE)).freeze()
            }
        };
        self.unread -= data.len() as u32;
        self.read_at = now;
        Some(data)
    }

    /// Drops what is unread, and returns its bytes.
    pub(super) fn discard(&mut self) -> u32 {
        self.data.clear();
        self.joined = BytesMut::new();
        self.tiny = 0;
        std::mem::take(&mut self.unread)
    }

    /// Records consumed bytes. Returns the increment of its window to announce, if it is time.
    pub(super) fn consumed(&mut self, bytes: u32) -> Option<u32> {
        if self.receiving == Receiving::Ended || self.fault.is_some() {
            return None;
        }
        self.credit += i64::from(bytes);
        if self.credit < self.window.max(LEAST_CREDIT) {
            return None;
        }
        let increment = std::mem::take(&mut self.credit);
        self.window += increment;
        u32::try_from(increment).ok()
    }

    /// Queues bytes, not empty, for sending.
    pub(super) fn enqueue(&mut self, data: Bytes) {
        self.queued += data.len();
        self.queue.push_back(data);
    }

    /// Takes up to `most` bytes of one queued piece.
    pub(super) fn dequeue(&mut self, most: usize) -> Option<Bytes> {
        let piece = self.queue.front_mut()?;
        let data = if piece.len() <= most { self.queue.pop_front()? } else { piece.split_to(most) };
        self.queued -= data.len();
        Some(data)
    }

    /// Drops what is queued for sending.
    pub(super) fn drop_queue(&mut self) {
        self.queue.clear();
        self.queued = 0;
        self.last = None;
        self.scheduled = false;
    }

    /// Returns the bytes that are queued for sending.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// Returns whether more may be queued. While the peer's window is closed, no more than one piece is held.
    pub(super) fn has_capacity(&self) -> bool {
        self.queued == 0
            || (self.queued < QUEUE && usize::try_from(self.send_window).is_ok_and(|left| left > self.queued))
    }
}
