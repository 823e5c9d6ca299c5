//! Detects hosts that no longer respond, as seen by one worker: when a host is doubted, tested, and found silent.
//!
//! Silence is not a failure: a long poll waits too. The evidence is therefore always a comparison. A host is doubted if other
//! hosts answer requests that began later than those it leaves unanswered. It is found silent by a pair: a request sent to it
//! and to another host, which only the other host answers. An attempt counts from its start to the next sign of life of the
//! host, even if its client no longer waits. Attempts that began before a sign of life never count.
//!
//! State is per worker, without locks; the caller passes `now`. A pick costs a few loads.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use super::answers::Answers;

/// The shortest silence that causes doubt. For a host that is known to be slow: [`USUAL_TIMES`] its usual latency.
pub(super) const DOUBTED: Duration = Duration::from_millis(250);
const USUAL_TIMES: u32 = 3;

/// The number of unanswered attempts at which a doubted host stops receiving ordinary requests. Long polls leave fewer.
const MANY: u32 = 3;

/// How often a host with fewer unanswered attempts still receives an ordinary request, and how often a doubted host is tested.
const ASKED_EVERY: Duration = Duration::from_secs(1);

/// The longest interval between ordinary requests that test a host if no covered requests are available.
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);

/// The first such interval of an ejected host.
const EJECTED_INTERVAL: Duration = Duration::from_secs(10);

/// A host is ejected after this long and this many failed pairs.
const EJECTED_AFTER: Duration = Duration::from_secs(5);
const PAIRS: u32 = 2;

/// Without pairs: the maximum probability that a healthy host leaves all its tests unanswered, and the minimum number of
/// responses by others.
const CHANCE: f64 = 0.001;
const ANSWERS: u64 = 20;

/// The unanswered attempts of one host.
#[derive(Debug)]
pub(super) struct Silence {
    answers: Rc<Answers>,
    /// When the first attempt after the last sign of life began; `None` if there is none.
    since: Cell<Option<Instant>>,
    /// The number of attempts since then.
    unanswered: Cell<u32>,
    /// When the last of them began.
    begun: Cell<Instant>,
    /// [`Answers::count`] at `since`.
    count: Cell<u64>,
    /// Frames of responses, counted by their readers, and the number last observed here.
    frames: Rc<Cell<u64>>,
    seen: Cell<u64>,
    /// When the host was last tested.
    asked: Cell<Option<Instant>>,
    /// Ordinary requests that have tested the host since.
    tests: Cell<u32>,
    /// Failed pairs: the other host answered and this one did not.
    failed_pairs: Cell<u32>,
    /// Wakes the requests that wait for this host when a pair has failed.
    found: Notify,
    /// When the first sign of life after a doubt was observed. Until a later request is answered, the average latency is
    /// outdated.
    recovered: Cell<Option<Instant>>,
    /// Whether the attempt of a failed pair is still awaited.
    awaited: Cell<bool>,
}

/// The host leaves requests unanswered while others respond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Doubt {
    /// Whether it receives no ordinary requests while there is another host.
    pub(super) avoided: bool,
}

impl Silence {
    /// Creates the state of a new host. `answers` are those of its cluster.
    pub(super) fn new(answers: Rc<Answers>, now: Instant) -> Self {
        Self {
            answers,
            since: Cell::default(),
            unanswered: Cell::default(),
            begun: Cell::new(now),
            count: Cell::default(),
            frames: Rc::default(),
            seen: Cell::default(),
            asked: Cell::default(),
            tests: Cell::default(),
            failed_pairs: Cell::default(),
            recovered: Cell::default(),
            found: Notify::new(),
            awaited: Cell::default(),
        }
    }

    /// Records the start of an attempt.
    pub(super) fn begin(&self, now: Instant) {
        self.settle(now);
        if self.since.get().is_none() {
            self.since.set(Some(now));
            self.count.set(self.answers.count());
        }
        self.unanswered.set(self.unanswered.get().saturating_add(1));
        self.begun.set(now);
    }

    /// Records a sign of life. Returns whether the host had been found silent.
    pub(super) fn heard(&self, now: Instant) -> bool {
        let found = self.failed_pairs.replace(0) > 0;
        let many = self.unanswered.replace(0) >= MANY;
        let since = self.since.take();
        let long = since.is_some_and(|since| now.saturating_duration_since(since) >= DOUBTED);
        if found || many && long {
            self.recovered.set(Some(now));
        }
        self.asked.set(None);
        self.tests.set(0);
        found
    }

    /// Returns whether an answered attempt, which began at `began`, is the first of a host that was in doubt. The latency known
    /// from before is then discarded.
    pub(super) fn is_first(&self, began: Instant) -> bool {
        let first = self.recovered.get().is_some_and(|recovered| began >= recovered);
        if first {
            self.recovered.set(None);
        }
        first
    }

    /// Returns the counter of response frames, each of which is a sign of life.
    pub(super) fn frames(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.frames)
    }

    /// Records the response head of an attempt that began at `began`.
    pub(super) fn answered(&self, began: Instant, latency: Duration) {
        self.answers.note(began, latency);
    }

    /// See [`Answers::cover_after`].
    pub(super) fn cover_after(&self) -> Duration {
        self.answers.cover_after()
    }

    /// Returns a lower bound of the host's latency: the age of its unanswered attempts. Returns zero once a second while these
    /// are few.
    pub(super) fn bound(&self, now: Instant) -> Duration {
        self.settle(now);
        let Some(since) = self.since.get() else { return Duration::ZERO };
        let rested = now.saturating_duration_since(self.begun.get()) >= ASKED_EVERY;
        if rested && self.unanswered.get() < MANY {
            return Duration::ZERO;
        }
        now.saturating_duration_since(since)
    }

    /// Returns how long the host has left [`MANY`] attempts unanswered, for display. Returns `None` if it has not.
    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        self.settle(now);
        let since = self.since.get().filter(|_| self.unanswered.get() >= MANY)?;
        Some(now.saturating_duration_since(since))
    }

    /// Returns whether the host is in doubt. `usual` returns its usual latency; it is called only when needed.
    pub(super) fn doubt(&self, now: Instant, usual: impl FnOnce() -> Duration) -> Option<Doubt> {
        let young = |since: &Instant| now.saturating_duration_since(*since) < DOUBTED;
        let recovering = || self.recovered.get().map(|_| Doubt { avoided: false });
        if self.since.get().as_ref().is_none_or(young) {
            return recovering();
        }
        self.settle(now);
        let Some(since) = self.since.get() else { return recovering() };
        let enough = now.saturating_duration_since(since) >= DOUBTED.max(usual().saturating_mul(USUAL_TIMES));
        // The host itself has answered no request that began so late; otherwise `since` would be later.
        let others_answer = self.answers.any_since(since);
        let proven = self.failed_pairs.get() > 0;
        let doubt = Doubt { avoided: proven || self.unanswered.get() >= MANY };
        (proven || enough && others_answer).then_some(doubt).or_else(recovering)
    }

    /// Returns whether it is time for a covered request.
    pub(super) fn is_pair_due(&self, now: Instant) -> bool {
        self.asked.get().is_none_or(|asked| now.saturating_duration_since(asked) >= ASKED_EVERY)
    }

    /// Returns whether it is time for an ordinary request, because no covered one was available for as long. Each interval is
    /// twice the previous one.
    pub(super) fn is_test_due(&self, now: Instant, ejected: bool) -> bool {
        let Some(from) = self.asked.get().or(self.since.get()) else {
            self.asked.set(Some(now));
            return false;
        };
        let first = if ejected { EJECTED_INTERVAL } else { ASKED_EVERY };
        let interval = first.saturating_mul(1u32.checked_shl(self.tests.get()).unwrap_or(u32::MAX));
        now.saturating_duration_since(from) >= interval.min(LONGEST_INTERVAL)
    }

    /// Records that a covered request is sent to the host.
    pub(super) fn pair_begins(&self, now: Instant) {
        self.asked.set(Some(now));
    }

    /// Records that an ordinary request tests the host.
    pub(super) fn test_begins(&self, now: Instant) {
        self.asked.set(Some(now));
        self.tests.set(self.tests.get().saturating_add(1));
    }

    /// Records that the other host of a pair has answered and this one has not. Wakes the requests that wait for this host.
    pub(super) fn pair_failed(&self) {
        self.failed_pairs.set(self.failed_pairs.get().saturating_add(1));
        self.found.notify_waiters();
    }

    /// Resolves when the host is found silent, again each time.
    pub(super) fn found(&self) -> Notified<'_> {
        self.found.notified()
    }

    /// Returns whether the silence is long and certain enough for an ejection. `others` are attempts that wait for other hosts;
    /// `quiet` is whether PINGs are unanswered too.
    ///
    /// If no request may be sent twice, there are no pairs. Then the hosts are compared as a whole: the share of slow requests
    /// among all gives the probability that a healthy host leaves every test unanswered.
    pub(super) fn is_proven(&self, now: Instant, others: u32, quiet: bool) -> bool {
        self.settle(now);
        let Some(since) = self.since.get() else { return false };
        if now.saturating_duration_since(since) < EJECTED_AFTER {
            return false;
        }
        let answers = self.answers.count().saturating_sub(self.count.get());
        let slow = f64::from(others.saturating_add(self.unanswered.get()));
        let share = slow / (slow + answers as f64);
        let by_chance = share.powf(f64::from(self.tests.get()));
        let enough = self.unanswered.get() >= MANY && answers >= ANSWERS;
        self.failed_pairs.get() >= PAIRS || enough && (quiet || by_chance < CHANCE)
    }

    /// Acquires the permit of the one attempt that is still awaited after its pair has failed. Returns false if it is taken.
    pub(super) fn wait_on(&self) -> bool {
        !self.awaited.replace(true)
    }

    /// Releases that permit.
    pub(super) fn waited(&self) {
        self.awaited.set(false);
    }

    /// Treats new frames as a sign of life.
    fn settle(&self, now: Instant) {
        let frames = self.frames.get();
        if self.seen.replace(frames) != frames {
            self.heard(now);
        }
    }
}

#[cfg(test)]
mod tests;
