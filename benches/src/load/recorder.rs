//! Counts the requests of one worker: totals, histograms, and a row for each second, which is shared as soon as it is over.
//!
//! Latencies are nanoseconds from the intended start. A request that timed out is in the histograms with the time that it
//! waited, and one that was never sent with its age at the end: leaving them out would make a stalled server look fast.
//! Other failures are counted only.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::failure::Failure;
use super::pacer::Ticket;

/// Latencies from 1 µs to one hour, in nanoseconds, to three digits.
const SHORTEST: u64 = 1_000;
const LONGEST: u64 = 3_600_000_000_000;

/// What a successful request received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received {
    /// Bytes of the answer's body.
    pub(super) bytes: u64,
}

/// Figures of requests.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    /// Requests with the expected answer.
    pub(crate) answered: u64,
    pub(crate) failures: BTreeMap<Failure, u64>,
    /// Requests that were due and were not sent because every stream waited for an answer.
    pub(crate) unsent: u64,
    /// Bytes of the bodies of answered requests.
    pub(crate) received: u64,
    /// From the intended start to the end.
    pub(crate) latency: Histogram<u64>,
    /// From the actual start to the end: what a test without correction for coordinated omission reports.
    pub(crate) service: Histogram<u64>,
    /// How late the generator itself was: from when a request was due and a stream was free, to its start.
    pub(crate) lag: Histogram<u64>,
}

/// The requests that ended within one second of the measurement.
#[derive(Debug, Clone)]
pub(crate) struct Second {
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    pub(crate) received: u64,
    pub(crate) latency: Histogram<u32>,
}

/// What all workers share while they run.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Requests that have ended, warm-up included.
    pub(super) ended: AtomicU64,
    /// By the number of seconds since the warm-up.
    pub(super) seconds: Mutex<Vec<Second>>,
    /// Connections that have been opened.
    pub(super) connections: AtomicU64,
}

/// The recorder of one worker.
pub(super) struct Recorder {
    shared: Arc<Shared>,
    counted_from: Instant,
    inner: RefCell<Inner>,
}

struct Inner {
    total: Tally,
    second: Second,
    /// The number of `second`.
    number: u64,
    last: Instant,
}

impl Recorder {
    /// Requests that were to start before `counted_from` are not counted.
    pub(super) fn new(shared: Arc<Shared>, counted_from: Instant) -> Self {
        let inner = Inner { total: Tally::new(), second: Second::new(), number: 0, last: counted_from };
        Self { shared, counted_from, inner: inner.into() }
    }

    /// Counts a request that has ended now.
    pub(super) fn record(&self, ticket: &Ticket, outcome: Result<Received, Failure>) {
        self.shared.ended.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        if ticket.intended < self.counted_from {
            return;
        }
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        inner.last = now;
        let number = (now - self.counted_from).as_secs();
        if number != inner.number {
            self.shared.add(inner.number, std::mem::replace(&mut inner.second, Second::new()));
            inner.number = number;
        }
        let waited = matches!(outcome, Ok(_) | Err(Failure::Timeout));
        if waited {
            let latency = nanoseconds(now - ticket.intended);
            inner.total.latency.saturating_record(latency);
            inner.total.service.saturating_record(nanoseconds(now - ticket.started));
            inner.second.latency.saturating_record(latency);
        }
        inner.total.lag.saturating_record(nanoseconds(ticket.lag));
        match outcome {
            Ok(received) => {
                inner.total.answered += 1;
                inner.total.received += received.bytes;
                inner.second.answered += 1;
                inner.second.received += received.bytes;
            }
            Err(failure) => {
                *inner.total.failures.entry(failure).or_default() += 1;
                inner.second.failed += 1;
            }
        }
    }

    /// Counts a request that was due at `intended` and was not sent until `end`.
    pub(super) fn record_unsent(&self, intended: Instant, end: Instant) {
        if intended >= self.counted_from {
            let total = &mut self.inner.borrow_mut().total;
            total.unsent += 1;
            total.latency.saturating_record(nanoseconds(end - intended));
        }
    }

    /// Shares the last second. Returns the totals, and when the last counted request ended.
    pub(super) fn finish(&self) -> (Tally, Instant) {
        let inner = self.inner.replace(Inner {
            total: Tally::new(),
            second: Second::new(),
            number: 0,
            last: self.counted_from,
        });
        self.shared.add(inner.number, inner.second);
        (inner.total, inner.last)
    }
}

impl Shared {
    fn add(&self, number: u64, second: Second) {
        let mut seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        let number = number as usize;
        if seconds.len() <= number {
            seconds.resize_with(number + 1, Second::new);
        }
        if let Some(all) = seconds.get_mut(number) {
            all.add(&second);
        }
    }
}

impl Tally {
    /// No requests.
    pub(crate) fn new() -> Self {
        let [latency, service, lag] = [(); 3].map(|()| histogram(3));
        Self { answered: 0, failures: BTreeMap::new(), unsent: 0, received: 0, latency, service, lag }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.unsent += other.unsent;
        self.received += other.received;
        for (failure, count) in other.failures {
            *self.failures.entry(failure).or_default() += count;
        }
        merge(&mut self.latency, &other.latency);
        merge(&mut self.service, &other.service);
        merge(&mut self.lag, &other.lag);
    }

    /// Requests that were sent and got no answer as expected.
    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

impl Second {
    pub(super) fn new() -> Self {
        Self { answered: 0, failed: 0, received: 0, latency: histogram(2) }
    }

    fn add(&mut self, other: &Self) {
        self.answered += other.answered;
        self.failed += other.failed;
        self.received += other.received;
        merge(&mut self.latency, &other.latency);
    }
}

/// An empty histogram with that many significant digits (1 to 5).
fn histogram<T: hdrhistogram::Counter>(digits: u8) -> Histogram<T> {
    // The bounds are constant and valid, which a test holds.
    #[expect(clippy::unwrap_used)]
    Histogram::new_with_bounds(SHORTEST, LONGEST, digits).unwrap()
}

/// Both have the same bounds, so that every value fits.
fn merge<T: hdrhistogram::Counter>(all: &mut Histogram<T>, one: &Histogram<T>) {
    #[expect(clippy::unwrap_used)]
    all.add(one).unwrap();
}

fn nanoseconds(duration: Duration) -> u64 {
    duration.as_nanos().min(u128::from(LONGEST)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder(counted_from: Instant) -> (Recorder, Arc<Shared>) {
        let shared = Arc::new(Shared::default());
        (Recorder::new(Arc::clone(&shared), counted_from), shared)
    }

    fn ticket(intended: Instant) -> Ticket {
        Ticket { intended, started: intended, lag: Duration::ZERO }
    }

    #[test]
    fn the_warm_up_is_not_counted() {
        let now = Instant::now();
        let (recorder, shared) = recorder(now);
        recorder.record(&ticket(now - Duration::from_millis(1)), Ok(Received { bytes: 5 }));
        recorder.record(&ticket(now), Ok(Received { bytes: 7 }));
        let (total, _) = recorder.finish();
        assert_eq!((total.answered, total.received, total.latency.len()), (1, 7, 1));
        assert_eq!(shared.ended.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn failures_are_counted_by_kind_and_only_timeouts_have_a_latency() {
        let begin = Instant::now() - Duration::from_secs(3);
        let (recorder, shared) = recorder(begin);
        for failure in [Failure::Status(503), Failure::Timeout, Failure::Status(503)] {
            recorder.record(&ticket(begin), Err(failure));
        }
        let (total, _) = recorder.finish();
        assert_eq!(
            total.failures.into_iter().collect::<Vec<_>>(),
            [(Failure::Timeout, 1), (Failure::Status(503), 2)]
        );
        assert_eq!(total.latency.len(), 1);
        assert!(total.latency.max() >= 2_990_000_000);
        let failed: Vec<_> = shared.seconds.lock().unwrap().iter().map(|second| second.failed).collect();
        assert_eq!(failed, [0, 0, 0, 3]);
    }

    #[test]
    fn what_was_never_sent_has_its_age_at_the_end() {
        let begin = Instant::now();
        let (recorder, _) = recorder(begin);
        recorder.record_unsent(begin, begin + Duration::from_secs(4));
        recorder.record_unsent(begin - Duration::from_secs(1), begin + Duration::from_secs(4));
        let (total, _) = recorder.finish();
        assert_eq!((total.unsent, total.answered), (1, 0));
        assert!(total.latency.max() >= 3_990_000_000);
    }
}
