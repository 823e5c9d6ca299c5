//! What active checks have found of one endpoint. All workers share it, and one of them checks the endpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::CheckOutcome;
use crate::outlier::Ejections;

/// No check has ended yet.
const PENDING: u8 = 0;
const HEALTHY: u8 = 1;
const UNHEALTHY: u8 = 2;

/// The result of the checks of one endpoint. One per cluster name and address, while the endpoint exists.
#[derive(Debug)]
pub struct Checked {
    of: Arc<Ejections>,
    state: AtomicU8,
    /// The milliseconds before it recovered, and one. Zero if it has not.
    recovered: AtomicU64,
    claimed: AtomicBool,
}

/// The right to check an endpoint, which one task of the process has. Another one can claim it when it is dropped.
#[derive(Debug)]
pub struct CheckClaim(Arc<Checked>);

/// Checks in a row with one outcome.
#[derive(Debug, Default)]
pub struct Progress {
    passed: u32,
    failed: u32,
}

/// A change of an endpoint's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// It gets its share of requests from now on.
    Healthy,
    /// It gets none from now on, or still none.
    Unhealthy,
}

impl Checked {
    /// Creates the state of an endpoint that was not checked yet. Changes are counted in `of`.
    pub fn new(of: Arc<Ejections>) -> Self {
        Self {
            of,
            state: AtomicU8::new(PENDING),
            recovered: AtomicU64::new(0),
            claimed: AtomicBool::new(false),
        }
    }

    /// Returns whether enough checks have passed, and not enough failed since.
    pub fn is_healthy(&self) -> bool {
        self.state.load(Relaxed) == HEALTHY
    }

    /// Returns whether no check has ended yet.
    pub fn is_pending(&self) -> bool {
        self.state.load(Relaxed) == PENDING
    }

    /// Records that the endpoint begins to pass at `now`, although it was not in use before (slow start).
    pub fn recovers(&self, now: Duration) {
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.recovered.store(millis.saturating_add(1), Relaxed);
    }

    /// Returns the last time at which [`Self::recovers`] was called, if it was.
    pub fn recovered(&self) -> Option<Duration> {
        self.recovered.load(Relaxed).checked_sub(1).map(Duration::from_millis)
    }

    /// Takes an endpoint that was not checked yet for a healthy one, because it was in use before checks were configured.
    pub fn assume_healthy(&self) {
        if self.state.compare_exchange(PENDING, HEALTHY, Relaxed, Relaxed).is_ok() {
            self.of.changed();
        }
    }

    /// Returns whether a task checks the endpoint.
    pub fn is_claimed(&self) -> bool {
        self.claimed.load(Relaxed)
    }

    /// Claims the right to check the endpoint. Returns `None` if another task has it.
    pub fn claim(self: &Arc<Self>) -> Option<CheckClaim> {
        let claimed = self.is_claimed() || self.claimed.swap(true, Relaxed);
        (!claimed).then(|| CheckClaim(Arc::clone(self)))
    }

    pub(super) fn set(&self, healthy: bool) -> Option<Transition> {
        let (state, transition) = match healthy {
            true => (HEALTHY, Transition::Healthy),
            false => (UNHEALTHY, Transition::Unhealthy),
        };
        let before = self.state.swap(state, Relaxed);
        (before != state).then(|| {
            self.of.changed();
            transition
        })
    }
}

impl CheckClaim {
    /// Returns the state of the endpoint.
    pub fn checked(&self) -> &Checked {
        &self.0
    }
}

impl Drop for CheckClaim {
    fn drop(&mut self) {
        self.0.claimed.store(false, Relaxed);
    }
}

impl Progress {
    /// Counts an outcome. Returns how many checks in a row had it. The `first` one that passes is enough.
    pub(super) fn count(&mut self, outcome: CheckOutcome, first: bool) -> u32 {
        let (same, other) = match outcome {
            CheckOutcome::Passed => (&mut self.passed, &mut self.failed),
            CheckOutcome::Failed | CheckOutcome::Refused => (&mut self.failed, &mut self.passed),
        };
        *other = 0;
        *same = if first { u32::MAX } else { same.saturating_add(1) };
        *same
    }
}
