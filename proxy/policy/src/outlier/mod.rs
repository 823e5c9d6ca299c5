//! Outlier detection: ejection of endpoints that keep failing (`envoy.config.cluster.v3.OutlierDetection`).
//!
//! A pure state machine over counters that all workers share. The caller passes `now`, measured from any fixed moment. An
//! endpoint's counters survive configuration updates; the limits are those of the current configuration. Three conditions
//! eject: consecutive failures, too high a failure percentage over the last `interval`, and, compared once per `interval`,
//! a success rate below that of the other endpoints. No endpoint is ejected by rate for what all endpoints do alike.

mod settings;
mod health;
mod compare;
mod window;

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use outrigger_core::percentage::Percentage;

use self::compare::{Tally, is_worse_run, outlier_threshold};
pub use self::health::{Ejections, Health, Standing};
use self::health::{Part, SILENT, milliseconds, reset};
use self::settings::Limit;
pub use self::settings::OutlierDetection;
use self::window::{Counted, Counts, Window};

/// The outcome of an attempt, for outlier detection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A status below 500, except 429; for gRPC, any status not listed below.
    Success,
    /// 429; gRPC resource exhausted. The endpoint works, but is overloaded: not a failure that ejects, nor a good answer.
    Overloaded,
    /// 500 or above, except 502 to 504; gRPC internal, unknown, data loss, unimplemented.
    ServerError,
    /// 502, 503, 504; gRPC unavailable, deadline exceeded.
    GatewayError,
    /// No answer, or an incomplete one: failed to connect, reset, timed out.
    LocalOrigin,
}

/// Why an endpoint is ejected (Envoy's `OutlierEjectionType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `consecutive_5xx`.
    Consecutive5xx,
    /// `consecutive_gateway_failure`.
    ConsecutiveGatewayFailure,
    /// `consecutive_local_origin_failure`.
    ConsecutiveLocalOriginFailure,
    /// Success rate of answered requests, or of all requests without `split_external_local_origin_errors`.
    SuccessRate,
    /// Success rate, counting only requests without an answer as failures.
    SuccessRateLocalOrigin,
    /// Failure percentage; most failures were answers.
    FailurePercentage,
    /// Failure percentage; most failures were requests without an answer.
    FailurePercentageLocalOrigin,
    /// A probe after an ejection failed.
    FailedProbe,
}

/// An endpoint was ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejected {
    /// Why.
    pub kind: Kind,
    /// For how long it gets no requests.
    pub span: Duration,
}

impl Kind {
    /// Returns the name that metrics and log lines use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGatewayFailure => "consecutive_gateway_failure",
            Self::ConsecutiveLocalOriginFailure => "consecutive_local_origin_failure",
            Self::SuccessRate => "success_rate",
            Self::SuccessRateLocalOrigin => "success_rate_local_origin",
            Self::FailurePercentage => "failure_percentage",
            Self::FailurePercentageLocalOrigin => "failure_percentage_local_origin",
            Self::FailedProbe => "failed_probe",
        }
    }
}

impl Outcome {
    /// Returns whether the attempt failed. [`Self::Overloaded`] is not a failure.
    pub fn is_failure(self) -> bool {
        !matches!(self, Self::Success | Self::Overloaded)
    }

    fn counted(self) -> Counted {
        match self {
            Self::Success | Self::Overloaded => Counted::Succeeded,
            Self::ServerError | Self::GatewayError => Counted::Failed,
            Self::LocalOrigin => Counted::FailedLocally,
        }
    }
}

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
        match health.standing(now) {
            Standing::Serving => {}
            // The request was in flight when the endpoint was ejected, or no other endpoint was left.
            Standing::Ejected => return None,
            Standing::Probed if outcome.is_failure() => {
                return self.probe_failed(health, cluster, now, sample);
            }
            Standing::Probed => {
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
    ) -> Option<Kind> {
        let local = outcome == Outcome::LocalOrigin;
        if local && self.split {
            // Envoy does not compare here. If all endpoints fail alike, none of them is the cause.
            let worse = |failures| {
                let others = Part::Local.of(self.others(health, cluster.clone(), now));
                let recent = others_in(health, cluster, |of| of.window.recent(now, self.interval));
                is_worse_run(failures, others, Part::Local.of(recent))
            };
            return reached(&health.consecutive_local, self.consecutive_local, worse, sample)
                .then_some(Kind::ConsecutiveLocalOriginFailure);
        }
        let mut kind = None;
        if local || outcome == Outcome::GatewayError {
            reached(&health.consecutive_gateway, self.consecutive_gateway, |_| true, sample)
                .then(|| kind = Some(Kind::ConsecutiveGatewayFailure));
        } else {
            reset(&health.consecutive_gateway);
        }
        if !local {
            reset(&health.consecutive_local);
        }
        // Both counters must count the failure.
        reached(&health.consecutive_5xx, self.consecutive_5xx, |_| true, sample)
            .then(|| kind = Some(Kind::Consecutive5xx));
        kind
    }

    /// Failure percentage ejection. Envoy evaluates it once per `interval`. Here it is evaluated on each failure, over the last
    /// tenth of the `interval` and then over all of it, and the endpoint must be clearly worse than the others. With enough
    /// traffic, an endpoint that starts to fail is therefore ejected before the `interval` is over.
    fn by_percentage<'a>(
        &self,
        health: &'a Health,
        cluster: impl Iterator<Item = &'a Health> + Clone,
        now: Duration,
        sample: u32,
    ) -> Option<Kind> {
        let rule = &self.failure_percentage;
        let (part, enforced) = match (rule.enforced, rule.enforced_local) {
            (Percentage::ZERO, Percentage::ZERO) => return None,
            (enforced, _) if !self.split => (Part::All, enforced),
            (Percentage::ZERO, local) => (Part::Local, local),
            (enforced, Percentage::ZERO) => (Part::Answered, enforced),
            // If both are enforced, failures of either kind add up: an endpoint may fail half of its requests in each way.
            (enforced, local) => (Part::All, enforced.max(local)),
        };
        if milliseconds(now) < health.spared_until.load(Relaxed) {
            return None;
        }
        let volume = u64::from(rule.request_volume);
        let spans: [fn(&Window, Duration, Duration) -> Counts; 2] = [Window::recent, Window::counts];
        let counts = spans.into_iter().find_map(|span| {
            let counts = |of: &Health| span(&of.window, now, self.interval);
            let own = part.of(counts(health));
            let fails = own.total >= volume && own.failed * 100 >= u64::from(rule.threshold) * own.total;
            let known = cluster.clone().filter(|of| of.is_serving() && part.of(counts(of)).total >= volume);
            let worse = fails
                && known.count() >= rule.minimum_hosts as usize
                && own.is_clearly_worse_than(part.of(others_in(health, cluster.clone(), counts)));
            worse.then(|| counts(health))
        })?;
        if !enforced.holds(sample) {
            health.spared_until.store(milliseconds(now + self.interval), Relaxed);
            return None;
        }
        Some(if self.split && counts.local > counts.answered {
            Kind::FailurePercentageLocalOrigin
        } else {
            Kind::FailurePercentage
        })
    }

    /// Success rate ejection, if it is enabled and `interval` has elapsed since the last comparison. Every worker calls it about
    /// once a second. `ejected` is called for each ejection, with the endpoint's index in `cluster`.
    ///
    /// As in Envoy, but an endpoint must also be worse than the others by more than chance explains.
    pub fn compare<'a>(
        &self,
        of: &Ejections,
        cluster: impl Iterator<Item = &'a Health> + Clone,
        now: Duration,
        mut sample: impl FnMut() -> u32,
        mut ejected: impl FnMut(usize, Ejected),
    ) {
        let rule = &self.success_rate;
        let both = if self.split { Part::Answered } else { Part::All };
        let rules = [
            (both, rule.enforced, Kind::SuccessRate),
            (Part::Local, rule.enforced_local, Kind::SuccessRateLocalOrigin),
        ];
        if rules.iter().all(|(_, enforced, _)| *enforced == Percentage::ZERO) || !self.is_due(of, now) {
            return;
        }
        for (part, enforced, kind) in rules.into_iter().filter(|rule| rule.1 > Percentage::ZERO) {
            let tally = |health: &Health| part.of(self.counts(health, now));
            let known: Vec<_> = (cluster.clone().enumerate())
                .filter(|(_, health)| health.is_serving())
                .map(|(at, health)| (at, health, tally(health)))
                .filter(|(_, _, tally)| tally.total >= u64::from(rule.request_volume).max(1))
                .collect();
            if known.len() < rule.minimum_hosts as usize {
                continue;
            }
            let rates: Vec<_> = known.iter().map(|(.., tally)| 1.0 - tally.rate()).collect();
            let deviations = f64::from(rule.stdev_factor) / 1000.0;
            let Some(threshold) = outlier_threshold(&rates, deviations) else { continue };
            for (at, health, own) in known {
                let others = part.of(self.others(health, cluster.clone(), now));
                if 1.0 - own.rate() < threshold
                    && own.is_surely_worse_than(others)
                    && enforced.holds(sample())
                {
                    let one = self.eject(health, kind, cluster.clone().count(), now, sample());
                    one.into_iter().for_each(|one| ejected(at, one));
                }
            }
        }
    }

    /// Returns whether success rates are to be compared now. Returns true to only one of several workers.
    fn is_due(&self, of: &Ejections, now: Duration) -> bool {
        let (last, now) = (of.compared.load(Relaxed), milliseconds(now).max(1));
        if last != 0 && now.saturating_sub(last) < milliseconds(self.interval) {
            return false;
        }
        let first = of.compared.compare_exchange(last, now, Relaxed, Relaxed).is_ok();
        // The first interval begins with the first call.
        first && last != 0
    }

    fn counts(&self, health: &Health, now: Duration) -> Counts {
        health.window.counts(now, self.interval)
    }

    /// Returns the sum over the other serving endpoints.
    fn others<'a>(
        &self,
        health: &'a Health,
        cluster: impl Iterator<Item = &'a Health>,
        now: Duration,
    ) -> Counts {
        others_in(health, cluster, |other| self.counts(other, now))
    }

    /// Ejects the endpoint again, for longer, after a failed probe. Returns it to service if most requests fail elsewhere too.
    fn probe_failed<'a>(
        &self,
        health: &'a Health,
        cluster: impl Iterator<Item = &'a Health> + Clone,
        now: Duration,
        sample: u32,
    ) -> Option<Ejected> {
        let others: Tally = Part::All.of(self.others(health, cluster, now));
        health.probe_ended();
        if others.rate() > 0.5 {
            health.serve(now);
            return None;
        }
        let times = health.ejections.load(Relaxed).saturating_add(1);
        let (span, until) = self.span(times, now, sample);
        let before = health.ejected_until.load(Relaxed);
        if before == 0 || health.ejected_until.compare_exchange(before, until, Relaxed, Relaxed).is_err() {
            return None;
        }
        health.ejections.store(times, Relaxed);
        health.of.total.fetch_add(1, Relaxed);
        Some(Ejected { kind: Kind::FailedProbe, span })
    }

    /// Ejects an endpoint that does not answer, until [`Health::heard`] is called. Returns false if it is already ejected, or if
    /// no more endpoints may be.
    pub fn eject_silent(&self, health: &Health, endpoints: usize) -> bool {
        health.is_serving() && self.take(health, endpoints, SILENT)
    }

    fn eject(
        &self,
        health: &Health,
        kind: Kind,
        endpoints: usize,
        now: Duration,
        sample: u32,
    ) -> Option<Ejected> {
        if !health.is_serving() {
            return None;
        }
        // Each whole interval without an ejection decrements the multiplier, as in Envoy.
        let since = now.saturating_sub(Duration::from_millis(health.returned.load(Relaxed)));
        let forgiven =
            u32::try_from(since.as_millis() / self.interval.as_millis().max(1)).unwrap_or(u32::MAX);
        let times = health.ejections.load(Relaxed).saturating_sub(forgiven).saturating_add(1);
        let (span, until) = self.span(times, now, sample);
        if !self.take(health, endpoints, until) {
            return None;
        }
        health.ejections.store(times, Relaxed);
        Some(Ejected { kind, span })
    }

    /// Marks a serving endpoint as ejected. Returns false if too many are.
    fn take(&self, health: &Health, endpoints: usize, until: u64) -> bool {
        let may = |ejected: u32| {
            let after = (u64::from(ejected) + 1) * 1_000_000;
            let most = endpoints as u64 * u64::from(self.max_ejected.millionths());
            (after <= most || self.always_eject_one && ejected == 0).then(|| ejected + 1)
        };
        if health.of.now.fetch_update(Relaxed, Relaxed, may).is_err() {
            return false;
        }
        // Two workers may race here: the first ejects, the other undoes its count.
        if health.ejected_until.compare_exchange(0, until, Relaxed, Relaxed).is_err() {
            health.of.now.fetch_sub(1, Relaxed);
            return false;
        }
        health.of.total.fetch_add(1, Relaxed);
        true
    }

    /// Returns the duration of an endpoint's `times`th ejection, and its end in milliseconds.
    fn span(&self, times: u32, now: Duration, sample: u32) -> (Duration, u64) {
        let jitter = self.jitter.mul_f64(f64::from(sample) / (f64::from(u32::MAX) + 1.0));
        let span = self.base_ejection.saturating_mul(times).min(self.max_ejection) + jitter;
        (span, milliseconds(now + span).clamp(1, SILENT - 1))
    }
}

/// Returns the sum over the serving endpoints other than `health`.
fn others_in<'a>(
    health: &'a Health,
    cluster: impl Iterator<Item = &'a Health>,
    counts: impl Fn(&Health) -> Counts,
) -> Counts {
    let others = cluster.filter(|other| !std::ptr::eq(*other, health) && other.is_serving());
    others.fold(Counts::default(), |sum, other| sum.and(counts(other)))
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
