//! How old the requests in flight are, and which of them were overtaken: many that began later are answered already.
//!
//! A request that is overtaken does not wait for the application but for an event, a timer or another service: a long poll. In an
//! application with a queue, no request is overtaken by many. Where such requests are all that the application has, none overtakes
//! them: then they are those that are far older than an answer takes.

use std::ops::Range;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// Requests are told apart by when they began, in periods of this length.
const EPOCH: Duration = Duration::from_millis(125);

/// The number of periods that are told apart.
const EPOCHS: u32 = 128;

/// A request is overtaken after this many periods at the earliest.
const LEAST: u32 = 8;

/// The requests in flight by age.
#[derive(Debug)]
pub(super) struct Ages {
    slots: [Slot; EPOCHS as usize],
    /// Requests in flight that are older than all slots.
    older: AtomicI32,
    current: AtomicU32,
}

/// The requests that began in one period. A request that ends while its slot is reused may be subtracted from the wrong count;
/// the sum stays right, and the next reuse corrects the parts.
#[derive(Debug, Default)]
struct Slot {
    in_flight: AtomicI32,
    answered: AtomicU32,
}

impl Default for Ages {
    fn default() -> Self {
        Self {
            slots: std::array::from_fn(|_| Slot::default()),
            older: AtomicI32::new(0),
            current: AtomicU32::new(0),
        }
    }
}

impl Ages {
    /// Counts a request that begins `now`. Returns its period.
    pub(super) fn begin(&self, now: Duration) -> u32 {
        let epoch = epoch(now);
        self.advance(epoch);
        self.slot(epoch).in_flight.fetch_add(1, Relaxed);
        epoch
    }

    /// Counts the end of a request that began in `epoch`.
    pub(super) fn end(&self, epoch: u32, answered: bool) {
        if self.current.load(Relaxed).saturating_sub(epoch) >= EPOCHS {
            self.older.fetch_sub(1, Relaxed);
            return;
        }
        let slot = self.slot(epoch);
        slot.in_flight.fetch_sub(1, Relaxed);
        if answered {
            slot.answered.fetch_add(1, Relaxed);
        }
    }

    /// Returns the number of requests in flight that `than` or more have overtaken, or that began between the two times of `old`.
    pub(super) fn overtaken(&self, now: Duration, than: u32, old: &Range<Duration>) -> u32 {
        self.advance(epoch(now));
        let current = self.current.load(Relaxed);
        let old = epoch(old.start)..epoch(old.end);
        let is_old = |epoch: u32| epoch > old.start && epoch < old.end;
        let (mut later, mut overtaken) = (0_u32, 0);
        for age in 0..EPOCHS.min(current.saturating_add(1)) {
            let slot = self.slot(current - age);
            if age >= LEAST && later >= than || is_old(current - age) {
                overtaken += slot.in_flight.load(Relaxed);
            }
            later = later.saturating_add(slot.answered.load(Relaxed));
        }
        if later >= than || is_old(current.saturating_sub(EPOCHS)) {
            overtaken += self.older.load(Relaxed);
        }
        u32::try_from(overtaken).unwrap_or(0)
    }

    /// Makes `epoch` the current period. One caller reuses the slots in between.
    fn advance(&self, epoch: u32) {
        let before = self.current.fetch_max(epoch, Relaxed);
        if before >= epoch {
            return;
        }
        for next in (before + 1).max((epoch + 1).saturating_sub(EPOCHS))..=epoch {
            let slot = self.slot(next);
            slot.answered.store(0, Relaxed);
            self.older.fetch_add(slot.in_flight.swap(0, Relaxed), Relaxed);
        }
    }

    fn slot(&self, epoch: u32) -> &Slot {
        &self.slots[(epoch % EPOCHS) as usize]
    }
}

fn epoch(at: Duration) -> u32 {
    u32::try_from(at.as_millis() / EPOCH.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Range<Duration> = Duration::ZERO..Duration::ZERO;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Answers a hundred requests in each of `seconds`, from `from` on.
    fn traffic(ages: &Ages, from: u64, seconds: u64) {
        for at in from * 100..(from + seconds) * 100 {
            let epoch = ages.begin(Duration::from_millis(at * 10));
            ages.end(epoch, true);
        }
    }

    #[test]
    fn what_waits_while_many_others_are_answered_is_overtaken() {
        let ages = Ages::default();
        let polls: Vec<_> = (0..5).map(|_| ages.begin(Duration::ZERO)).collect();
        assert_eq!(ages.overtaken(at(0), 50, &NONE), 0);
        traffic(&ages, 1, 2);
        assert_eq!(ages.overtaken(at(3), 50, &NONE), 5);
        assert_eq!(ages.overtaken(at(3), 5000, &NONE), 0);
        // They are still known when their slot is reused.
        traffic(&ages, 3, 40);
        assert_eq!(ages.overtaken(at(43), 50, &NONE), 5);
        polls.into_iter().for_each(|epoch| ages.end(epoch, true));
        assert_eq!(ages.overtaken(at(43), 50, &NONE), 0);
    }

    #[test]
    fn what_is_far_older_than_an_answer_takes_does_not_count_though_nothing_overtakes_it() {
        let ages = Ages::default();
        let polls: Vec<_> = (0..5).map(|_| ages.begin(at(2))).collect();
        assert_eq!(ages.overtaken(at(5), 50, &(at(1)..at(2))), 0, "not as old");
        assert_eq!(ages.overtaken(at(5), 50, &(at(2)..at(4))), 0, "before the limit");
        assert_eq!(ages.overtaken(at(5), 50, &(at(1)..at(4))), 5);
        assert_eq!(ages.overtaken(at(60), 50, &(at(1)..at(59))), 5);
        polls.into_iter().for_each(|epoch| ages.end(epoch, true));
        assert_eq!(ages.overtaken(at(60), 50, &(at(1)..at(59))), 0);
    }

    #[test]
    fn what_waits_in_a_queue_is_not_overtaken() {
        let ages = Ages::default();
        let epochs: Vec<_> = (0..1000).map(|at| ages.begin(Duration::from_millis(at * 10))).collect();
        for epoch in &epochs[..500] {
            ages.end(*epoch, true);
        }
        assert_eq!(ages.overtaken(at(10), 32, &NONE), 0);
        assert_eq!(ages.overtaken(at(10), 0, &NONE), 413, "those that are older than a second");
    }
}
