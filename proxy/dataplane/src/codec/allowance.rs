//! How long a peer is waited for in all while it moves bytes slowly: a drop now and then is not enough.
//!
//! Waiting uses the time up, bytes earn it back: all of it with [`PROGRESS_BYTES`]. So a peer may pause for nearly as long
//! as it may be silent after any such piece, and one that drips is noticed soon after that time.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::watchdog::Watchdog;

/// Bytes that earn the whole time back.
const PROGRESS_BYTES: u64 = 1024;

/// The time that is left for a peer.
#[derive(Debug)]
pub(crate) struct Allowance {
    full: Duration,
    left: Duration,
    waiting_since: Option<Instant>,
}

impl Allowance {
    /// A peer that may let us wait for `full`.
    pub(crate) fn new(full: Duration) -> Self {
        Self { full, left: full, waiting_since: None }
    }

    /// We wait: since when.
    pub(crate) fn wait(&mut self, now: Instant) -> Instant {
        *self.waiting_since.get_or_insert(now)
    }

    /// When it will be used up if the peer moves nothing.
    pub(crate) fn ends(&self, now: Instant) -> Instant {
        self.waiting_since.unwrap_or(now) + self.left
    }

    /// The peer has moved so many bytes, and is not waited for now.
    pub(crate) fn moved(&mut self, bytes: u64, now: Instant) {
        let waited = self.waiting_since.take().map_or(Duration::ZERO, |since| now.duration_since(since));
        let share = u32::try_from(bytes.min(PROGRESS_BYTES)).unwrap_or(u32::MAX);
        let earned = self.full * share / (PROGRESS_BYTES as u32);
        self.left = (self.left.saturating_sub(waited) + earned).min(self.full);
    }
}

/// Since when a client has taken nothing of what waits for it. `None` while nothing waits.
pub(crate) type StillSince = Rc<Cell<Option<Instant>>>;

/// Waits for a client to take what is sent.
#[derive(Debug)]
pub(crate) struct Patience {
    allowance: Allowance,
    timer: Watchdog,
    taken: u64,
    still_since: StillSince,
}

impl Patience {
    /// With a client that may let us wait for `full`; `still_since` is told.
    pub(crate) fn new(full: Duration, still_since: StillSince) -> Self {
        Self { allowance: Allowance::new(full), timer: Watchdog::new(), taken: 0, still_since }
    }

    /// Ready when the client has let us wait for too long. `waits` says whether something waits for it, `taken` how many
    /// bytes it has taken so far.
    pub(crate) fn poll_used_up(&mut self, cx: &mut Context<'_>, waits: bool, taken: u64) -> Poll<()> {
        if !waits && self.still_since.get().is_none() {
            self.taken = taken;
            return Poll::Pending;
        }
        let now = Instant::now();
        if !waits || taken != self.taken {
            self.allowance.moved(taken.saturating_sub(self.taken), now);
            self.taken = taken;
        }
        if !waits {
            self.still_since.set(None);
            return Poll::Pending;
        }
        self.still_since.set(Some(self.allowance.wait(now)));
        self.timer.set(self.allowance.ends(now).saturating_duration_since(now));
        self.timer.poll_passed(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Duration = Duration::from_secs(60);

    /// How long a peer lasts that moves `bytes` every `every`.
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
