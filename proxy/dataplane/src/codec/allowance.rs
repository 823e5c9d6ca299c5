//! Bounds the total time spent waiting for a peer that moves bytes slowly: a byte now and then does not extend it
//! indefinitely.
//!
//! Waiting consumes the allowance and bytes restore it: [`PROGRESS_BYTES`] restore all of it. So a peer may pause for nearly
//! the whole allowance after each such piece, and a peer that trickles is noticed soon after the allowance has elapsed.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::watchdog::Watchdog;

/// The number of bytes that restore the whole allowance.
const PROGRESS_BYTES: u64 = 1024;

/// The remaining time for a peer.
#[derive(Debug)]
pub(crate) struct Allowance {
    full: Duration,
    left: Duration,
    waiting_since: Option<Instant>,
}

impl Allowance {
    /// Creates the allowance of a peer that may be waited for during `full`.
    pub(crate) fn new(full: Duration) -> Self {
        Self { full, left: full, waiting_since: None }
    }

    /// Starts waiting, unless already waiting. Returns since when.
    pub(crate) fn wait(&mut self, now: Instant) -> Instant {
        *self.waiting_since.get_or_insert(now)
    }

    /// Returns when the allowance is consumed if the peer moves nothing.
    pub(crate) fn ends(&self, now: Instant) -> Instant {
        self.waiting_since.unwrap_or(now) + self.left
    }

    /// Records that the peer has moved `bytes`, and stops waiting.
    pub(crate) fn moved(&mut self, bytes: u64, now: Instant) {
        let waited = self.waiting_since.take().map_or(Duration::ZERO, |since| now.duration_since(since));
        let share = u32::try_from(bytes.min(PROGRESS_BYTES)).unwrap_or(u32::MAX);
        let earned = self.full * share / (PROGRESS_BYTES as u32);
        self.left = (self.left.saturating_sub(waited) + earned).min(self.full);
    }
}

/// Since when a client has not read what is queued for it.
pub(crate) trait Stillness {
    /// Returns the cell with it; `None` while nothing is queued.
    fn since(&self) -> &Cell<Option<Instant>>;
}

impl Stillness for Cell<Option<Instant>> {
    fn since(&self) -> &Self {
        self
    }
}

/// The state of an exchange that includes its stillness.
pub(crate) type StillSince = Rc<dyn Stillness>;

/// Waits for a client to read what is sent.
pub(crate) struct Patience {
    allowance: Allowance,
    timer: Watchdog,
    taken: u64,
    still_since: StillSince,
}

impl Patience {
    /// Creates the patience with a client that may stall for `full`. Keeps `still_since` up to date.
    pub(crate) fn new(full: Duration, still_since: StillSince) -> Self {
        Self { allowance: Allowance::new(full), timer: Watchdog::new(), taken: 0, still_since }
    }

    /// Ready when the client has stalled for too long. `waits` is whether bytes are queued for it, `taken` the number of bytes
    /// that it has read so far.
    pub(crate) fn poll_used_up(&mut self, cx: &mut Context<'_>, waits: bool, taken: u64) -> Poll<()> {
        if !waits && self.still_since.since().get().is_none() {
            self.taken = taken;
            return Poll::Pending;
        }
        let now = Instant::now();
        if !waits || taken != self.taken {
            self.allowance.moved(taken.saturating_sub(self.taken), now);
            self.taken = taken;
        }
        if !waits {
            self.still_since.since().set(None);
            return Poll::Pending;
        }
        self.still_since.since().set(Some(self.allowance.wait(now)));
        self.timer.set(self.allowance.ends(now).saturating_duration_since(now));
        self.timer.poll_passed(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Duration = Duration::from_secs(60);

    /// Returns how long a peer lasts that moves `bytes` every `every`.
    fn lasts(bytes: u64, every: Duration) -> Option<u64> {
        let (mut allowance, began) = (Allowance::new(FULL), Instant::now());
        let mut now = began;
        for _ in 0..1000 {
            allowance.wait(now);
            now += every;
            if allowance.ends(now) <= now {
                return Some(allowance.ends(now).duration_since(began).as_secs());
            }
            allowance.moved(bytes, now);
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it_and_progress_does_not() {
        assert_eq!(lasts(0, Duration::from_secs(100)), Some(60));
        assert_eq!(lasts(1024, Duration::from_secs(59)), None);
        assert_eq!(lasts(20, Duration::from_secs(1)), None, "20 bytes a second are progress");
    }

    #[tokio::test(start_paused = true)]
    async fn a_drip_does_not_keep_it_up() {
        let lasted = lasts(1, Duration::from_secs(1)).unwrap();
        assert!((60..70).contains(&lasted), "{lasted}");
        let lasted = lasts(1, Duration::from_secs(50)).unwrap();
        assert!((60..70).contains(&lasted), "{lasted}");
    }
}
