//! The flow-control windows of a connection (RFC 9113 section 5.2), and since when one is exhausted.

use tokio::time::Instant;

use super::super::frame::{INITIAL_WINDOW, MAX_WINDOW};

/// A window below this counts as exhausted: the remainder is of no use to a sender. Smaller credit is not announced.
const USED_UP: i64 = 1024;

/// How much the peer may send on the connection.
#[derive(Debug)]
pub(super) struct ReceiveWindow {
    /// Bytes that the peer may still send.
    left: i64,
    /// Bytes that were consumed and are not yet announced. Negative after the window was made smaller.
    credit: i64,
    exhausted_since: Option<Instant>,
    /// Since when the peer may send one stream's window more than the connection's.
    pub(super) overdrawn_since: Option<Instant>,
    /// When that was last considered.
    pub(super) relieved_at: Option<Instant>,
}

impl ReceiveWindow {
    /// Creates a window of `size` bytes, of which the part above the initial window is announced at the start.
    pub(super) fn new(size: u32) -> Self {
        Self {
            left: i64::from(size.max(INITIAL_WINDOW)),
            credit: 0,
            exhausted_since: None,
            overdrawn_since: None,
            relieved_at: None,
        }
    }

    /// Records received bytes. Returns whether the peer was allowed to send them.
    pub(super) fn receive(&mut self, bytes: u32, now: Instant) -> bool {
        self.left -= i64::from(bytes);
        if self.left < USED_UP && self.exhausted_since.is_none() {
            self.exhausted_since = Some(now);
        }
        self.left >= 0
    }

    /// Records consumed bytes. Returns the increment to announce, if it is time: the peer gets at least twice what it had.
    pub(super) fn consume(&mut self, bytes: u32) -> Option<u32> {
        self.credit += i64::from(bytes);
        if self.credit < self.left.max(USED_UP) {
            return None;
        }
        Some(self.announce()).filter(|increment| *increment > 0)
    }

    /// Makes the window larger. Returns the increment to announce.
    pub(super) fn grow(&mut self, bytes: u32) -> u32 {
        self.credit += i64::from(bytes);
        self.announce()
    }

    fn announce(&mut self) -> u32 {
        let increment = u32::try_from(self.credit.min(i64::from(MAX_WINDOW) - self.left)).unwrap_or(0);
        self.credit -= i64::from(increment);
        self.left += i64::from(increment);
        if self.left >= USED_UP {
            self.exhausted_since = None;
        }
        increment
    }

    /// Makes the window smaller, as bytes are consumed.
    pub(super) fn shrink(&mut self, bytes: u32) {
        self.credit -= i64::from(bytes);
    }

    /// Returns the bytes that the peer may still send, once everything consumed is announced.
    pub(super) fn left(&self) -> i64 {
        self.left + self.credit
    }

    pub(super) fn exhausted_since(&self) -> Option<Instant> {
        self.exhausted_since
    }
}

/// How much may be sent to the peer on the connection.
#[derive(Debug)]
pub(super) struct SendWindow {
    left: i64,
    exhausted_since: Option<Instant>,
}

impl Default for SendWindow {
    fn default() -> Self {
        Self { left: i64::from(INITIAL_WINDOW), exhausted_since: None }
    }
}

impl SendWindow {
    /// Returns the bytes that may be sent.
    pub(super) fn left(&self) -> usize {
        usize::try_from(self.left).unwrap_or(0)
    }

    /// Records sent bytes.
    pub(super) fn spend(&mut self, bytes: usize, now: Instant) {
        // A frame's payload, which fits.
        self.left -= bytes as i64;
        if self.left < USED_UP && self.exhausted_since.is_none() {
            self.exhausted_since = Some(now);
        }
    }

    /// Records a WINDOW_UPDATE. Returns whether the window stays within its limit (RFC 9113 section 6.9.1).
    pub(super) fn grow(&mut self, increment: u32) -> bool {
        self.left += i64::from(increment);
        if self.left >= USED_UP {
            self.exhausted_since = None;
        }
        self.left <= i64::from(MAX_WINDOW)
    }

    pub(super) fn exhausted_since(&self) -> Option<Instant> {
        self.exhausted_since
    }
}
