//! The load of one host, as seen by one worker: requests in flight, latency, failures.
//!
//! The average latency rises at once to a slow response and decays with time, so that a host in trouble is left within one
//! round trip and used again after some seconds. A failed response is not a sample of latency: it makes a host neither cheaper
//! nor more expensive, but is a reason to pass it over (`failing`).

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use super::failing::FailureRate;

/// The time in which an old latency decays to 1/e: a host that was a hundred times slower than its neighbours, once, is used
/// again after some 14 s.
const DECAY: Duration = Duration::from_secs(3);

/// The cost of a host with its first request in flight, in seconds, so that an unknown host first receives one request.
const UNKNOWN_SECONDS: f64 = 1.0;

/// The load of one host, as seen by one worker.
#[derive(Debug)]
pub(in crate::upstream) struct Load {
    average_seconds: Cell<f64>,
    updated: Cell<Instant>,
    pub(in crate::upstream) failing: FailureRate,
    in_flight: Cell<u32>,
    weight: f64,
}

impl Load {
    /// Creates the load of a new host. `weight` is its share relative to other hosts (`LbEndpoint.load_balancing_weight`).
    pub(in crate::upstream) fn new(weight: u32, now: Instant) -> Self {
        Self {
            average_seconds: Cell::new(0.0),
            updated: Cell::new(now),
            failing: FailureRate::new(now),
            in_flight: Cell::new(0),
            weight: f64::from(weight.max(1)),
        }
    }

    /// Records the start of an attempt.
    pub(in crate::upstream) fn begin(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
    }

    /// Records the end of an attempt, whatever its outcome.
    pub(in crate::upstream) fn end(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }

    /// Records a response head, of a response that is not a failure, after `latency`.
    pub(in crate::upstream) fn answered(&self, latency: Duration, now: Instant) {
        let seconds = latency.as_secs_f64();
        let average = self.average_seconds.get();
        let keep = self.decay(now);
        let next = if seconds > average { seconds } else { average * keep + seconds * (1.0 - keep) };
        self.average_seconds.set(next);
        self.updated.set(now);
        self.failing.succeeded(now);
    }

    /// Records that a response would have taken longer than `at_least`. This raises the average if it is lower, and is neither a
    /// success nor a failure.
    pub(in crate::upstream) fn waited(&self, at_least: Duration, now: Instant) {
        let seconds = at_least.as_secs_f64();
        if seconds > self.average_seconds.get() * self.decay(now) {
            self.average_seconds.set(seconds);
            self.updated.set(now);
        }
    }

    /// Records a failed attempt or a response that is a failure.
    pub(in crate::upstream) fn failed(&self, now: Instant) {
        self.failing.failed(now);
    }

    /// Discards the average latency, which is outdated.
    pub(in crate::upstream) fn forget(&self) {
        self.average_seconds.set(0.0);
    }

    /// Returns the number of attempts in flight.
    pub(in crate::upstream) fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// Returns the decayed average latency, for display; `None` for a host that has never responded.
    pub(in crate::upstream) fn latency(&self, now: Instant) -> Option<Duration> {
        let average = self.average_seconds.get();
        (average > 0.0).then(|| Duration::from_secs_f64(average * self.decay(now)))
    }

    /// Returns the number of attempts in flight, divided by the weight of the host.
    pub(in crate::upstream) fn queue(&self) -> f64 {
        f64::from(self.in_flight.get()) / self.weight
    }

    /// Returns the cost of one more request, in seconds of waiting. Returns `None` for a host that has only failed: it is
    /// neither cheaper nor more expensive than any other.
    pub(in crate::upstream) fn cost(&self, now: Instant) -> Option<f64> {
        let in_flight = f64::from(self.in_flight.get());
        let average = self.average_seconds.get();
        let seconds = match average == 0.0 {
            true if in_flight > 0.0 => UNKNOWN_SECONDS,
            true if self.failing.at(now) > 0.0 => return None,
            _ => average * self.decay(now),
        };
        // One more request weighs the same wherever it goes, so that two idle hosts differ only by their latency; the draw
        // gives more to the heavier one.
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

    #[test]
    fn a_wait_without_an_answer_is_a_lower_bound_and_no_success() {
        let now = Instant::now();
        let (load, ms) = (Load::new(1, now), Duration::from_millis);
        load.answered(ms(100), now);
        load.failed(now);
        let failing = load.failing.at(now);
        load.waited(ms(1), now);
        assert_eq!(load.latency(now), Some(ms(100)));
        load.waited(ms(200), now);
        assert_eq!(load.latency(now), Some(ms(200)));
        assert!(failing > 0.0);
        assert_eq!(load.failing.at(now), failing);
    }
}
