//! The order in which streams send: the most urgent first (RFC 9218 section 10), those of equal urgency in turns of a frame.
//!
//! A stream is in it while it has data to send and its own window is open. Turns are also taken where the client allows one
//! response after the other (`i=?0`): a proxy does not know which one its client waits for.

use std::collections::VecDeque;

use super::streams::StreamKey;

/// The streams that can send, except for the window of the connection.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    turns: [VecDeque<StreamKey>; 8],
    /// A bit for each urgency that has a stream.
    present: u8,
}

impl Schedule {
    /// Appends a stream to those of its urgency, which is from 0 to 7.
    pub(super) fn push(&mut self, urgency: u8, key: StreamKey) {
        self.turns[usize::from(urgency & 7)].push_back(key);
        self.present |= 1 << (urgency & 7);
    }

    /// Takes the stream whose turn it is. It may have been reset or have changed its urgency meanwhile.
    pub(super) fn pop(&mut self) -> Option<StreamKey> {
        if self.present == 0 {
            return None;
        }
        let urgency = self.present.trailing_zeros() as usize;
        let turns = &mut self.turns[urgency];
        let key = turns.pop_front();
        if turns.is_empty() {
            self.present &= !(1 << urgency);
        }
        key
    }

    /// Returns how many keys it holds.
    pub(super) fn len(&self) -> usize {
        self.turns.iter().map(VecDeque::len).sum()
    }

    /// Drops the keys for which `keep` returns false.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(StreamKey) -> bool) {
        for (urgency, turns) in self.turns.iter_mut().enumerate() {
            turns.retain(|key| keep(*key));
            if turns.is_empty() {
                self.present &= !(1 << urgency);
            }
        }
    }

    /// Returns whether no stream waits for its turn.
    pub(super) fn is_empty(&self) -> bool {
        self.present == 0
    }
}
