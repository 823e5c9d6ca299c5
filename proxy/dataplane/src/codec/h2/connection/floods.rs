//! Limits on what costs the peer nothing: frames without effect, and resets (CVE-2019-9512 to 9518, CVE-2023-44487,
//! CVE-2025-8671). Each is a bucket that is restored over time; when one is empty, the connection ends with ENHANCE_YOUR_CALM.
//!
//! They are wide: a peer that was starved of CPU sends at once what it had to send meanwhile.

use tokio::time::Instant;

use crate::codec::limits::ResetLimits;

/// Frames without effect that may come at once: SETTINGS, PING, empty DATA, tiny WINDOW_UPDATE, frames of unknown types. A tenth
/// is restored per second.
const IDLE_FRAMES: u32 = 10_000;
/// DATA frames of a few bytes in a row that nobody has read. A keyboard does not send that many.
const TINY_FRAMES: u32 = 32 * 1024;
/// The payload below which a DATA frame is tiny, and the increment below which a WINDOW_UPDATE is.
pub(super) const TINY: u32 = 16;

/// The buckets of one connection.
#[derive(Debug)]
pub(super) struct Floods {
    idle: Bucket,
    early: Option<Bucket>,
    /// Resets that may still be sent because of the peer's errors.
    errors: Option<usize>,
}

impl Floods {
    pub(super) fn new(resets: ResetLimits, now: Instant) -> Self {
        Self {
            idle: Bucket::new(IDLE_FRAMES, now),
            early: resets.early.map(|burst| Bucket::new(burst, now)),
            errors: resets.errors,
        }
    }

    /// Counts a frame without effect. Returns whether it is within the limit.
    pub(super) fn idle_frame(&mut self, now: Instant) -> bool {
        self.idle.take(now)
    }

    /// Counts a stream that the client has reset right after it opened it. Returns whether it is within the limit.
    pub(super) fn early_reset(&mut self, now: Instant) -> bool {
        self.early.as_mut().is_none_or(|bucket| bucket.take(now))
    }

    /// Counts a response: a client that cancels every second request, since it sends each twice, is no attacker.
    pub(super) fn responded(&mut self) {
        if let Some(bucket) = &mut self.early {
            bucket.left = bucket.burst.min(bucket.left + 1);
        }
    }

    /// Counts a reset that the peer's error makes this side send.
    pub(super) fn error(&mut self) -> bool {
        let Some(left) = &mut self.errors else { return true };
        match left.checked_sub(1) {
            Some(fewer) => *left = fewer,
            None => return false,
        }
        true
    }

    /// Returns whether `frames` tiny DATA frames that nobody has read are within the limit.
    pub(super) fn allow_tiny(frames: u32) -> bool {
        frames <= TINY_FRAMES
    }
}

/// A token bucket: `burst` at once, a tenth of that per second.
#[derive(Debug)]
struct Bucket {
    burst: u32,
    left: u32,
    since: Instant,
}

impl Bucket {
    fn new(burst: u32, now: Instant) -> Self {
        Self { burst, left: burst, since: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        if self.left == 0 {
            let millis =
                u32::try_from(now.saturating_duration_since(self.since).as_millis()).unwrap_or(u32::MAX);
            self.left = u32::try_from(u64::from(self.burst) * u64::from(millis) / 10_000)
                .unwrap_or(u32::MAX)
                .min(self.burst);
            self.since = now;
        }
        match self.left.checked_sub(1) {
            Some(fewer) => self.left = fewer,
            None => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_is_restored_by_a_tenth_per_second() {
        let now = Instant::now();
        let mut bucket = Bucket::new(100, now);
        assert_eq!((0..200).filter(|_| bucket.take(now)).count(), 100);
        let later = now + Duration::from_secs(2);
        assert_eq!((0..200).filter(|_| bucket.take(later)).count(), 20);
        let much_later = later + Duration::from_secs(3600);
        assert_eq!((0..200).filter(|_| bucket.take(much_later)).count(), 100);
    }
}
