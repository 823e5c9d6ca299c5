//! How long to wait before the next attempt: exponential, jittered, reset by success.
//!
//! Every connection of this crate to the control plane uses it, so that thousands of proxies that lose a control plane
//! at the same moment do not come back at the same moment.

use std::time::Duration;

/// The first wait is drawn from `(FIRST/2, FIRST]`: a reconnect starts within half a second.
const FIRST: Duration = Duration::from_millis(400);
/// No wait is longer: a control plane that is back is found within seconds.
const LONGEST: Duration = Duration::from_secs(5);

/// Waits of one retried activity.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait before the next attempt, between half of and the whole of `min(FIRST * 2^failures, LONGEST)`.
    pub(crate) fn next(&mut self) -> Duration {
        let longest = FIRST.saturating_mul(1 << self.failures.min(8)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        longest.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// The attempt was a success: the next failure waits short again.
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
            assert!(backoff.next() <= LONGEST);
        }
        assert!(backoff.next() >= LONGEST / 2);
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(500));
    }
}
