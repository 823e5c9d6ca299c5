//! Tracks how much may still be sent on a connection, and since when it is exhausted.

use std::cell::Cell;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// A window below this counts as exhausted: the remainder is of no use to a sender.
const USED_UP: i64 = 1024;
/// The initial window size (RFC 9113 section 6.9.2).
const INITIAL_WINDOW: i64 = 65_535;

/// A connection's flow-control window in one direction.
#[derive(Debug)]
pub(super) struct Window {
    left: Cell<i64>,
    used_up: Cell<Option<Instant>>,
    news: Notify,
}

impl Default for Window {
    fn default() -> Self {
        Self { left: Cell::new(INITIAL_WINDOW), used_up: Cell::new(None), news: Notify::new() }
    }
}

impl Window {
    pub(super) fn spend(&self, bytes: usize) {
        self.set(self.left.get() - i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(super) fn grow(&self, bytes: u32) {
        self.set(self.left.get() + i64::from(bytes & 0x7fff_ffff));
    }

    fn set(&self, left: i64) {
        self.left.set(left);
        if left >= USED_UP {
            self.used_up.set(None);
        } else if self.used_up.get().is_none() {
            self.used_up.set(Some(Instant::now()));
            self.news.notify_one();
        }
    }

    /// Returns the number of bytes that may still be sent; negative if a peer has sent more.
    pub(super) fn left(&self) -> i64 {
        self.left.get()
    }

    /// Returns whether the window has been exhausted for that long.
    pub(super) fn is_used_up_for(&self, long: Duration) -> bool {
        self.used_up.get().is_some_and(|since| since.elapsed() >= long)
    }

    /// Resolves when the window is exhausted. Cancel-safe.
    pub(super) async fn used_up(&self) {
        while self.used_up.get().is_none() {
            self.news.notified().await;
        }
    }
}
