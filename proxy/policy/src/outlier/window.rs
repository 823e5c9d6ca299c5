//! An endpoint's recent requests and failures: a sliding window that all workers share.
//!
//! Ten slices, each in one atomic word, so that counting is wait-free: a load and an addition. The counts are approximate: a
//! slice saturates at about [`MOST`] requests, a worker that is late by a whole window may add to the wrong slice, and a
//! change of the window's length discards the counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const SLICES: u64 = 10;

/// The most requests that one slice counts. Below 16 bits by more than the number of workers, which may exceed it together.
const MOST: u64 = 60_000;

/// The bit offsets of the counts in a word, 16 bits each. The slice's number is above them.
const TOTAL: u32 = 0;
const ANSWERED: u32 = 16;
const LOCAL: u32 = 32;
const NUMBER: u32 = 48;
const FIELD: u64 = 0xffff;

/// The recent requests of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Window([AtomicU64; SLICES as usize]);

/// How one request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    Succeeded,
    /// Answered with a failure.
    Failed,
    /// Without a complete answer.
    FailedLocally,
    /// Counted as a success before, but the answer turned out to be a failure.
    TurnedFailed,
    /// Counted as a success before, but the answer was incomplete.
    TurnedFailedLocally,
}

/// The sums over a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) total: u64,
    /// Of these, answered with a failure.
    pub(super) answered: u64,
    /// Of these, not answered.
    pub(super) local: u64,
}

impl Window {
    /// Counts one request.
    pub(super) fn count(&self, how: Counted, now: Duration, span: Duration) {
        let (number, slice) = self.slice(now, span);
        let added = match how {
            Counted::Succeeded => 1 << TOTAL,
            Counted::Failed => 1 << TOTAL | 1 << ANSWERED,
            Counted::FailedLocally => 1 << TOTAL | 1 << LOCAL,
            Counted::TurnedFailed => 1 << ANSWERED,
            Counted::TurnedFailedLocally => 1 << LOCAL,
        };
        let mut word = slice.load(Relaxed);
        if word >> NUMBER != number & FIELD {
            match slice.compare_exchange(word, (number & FIELD) << NUMBER | added, Relaxed, Relaxed) {
                Ok(_) => return,
                // Another worker has just started the slice.
                Err(begun) => word = begun,
            }
        }
        if [TOTAL, ANSWERED, LOCAL].iter().all(|field| word >> field & FIELD < MOST) {
            slice.fetch_add(added, Relaxed);
        }
    }

    /// Returns the counts of the last `span`.
    pub(super) fn counts(&self, now: Duration, span: Duration) -> Counts {
        self.latest(SLICES, now, span)
    }

    /// Returns the counts of the last tenth of `span`, or up to twice that.
    pub(super) fn recent(&self, now: Duration, span: Duration) -> Counts {
        self.latest(2, now, span)
    }

    fn latest(&self, slices: u64, now: Duration, span: Duration) -> Counts {
        let (current, _) = self.slice(now, span);
        let mut counts = Counts::default();
        for slice in &self.0 {
            let word = slice.load(Relaxed);
            let age = current.wrapping_sub(word >> NUMBER) & FIELD;
            if age < slices {
                counts.total += word >> TOTAL & FIELD;
                counts.answered += word >> ANSWERED & FIELD;
                counts.local += word >> LOCAL & FIELD;
            }
        }
        // A request whose failure was detected late may have been counted in a slice that has expired.
        counts.local = counts.local.min(counts.total);
        counts.answered = counts.answered.min(counts.total - counts.local);
        counts
    }

    /// Clears all counts.
    pub(super) fn clear(&self) {
        self.0.iter().for_each(|slice| slice.store(0, Relaxed));
    }

    fn slice(&self, now: Duration, span: Duration) -> (u64, &AtomicU64) {
        let length = (span.as_millis() / u128::from(SLICES)).max(1);
        // Numbers start at SLICES, so that slices that were never written are too old.
        let number = u64::try_from(now.as_millis() / length).unwrap_or(u64::MAX - SLICES) + SLICES;
        (number, &self.0[(number % SLICES) as usize])
    }
}

impl Counts {
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            total: self.total + other.total,
            answered: self.answered + other.answered,
            local: self.local + other.local,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const SPAN: Duration = Duration::from_secs(10);

    const fn counts(total: u64, answered: u64, local: u64) -> Counts {
        Counts { total, answered, local }
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let (window, at) = (Window::default(), Duration::from_millis);
        window.count(Counted::Failed, at(500), SPAN);
        window.count(Counted::FailedLocally, at(5_500), SPAN);
        window.count(Counted::Succeeded, at(9_999), SPAN);
        assert_eq!(window.counts(at(9_999), SPAN), counts(3, 1, 1));
        assert_eq!(window.recent(at(9_999), SPAN), counts(1, 0, 0));
        assert_eq!(window.counts(at(10_000), SPAN), counts(2, 0, 1));
        assert_eq!(window.counts(at(19_000), SPAN), counts(0, 0, 0));
        assert_eq!(Window::default().counts(at(0), SPAN), counts(0, 0, 0));
    }

    #[test]
    fn a_failure_that_shows_later_is_not_counted_as_one_more_request() {
        let (window, now) = (Window::default(), Duration::ZERO);
        window.count(Counted::Succeeded, now, SPAN);
        window.count(Counted::TurnedFailed, now, SPAN);
        assert_eq!(window.counts(now, SPAN), counts(1, 1, 0));
        window.clear();
        window.count(Counted::TurnedFailedLocally, now, SPAN);
        assert_eq!(window.counts(now, SPAN), counts(0, 0, 0), "its request is forgotten already");
    }

    #[test]
    fn a_slice_is_full_some_time_and_spoils_no_other_count() {
        let (window, now) = (Window::default(), Duration::ZERO);
        (0..70_000).for_each(|_| window.count(Counted::Failed, now, SPAN));
        assert_eq!(window.counts(now, SPAN), counts(MOST, MOST, 0));
    }

    #[test]
    fn workers_count_together() {
        let window = Window::default();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for at in 0..10_000 {
                        window.count(Counted::Failed, Duration::from_millis(at), SPAN);
                    }
                });
            }
        });
        assert_eq!(window.counts(Duration::from_millis(9_999), SPAN), counts(20_000, 20_000, 0));
    }

    proptest! {
        /// Compares the window with a list of all events.
        #[test]
        fn counts_are_those_of_the_last_ten_slices(
            steps in proptest::collection::vec((0u64..3_000, any::<bool>()), 0..200),
            span in prop_oneof![Just(1_000u64), Just(10_000), Just(30_000)],
        ) {
            let (window, span) = (Window::default(), Duration::from_millis(span));
            let (mut all, mut now) = (VecDeque::new(), Duration::ZERO);
            let slice = |now: Duration| now.as_millis() / (span.as_millis() / 10);
            for (forward, failed) in steps {
                now += Duration::from_millis(forward);
                window.count(if failed { Counted::Failed } else { Counted::Succeeded }, now, span);
                all.push_back((slice(now), failed));
                all.retain(|(at, _)| at + 10 > slice(now));
                let failed = all.iter().filter(|(_, failed)| *failed).count() as u64;
                prop_assert_eq!(window.counts(now, span), counts(all.len() as u64, failed, 0));
            }
        }
    }
}
