//! How many of a cluster's requests may be retries (`CircuitBreakers.Thresholds.retry_budget`, `max_retries`).
//!
//! A budget keeps retries from turning the overload of one service into an outage: without one, two retries per request
//! triple the load. Counters are per cluster and process-wide. Attempts that provably never reached an application add no
//! load to it: only the policy's `num_retries` limits them, and they are not charged here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use outrigger_core::percentage::Percentage;
use outrigger_proto::xds::{cluster, types};

use crate::field::{Unusable, number, positive_duration};

/// The default of the interval over which a budget counts.
const WINDOW: Duration = Duration::from_secs(10);
/// The maximum of that interval (GEP-3388).
const LONGEST_WINDOW: Duration = Duration::from_secs(3600);
/// The number of slots of a window.
const SLOTS: u32 = 10;

/// One retry, in millionths.
const ONE: u64 = 1_000_000;

/// A cluster's retry budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// The share of the interval's requests that may be retries.
    pub share: Percentage,
    /// Retries that are allowed beyond the share: at most this many in flight, and this many per second. Gives services with
    /// little traffic retries too, and limits those whose attempts fail fast. With a share, these retries are borrowed: at most
    /// this many until a request succeeds, and the share repays them before it allows others.
    pub min_concurrency: u32,
    window_seconds: u32,
}

impl RetryBudget {
    /// Creates a budget with a fixed number of retries in flight (`max_retries`).
    pub(crate) fn fixed(max_retries: u32) -> Self {
        Self {
            share: Percentage::ZERO,
            min_concurrency: max_retries,
            window_seconds: WINDOW.as_secs() as u32,
        }
    }

    /// Decodes the budget. Absent fields have Envoy's defaults, 20 % and 3.
    pub(crate) fn decode(wire: cluster::circuit_breakers::thresholds::RetryBudget) -> Result<Self, Unusable> {
        let cluster::circuit_breakers::thresholds::RetryBudget {
            budget_percent,
            budget_interval,
            min_retry_concurrency,
        } = wire;
        let types::Percent { value } = budget_percent.unwrap_or(types::Percent { value: 20.0 });
        if !(0.0..=100.0).contains(&value) {
            return Err(Unusable::new("budget_percent", "is not between 0 and 100"));
        }
        let share = Percentage::from_millionths((value * 10_000.0) as u32)
            .map_err(|bad| Unusable::new("budget_percent", bad))?;
        // Without an interval, Envoy counts requests in flight. Counting over an interval allows more retries to services with
        // short requests, and never more than the same share of the requests sent.
        let window = positive_duration("budget_interval", budget_interval)?.unwrap_or(WINDOW);
        if window > LONGEST_WINDOW {
            return Err(Unusable::new("budget_interval", "is longer than an hour"));
        }
        let window_seconds = (window.as_secs() as u32).max(1);
        Ok(Self { share, min_concurrency: number(min_retry_concurrency).unwrap_or(3), window_seconds })
    }

    /// Returns the seconds of a slot of its windows.
    fn slot_seconds(&self) -> u32 {
        self.window_seconds.div_ceil(SLOTS)
    }
}

/// Counts a cluster's recent requests and retries. One per cluster name, for the lifetime of the process.
///
/// The resolution is one second, or a tenth of a longer interval: a count is off by at most the requests of the current slot.
/// When the interval changes so that the resolution does, the counts start at zero.
#[derive(Debug, Default)]
pub struct RetryLedger {
    requests: Window,
    retries: Window,
    in_flight: AtomicU32,
    /// Retries made beyond the share since a request last succeeded.
    borrowed: AtomicU32,
    /// The part of them that the share has not repaid yet, in millionths.
    unpaid: AtomicU64,
}

impl RetryLedger {
    /// Counts a request. Called once, at its first attempt. `now` is measured from any fixed moment.
    pub fn request(&self, budget: &RetryBudget, now: Duration) {
        self.requests.add(now, budget.slot_seconds());
        if self.unpaid.load(Ordering::Relaxed) > 0 {
            let pay = |unpaid: u64| Some(unpaid.saturating_sub(budget.share.millionths().into()));
            // Never fails: `pay` always has a new value.
            let _ = self.unpaid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay);
        }
    }

    /// Cancels the lent retries after a request succeeded: the cluster has no outage, in which retries would be useless.
    pub fn succeeded(&self) {
        if self.borrowed.load(Ordering::Relaxed) > 0 {
            self.borrowed.store(0, Ordering::Relaxed);
            self.unpaid.store(0, Ordering::Relaxed);
        }
    }

    /// Acquires a permit for one retry, or returns `None` if `budget` is exhausted. The retry is in flight until the permit is
    /// dropped.
    ///
    /// Concurrent calls may each exceed the budget by one.
    pub fn retry(self: &Arc<Self>, budget: &RetryBudget, now: Duration) -> Option<RetryPermit> {
        let retries = self.retries.sum(now, budget);
        let requests = self.requests.sum(now, budget);
        let share = u64::from(budget.share.millionths());
        let in_share = self.unpaid.load(Ordering::Relaxed) == 0 && (retries + 1) * ONE <= requests * share;
        let floor = u64::from(budget.min_concurrency) * u64::from(budget.window_seconds);
        let may_borrow = share == 0 || self.borrowed.load(Ordering::Relaxed) < budget.min_concurrency;
        let in_floor =
            may_borrow && retries < floor && self.in_flight.load(Ordering::Relaxed) < budget.min_concurrency;
        if !in_share && !in_floor {
            return None;
        }
        if !in_share && share > 0 {
            self.borrowed.fetch_add(1, Ordering::Relaxed);
            // Twice, because the requests that pay add to the window as well.
            self.unpaid.fetch_add(2 * ONE, Ordering::Relaxed);
        }
        self.retries.add(now, budget.slot_seconds());
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(RetryPermit(self.clone()))
    }

    /// Returns the number of retries in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// The permit of a charged retry in flight.
#[derive(Debug)]
#[must_use = "dropping it says that the retry has ended"]
pub struct RetryPermit(Arc<RetryLedger>);

impl Drop for RetryPermit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts per slot of time. Each slot holds its number since the fixed moment in the upper 32 bits and the count in the lower.
#[derive(Debug, Default)]
struct Window([AtomicU64; SLOTS as usize]);

impl Window {
    fn add(&self, now: Duration, slot_seconds: u32) {
        let number = slot_number(now, slot_seconds);
        let slot = &self.0[(number % self.0.len() as u64) as usize];
        let count = |held: u64| {
            let fresh = if held >> 32 == number { held & 0xffff_ffff } else { 0 };
            Some(number << 32 | (fresh + 1).min(0xffff_ffff))
        };
        // Never fails: `count` always has a new value.
        let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
    }

    fn sum(&self, now: Duration, budget: &RetryBudget) -> u64 {
        let number = slot_number(now, budget.slot_seconds());
        let span = u64::from(budget.window_seconds.div_ceil(budget.slot_seconds()));
        let recent = |held: u64| number.checked_sub(held >> 32).is_some_and(|age| age < span);
        let slots = self.0.iter().map(|slot| slot.load(Ordering::Relaxed));
        slots.filter(|held| recent(*held)).map(|held| held & 0xffff_ffff).sum()
    }
}

fn slot_number(now: Duration, slot_seconds: u32) -> u64 {
    (now.as_secs() / u64::from(slot_seconds)) & 0xffff_ffff
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn budget(percent: f64, min: u32) -> RetryBudget {
        RetryBudget::decode(cluster::circuit_breakers::thresholds::RetryBudget {
            budget_percent: Some(types::Percent { value: percent }),
            min_retry_concurrency: Some(outrigger_proto::xds::protobuf::UInt32Value { value: min }),
            budget_interval: None,
        })
        .unwrap()
    }

    #[test]
    fn a_fifth_of_the_last_ten_seconds_may_be_retries() {
        let (ledger, budget) = (Arc::new(RetryLedger::default()), budget(20.0, 0));
        (0..100).for_each(|_| ledger.request(&budget, at(5)));
        let allowed = (0..100).filter(|_| ledger.retry(&budget, at(14)).is_some()).count();
        assert_eq!(allowed, 20);
        assert!(ledger.retry(&budget, at(15)).is_none(), "the requests are forgotten after ten seconds");
    }

    #[test]
    fn a_longer_interval_counts_over_all_of_it() {
        let wire = cluster::circuit_breakers::thresholds::RetryBudget {
            budget_percent: Some(types::Percent { value: 20.0 }),
            min_retry_concurrency: Some(outrigger_proto::xds::protobuf::UInt32Value { value: 0 }),
            budget_interval: Some(outrigger_proto::xds::protobuf::Duration { seconds: 3600, nanos: 0 }),
        };
        let (ledger, budget) = (Arc::new(RetryLedger::default()), RetryBudget::decode(wire).unwrap());
        (0..100).for_each(|second| ledger.request(&budget, at(second * 30)));
        let allowed = (0..100).filter(|_| ledger.retry(&budget, at(3599)).is_some()).count();
        assert_eq!(allowed, 20);
        assert!(ledger.retry(&budget, at(7200)).is_none(), "the requests are forgotten after an hour");
    }

    #[test]
    fn a_quiet_service_has_a_few_retries_at_a_time() {
        let (ledger, budget) = (Arc::new(RetryLedger::default()), budget(20.0, 2));
        let held = [ledger.retry(&budget, at(0)), ledger.retry(&budget, at(0))];
        assert!(held.iter().all(Option::is_some) && ledger.retry(&budget, at(0)).is_none());
        drop(held);
        assert!(ledger.retry(&budget, at(0)).is_none(), "none of them helped");
        ledger.succeeded();
        assert!(ledger.retry(&budget, at(0)).is_some());
    }

    #[test]
    fn retries_that_do_not_help_are_a_fifth_of_the_requests_however_few_those_are() {
        for (every, requests) in [(1, 15), (1, 1000), (2, 3000), (5, 60), (10, 300), (20, 100), (50, 100)] {
            let (ledger, budget) = (Arc::new(RetryLedger::default()), budget(20.0, 3));
            let mut retries = 0;
            for request in 0..requests {
                let now = Duration::from_millis(request * every * 100);
                ledger.request(&budget, now);
                // Two more attempts at most, each of which fails at once.
                retries += (0..2).map_while(|_| ledger.retry(&budget, now)).count() as u64;
            }
            assert!(retries >= 3 && retries * 5 <= requests, "{retries} of {requests}");
        }
    }

    #[test]
    fn a_fixed_number_of_retries_is_not_paid_back() {
        let (ledger, budget) = (Arc::new(RetryLedger::default()), RetryBudget::fixed(3));
        assert_eq!((0..20).filter(|second| ledger.retry(&budget, at(*second)).is_some()).count(), 20);
    }

    proptest! {
        #[test]
        fn retries_never_exceed_share_and_floor(
            steps in proptest::collection::vec((0u64..3, any::<bool>()), 1..400),
            percent in 0u32..=100,
            min in 0u32..5,
        ) {
            let (ledger, budget) = (Arc::new(RetryLedger::default()), budget(f64::from(percent), min));
            let (mut now, mut requests, mut retries) = (100, vec![], vec![]);
            for (forward, is_request) in steps {
                now += forward;
                if is_request {
                    ledger.request(&budget, at(now));
                    requests.push(now);
                } else if ledger.retry(&budget, at(now)).is_some() {
                    retries.push(now);
                    let recent = |of: &[u64]| of.iter().filter(|then| now - **then < 10).count() as u32;
                    let bound = (recent(&requests) * percent).div_ceil(100).max(min * 10);
                    prop_assert!(recent(&retries) <= bound, "{} of {bound}", recent(&retries));
                }
            }
        }
    }

    #[test]
    fn a_share_that_is_none_is_refused_by_field() {
        for value in [-1.0, 100.1, f64::NAN, f64::INFINITY] {
            let budget_percent = Some(types::Percent { value });
            let wire =
                cluster::circuit_breakers::thresholds::RetryBudget { budget_percent, ..Default::default() };
            assert_eq!(RetryBudget::decode(wire).unwrap_err().field, "budget_percent");
        }
        let budget_interval = Some(outrigger_proto::xds::protobuf::Duration { seconds: 3601, nanos: 0 });
        let wire =
            cluster::circuit_breakers::thresholds::RetryBudget { budget_interval, ..Default::default() };
        assert_eq!(RetryBudget::decode(wire).unwrap_err().field, "budget_interval");
    }
}
