//! Limits how much the HTTP/2 connections of a worker may have to buffer: the sum of their receive windows.
//!
//! A window is a promise to buffer that many bytes for the peer, whether or not they are read. Connections get the configured
//! window while there are few of them, and smaller ones as more of [`WORKER`] is promised.

use std::cell::Cell;

/// Bytes that a worker promises before new connections get the minimum window.
const WORKER: u32 = 256 * 1024 * 1024;
/// The maximum fraction of the remainder that one connection gets: one part in this many.
const PART: u32 = 16;
/// The minimum window of a connection, unless a smaller one is configured: that of four streams.
const LEAST: u32 = 1024 * 1024;

thread_local! {
    static PROMISED: Cell<u64> = const { Cell::new(0) };
}

/// The receive window of one connection, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Promised(u32);

impl Promised {
    /// Creates a window of `configured` bytes, or a smaller one if less is available for another connection.
    pub(super) fn new(configured: u32) -> Self {
        let promised = PROMISED.get();
        let left = WORKER.saturating_sub(u32::try_from(promised).unwrap_or(u32::MAX));
        let window = configured.min((left / PART).max(LEAST));
        PROMISED.set(promised + u64::from(window));
        Self(window)
    }

    pub(super) fn bytes(&self) -> u32 {
        self.0
    }
}

impl Drop for Promised {
    fn drop(&mut self) {
        PROMISED.set(PROMISED.get() - u64::from(self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_shrink_as_a_worker_has_promised_more_and_are_given_back() {
        let configured = 16 * LEAST;
        let all: Vec<_> = (0..1000).map(|_| Promised::new(configured)).collect();
        assert_eq!((all[0].bytes(), all[999].bytes()), (configured, LEAST));
        assert!(all.is_sorted_by(|one, next| one.bytes() >= next.bytes()));
        let above: u32 = all.iter().map(|window| window.bytes() - LEAST).sum();
        assert!(above <= WORKER, "beyond it, each holds the least");
        assert_eq!(Promised::new(65_536).bytes(), 65_536, "a smaller one is nobody's burden");
        drop(all);
        assert_eq!(Promised::new(configured).bytes(), configured);
    }
}
