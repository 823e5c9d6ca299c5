//! How many requests an application gets at once: as many as come, until there is evidence that more of them only take longer.
//!
//! Then requests wait in front of the application instead of inside it, so that those whose clients have given up can be
//! dropped. A limit is correct if half of it makes each request faster, but not in proportion: the application is busy with the
//! limit, and would not be with half of it. So half of the limit applies for a quarter of the time, or less while that confirms
//! the limit, and the two are compared.
//! The limit ends when no request had to wait for a second.

use std::time::Duration;

use super::evidence::{Evidence, Fit};

/// The lowest limit. Half of it applies while it is compared.
const FLOOR: u32 = 2;

/// The lowest first limit. It applies as half of a limit, so that the first comparison is with twice as much.
const FIRST_FLOOR: u32 = 4;

/// The shortest time between two rounds.
pub(super) const ROUND: Duration = Duration::from_millis(5);

/// An application that has less work than this, in time, is not limited.
const BACKLOG: f64 = 0.1;

/// In this time without a limit, evidence loses half of its weight, if there is more of it than [`FEW`].
const HALF_LIFE: f64 = 1.0;

/// As many requests are always evidence.
const FEW: f64 = 32.0;

/// The largest standard error of the slope that is evidence for a limit.
const ERROR: f64 = 0.12;

/// By how many octaves the requests in flight must grow while one of them is answered.
const GROWTH: f64 = 0.15;

/// So many requests that were given up are evidence, if fewer were answered.
const GIVEN_UP: f64 = 16.0;

/// By how many octaves the first answers under a limit may be slower than the evidence for the limit predicts.
const MISS: f64 = 0.8;

/// The number of those answers.
const FIRST: f64 = 8.0;

/// The least number of answers, after the requests in flight are as many as half of a limit, for which it applies.
const HALF: u32 = 12;

/// For how many times as many answers the whole limit applies, once it is certain. Each comparison that finds it right doubles this, up to
/// [`SETTLED`] times, as half of it may be less than the application can process.
const WHOLE: u64 = 3;
const SETTLED: u32 = 3;

/// The slope between half of a limit and the limit, for which it is right. An application is busy with `limit / 2^slope`
/// requests, if that is between the two; a quarter more keeps it busy while answers and requests are on their way.
const RIGHT: f64 = 0.35;

/// The slope from which it is certain that the application is busy with the limit.
const BUSY: f64 = 0.2;

/// The standard error above which only a slope that clearly differs from [`RIGHT`] changes the limit, by [`CLEAR`] at least.
const UNSURE: f64 = 0.2;
const CLEAR: f64 = 0.2;

/// The part of such an error by which the slope is corrected.
const CORRECTION: f64 = 0.7;

/// A request in flight that is older than so many times the latency of answers waits for an event.
const OLD: f64 = 20.0;

/// So does one that is older than so many times the backlog when the limit began, while the limit is not certain.
const OLD_BACKLOG: f64 = 2.0;

/// The least variance of the requests in flight that a comparison needs, in octaves squared.
const SPREAD: f64 = 0.06;

/// The longest time that half of a limit applies.
const LONGEST_HALF: Duration = Duration::from_secs(1);

/// The time without a standing queue after which there is no limit.
const UNUSED: Duration = Duration::from_secs(1);

/// How long a request waits at most, while it is not certain that the application is overloaded.
pub(super) const LONG: Duration = Duration::from_secs(5);

/// How long a request waits at most, in seconds, if the application is slow.
const LONGEST: f64 = 10.0;

/// How long a request waits at least, while it is certain.
const SHORT: Duration = Duration::from_millis(20);

/// How long a queue must have stood, and how much work it must be, in time, before requests wait for the shorter time.
const STANDING: Duration = Duration::from_secs(4);
const STANDING_WORK: f64 = 0.3;

/// What happened since the last round.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Round {
    /// The time, since any fixed moment.
    pub(super) now: Duration,
    /// Requests that the application has answered.
    pub(super) answered: u64,
    /// Their latencies.
    pub(super) evidence: Evidence,
    /// Requests that were given up before the application answered, within [`LONG`].
    pub(super) given_up: u64,
    /// Requests that the application has now. Those that only wait for an event are not counted.
    pub(super) in_flight: u32,
    /// Requests that wait now.
    pub(super) waiting: u32,
}

/// What applies until the next round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Admission {
    /// The number of requests that the application gets at once. `None` is no limit.
    pub(super) limit: Option<u32>,
    /// Requests that began as one of at most so many are evidence: not those that the application had before there was a limit.
    pub(super) counted: u32,
    /// The age from which a request in flight is no work for the application, but waits for an event. It began since the limit did,
    /// before which requests waited in the application.
    pub(super) old: Duration,
    pub(super) since: Duration,
    /// How long a request waits before it is refused.
    pub(super) patience: Duration,
    /// How long the application takes for a request, if it is certain that it is overloaded.
    pub(super) turnaround: Option<Duration>,
}

/// Decides about one application.
#[derive(Debug, Default)]
pub(super) struct Control {
    now: Duration,
    evidence: Evidence,
    rate: Rate,
    limited: Option<Limited>,
    waiting: u32,
    /// Requests that were given up. They lose weight as evidence does.
    given_up: f64,
    /// Since when there is a standing queue: it was longer than [`BACKLOG`], and has not been empty since.
    standing: Option<Duration>,
}

/// Answers per second.
#[derive(Debug, Clone, Copy, Default)]
struct Rate {
    began: Duration,
    answered: u64,
    per_second: f64,
}

#[derive(Debug)]
struct Limited {
    limit: u32,
    halved: bool,
    /// How many of the last comparisons found the limit right, [`SETTLED`] at most.
    settled: u32,
    /// Whether the last comparison lowered the limit.
    lowered: bool,
    /// Answers in this phase.
    answered: u64,
    began: Duration,
    /// When the limit was set first.
    since: Duration,
    /// When there was last a standing queue.
    used: Duration,
    /// How long the requests in flight took, in seconds, when the limit began.
    backlog: f64,
    /// Answers per second then. `None` if there were too few for a measurement.
    rate: Option<f64>,
    /// How long an answer takes, in seconds.
    latency: f64,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The evidence for the limit is still to be checked.
    Doubtful(Fit),
    /// The first answers were as fast as predicted.
    Plausible,
    /// A comparison has shown that the application is busy with this limit.
    Certain,
}

impl Control {
    /// Decides what applies from now on.
    pub(super) fn round(&mut self, round: &Round) -> Admission {
        let since = round.now.saturating_sub(self.now).as_secs_f64();
        self.now = round.now;
        self.rate.count(round);
        self.evidence.merge(&round.evidence);
        self.waiting = round.waiting;
        self.stand(round);
        self.given_up += round.given_up as f64;
        match &mut self.limited {
            None => {
                if self.evidence.count() > FEW {
                    self.evidence.fade((-since / HALF_LIFE).exp2());
                }
                self.given_up *= (-since / HALF_LIFE).exp2();
                self.begin(round);
            }
            Some(limited) => {
                limited.answered += round.answered;
                if self.standing.is_some() {
                    limited.used = round.now;
                }
                if limited.is_refuted(&self.evidence, self.given_up >= 1.0)
                    || round.now.saturating_sub(limited.used) >= UNUSED
                {
                    self.limited = None;
                    self.evidence = Evidence::default();
                } else if limited.turn(round.now, self.standing.is_some()) {
                    limited.compare(&mut self.evidence);
                }
            }
        }
        self.admission()
    }

    fn stand(&mut self, round: &Round) {
        if round.waiting == 0 {
            self.standing = None;
        } else if self.is_backlog(round.waiting) {
            self.standing.get_or_insert(round.now);
        }
    }

    fn is_backlog(&self, requests: u32) -> bool {
        self.rate.is_exceeded(requests, BACKLOG)
    }

    /// Sets a limit if there is evidence for one.
    fn begin(&mut self, round: &Round) {
        if !self.is_backlog(round.in_flight) {
            return;
        }
        let (limit, latency, stage) = if self.given_up >= GIVEN_UP && self.given_up > self.evidence.count() {
            // The answers that still come are those of the fastest requests, and say little about the others.
            let latency = self.evidence.latency();
            (self.rate.per_second * latency, latency, Stage::Plausible)
        } else {
            let Some(fit) = self.evidence.fit() else { return };
            let growth = self.evidence.growth();
            // The faster the requests in flight grow, the less else can be the reason.
            let certain = fit.error <= ERROR * growth.clamp(1.0, 2.0);
            if !certain || !(0.6..1.4).contains(&fit.slope) || growth < GROWTH {
                return;
            }
            let limit = fit.low();
            (limit, fit.latency(limit), Stage::Doubtful(fit))
        };
        let rate = self.rate.per_second.max(0.1);
        let backlog = f64::from(round.in_flight) / rate;
        self.evidence = Evidence::default();
        self.limited = Some(Limited {
            limit: 2 * (limit as u32).max(FIRST_FLOOR),
            halved: true,
            settled: 0,
            lowered: false,
            answered: 0,
            began: round.now,
            since: round.now,
            used: round.now,
            backlog,
            rate: Some(rate).filter(|rate| *rate >= 1.0),
            latency,
            stage,
        });
    }

    fn admission(&self) -> Admission {
        let Some(limited) = &self.limited else {
            return Admission {
                limit: None,
                counted: u32::MAX,
                old: Duration::MAX,
                since: Duration::ZERO,
                patience: LONG,
                turnaround: None,
            };
        };
        let stands = self.standing.is_some_and(|since| self.now.saturating_sub(since) >= STANDING);
        let certain = matches!(limited.stage, Stage::Certain);
        let overloaded = certain && stands && self.rate.is_exceeded(self.waiting, STANDING_WORK);
        // Until it is certain, the latency may be that of a time when the application was faster.
        let old = (limited.latency * OLD).max(if certain { 0.0 } else { OLD_BACKLOG * limited.backlog });
        let time = |seconds: f64| Duration::from_secs_f64(seconds.min(LONGEST));
        // Four more answers, if the application is slow.
        let short = time(4.0 / self.rate.per_second.max(0.1)).max(SHORT);
        let long = time(4.0 * limited.backlog).max(LONG).max(short);
        let patience = if overloaded { short } else { long };
        let turnaround = f64::from(limited.limit) / self.rate.per_second.max(0.1);
        Admission {
            limit: Some(limited.now()),
            counted: limited.limit,
            old: Duration::try_from_secs_f64(old).unwrap_or(Duration::MAX),
            since: limited.since,
            patience,
            turnaround: overloaded.then(|| time(turnaround)),
        }
    }
}

impl Limited {
    fn now(&self) -> u32 {
        if self.halved { self.limit / 2 } else { self.limit }
    }

    /// Returns whether the first answers contradict the evidence for the limit. Otherwise the limit is plausible.
    fn is_refuted(&mut self, evidence: &Evidence, given_up: bool) -> bool {
        let Stage::Doubtful(fit) = &self.stage else { return false };
        if given_up {
            // An application that still works on what was given up is slower than it was.
            self.stage = Stage::Plausible;
            return false;
        }
        if evidence.count() < FIRST {
            return false;
        }
        let refuted = fit.misses(evidence, self.rate) > MISS;
        self.latency = evidence.latency();
        self.stage = Stage::Plausible;
        refuted
    }

    /// Goes from the limit to half of it, and back. Returns whether there is something to compare: while the limit is not certain,
    /// after either of them.
    fn turn(&mut self, now: Duration, standing: bool) -> bool {
        let compares = standing && !matches!(self.stage, Stage::Doubtful(_));
        if !self.halved && !compares {
            return false;
        }
        let half = u64::from(self.limit / 2 + HALF.max(self.limit / 4));
        let certain = matches!(self.stage, Stage::Certain);
        let whole = if certain { half * (WHOLE << self.settled) } else { half };
        let enough = self.answered >= if self.halved { half } else { whole };
        let length = now.saturating_sub(self.began);
        if enough && length >= 4 * ROUND || self.halved && length >= LONGEST_HALF {
            self.halved = !self.halved;
            self.answered = 0;
            self.began = now;
            return !self.halved || !certain;
        }
        false
    }

    /// Changes the limit if the evidence is sufficient.
    fn compare(&mut self, evidence: &mut Evidence) {
        let Some(fit) = evidence.fit().filter(|fit| fit.spread >= SPREAD && evidence.count() >= 24.0) else {
            return;
        };
        let mut slope = fit.slope;
        if fit.error > UNSURE {
            let by = CORRECTION * fit.error;
            slope = if slope > RIGHT { (slope - by).max(RIGHT) } else { (slope + by).min(RIGHT) };
            if (slope - RIGHT).abs() < CLEAR {
                return;
            }
        }
        let octaves = match slope {
            0.95.. => -1.0,
            // The limit was found too high when it was twice as much at most.
            ..0.1 if !self.lowered => 1.0,
            _ => (RIGHT - slope).clamp(-1.0, 1.0),
        };
        let limit = ((f64::from(self.limit) * octaves.exp2()).round() as u32).max(FLOOR);
        self.stage = if slope >= BUSY { Stage::Certain } else { Stage::Plausible };
        if limit.abs_diff(self.limit) <= 1.max(self.limit / 10) {
            self.settled = (self.settled + 1).min(SETTLED);
            self.lowered = false;
        } else {
            self.settled = 0;
            self.lowered = limit < self.limit;
            self.limit = limit;
        }
        self.latency = evidence.latency();
        *evidence = Evidence::default();
    }
}

impl Rate {
    /// Returns whether `requests` are more than what is answered in this time in seconds, and more than a few.
    fn is_exceeded(&self, requests: u32, time: f64) -> bool {
        f64::from(requests) > (self.per_second * time).max(f64::from(FIRST_FLOOR))
    }

    fn count(&mut self, round: &Round) {
        self.answered += round.answered;
        let length = round.now.saturating_sub(self.began).as_secs_f64();
        if length >= 0.1 {
            let latest = self.answered as f64 / length;
            // A pause does not make the application slow at once.
            self.per_second = if length > 1.0 { latest } else { latest.max(self.per_second * 0.8) };
            self.began = round.now;
            self.answered = 0;
        }
    }
}
