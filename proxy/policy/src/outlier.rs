//! Ejection of endpoints that keep failing (`envoy.config.cluster.v3.OutlierDetection`): the circuit breaker.
//!
//! A pure state machine over counters that all workers share: `now` comes in, counted from any fixed moment. What an
//! endpoint did outlives every config update; limits come from the config of the moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use outrigger_core::percentage::Percentage;
use outrigger_proto::xds::{cluster, protobuf};

use crate::field::{Unusable, number, percent, positive_duration, unsupported, unsupported_any};

/// The end of an ejection that no clock ends.
const SILENT: u64 = u64::MAX;

/// When a cluster's endpoints are ejected, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Failures of any kind in a row. `None`: not counted.
    consecutive_5xx: Option<Limit>,
    /// 502, 503, 504 in a row; without `split`, failures to connect and resets too.
    consecutive_gateway: Option<Limit>,
    /// Failures to connect, timeouts and resets in a row; counted with `split` only.
    consecutive_local: Option<Limit>,
    split: bool,
    interval: Duration,
    base_ejection: Duration,
    max_ejection: Duration,
    max_ejected: Percentage,
    always_eject_one: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit {
    failures: u32,
    /// How often reaching the limit has a consequence.
    enforced: Percentage,
}

/// How a try at an endpoint ended, as ejection sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An answer below 500; for gRPC, any answer but those below.
    Success,
    /// 429; gRPC resource exhausted. The endpoint works and asks for less: no failure that ejects, and no good answer.
    Overloaded,
    /// 500 or above, but not of a gateway; gRPC internal, unknown, data loss, unimplemented.
    ServerError,
    /// 502, 503, 504; gRPC unavailable, deadline exceeded.
    GatewayError,
    /// No answer: failed to connect, reset, timed out.
    LocalOrigin,
}

/// How many endpoints of a cluster are ejected. One for each cluster name, for the life of the process.
#[derive(Debug, Default)]
pub struct Ejections {
    now: AtomicU32,
    total: AtomicU64,
}

/// What one endpoint did lately. One for each cluster name and address, while the endpoint exists.
#[derive(Debug)]
pub struct Health {
    of: Arc<Ejections>,
    consecutive_5xx: AtomicU32,
    consecutive_gateway: AtomicU32,
    consecutive_local: AtomicU32,
    /// In milliseconds, rounded up; zero while serving, [`SILENT`] while it is not known how long.
    ejected_until: AtomicU64,
    /// When it last came back, in milliseconds.
    returned: AtomicU64,
    ejections: AtomicU32,
}

impl OutlierDetection {
    /// Reads the settings; absent fields are Envoy's defaults. `None` when the cluster has none.
    pub fn decode(wire: Option<cluster::OutlierDetection>) -> Result<Option<Self>, Unusable> {
        wire.map(Self::read).transpose()
    }

    fn read(wire: cluster::OutlierDetection) -> Result<Self, Unusable> {
        let cluster::OutlierDetection {
            consecutive_5xx,
            interval,
            base_ejection_time,
            max_ejection_percent,
            enforcing_consecutive_5xx,
            enforcing_success_rate,
            // Settings of kinds of detection that are refused below unless they are off or left to their defaults.
            success_rate_minimum_hosts: _,
            success_rate_request_volume: _,
            success_rate_stdev_factor: _,
            failure_percentage_threshold: _,
            failure_percentage_minimum_hosts: _,
            failure_percentage_request_volume: _,
            consecutive_gateway_failure,
            enforcing_consecutive_gateway_failure,
            split_external_local_origin_errors,
            consecutive_local_origin_failure,
            enforcing_consecutive_local_origin_failure,
            enforcing_local_origin_success_rate,
            enforcing_failure_percentage,
            enforcing_failure_percentage_local_origin,
            max_ejection_time,
            // Spreads returns out. Endpoints come back one by one here anyway: each is ejected when its own failures say so.
            max_ejection_time_jitter: _,
            // There are no active health checks yet that could end an ejection.
            successful_active_health_check_uneject_host: _,
            monitors,
            always_eject_one_host,
            detect_degraded_hosts,
        } = wire;
        // Ejection by success rate is on in Envoy when nothing is said. Its absence here is accepted: consecutive failures
        // find the same endpoints, later. Whoever asks for it by name is told.
        let asked =
            |value: &Option<protobuf::UInt32Value>| value.as_ref().is_some_and(|asked| asked.value > 0);
        unsupported_any(&[
            ("enforcing_success_rate", asked(&enforcing_success_rate)),
            ("enforcing_local_origin_success_rate", asked(&enforcing_local_origin_success_rate)),
            ("enforcing_failure_percentage", asked(&enforcing_failure_percentage)),
            ("enforcing_failure_percentage_local_origin", asked(&enforcing_failure_percentage_local_origin)),
            ("monitors", !monitors.is_empty()),
        ])?;
        unsupported("detect_degraded_hosts", crate::field::flag(detect_degraded_hosts))?;
        let limit = |field, failures: Option<protobuf::UInt32Value>, enforced: Option<_>, default| {
            let enforced = percent(field, number(enforced).unwrap_or(default))?;
            let failures = number(failures).unwrap_or(5);
            Ok((failures > 0 && enforced > Percentage::ZERO).then_some(Limit { failures, enforced }))
        };
        let base_ejection =
            positive_duration("base_ejection_time", base_ejection_time)?.unwrap_or(Duration::from_secs(30));
        let max_ejection =
            positive_duration("max_ejection_time", max_ejection_time)?.unwrap_or(Duration::from_secs(300));
        Ok(Self {
            consecutive_5xx: limit(
                "enforcing_consecutive_5xx",
                consecutive_5xx,
                enforcing_consecutive_5xx,
                100,
            )?,
            consecutive_gateway: limit(
                "enforcing_consecutive_gateway_failure",
                consecutive_gateway_failure,
                enforcing_consecutive_gateway_failure,
                0,
            )?,
            consecutive_local: limit(
                "enforcing_consecutive_local_origin_failure",
                consecutive_local_origin_failure,
                enforcing_consecutive_local_origin_failure,
                100,
            )?,
            split: split_external_local_origin_errors,
            interval: positive_duration("interval", interval)?.unwrap_or(Duration::from_secs(10)),
            base_ejection,
            max_ejection: max_ejection.max(base_ejection),
            max_ejected: percent("max_ejection_percent", number(max_ejection_percent).unwrap_or(10))?,
            always_eject_one: crate::field::flag(always_eject_one_host),
        })
    }

    /// Counts an outcome at an endpoint of a cluster that has `endpoints` of them; says for how long it ejects it.
    ///
    /// `sample` is uniform over `u32`. Success costs three loads when nothing failed before.
    pub fn observe(
        &self,
        health: &Health,
        outcome: Outcome,
        endpoints: usize,
        now: Duration,
        sample: u32,
    ) -> Option<Duration> {
        let reached = match (outcome, self.split) {
            (Outcome::Success | Outcome::Overloaded, _) => {
                health.succeeded();
                false
            }
            (Outcome::ServerError, _) => {
                reset(&health.consecutive_gateway);
                reset(&health.consecutive_local);
                self.reached(&health.consecutive_5xx, self.consecutive_5xx, sample)
            }
            (Outcome::LocalOrigin, true) => {
                self.reached(&health.consecutive_local, self.consecutive_local, sample)
            }
            // Both counters must see the failure, so that neither call is cut short.
            (Outcome::GatewayError, split) | (Outcome::LocalOrigin, split) => {
                if split {
                    reset(&health.consecutive_local);
                }
                self.reached(&health.consecutive_5xx, self.consecutive_5xx, sample)
                    | self.reached(&health.consecutive_gateway, self.consecutive_gateway, sample)
            }
        };
        if reached { self.eject(health, endpoints, now) } else { None }
    }

    fn reached(&self, counter: &AtomicU32, limit: Option<Limit>, sample: u32) -> bool {
        let failures = counter.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let Some(limit) = limit.filter(|limit| failures >= limit.failures) else { return false };
        // Counts anew, as Envoy does: where a limit is enforced by chance, it has one for each time that it is reached.
        counter.store(0, Ordering::Relaxed);
        limit.enforced.holds(sample)
    }

    /// Ejects an endpoint that answers nothing, until [`Health::heard`] says that it does again. False where no more may be
    /// ejected, or it is already.
    pub fn eject_silent(&self, health: &Health, endpoints: usize, now: Duration) -> bool {
        !health.is_ejected(now) && self.take(health, endpoints, SILENT)
    }

    fn eject(&self, health: &Health, endpoints: usize, now: Duration) -> Option<Duration> {
        if health.is_ejected(now) {
            return None;
        }
        // Every whole interval that an endpoint served well takes one off the multiplier, as in Envoy.
        let since = now.saturating_sub(Duration::from_millis(health.returned.load(Ordering::Relaxed)));
        let forgiven =
            u32::try_from(since.as_millis() / self.interval.as_millis().max(1)).unwrap_or(u32::MAX);
        let times = health.ejections.load(Ordering::Relaxed).saturating_sub(forgiven).saturating_add(1);
        let span = self.base_ejection.saturating_mul(times).min(self.max_ejection);
        let until = u64::try_from((now + span).as_millis()).unwrap_or(u64::MAX).clamp(1, SILENT - 1);
        if !self.take(health, endpoints, until) {
            return None;
        }
        health.ejections.store(times, Ordering::Relaxed);
        Some(span)
    }

    /// Marks a serving endpoint as ejected, unless too many are.
    fn take(&self, health: &Health, endpoints: usize, until: u64) -> bool {
        let may = |ejected: u32| {
            let after = (u64::from(ejected) + 1) * 1_000_000;
            let most = endpoints as u64 * u64::from(self.max_ejected.millionths());
            (after <= most || self.always_eject_one && ejected == 0).then(|| ejected + 1)
        };
        if health.of.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, may).is_err() {
            return false;
        }
        // Two workers may have come here together: the one that is first ejects, the other gives its count back.
        if health.ejected_until.compare_exchange(0, until, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            health.of.now.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        health.of.total.fetch_add(1, Ordering::Relaxed);
        true
    }
}

impl Ejections {
    /// How many endpoints are ejected now. One whose time is up counts until somebody asks for it.
    pub fn now(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }

    /// How many ejections there ever were.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

impl Health {
    /// An endpoint that has done nothing yet.
    pub fn new(of: Arc<Ejections>) -> Self {
        Self {
            of,
            consecutive_5xx: AtomicU32::new(0),
            consecutive_gateway: AtomicU32::new(0),
            consecutive_local: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            returned: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
        }
    }

    /// Whether the endpoint gets no requests at `now`. Brings it back when its time is up.
    pub fn is_ejected(&self, now: Duration) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        if until == 0 {
            return false;
        }
        if now.as_millis() < u128::from(until) {
            return true;
        }
        if self.ejected_until.compare_exchange(until, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.returned.store(until, Ordering::Relaxed);
            self.succeeded();
            self.of.now.fetch_sub(1, Ordering::Relaxed);
        }
        false
    }

    /// Whether the endpoint is ejected because it answers nothing.
    pub fn is_silent(&self) -> bool {
        self.ejected_until.load(Ordering::Relaxed) == SILENT
    }

    /// The endpoint has answered. Ends an ejection for silence; says whether there was one.
    pub fn heard(&self) -> bool {
        let ended = self.is_silent()
            && self.ejected_until.compare_exchange(SILENT, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if ended {
            self.succeeded();
            self.of.now.fetch_sub(1, Ordering::Relaxed);
        }
        ended
    }

    fn succeeded(&self) {
        reset(&self.consecutive_5xx);
        reset(&self.consecutive_gateway);
        reset(&self.consecutive_local);
    }
}

/// An endpoint that leaves the cluster is no longer among its ejected ones.
impl Drop for Health {
    fn drop(&mut self) {
        if *self.ejected_until.get_mut() != 0 {
            self.of.now.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Writes only when there is something to write, so that healthy endpoints' counters stay in every core's cache.
fn reset(counter: &AtomicU32) {
    if counter.load(Ordering::Relaxed) != 0 {
        counter.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings(change: impl FnOnce(&mut cluster::OutlierDetection)) -> OutlierDetection {
        let number = |value| Some(protobuf::UInt32Value { value });
        let mut wire = cluster::OutlierDetection {
            consecutive_5xx: number(3),
            max_ejection_percent: number(50),
            base_ejection_time: Some(protobuf::Duration { seconds: 5, nanos: 0 }),
            max_ejection_time: Some(protobuf::Duration { seconds: 12, nanos: 0 }),
            enforcing_success_rate: number(0),
            ..Default::default()
        };
        change(&mut wire);
        OutlierDetection::read(wire).unwrap()
    }

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn fail(of: &OutlierDetection, health: &Health, times: u32, now: Duration) -> Option<Duration> {
        (0..times).filter_map(|_| of.observe(health, Outcome::ServerError, 2, now, 0)).last()
    }

    #[test]
    fn failures_in_a_row_eject_for_a_time_that_grows() {
        let (of, health) = (settings(|_| {}), Health::new(Arc::default()));
        assert_eq!(fail(&of, &health, 2, at(0)), None);
        assert_eq!(fail(&of, &health, 1, at(0)), Some(at(5)));
        assert!(health.is_ejected(at(4)) && !health.is_ejected(at(5)));
        assert_eq!(fail(&of, &health, 3, at(6)), Some(at(10)), "twice as long the second time");
        assert!(!health.is_ejected(at(16)));
        assert_eq!(fail(&of, &health, 3, at(17)), Some(at(12)), "but never longer than the bound");
        assert!(!health.is_ejected(at(29)));
        assert_eq!(fail(&of, &health, 3, at(29 + 60)), Some(at(5)), "serving well is remembered too");
    }

    #[test]
    fn one_success_forgives_the_failures_before_it() {
        let (of, health) = (settings(|_| {}), Health::new(Arc::default()));
        fail(&of, &health, 2, at(0));
        of.observe(&health, Outcome::Success, 2, at(0), 0);
        assert_eq!(fail(&of, &health, 2, at(0)), None);
    }

    #[test]
    fn a_limit_that_is_enforced_by_chance_has_one_chance_each_time_it_is_reached() {
        let of = settings(|wire| wire.enforcing_consecutive_5xx = Some(protobuf::UInt32Value { value: 50 }));
        let health = Health::new(Arc::default());
        let fail = |sample| of.observe(&health, Outcome::ServerError, 2, at(0), sample).is_some();
        let (lucky, unlucky) = (u32::MAX, 0);
        assert!(![fail(unlucky), fail(unlucky), fail(lucky)].contains(&true));
        assert_eq!([fail(unlucky), fail(unlucky), fail(unlucky)], [false, false, true]);
    }

    #[test]
    fn the_last_endpoint_is_never_ejected_unless_asked() {
        let observe = |of: &OutlierDetection| {
            let health = Health::new(Arc::default());
            (0..9).find_map(|_| of.observe(&health, Outcome::ServerError, 1, at(0), 0))
        };
        assert_eq!(observe(&settings(|_| {})), None);
        let always = settings(|wire| wire.always_eject_one_host = Some(protobuf::BoolValue { value: true }));
        assert!(observe(&always).is_some());
    }

    #[test]
    fn failures_to_connect_count_apart_when_split() {
        let split = settings(|wire| {
            wire.split_external_local_origin_errors = true;
            wire.consecutive_local_origin_failure = Some(protobuf::UInt32Value { value: 2 });
        });
        let health = Health::new(Arc::default());
        assert_eq!(split.observe(&health, Outcome::LocalOrigin, 2, at(0), 0), None);
        assert!(split.observe(&health, Outcome::LocalOrigin, 2, at(0), 0).is_some());
        let (joined, health) = (settings(|_| {}), Health::new(Arc::default()));
        let outcomes = [Outcome::LocalOrigin, Outcome::GatewayError, Outcome::ServerError];
        let ejected = outcomes.map(|outcome| joined.observe(&health, outcome, 2, at(0), 0).is_some());
        assert_eq!(ejected, [false, false, true]);
    }

    #[test]
    fn an_endpoint_that_is_ejected_for_silence_comes_back_when_it_is_heard_and_not_before() {
        let (of, ejections) = (settings(|_| {}), Arc::new(Ejections::default()));
        let (silent, other) = (Health::new(ejections.clone()), Health::new(ejections.clone()));
        assert!(of.eject_silent(&silent, 2, at(0)) && !of.eject_silent(&silent, 2, at(0)));
        assert!(!of.eject_silent(&other, 2, at(0)), "no more than half of them");
        assert!(silent.is_silent() && silent.is_ejected(at(1_000_000)));
        assert_eq!(fail(&of, &silent, 9, at(1)), None, "failures do not shorten it");
        assert!(silent.heard() && !silent.heard());
        assert!(!silent.is_ejected(at(1)) && !silent.is_silent());
        assert_eq!((ejections.now(), ejections.total()), (0, 1));
    }

    #[test]
    fn an_endpoint_that_leaves_is_no_longer_counted() {
        let (of, ejections) = (settings(|_| {}), Arc::new(Ejections::default()));
        let health = Health::new(ejections.clone());
        fail(&of, &health, 3, at(0));
        assert_eq!((ejections.now(), ejections.total()), (1, 1));
        drop(health);
        assert_eq!((ejections.now(), ejections.total()), (0, 1));
    }

    proptest! {
        #[test]
        fn never_more_than_the_percentage_is_ejected(
            endpoints in 1usize..12,
            most in 0u32..=100,
            steps in proptest::collection::vec((0usize..12, 0u8..4, 0u64..3), 1..300),
        ) {
            let of = settings(|wire| wire.max_ejection_percent = Some(protobuf::UInt32Value { value: most }));
            let ejections = Arc::new(Ejections::default());
            let health: Vec<_> = (0..endpoints).map(|_| Health::new(ejections.clone())).collect();
            let mut now = 0;
            for (which, outcome, forward) in steps {
                now += forward;
                let outcome = [Outcome::Success, Outcome::ServerError, Outcome::GatewayError, Outcome::LocalOrigin]
                    [usize::from(outcome)];
                of.observe(&health[which % endpoints], outcome, endpoints, at(now), 0);
                let ejected = health.iter().filter(|health| health.is_ejected(at(now))).count();
                prop_assert!(ejected * 100 <= endpoints * most as usize);
                prop_assert_eq!(ejections.now() as usize, ejected);
            }
        }
    }

    #[test]
    fn detection_that_is_asked_for_and_not_there_is_refused_by_field() {
        let on = Some(protobuf::UInt32Value { value: 100 });
        let too_much = Some(protobuf::UInt32Value { value: 101 });
        let base = cluster::OutlierDetection::default;
        for (wire, field) in [
            (cluster::OutlierDetection { enforcing_success_rate: on, ..base() }, "enforcing_success_rate"),
            (
                cluster::OutlierDetection { enforcing_failure_percentage: on, ..base() },
                "enforcing_failure_percentage",
            ),
            (cluster::OutlierDetection { max_ejection_percent: too_much, ..base() }, "max_ejection_percent"),
            (
                cluster::OutlierDetection { enforcing_consecutive_5xx: too_much, ..base() },
                "enforcing_consecutive_5xx",
            ),
            (cluster::OutlierDetection { interval: Some(Default::default()), ..base() }, "interval"),
        ] {
            assert_eq!(OutlierDetection::decode(Some(wire)).unwrap_err().field, field);
        }
        assert!(OutlierDetection::decode(Some(base())).unwrap().is_some());
        assert!(OutlierDetection::decode(None).unwrap().is_none());
    }
}
