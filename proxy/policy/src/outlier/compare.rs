//! Whether an endpoint fails more than the others of its cluster: pure arithmetic over the counts.
//!
//! Neither what all endpoints do alike (an outage behind them, a path that always fails) nor a difference that chance
//! explains is a reason to eject.

/// How much higher an endpoint's failure rate must be than that of the others to be clearly worse.
const POINTS: f64 = 0.25;

/// How many standard deviations of the difference are attributed to chance. Endpoints are compared continuously, including
/// those that fail alike for hours, and the deviation is imprecise for few requests. At six, chance alone exceeds it about
/// once in several hundred million comparisons.
const DEVIATIONS: f64 = 6.0;

/// The probability below which a run of failures is not attributed to chance.
const CHANCE: f64 = 1e-8;

/// The longest run that is evaluated; further failures add no information.
const LONGEST_RUN: u32 = 1000;

/// A number of requests, and how many of them failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) failed: u64,
    pub(super) total: u64,
}

impl Tally {
    /// Returns the share that failed, from 0 to 1; 0 without requests.
    pub(super) fn rate(self) -> f64 {
        self.failed as f64 / self.total.max(1) as f64
    }

    /// Returns whether the rate is so much higher than that of the others that losing the endpoint is worthwhile.
    pub(super) fn is_clearly_worse_than(self, others: Self) -> bool {
        self.rate() - others.rate() >= POINTS && self.is_surely_worse_than(others)
    }

    /// Returns whether the rate is higher than that of the others by more than chance explains (two-proportion z-test).
    pub(super) fn is_surely_worse_than(self, others: Self) -> bool {
        if self.total == 0 || others.total == 0 {
            return false;
        }
        let all = Self { failed: self.failed + others.failed, total: self.total + others.total };
        let spread = 1.0 / self.total as f64 + 1.0 / others.total as f64;
        let deviation = (all.rate() * (1.0 - all.rate()) * spread).sqrt();
        let difference = self.rate() - others.rate();
        // If all or none fail, the deviation is zero, and so is the difference.
        difference > 0.0 && difference + 1e-9 >= DEVIATIONS * deviation
    }
}

/// Returns whether a run of consecutive failures shows that an endpoint is worse than the others: whether such a run would be
/// too improbable for one of them. `others` counts their requests, `recent` only the latest.
///
/// `recent` covers what suddenly fails everywhere, such as a client that repeats a request which every endpoint resets.
pub(super) fn is_worse_run(failures: u32, others: Tally, recent: Tally) -> bool {
    if others.total == 0 {
        return false;
    }
    // A few successes do not rule out a failure rate of one in ten. Each failure of the run is therefore counted as one of the
    // others too (Pólya's urn), so that a small sample never makes a run look improbable.
    let run = failures.min(LONGEST_RUN);
    let (failed, total) = (others.failed as f64, others.total as f64);
    let chance: f64 = (0..run).map(f64::from).map(|at| (failed + 1.0 + at) / (total + 2.0 + at)).product();
    chance.max(recent.rate().powi(run as i32)) <= CHANCE
}

/// Returns the success rate, from 0 to 1, below which an endpoint is an outlier: the mean of `rates` minus `deviations` times
/// their standard deviation (Envoy's success rate ejection). Returns `None` if `rates` is empty.
pub(super) fn outlier_threshold(rates: &[f64], deviations: f64) -> Option<f64> {
    if rates.is_empty() {
        return None;
    }
    let count = rates.len() as f64;
    let mean = rates.iter().sum::<f64>() / count;
    let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / count;
    Some(mean - deviations * variance.sqrt())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn tally(failed: u64, total: u64) -> Tally {
        Tally { failed, total }
    }

    #[test]
    fn clearly_worse_is_much_worse_and_not_by_chance() {
        for (own, others, expected) in [
            (tally(16, 20), tally(0, 40), true),
            (tally(16, 20), tally(0, 20), false),
            (tally(20, 20), tally(0, 20), true),
            (tally(20, 40), tally(0, 80), true),
            (tally(8, 8), tally(0, 30), true),
            // A tenth of the requests fail everywhere.
            (tally(20, 20), tally(4, 40), true),
            // All fail alike.
            (tally(20, 20), tally(20, 20), false),
            (tally(12, 20), tally(8, 20), false),
            (tally(10, 20), tally(6, 20), false),
            // Significantly worse, but not by much.
            (tally(6000, 10_000), tally(4000, 10_000), false),
            // Much worse, but possibly by chance.
            (tally(3, 4), tally(0, 4), false),
            (tally(20, 20), tally(0, 0), false),
            (tally(0, 0), tally(0, 20), false),
        ] {
            assert_eq!(own.is_clearly_worse_than(others), expected, "{own:?} {others:?}");
        }
        assert!(tally(10, 1000).is_surely_worse_than(tally(0, 4000)));
        assert!(!tally(1, 1000).is_surely_worse_than(tally(0, 4000)), "one of a thousand is chance");
    }

    #[test]
    fn a_run_of_failures_counts_where_others_hardly_fail() {
        let nothing = tally(0, 0);
        assert!(is_worse_run(5, tally(0, 100), nothing));
        assert!(is_worse_run(5, tally(10, 1000), tally(0, 10)));
        assert!(!is_worse_run(5, nothing, nothing), "there are no other hosts");
        assert!(!is_worse_run(30, tally(0, 5), nothing), "five requests are too few");
        assert!(!is_worse_run(5, tally(0, 20), nothing) && is_worse_run(11, tally(0, 20), nothing));
        assert!(!is_worse_run(5, tally(100, 1000), nothing) && is_worse_run(9, tally(100, 1000), nothing));
        assert!(!is_worse_run(30, tally(100, 1000), tally(90, 100)), "just now it fails everywhere");
        assert!(!is_worse_run(u32::MAX, tally(9, 9), tally(9, 9)));
    }

    #[test]
    fn an_outlier_is_below_the_mean_by_so_many_deviations() {
        assert_eq!(outlier_threshold(&[], 1.9), None);
        assert_eq!(outlier_threshold(&[1.0, 1.0], 1.9), Some(1.0));
        // Envoy's documentation, arch_overview/upstream/outlier, has the formula.
        let threshold = outlier_threshold(&[1.0, 1.0, 1.0, 1.0, 0.5], 1.9).unwrap();
        assert!((threshold - 0.52).abs() < 1e-9, "{threshold}");
    }

    proptest! {
        #[test]
        fn of_two_at_most_one_is_worse(a in 0u64..300, b in 0u64..300, more in 0u64..300, most in 0u64..300) {
            let (one, two) = (tally(a, a + more), tally(b, b + most));
            prop_assert!(!(one.is_surely_worse_than(two) && two.is_surely_worse_than(one)));
            prop_assert!(!one.is_surely_worse_than(one));
        }
    }
}
