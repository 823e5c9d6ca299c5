//! Ejection by rate: failure percentage and success rate, each compared with the other endpoints of the cluster.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use outrigger_core::percentage::Percentage;

use super::compare::outlier_threshold;
use super::health::{Ejections, Health, Part, milliseconds};
use super::outcome::{Ejected, EjectionKind};
use super::settings::OutlierDetection;
use super::window::{Counts, Window};

impl OutlierDetection {
    /// Failure percentage ejection. Envoy evaluates it once per `interval`. Here it is evaluated on each failure, over the last
    /// tenth of the `interval` and then over all of it, and the endpoint must be clearly worse than the others. With enough
    /// traffic, an endpoint that starts to fail is therefore ejected before the `interval` is over.
    pub(super) fn by_percentage<'a>(
        &self,
        health: &'a Health,
        cluster: impl Iterator<Item = &'a Health> + Clone,
        now: Duration,
        sample: u32,
    ) -> Option<EjectionKind> {
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
            EjectionKind::FailurePercentageLocalOrigin
        } else {
            EjectionKind::FailurePercentage
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
            (both, rule.enforced, EjectionKind::SuccessRate),
            (Part::Local, rule.enforced_local, EjectionKind::SuccessRateLocalOrigin),
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
    pub(super) fn others<'a>(
        &self,
        health: &'a Health,
        cluster: impl Iterator<Item = &'a Health>,
        now: Duration,
    ) -> Counts {
        others_in(health, cluster, |other| self.counts(other, now))
    }
}

/// Returns the sum over the serving endpoints other than `health`.
pub(super) fn others_in<'a>(
    health: &'a Health,
    cluster: impl Iterator<Item = &'a Health>,
    counts: impl Fn(&Health) -> Counts,
) -> Counts {
    let others = cluster.filter(|other| !std::ptr::eq(*other, health) && other.is_serving());
    others.fold(Counts::default(), |sum, other| sum.and(counts(other)))
}
