//! How an endpoint is ejected: for how long, and how many endpoints of a cluster may be at once.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::compare::Tally;
use super::health::{Health, Part, SILENT, milliseconds};
use super::outcome::{Ejected, EjectionKind};
use super::settings::OutlierDetection;

impl OutlierDetection {
    /// Ejects the endpoint again, for longer, after a failed probe. Returns it to service if most requests fail elsewhere too.
    pub(super) fn probe_failed<'a>(
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
        health.of.ejected();
        Some(Ejected { kind: EjectionKind::FailedProbe, span })
    }

    /// Ejects an endpoint that does not answer, until [`Health::answered`] is called. Returns false if it is already ejected, or if
    /// no more endpoints may be.
    pub fn eject_silent(&self, health: &Health, endpoints: usize) -> bool {
        health.is_serving() && self.take(health, endpoints, SILENT)
    }

    pub(super) fn eject(
        &self,
        health: &Health,
        kind: EjectionKind,
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
        health.of.ejected();
        true
    }

    /// Returns the duration of an endpoint's `times`th ejection, and its end in milliseconds.
    fn span(&self, times: u32, now: Duration, sample: u32) -> (Duration, u64) {
        let jitter = self.jitter.mul_f64(f64::from(sample) / (f64::from(u32::MAX) + 1.0));
        let span = self.base_ejection.saturating_mul(times).min(self.max_ejection) + jitter;
        (span, milliseconds(now + span).clamp(1, SILENT - 1))
    }
}
