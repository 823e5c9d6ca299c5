//! How loaded one host is, as one worker sees it: requests in flight, latency, failures.
//!
//! The average of latency jumps up to a slow answer at once and sinks with time, so that a host in trouble is left within
//! one round trip and asked again after some seconds. A failed answer is no sample of latency: it makes a host neither
//! cheaper nor dearer, but is a reason to pass it over (`failing`).

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use super::failing::FailureRate;

/// Time in which an old latency loses all but 1/e of its weight: a host that was a hundred times slower than its
/// neighbours, once, is asked again after some 14 s.
const DECAY: Duration = Duration::from_secs(3);

/// What a host costs that is still working on its first request, in seconds, so that an unknown host is first asked once.
const UNKNOWN_SECONDS: f64 = 1.0;

/// How loaded one host is, as one worker sees it.
#[derive(Debug)]
pub(in crate::upstream) struct Load {
    average_seconds: Cell<f64>,
    updated: Cell<Instant>,
    pub(in crate::upstream) failing: FailureRate,
    in_flight: Cell<u32>,
    weight: f64,
}

impl Load {
    /// A host that was never asked. `weight` is its share relative to other hosts (`LbEndpoint.load_balancing_weight`).
    pub(in crate::upstream) fn new(weight: u32, now: Instant) -> Self {
        Self {
            average_seconds: Cell::new(0.0),
            updated: Cell::new(now),
            failing: FailureRate::new(now),
            in_flight: Cell::new(0),
            weight: f64::from(weight.max(1)),
        }
    }

    /// An attempt begins.
    pub(in crate::upstream) fn begin(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
    }

    /// An attempt is over, in whatever way.
    pub(in crate::upstream) fn end(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }

    /// The head of an answer that is no failure came after `latency`.
    pub(in crate::upstream) fn answered(&self, latency: Duration, now: Instant) {
        let seconds = latency.as_secs_f64();
        let average = self.average_seconds.get();
        let keep = self.decay(now);
        let next = if seconds > average { seconds } else { average * keep + seconds * (1.0 - keep) };
        self.average_seconds.set(next);
        self.updated.set(now);
        self.failing.succeeded(now);
    }

    /// The attempt failed, or its answer says that the request did.
    pub(in crate::upstream) fn failed(&self, now: Instant) {
        self.failing.failed(now);
    }

    /// What was known of its latency is out of date.
    pub(in crate::upstream) fn forget(&self) {
        self.average_seconds.set(0.0);
    }

    /// Attempts under way.
    pub(in crate::upstream) fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// The average as it is by now, to be shown; `None` of a host that never answered.
    pub(in crate::upstream) fn latency(&self, now: Instant) -> Option<Duration> {
        let average = self.average_seconds.get();
        (average > 0.0).then(|| Duration::from_secs_f64(average * self.decay(now)))
    }

    /// Attempts under way, divided by the host's weight.
    pub(in crate::upstream) fn queue(&self) -> f64 {
        f64::from(self.in_flight.get()) / self.weight
    }

    /// What one more request would cost, in seconds of waiting. None of a host that only ever failed: it is neither cheaper nor
    /// dearer than any other.
    pub(in crate::upstream) fn cost(&self, now: Instant) -> Option<f64> {
        let in_flight = f64::from(self.in_flight.get());
        let average = self.average_seconds.get();
        let seconds = match average == 0.0 {
            true if in_flight > 0.0 => UNKNOWN_SECONDS,
            true if self.failing.at(now) > 0.0 => return None,
            _ => average * self.decay(now),
        };
        // One more request weighs the same wherever it goes, so that two idle hosts differ by their latency alone: that the
        // heavier one gets more is for the draw.
        Some(seconds * (in_flight / self.weight + 1.0))
    }

    fn decay(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.updated.get());
        (-elapsed.as_secs_f64() / DECAY.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_answer_makes_a_host_neither_cheaper_nor_dearer() {
        let now = Instant::now();
        let load = Load::new(1, now);
        load.answered(Duration::from_millis(40), now);
        let before = load.cost(now);
        (0..100).for_each(|_| load.failed(now));
        assert_eq!(load.cost(now), before);
    }

    #[test]
    fn the_average_jumps_up_and_sinks_slowly() {
        let now = Instant::now();
        let load = Load::new(1, now);
        load.answered(Duration::from_millis(100), now);
        load.answered(Duration::from_millis(1), now + DECAY / 10);
        assert!(load.average_seconds.get() > 0.09);
    }
}
