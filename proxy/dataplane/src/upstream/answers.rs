//! The responses of all hosts of a cluster, as seen by one worker: the baseline for a host that does not respond.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use outrigger_policy::hedging::{Hedging, Latencies};
use tokio::time::Instant;

/// How long a request that tests a doubted host waits before it is also sent to another host: a multiple of the usual latency
/// of the cluster, within limits.
const COVER_TIMES: f64 = 3.0;
const COVER_AFTER: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));

/// The responses of all hosts of a cluster.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// The start of the most recent attempt that was answered.
    youngest: Cell<Option<Instant>>,
    count: Cell<u64>,
    usual_seconds: Cell<f64>,
    /// The latencies of first attempts, where requests are hedged.
    first: RefCell<Option<Box<Latencies>>>,
}

impl Answers {
    /// Records that an attempt which began at `began` was answered after `latency`.
    pub(super) fn note(&self, began: Instant, latency: Duration) {
        self.youngest.set(self.youngest.get().max(Some(began)));
        self.count.set(self.count.get() + 1);
        let (usual, latency) = (self.usual_seconds.get(), latency.as_secs_f64());
        self.usual_seconds.set(if usual == 0.0 { latency } else { usual * 0.9 + latency * 0.1 });
    }

    /// Returns whether an attempt that began after `since` was answered.
    pub(super) fn any_since(&self, since: Instant) -> bool {
        self.youngest.get().is_some_and(|youngest| youngest > since)
    }

    /// Returns how many attempts were answered.
    pub(super) fn count(&self) -> u64 {
        self.count.get()
    }

    /// Returns how long a request waits for its first attempt before it is hedged, if that is known.
    pub(super) fn hedge_after(&self, hedging: &Hedging) -> Option<Duration> {
        hedging.delay(self.first.borrow_mut().get_or_insert_default())
    }

    /// Records the latency of the first attempt of a request that may be hedged.
    pub(super) fn note_first(&self, latency: Duration) {
        self.first.borrow_mut().get_or_insert_default().record(latency);
    }

    /// Returns how long a doubted host has to answer before the request is also sent to another host.
    pub(super) fn cover_after(&self) -> Duration {
        let (least, most) = COVER_AFTER;
        Duration::from_secs_f64((self.usual_seconds.get() * COVER_TIMES).min(most.as_secs_f64())).max(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cover_waits_for_some_times_the_usual_latency_within_bounds() {
        for (millis, after) in [(1, 10), (10, 30), (5_000, 100)] {
            let answers = Answers::default();
            answers.note(Instant::now(), Duration::from_millis(millis));
            assert_eq!(answers.cover_after(), Duration::from_millis(after));
        }
        assert_eq!(Answers::default().cover_after(), COVER_AFTER.0);
    }
}
