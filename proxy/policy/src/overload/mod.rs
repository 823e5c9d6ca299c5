//! Overload of an application: how many requests it gets at once, and how long others wait for it before they are refused.
//!
//! The data path asks in front of an application that the control plane marked (`Cluster.metadata`, `outrigger.overload`). The
//! state is that of the process, by cluster. [`control`] decides; this file collects what it decides by. If nothing is known of an
//! application, it gets all requests.

mod control;
mod ages;
mod evidence;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use self::ages::Ages;
use self::control::{Control, LONG, ROUND, Round};

/// Requests that overtake another one, for each request in flight, and at least.
const OVERTAKEN_BY: u32 = 2;
const OVERTAKEN_BY_LEAST: u32 = 32;

/// What is done about overload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OverloadMode {
    /// Nothing.
    #[default]
    Off,
    /// Requests that would have to wait are counted.
    Observe,
    /// Requests wait, or are refused.
    Enforce,
}

impl OverloadMode {
    /// Returns the mode of this name (`off`, `observe`, `enforce`), or `None` if there is none.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "off" => Some(Self::Off),
            "observe" => Some(Self::Observe),
            "enforce" => Some(Self::Enforce),
            _ => None,
        }
    }
}

/// The limit of one application. All workers share it.
#[derive(Debug)]
pub struct Limiter {
    ages: Ages,
    control: Mutex<Control>,
    /// When the last round was, in nanoseconds.
    round: AtomicU64,
    /// Requests in flight that do not count.
    overtaken: AtomicU32,
    /// `u32::MAX` is no limit.
    limit: AtomicU32,
    /// Requests that began as one of at most so many are evidence.
    counted: AtomicU32,
    /// The age from which requests do not count that began since this time, both in microseconds.
    old: AtomicU64,
    since: AtomicU64,
    /// In microseconds.
    patience: AtomicU64,
    /// In microseconds. Zero if the application is not overloaded.
    turnaround: AtomicU64,
}

/// A request that an application has.
#[derive(Debug, Clone, Copy)]
pub struct Begun {
    /// When it began, in nanoseconds.
    at: u64,
    /// The requests in flight, itself included.
    among: u32,
    epoch: u32,
}

impl Begun {
    fn at(self) -> Duration {
        Duration::from_nanos(self.at)
    }
}

/// What one worker has observed since the last round.
#[derive(Debug, Default)]
pub struct Observed(Round);

impl Default for Limiter {
    fn default() -> Self {
        Self {
            ages: Ages::default(),
            control: Mutex::default(),
            round: AtomicU64::new(0),
            overtaken: AtomicU32::new(0),
            limit: AtomicU32::new(u32::MAX),
            counted: AtomicU32::new(u32::MAX),
            old: AtomicU64::new(u64::MAX),
            since: AtomicU64::new(0),
            patience: AtomicU64::new(micros(LONG)),
            turnaround: AtomicU64::new(0),
        }
    }
}

impl Limiter {
    /// Records that the application gets a request `now`, and has `in_flight` then.
    pub fn begin(&self, now: Duration, in_flight: u32) -> Begun {
        Begun { at: now.as_nanos() as u64, among: self.counting(in_flight), epoch: self.ages.begin(now) }
    }

    /// Records that the application answers a request, as one of `in_flight`.
    pub fn answered(&self, begun: Begun, now: Duration, in_flight: u32, observed: &mut Observed) {
        self.ages.end(begun.epoch, true);
        observed.0.answered += 1;
        if begun.among <= self.counted.load(Relaxed) {
            observed.0.evidence.add(begun.among, self.counting(in_flight), now.saturating_sub(begun.at()));
        }
    }

    /// Records that a request ends without an answer. `given_up` says whether its client or a time limit ended it.
    pub fn unanswered(&self, begun: Begun, now: Duration, given_up: bool, observed: &mut Observed) {
        self.ages.end(begun.epoch, false);
        if given_up && now.saturating_sub(begun.at()) < LONG {
            observed.0.given_up += 1;
        }
    }

    /// Decides again, if it is time. `in_flight` requests are in flight and `waiting` wait. Returns the number of requests that may
    /// be in flight (`u32::MAX` is any number), or `None` if nothing was decided.
    pub fn round(&self, now: Duration, in_flight: u32, waiting: u32, observed: &mut Observed) -> Option<u32> {
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let last = self.round.load(Relaxed);
        if nanos.saturating_sub(last) < ROUND.as_nanos() as u64
            || self.round.compare_exchange(last, nanos, Relaxed, Relaxed).is_err()
        {
            return None;
        }
        let than = in_flight.saturating_mul(OVERTAKEN_BY).saturating_add(OVERTAKEN_BY_LEAST);
        let [since, old] = [&self.since, &self.old].map(|of| Duration::from_micros(of.load(Relaxed)));
        let overtaken = self.ages.overtaken(now, than, &(since..now.saturating_sub(old))).min(in_flight);
        self.overtaken.store(overtaken, Relaxed);
        let round =
            Round { now, in_flight: in_flight - overtaken, waiting, ..std::mem::take(&mut observed.0) };
        let admission = self.control.lock().unwrap_or_else(PoisonError::into_inner).round(&round);
        self.patience.store(micros(admission.patience), Relaxed);
        self.turnaround.store(micros(admission.turnaround.unwrap_or_default()), Relaxed);
        self.counted.store(admission.counted, Relaxed);
        self.old.store(micros(admission.old), Relaxed);
        self.since.store(micros(admission.since), Relaxed);
        let limit = admission.limit.map_or(u32::MAX, |limit| limit.saturating_add(overtaken));
        self.limit.store(limit, Relaxed);
        Some(limit)
    }

    /// Returns the number of requests that may be in flight; `u32::MAX` is any number.
    pub fn limit(&self) -> u32 {
        self.limit.load(Relaxed)
    }

    /// Returns true if a limit was decided about since it was last stopped, also if the decision was that there is none.
    pub fn is_used(&self) -> bool {
        self.round.load(Relaxed) != 0
    }

    /// Removes the limit and what it was decided by: nothing is done about overload any more.
    pub fn stop(&self) {
        *self.control.lock().unwrap_or_else(PoisonError::into_inner) = Control::default();
        self.limit.store(u32::MAX, Relaxed);
        self.counted.store(u32::MAX, Relaxed);
        self.patience.store(micros(LONG), Relaxed);
        self.turnaround.store(0, Relaxed);
        self.round.store(0, Relaxed);
    }

    /// Returns how long a request waits before it is refused.
    pub fn patience(&self) -> Duration {
        Duration::from_micros(self.patience.load(Relaxed))
    }

    /// Returns how long the application takes for a request that it gets now, if it is overloaded.
    pub fn turnaround(&self) -> Option<Duration> {
        let turnaround = Duration::from_micros(self.turnaround.load(Relaxed));
        (!turnaround.is_zero()).then_some(turnaround)
    }

    fn counting(&self, in_flight: u32) -> u32 {
        in_flight.saturating_sub(self.overtaken.load(Relaxed)).max(1)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
