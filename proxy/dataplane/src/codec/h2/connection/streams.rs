//! The streams of a connection, by key and by identifier, and what is known of those that are gone.
//!
//! The memory of gone streams is bounded. Frames on streams that were reset here may be late (RFC 9113 section 5.1, closed) and
//! are never held against the peer, also if the reset is no longer remembered.

use std::collections::VecDeque;

use foldhash::{HashMap, HashMapExt};
use tokio::time::Instant;

use super::stream::Stream;

/// The value of an identifier whose stream was reset here and is gone.
const RESET: u32 = u32::MAX;
/// Ranges of skipped identifiers that are remembered.
const SKIPPED: usize = 16;

/// Names a stream of this connection. It never names another one, even after it was released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct StreamKey {
    pub(super) index: u32,
    pub(super) id: u32,
}

impl StreamKey {
    /// Returns the stream identifier.
    pub(in super::super) fn id(self) -> u32 {
        self.id
    }
}

/// All streams.
#[derive(Debug)]
pub(super) struct Streams {
    entries: Vec<Stream>,
    free: Vec<u32>,
    ids: HashMap<u32, u32>,
    /// The streams that count as concurrent.
    pub(super) active: u32,
    /// The highest identifier that was opened, by the client.
    pub(super) newest: u32,
    /// Streams that were reset here and are gone, oldest first.
    reset: VecDeque<u32>,
    remembered: usize,
    /// The highest stream that was reset here and is no longer remembered.
    forgotten: u32,
    /// Ranges of identifiers that the client has skipped, which stay idle.
    skipped: VecDeque<(u32, u32)>,
}

/// What an identifier stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// A stream.
    Stream(u32),
    /// A stream that is gone, and on which frames may be late because it was reset here.
    Reset,
    /// A stream that is gone.
    Closed,
    /// A stream that was never opened.
    Idle,
}

impl Streams {
    /// Creates an empty table that remembers so many reset streams.
    pub(super) fn new(remembered: usize) -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            ids: HashMap::new(),
            active: 0,
            newest: 0,
            reset: VecDeque::new(),
            remembered,
            forgotten: 0,
            skipped: VecDeque::new(),
        }
    }

    /// Adds a stream, which is active and whose key has one holder.
    pub(super) fn insert(&mut self, id: u32, now: Instant) -> StreamKey {
        let index = self.free.pop().unwrap_or_else(|| {
            if self.entries.is_empty() {
                // Most connections have one stream at a time; a vector starts with four entries.
                self.entries.reserve_exact(1);
            }
            self.entries.push(Stream::free(now));
            // Far fewer than 2^32.
            self.entries.len() as u32 - 1
        });
        if let Some(stream) = self.entries.get_mut(index as usize) {
            stream.id = id;
            stream.holders = 1;
            stream.active = true;
            stream.read_at = now;
            stream.opened_at = now;
        }
        self.ids.insert(id, index);
        self.active += 1;
        StreamKey { index, id }
    }

    /// Records that the client has opened `id`, which is higher than all before.
    pub(super) fn opened(&mut self, id: u32) {
        let expected = if self.newest == 0 { 1 } else { self.newest + 2 };
        if id > expected {
            if self.skipped.len() == SKIPPED {
                self.skipped.pop_front();
            }
            self.skipped.push_back((expected, id - 2));
        }
        self.newest = id;
    }

    /// Finds a stream of the client by its identifier.
    pub(super) fn find(&self, id: u32) -> Found {
        match self.ids.get(&id) {
            Some(&RESET) => Found::Reset,
            Some(&index) => Found::Stream(index),
            None if id > self.newest || id.is_multiple_of(2) => Found::Idle,
            None if self.skipped.iter().any(|(from, to)| (*from..=*to).contains(&id)) => Found::Idle,
            None if id <= self.forgotten => Found::Reset,
            None => Found::Closed,
        }
    }

    /// Returns the stream of a key that was not released.
    pub(super) fn get(&mut self, key: StreamKey) -> Option<&mut Stream> {
        self.entry(key).filter(|stream| stream.is_held())
    }

    /// Returns the stream of a key, which may have been released.
    pub(super) fn entry(&mut self, key: StreamKey) -> Option<&mut Stream> {
        self.entries.get_mut(key.index as usize).filter(|stream| stream.id == key.id)
    }

    /// Returns the stream at an index that [`Self::find`] or a key contains.
    pub(super) fn at(&mut self, index: u32) -> Option<&mut Stream> {
        self.entries.get_mut(index as usize)
    }

    /// Frees a stream.
    pub(super) fn remove(&mut self, index: u32) {
        let Some(stream) = self.entries.get_mut(index as usize).filter(|stream| stream.id != 0) else {
            return;
        };
        let (id, was_reset) = (stream.id, stream.fault.is_some_and(super::error::Fault::was_sent));
        stream.clear();
        self.free.push(index);
        if was_reset {
            self.remember(id);
        } else {
            self.ids.remove(&id);
        }
    }

    /// Remembers that a stream that is gone, or never was, has been reset here.
    pub(super) fn remember(&mut self, id: u32) {
        if self.reset.len() >= self.remembered
            && let Some(oldest) = self.reset.pop_front()
        {
            self.forgotten = self.forgotten.max(oldest);
            self.ids.remove(&oldest);
        }
        self.ids.insert(id, RESET);
        self.reset.push_back(id);
    }

    /// Returns all entries. Free ones have the identifier 0.
    pub(super) fn all(&mut self) -> impl Iterator<Item = (u32, &mut Stream)> {
        (0_u32..).zip(&mut self.entries).filter(|(_, stream)| stream.id != 0)
    }

    /// Returns whether all entries are free.
    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.entries.len()
    }

    /// Releases memory, if there is no stream.
    pub(super) fn shrink(&mut self) {
        if self.is_empty() {
            (self.entries, self.free) = (Vec::new(), Vec::new());
            let kept = self.reset.len() * 2;
            self.ids.shrink_to(kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::Fault;
    use super::*;
    use crate::codec::h2::frame::Code;

    #[test]
    fn an_identifier_stands_for_what_became_of_its_stream() {
        let now = Instant::now();
        let mut streams = Streams::new(2);
        let mut keys = Vec::new();
        for id in [1, 3, 9, 11, 13] {
            streams.opened(id);
            keys.push(streams.insert(id, now));
        }
        assert_eq!(streams.find(9), Found::Stream(keys[2].index));
        streams.remove(keys[0].index);
        assert!(streams.get(keys[0]).is_none());
        for key in &keys[1..] {
            streams.get(*key).unwrap().fault = Some(Fault::Local(Code::CANCEL));
            streams.remove(key.index);
        }
        let found = [1, 3, 5, 7, 8, 9, 11, 13, 15].map(|id| streams.find(id));
        let (reset, idle) = (Found::Reset, Found::Idle);
        // 3 and 9 are no longer remembered, so that 1 might have been reset too.
        assert_eq!(found, [reset, reset, idle, idle, idle, reset, reset, reset, idle]);
        assert!(streams.is_empty());
    }

    #[test]
    fn a_key_names_no_later_stream_in_the_same_place() {
        let now = Instant::now();
        let mut streams = Streams::new(2);
        let old = streams.insert(1, now);
        streams.remove(old.index);
        let new = streams.insert(3, now);
        assert_eq!(old.index, new.index);
        assert!(streams.get(old).is_none() && streams.get(new).is_some());
    }
}
