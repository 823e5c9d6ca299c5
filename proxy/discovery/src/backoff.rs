//! Exponential backoff with jitter, reset by success.
//!
//! Used by every connection to the control plane, so that thousands of proxies that lose it at the same moment do not reconnect
//! at the same moment.

use std::time::Duration;

/// The first wait is in `(INITIAL/2, INITIAL]`, so a reconnect starts within half a second.
const INITIAL: Duration = Duration::from_millis(400);
/// Upper bound of a wait, so that a control plane that is back is found within seconds.
const MAX: Duration = Duration::from_secs(5);

/// Backoff state of one retried operation.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Returns the wait before the next attempt: between half and all of `min(INITIAL * 2^failures, MAX)`.
    pub(crate) fn next(&mut self) -> Duration {
        let longest = INITIAL.saturating_mul(1 << self.failures.min(8)).min(MAX);
        self.failures = self.failures.saturating_add(1);
        longest.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Resets the backoff after a successful attempt.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_retry_comes_within_half_a_second_and_the_last_within_seconds() {
        let mut backoff = Backoff::default();
        assert!(backoff.next() <= Duration::from_millis(500));
        for _ in 0..100 {
            assert!(backoff.next() <= MAX);
        }
        assert!(backoff.next() >= MAX / 2);
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(500));
    }
}
