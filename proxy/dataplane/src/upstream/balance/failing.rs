//! The failure rate of a host, as seen by one worker, and how often the host is passed over because of it.
//!
//! A host that fails fast has few requests in flight, and so looks like the cheapest one. Before costs are compared, the
//! balancer therefore passes over a drawn host in proportion to how much more it fails than the other: a failing host gets no
//! more than its share, no host is passed over if all fail alike, and one failure has little effect. Taking a host out of
//! service is left to ejection (`outrigger_policy::outlier`), which all workers share.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// The weight of one outcome: after a first failure every tenth request goes elsewhere, after seven consecutive ones every
/// second request.
const WEIGHT: f64 = 0.1;

/// The time in which failures decay to 1/e without new outcomes.
const FORGIVEN: Duration = Duration::from_secs(60);

/// The maximum probability of being passed over, so that one in twenty draws still finds out whether the host has recovered.
const MOST: f64 = 0.95;

/// The share of failed requests among recent ones: an average in which each outcome weighs [`WEIGHT`].
#[derive(Debug)]
pub(in crate::upstream) struct FailureRate {
    rate: Cell<f64>,
    updated: Cell<Instant>,
}

impl FailureRate {
    /// Creates the rate of a new host.
    pub(super) fn new(now: Instant) -> Self {
        Self { rate: Cell::new(0.0), updated: Cell::new(now) }
    }

    /// Records a success. Costs one load for a host that has never failed.
    pub(super) fn succeeded(&self, now: Instant) {
        if self.rate.get() > 0.0 {
            self.set(self.at(now) * (1.0 - WEIGHT), now);
        }
    }

    /// Records a failure.
    pub(super) fn failed(&self, now: Instant) {
        let rate = self.at(now);
        self.set(rate + (1.0 - rate) * WEIGHT, now);
    }

    /// Returns the decayed rate, from 0 to 1.
    pub(in crate::upstream) fn at(&self, now: Instant) -> f64 {
        let rate = self.rate.get();
        if rate == 0.0 {
            return rate;
        }
        let elapsed = now.saturating_duration_since(self.updated.get());
        rate * (-elapsed.as_secs_f64() / FORGIVEN.as_secs_f64()).exp()
    }

    fn set(&self, rate: f64, now: Instant) {
        // Negligible rates become zero, so that a host that has recovered costs as little as before.
        self.rate.set(if rate < 0.001 { 0.0 } else { rate });
        self.updated.set(now);
    }
}

/// Returns the probability with which a host whose requests fail at `rate` is passed over for one whose requests fail at
/// `other`. It is such that, of the requests drawn for it, those that it keeps succeed as often as those of the other. Zero if
/// it fails no more.
pub(super) fn passed_over(rate: f64, other: f64) -> f64 {
    if rate <= other { 0.0 } else { ((rate - other) / (1.0 - other)).min(MOST) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_failure_moves_little_and_seven_in_a_row_half() {
        let now = Instant::now();
        let host = FailureRate::new(now);
        host.failed(now);
        assert!((0.05..0.15).contains(&host.at(now)), "{}", host.at(now));
        (0..6).for_each(|_| host.failed(now));
        assert!((0.45..0.6).contains(&host.at(now)), "{}", host.at(now));
    }

    #[test]
    fn failures_are_forgiven_by_successes_and_by_time() {
        let now = Instant::now();
        let host = FailureRate::new(now);
        (0..50).for_each(|_| host.failed(now));
        let later = now + FORGIVEN;
        assert!((0.3..0.4).contains(&host.at(later)), "{}", host.at(later));
        (0..100).for_each(|_| host.succeeded(later));
        assert_eq!(host.at(later), 0.0);
    }

    #[test]
    fn who_fails_no_more_than_the_other_is_not_passed_over() {
        assert_eq!(passed_over(0.8, 0.8), 0.0);
        assert_eq!(passed_over(0.1, 0.8), 0.0);
        assert_eq!(passed_over(0.0, 0.0), 0.0);
        assert_eq!(passed_over(1.0, 1.0), 0.0);
        assert_eq!(passed_over(0.8, 0.0), 0.8);
        assert_eq!(passed_over(0.9, 0.5), 0.8);
        assert_eq!(passed_over(1.0, 0.0), MOST);
    }

    proptest! {
        #[test]
        fn rates_and_chances_stay_between_nothing_and_all(outcomes in proptest::collection::vec(any::<bool>(), 0..200)) {
            let now = Instant::now();
            let host = FailureRate::new(now);
            for (at, failed) in outcomes.iter().enumerate() {
                let now = now + Duration::from_millis(at as u64);
                if *failed { host.failed(now) } else { host.succeeded(now) }
                let rate = host.at(now);
                prop_assert!((0.0..=1.0).contains(&rate));
                for other in [0.0, 0.3, rate, 1.0] {
                    prop_assert!((0.0..=MOST).contains(&passed_over(rate, other)));
                }
            }
        }
    }
}
