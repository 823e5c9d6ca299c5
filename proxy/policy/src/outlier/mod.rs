//! Outlier detection: ejection of endpoints that keep failing (`envoy.config.cluster.v3.OutlierDetection`).
//!
//! A pure state machine over counters that all workers share. The caller passes `now`, measured from any fixed moment. An
//! endpoint's counters survive configuration updates; the limits are those of the current configuration. Three conditions
//! eject: consecutive failures, too high a failure percentage over the last `interval`, and, compared once per `interval`,
//! a success rate below that of the other endpoints. No endpoint is ejected by rate for what all endpoints do alike.

mod rates;
mod ejection;
mod settings;
mod health;
mod compare;
mod outcome;
mod window;

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use self::compare::is_worse_run;
pub use self::health::{EjectionState, Ejections, Health};
use self::health::{Part, reset};
pub use self::outcome::{Ejected, EjectionKind, Outcome};
use self::rates::others_in;
use self::settings::Limit;
pub use self::settings::OutlierDetection;
use self::window::Counted;

impl OutlierDetection {
    /// Counts an outcome at an endpoint. Returns the ejection if the endpoint is ejected for it. `cluster` are all endpoints of
    /// its cluster, including itself.
    ///
    /// `sample` is random, uniform over `u32`. A success costs a few loads and one addition unless requests failed before.
    pub fn observe<'a>(
        &self,
        health: &'a Health,
        outcome: Outcome,
        cluster: impl Iterator<Item = &'a Health> + Clone,
        now: Duration,
        sample: u32,
    ) -> Option<Ejected> {
        self.judge(health, outcome, outcome.counted(), cluster, now, sample)
    }

    /// Counts the failure of a request that was counted as a success when the head of its answer arrived.
    pub fn observe_late<'a>(
        &self,
        health: &'a Health,
        outcome: Outcome,
        cluster: impl Iterator<Item = &'a Health> + Clone,
        now: Duration,
        sample: u32,
    ) -> Option<Ejected> {
        let counted = match outcome.counted() {
            Counted::Failed => Counted::TurnedFailed,
            Counted::FailedLocally => Counted::TurnedFailedLocally,
            _ => return None,
        };
        self.judge(health, outcome, counted, cluster, now, sample)
    }

    fn judge<'a>(
        &self,
        health: &'a Health,
        outcome: Outcome,
        counted: Counted,
        cluster: impl Iterator<Item = &'a Health> + Clone,
        now: Duration,
        sample: u32,
    ) -> Option<Ejected> {
        health.window.count(counted, now, self.interval);
        match health.state(now) {
            EjectionState::Serving => {}
            // The request was in flight when the endpoint was ejected, or no other endpoint was left.
            EjectionState::Ejected => return None,
            EjectionState::Probed if outcome.is_failure() => {
                return self.probe_failed(health, cluster, now, sample);
            }
            EjectionState::Probed => {
                health.probe_succeeded(now);
                return None;
            }
        }
        if !outcome.is_failure() {
            health.succeeded();
            return None;
        }
        let kind = self
            .by_failures_in_a_row(health, outcome, cluster.clone(), now, sample)
            .or_else(|| self.by_percentage(health, cluster.clone(), now, sample))?;
        self.eject(health, kind, cluster.count(), now, sample)
    }

    fn by_failures_in_a_row<'a>(
        &self,
        health: &'a Health,
        outcome: Outcome,
        cluster: impl Iterator<Item = &'a Health> + Clone,
        now: Duration,
        sample: u32,
    ) -> Option<EjectionKind> {
        let local = outcome == Outcome::LocalOrigin;
        if local && self.split {
            // Envoy does not compare here. If all endpoints fail alike, none of them is the cause.
            let worse = |failures| {
                let others = Part::Local.of(self.others(health, cluster.clone(), now));
                let recent = others_in(health, cluster, |of| of.window.recent(now, self.interval));
                is_worse_run(failures, others, Part::Local.of(recent))
            };
            return reached(&health.consecutive_local, self.consecutive_local, worse, sample)
                .then_some(EjectionKind::ConsecutiveLocalOriginFailure);
        }
        let mut kind = None;
        if local || outcome == Outcome::GatewayError {
            reached(&health.consecutive_gateway, self.consecutive_gateway, |_| true, sample)
                .then(|| kind = Some(EjectionKind::ConsecutiveGatewayFailure));
        } else {
            reset(&health.consecutive_gateway);
        }
        if !local {
            reset(&health.consecutive_local);
        }
        // Both counters must count the failure.
        reached(&health.consecutive_5xx, self.consecutive_5xx, |_| true, sample)
            .then(|| kind = Some(EjectionKind::Consecutive5xx));
        kind
    }
}

/// Counts a failure. Returns whether the limit is reached and enforced. `worse` is called for each failure at or beyond the
/// limit.
fn reached(counter: &AtomicU32, limit: Option<Limit>, worse: impl FnOnce(u32) -> bool, sample: u32) -> bool {
    let failures = counter.fetch_add(1, Relaxed).saturating_add(1);
    let Some(limit) = limit.filter(|limit| failures >= limit.failures) else { return false };
    if !worse(failures) {
        return false;
    }
    // Restarts at zero, as in Envoy: a limit that is enforced with a probability is sampled once each time it is reached.
    counter.store(0, Relaxed);
    limit.enforced.holds(sample)
}

#[cfg(test)]
mod tests;
