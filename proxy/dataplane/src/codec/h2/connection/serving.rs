//! The requests that a server has received and not yet accepted.
//!
//! Few are held: one byte of a head may stand for a hundred in memory (an indexed field), which refused streams should hold only
//! briefly. No more frames are read until they are accepted.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use super::super::hpack::Section;
use super::Connection;
use super::error::{Fault, Refusal, StreamError};
use super::streams::StreamKey;

/// Bytes of decoded heads that wait to be accepted.
const BYTES_AT_ONCE: usize = 64 * 1024;
/// The same limit as a number of heads.
const HEADS_AT_ONCE: usize = 128;
/// Refusals that wait to be recorded.
const REFUSALS_AT_ONCE: usize = 4096;

/// What a server takes from [`Connection::accept`].
#[derive(Debug)]
pub(in super::super) enum Incoming {
    /// A request, not malformed. If `section.too_large`, fields are missing, and it is to be answered with 431. `ended`: no body
    /// follows. The key is to be released.
    Request { key: StreamKey, section: Box<Section>, ended: bool },
    /// A request that was refused, for the record.
    Refused(Refusal),
}

/// Requests that wait to be accepted.
#[derive(Debug)]
pub(super) struct Accepting {
    pub(super) requests: VecDeque<Request>,
    pub(super) refusals: VecDeque<Refusal>,
    /// The decoded size of `requests`.
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) key: StreamKey,
    pub(super) section: Box<Section>,
    pub(super) ended: bool,
}

impl Accepting {
    pub(super) fn push(&mut self, request: Request) {
        self.bytes += request.section.list_bytes;
        self.requests.push_back(request);
    }

    /// Returns whether no more frames are to be read until some were accepted.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= BYTES_AT_ONCE
            || self.requests.len() >= HEADS_AT_ONCE
            || self.refusals.len() >= REFUSALS_AT_ONCE
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.refusals.is_empty()
    }
}

impl Connection {
    /// Takes the next request or refusal.
    pub(in super::super) fn accept(&mut self) -> Option<Incoming> {
        if let Some(refusal) = self.accepting.refusals.pop_front() {
            return Some(Incoming::Refused(refusal));
        }
        let Request { key, section, ended } = self.accepting.requests.pop_front()?;
        self.accepting.bytes -= section.list_bytes;
        let fault = self.streams.get(key).and_then(|stream| stream.fault);
        let Some(fault) = fault else { return Some(Incoming::Request { key, section, ended }) };
        self.release(key);
        Some(Incoming::Refused(match fault {
            Fault::Violation(_, rule) => Refusal::Malformed(rule),
            _ => Refusal::ResetUnseen,
        }))
    }

    /// Drops the request on a stream that the client has reset, if it was not accepted yet. It no longer holds back reading.
    /// Returns whether it did.
    pub(super) fn drop_unseen(&mut self, id: u32) -> bool {
        // In the order of their streams.
        let requests = &mut self.accepting.requests;
        let found = requests.binary_search_by_key(&id, |request| request.key.id);
        let Some(request) = found.ok().and_then(|at| requests.remove(at)) else { return false };
        self.accepting.bytes -= request.section.list_bytes;
        self.accepting.refusals.push_back(Refusal::ResetUnseen);
        self.release(request.key);
        true
    }

    /// Returns the bytes of field sections that were received, as they were on the wire.
    pub(in super::super) fn head_bytes(&self) -> usize {
        self.head_bytes
    }

    /// Ready when the stream has ended early, by a reset or with the connection, whatever is unread.
    pub(in super::super) fn poll_reset(&mut self, key: StreamKey, cx: &Context<'_>) -> Poll<StreamError> {
        let fault = self.streams.get(key).and_then(|stream| stream.fault);
        if let Some(error) = self.error_of(fault) {
            return Poll::Ready(error);
        }
        if let Some(stream) = self.streams.get(key) {
            stream.watcher.wait(cx);
        }
        Poll::Pending
    }
}
