//! What a host leaves unanswered, as one worker sees it: when it is doubted, asked to prove itself, and found silent.
//!
//! Silence is no failure: a long poll waits too. So the evidence is always a comparison. A host is doubted when others
//! answer requests that began later than those that it leaves unanswered. It is found silent by a pair: one request sent
//! to it and to another host, which only the other one answers. An attempt counts from its beginning to the host's next
//! sign of life, whether or not its client still waits. Attempts that began before a sign of life never count.
//!
//! Per worker, without locks; `now` comes in. A pick costs some loads and no call.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use super::answers::Answers;

/// The shortest silence that is worth a doubt. A host that is known to be slow has [`USUAL_TIMES`] its usual time.
pub(super) const DOUBTED: Duration = Duration::from_millis(250);
const USUAL_TIMES: u32 = 3;

/// From how many unanswered attempts on a doubted host gets no ordinary requests. Fewer are what long polls look like.
const MANY: u32 = 3;

/// How often a host with fewer may get an ordinary request all the same, and how often a doubted one is asked.
const ASKED_EVERY: Duration = Duration::from_secs(1);

/// The longest time between two ordinary requests that test a host which nothing else can test.
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);

/// The first such interval of an ejected host.
const EJECTED_INTERVAL: Duration = Duration::from_secs(10);

/// A host is ejected for silence that lasts so long and was proven by so many pairs.
const EJECTED_AFTER: Duration = Duration::from_secs(5);
const PAIRS: u32 = 2;

/// Without pairs: the chance that a healthy host left all its tests unanswered must be below this, and others must have
/// answered so often.
const CHANCE: f64 = 0.001;
const ANSWERS: u64 = 20;

/// What one host leaves unanswered.
#[derive(Debug)]
pub(super) struct Silence {
    answers: Rc<Answers>,
    /// When the first attempt began that began after the last sign of life; `None` when there is none.
    since: Cell<Option<Instant>>,
    /// How many have begun since.
    unanswered: Cell<u32>,
    /// When the last of them did.
    begun: Cell<Instant>,
    /// [`Answers::count`] at `since`.
    count: Cell<u64>,
    /// Frames of responses, counted by who reads them, and how many of them are known here.
    frames: Rc<Cell<u64>>,
    seen: Cell<u64>,
    /// When the host was last asked to prove itself.
    asked: Cell<Option<Instant>>,
    /// Ordinary requests that tested it since.
    tests: Cell<u32>,
    /// Pairs of which the other host answered and this one did not.
    failed_pairs: Cell<u32>,
    /// Wakes who waits for this host when a pair failed.
    found: Notify,
    /// When it was last heard after a doubt. Until a request that began later is answered, its average tells of the past.
    recovered: Cell<Option<Instant>>,
    /// Whether the attempt of a failed pair is still waited for.
    awaited: Cell<bool>,
}

/// A host leaves requests unanswered while others answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Doubt {
    /// Whether it gets no ordinary requests while there is another host.
    pub(super) avoided: bool,
}

impl Silence {
    /// A host of which nothing is known. `answers` are those of its cluster.
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

    /// An attempt begins.
    pub(super) fn begin(&self, now: Instant) {
        self.settle(now);
        if self.since.get().is_none() {
            self.since.set(Some(now));
            self.count.set(self.answers.count());
        }
        self.unanswered.set(self.unanswered.get().saturating_add(1));
        self.begun.set(now);
    }

    /// The host has said something: a head, a refusal. Returns whether it had been found silent.
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

    /// Whether an answered attempt, which began at `began`, is the first of a host that had been in doubt: what was known of
    /// its latency before is to be forgotten.
    pub(super) fn is_first(&self, began: Instant) -> bool {
        let first = self.recovered.get().is_some_and(|recovered| began >= recovered);
        if first {
            self.recovered.set(None);
        }
        first
    }

    /// Where frames of responses are counted, each of which is a sign of life.
    pub(super) fn frames(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.frames)
    }

    /// The head of an answer came to an attempt that began at `began`.
    pub(super) fn answered(&self, began: Instant, latency: Duration) {
        self.answers.note(began, latency);
    }

    /// See [`Answers::cover_after`].
    pub(super) fn cover_after(&self) -> Duration {
        self.answers.cover_after()
    }

    /// A lower bound of the host's latency: the age of what it leaves unanswered. Zero once a second while that is little.
    pub(super) fn bound(&self, now: Instant) -> Duration {
        self.settle(now);
        let Some(since) = self.since.get() else { return Duration::ZERO };
        let rested = now.saturating_duration_since(self.begun.get()) >= ASKED_EVERY;
        if rested && self.unanswered.get() < MANY {
            return Duration::ZERO;
        }
        now.saturating_duration_since(since)
    }

    /// How long the host has left [`MANY`] attempts unanswered, to be shown. `None` when it has not.
    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        self.settle(now);
        let since = self.since.get().filter(|_| self.unanswered.get() >= MANY)?;
        Some(now.saturating_duration_since(since))
    }

    /// Whether the host is in doubt. `usual` says within what time it answers; asked only when it matters.
    pub(super) fn doubt(&self, now: Instant, usual: impl FnOnce() -> Duration) -> Option<Doubt> {
        let young = |since: &Instant| now.saturating_duration_since(*since) < DOUBTED;
        let recovering = || self.recovered.get().map(|_| Doubt { avoided: false });
        if self.since.get().as_ref().is_none_or(young) {
            return recovering();
        }
        self.settle(now);
        let Some(since) = self.since.get() else { return recovering() };
        let enough = now.saturating_duration_since(since) >= DOUBTED.max(usual().saturating_mul(USUAL_TIMES));
        // The host itself has answered nothing that began so late, or `since` would be later.
        let others_answer = self.answers.any_since(since);
        let proven = self.failed_pairs.get() > 0;
        let doubt = Doubt { avoided: proven || self.unanswered.get() >= MANY };
        (proven || enough && others_answer).then_some(doubt).or_else(recovering)
    }

    /// Whether it is time for a covered request.
    pub(super) fn is_pair_due(&self, now: Instant) -> bool {
        self.asked.get().is_none_or(|asked| now.saturating_duration_since(asked) >= ASKED_EVERY)
    }

    /// Whether it is time for an ordinary request, since no covered one came for as long. Each interval is twice the one
    /// before.
    pub(super) fn is_test_due(&self, now: Instant, ejected: bool) -> bool {
        let Some(from) = self.asked.get().or(self.since.get()) else {
            self.asked.set(Some(now));
            return false;
        };
        let first = if ejected { EJECTED_INTERVAL } else { ASKED_EVERY };
        let interval = first.saturating_mul(1u32.checked_shl(self.tests.get()).unwrap_or(u32::MAX));
        now.saturating_duration_since(from) >= interval.min(LONGEST_INTERVAL)
    }

    /// A covered request is sent to it.
    pub(super) fn pair_begins(&self, now: Instant) {
        self.asked.set(Some(now));
    }

    /// An ordinary request is sent to it.
    pub(super) fn test_begins(&self, now: Instant) {
        self.asked.set(Some(now));
        self.tests.set(self.tests.get().saturating_add(1));
    }

    /// The other host of a pair has answered and this one has not: who waits for this one may go elsewhere.
    pub(super) fn pair_failed(&self) {
        self.failed_pairs.set(self.failed_pairs.get().saturating_add(1));
        self.found.notify_waiters();
    }

    /// Resolves when the host is found silent, again each time.
    pub(super) fn found(&self) -> Notified<'_> {
        self.found.notified()
    }

    /// Whether the silence is long and sure enough for an ejection. `others` are attempts that wait for other hosts; `quiet` says
    /// that PINGs are unanswered too.
    ///
    /// Where no request may be sent twice there are no pairs. Then the hosts are compared as wholes: the share of slow
    /// requests among all says how likely a healthy host was to leave every test unanswered.
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

    /// Takes the one place of an attempt that is waited for after its pair has failed. False if it is taken.
    pub(super) fn wait_on(&self) -> bool {
        !self.awaited.replace(true)
    }

    /// Gives the place back.
    pub(super) fn waited(&self) {
        self.awaited.set(false);
    }

    /// Frames that came since are signs of life.
    fn settle(&self, now: Instant) {
        let frames = self.frames.get();
        if self.seen.replace(frames) != frames {
            self.heard(now);
        }
    }
}

#[cfg(test)]
mod tests;
