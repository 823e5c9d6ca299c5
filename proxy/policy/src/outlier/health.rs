//! The recent outcomes of one endpoint, and whether it is ejected. All workers share these counters, and they survive
//! configuration updates.
//!
//! An endpoint is serving, ejected, or probed: after an ejection it gets one request at a time until enough of them succeed.
//! An endpoint that still fails costs few requests, and one that has recovered is back within a few round trips.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::compare::Tally;
use super::window::{Counts, Window};

/// Consecutive probes that must succeed. An endpoint that fails four of five requests passes with a probability of 1 %.
const PROBES: u32 = 3;

/// A probe without an outcome is abandoned after this long, and the next one is sent.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// For how long only requests that can be retried elsewhere are used as probes. After that, any request is.
const COVERED_ONLY: Duration = Duration::from_secs(1);

/// The longest pushback that is honoured.
const LONGEST_PUSHBACK: Duration = Duration::from_secs(60);

/// The end of an ejection that has no time limit.
pub(super) const SILENT: u64 = u64::MAX;

/// Counts the ejected endpoints of a cluster. One per cluster name, for the lifetime of the process.
#[derive(Debug, Default)]
pub struct Ejections {
    pub(super) now: AtomicU32,
    pub(super) total: AtomicU64,
    /// See [`Self::changes`].
    pub(super) changes: AtomicU64,
    /// When success rates were last compared, in milliseconds; zero before the first time.
    pub(super) compared: AtomicU64,
}

/// The health of one endpoint. One per cluster name and address, while the endpoint exists.
#[derive(Debug)]
pub struct Health {
    pub(super) of: Arc<Ejections>,
    pub(super) consecutive_5xx: AtomicU32,
    pub(super) consecutive_gateway: AtomicU32,
    pub(super) consecutive_local: AtomicU32,
    pub(super) window: Window,
    /// Until when its failure percentage is not evaluated, because the ejection was not enforced. In milliseconds.
    pub(super) spared_until: AtomicU64,
    /// In milliseconds, rounded up. Zero while serving, [`SILENT`] for an ejection without a time limit.
    pub(super) ejected_until: AtomicU64,
    /// When it last returned to service, in milliseconds.
    pub(super) returned: AtomicU64,
    pub(super) ejections: AtomicU32,
    /// When the probe in flight was sent, in milliseconds; zero if there is none.
    probed: AtomicU64,
    /// Consecutive probes that succeeded.
    probes: AtomicU32,
    /// The end of the endpoint's pushback, in milliseconds.
    pushed_back_until: AtomicU64,
}

/// The state of an endpoint in outlier detection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EjectionState {
    /// It gets its share of requests.
    Serving,
    /// It gets no requests.
    Ejected,
    /// Its ejection time has elapsed: it gets probes.
    Probed,
}

impl Ejections {
    /// Returns how many endpoints are ejected or probed now.
    pub fn now(&self) -> u32 {
        self.now.load(Relaxed)
    }

    /// Returns the total number of ejections.
    pub fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// Returns a number that changes when an endpoint is ejected, returns to service, pushes back, or passes or fails its health checks.
    pub fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    /// Counts a change that active health checks have found.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Relaxed);
    }

    /// Counts an ejection.
    pub(super) fn ejected(&self) {
        self.total.fetch_add(1, Relaxed);
        self.changes.fetch_add(1, Relaxed);
    }

    /// Counts a return to service.
    fn returned(&self) {
        self.now.fetch_sub(1, Relaxed);
        self.changes.fetch_add(1, Relaxed);
    }
}

impl Health {
    /// Creates the state of a new endpoint.
    pub fn new(of: Arc<Ejections>) -> Self {
        Self {
            of,
            consecutive_5xx: AtomicU32::new(0),
            consecutive_gateway: AtomicU32::new(0),
            consecutive_local: AtomicU32::new(0),
            window: Window::default(),
            spared_until: AtomicU64::new(0),
            ejected_until: AtomicU64::new(0),
            returned: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
            probed: AtomicU64::new(0),
            probes: AtomicU32::new(0),
            pushed_back_until: AtomicU64::new(0),
        }
    }

    /// Returns the endpoint's state at `now`.
    pub fn state(&self, now: Duration) -> EjectionState {
        match self.ejected_until.load(Relaxed) {
            0 => EjectionState::Serving,
            until if milliseconds(now) < until => EjectionState::Ejected,
            _ => EjectionState::Probed,
        }
    }

    /// Returns whether it gets its share of requests.
    pub fn is_serving(&self) -> bool {
        self.ejected_until.load(Relaxed) == 0
    }

    /// Returns whether the endpoint is ejected because it does not answer.
    pub fn is_silent(&self) -> bool {
        self.ejected_until.load(Relaxed) == SILENT
    }

    /// Records that the endpoint has answered. Ends an ejection for silence, and returns whether there was one.
    pub fn answered(&self) -> bool {
        let ended =
            self.is_silent() && self.ejected_until.compare_exchange(SILENT, 0, Relaxed, Relaxed).is_ok();
        if ended {
            self.succeeded();
            self.of.returned();
        }
        ended
    }

    /// Claims the only probe that may be in flight. Returns false if the endpoint is not to be probed, or a probe is in flight.
    /// `covered` is whether the request can be retried elsewhere if the probe fails.
    pub fn claim_probe(&self, now: Duration, covered: bool) -> bool {
        let (until, now) = (self.ejected_until.load(Relaxed), milliseconds(now).max(1));
        let from = if covered { until } else { until.saturating_add(milliseconds(COVERED_ONLY)) };
        if until == 0 || now < from {
            return false;
        }
        let probed = self.probed.load(Relaxed);
        if probed != 0 && now < probed.saturating_add(milliseconds(PROBE_PATIENCE)) {
            return false;
        }
        self.probed.compare_exchange(probed, now, Relaxed, Relaxed).is_ok()
    }

    /// Records a pushback of the endpoint, up to one minute. The pushback that ends last counts.
    pub fn push_back(&self, pushback: Duration, now: Duration) {
        let until = milliseconds(now + pushback.min(LONGEST_PUSHBACK));
        if self.pushed_back_until.load(Relaxed) >= until {
            return;
        }
        let before = self.pushed_back_until.fetch_max(until, Relaxed);
        if before <= milliseconds(now) {
            self.of.changes.fetch_add(1, Relaxed);
        }
    }

    /// Returns whether a pushback of the endpoint is active at `now`.
    pub fn is_pushed_back(&self, now: Duration) -> bool {
        let until = self.pushed_back_until.load(Relaxed);
        until != 0 && milliseconds(now) < until
    }

    /// Counts the success of a probe, or of a request that was in flight when the endpoint was ejected.
    pub(super) fn probe_succeeded(&self, now: Duration) {
        self.probed.store(0, Relaxed);
        if self.probes.fetch_add(1, Relaxed) + 1 >= PROBES {
            self.serve(now);
        }
    }

    /// Ends a probe that did not succeed.
    pub(super) fn probe_ended(&self) {
        self.probed.store(0, Relaxed);
        self.probes.store(0, Relaxed);
    }

    /// Returns the endpoint to service and clears its counters.
    pub(super) fn serve(&self, now: Duration) {
        self.probe_ended();
        let until = self.ejected_until.load(Relaxed);
        if until != 0 && self.ejected_until.compare_exchange(until, 0, Relaxed, Relaxed).is_ok() {
            self.returned.store(milliseconds(now), Relaxed);
            self.succeeded();
            self.window.clear();
            self.of.returned();
        }
    }

    /// Resets the counters of consecutive failures.
    pub(super) fn succeeded(&self) {
        reset(&self.consecutive_5xx);
        reset(&self.consecutive_gateway);
        reset(&self.consecutive_local);
    }
}

/// Which requests and failures a rate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Answered requests.
    Answered,
    /// All requests; those without an answer are failures.
    Local,
    /// All requests; failures of both kinds count.
    All,
}

impl Part {
    pub(super) fn of(self, counts: Counts) -> Tally {
        let Counts { total, answered, local } = counts;
        match self {
            Self::Answered => Tally { failed: answered, total: total - local },
            Self::Local => Tally { failed: local, total },
            Self::All => Tally { failed: answered + local, total },
        }
    }
}

/// An endpoint that is removed from the cluster no longer counts as ejected.
impl Drop for Health {
    fn drop(&mut self) {
        if *self.ejected_until.get_mut() != 0 {
            self.of.now.fetch_sub(1, Relaxed);
        }
    }
}

/// Converts to milliseconds, rounded up, so that nothing ends early.
pub(super) fn milliseconds(of: Duration) -> u64 {
    u64::try_from(of.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Writes only if the counter is not zero, so that the counters of healthy endpoints stay in every core's cache.
pub(super) fn reset(counter: &AtomicU32) {
    if counter.load(Relaxed) != 0 {
        counter.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn ejected(until: u64) -> Health {
        let health = Health::new(Arc::default());
        health.ejected_until.store(until, Relaxed);
        health.of.now.fetch_add(1, Relaxed);
        health
    }

    #[test]
    fn when_its_time_is_up_an_endpoint_gets_one_request_at_a_time() {
        let health = ejected(5_000);
        assert_eq!(health.state(at(4_999)), EjectionState::Ejected);
        assert!(!health.claim_probe(at(4_999), true));
        assert_eq!(health.state(at(5_000)), EjectionState::Probed);
        assert!(health.claim_probe(at(5_000), true));
        assert!(!health.claim_probe(at(5_000), true), "one at a time");
        assert!(!health.claim_probe(at(5_999), true));
        assert!(health.claim_probe(at(6_000), true), "one that says nothing is given up");
        assert!(!Health::new(Arc::default()).claim_probe(at(0), true), "who serves needs no probe");
    }

    #[test]
    fn probes_that_cannot_be_repeated_elsewhere_wait_for_a_second() {
        let health = ejected(5_000);
        assert!(!health.claim_probe(at(5_999), false));
        assert!(health.claim_probe(at(6_000), false));
    }

    #[test]
    fn three_probes_in_a_row_bring_it_back() {
        let health = ejected(5_000);
        let probe = |now| {
            assert!(health.claim_probe(at(now), true));
            health.probe_succeeded(at(now));
        };
        (5_000..5_002).for_each(probe);
        health.probe_ended();
        (5_002..5_004).for_each(probe);
        assert_eq!((health.state(at(5_004)), health.of.now()), (EjectionState::Probed, 1));
        probe(5_004);
        assert_eq!((health.state(at(5_004)), health.of.now()), (EjectionState::Serving, 0));
        assert!(health.is_serving());
    }

    #[test]
    fn an_endpoint_is_left_alone_for_as_long_as_it_says_and_a_minute_at_most() {
        let health = Health::new(Arc::default());
        assert!(!health.is_pushed_back(at(0)));
        health.push_back(at(2_000), at(0));
        health.push_back(at(500), at(0));
        assert_eq!(health.of.changes(), 1, "the second one changes nothing");
        assert!(health.is_pushed_back(at(1_999)) && !health.is_pushed_back(at(2_000)));
        health.push_back(Duration::MAX, at(2_000));
        assert!(health.is_pushed_back(at(61_999)) && !health.is_pushed_back(at(62_000)));
        assert!(health.is_serving(), "that is no ejection");
    }
}
