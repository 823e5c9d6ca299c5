//! What is counted, and the state of a window of time after it was.

use std::time::Duration;

/// Requests that count for a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hits {
    /// The limit, and what its requests have in common.
    pub(super) key: Box<str>,
    /// How many.
    pub(super) count: u64,
    /// How long a window is: whole seconds.
    pub(super) length: Duration,
}

/// The state of a window after requests were counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    /// The requests in it, these included.
    pub(super) count: u64,
    /// How long it lasts.
    pub(super) left: Duration,
}

impl Hits {
    /// Returns when the window of the time `now` ends: windows begin at whole units. Both are since a fixed point.
    pub(super) fn end(&self, now: Duration) -> Duration {
        let length = self.length.as_secs().max(1);
        let window = now.as_secs() / length + 1;
        Duration::from_secs(window.saturating_mul(length))
    }
}
