//! How long and how often is measured, and how long all of that takes: two minutes with `--quick`, thirty otherwise, with all peers.
//!
//! The estimate is printed before the start, and beside the time that has passed while it runs. Repetitions of disturbed runs are
//! bounded by a share of it, so that they cannot make a comparison much longer.

use std::time::{Duration, Instant};

use super::counting;
use super::mesh;
use super::peers::{Peer, Setup};
use super::scenarios::{RATES, Scenario, Variant, Work};

/// Runs of a variant whose proxies are restarted for each run.
const FRESH: usize = 3;
/// For opening connections, and the start of a load.
const BETWEEN: Duration = Duration::from_millis(150);
/// Part of the estimate that repetitions of disturbed runs may take.
const SPARE: f64 = 0.05;

/// How long and how often is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Only the variants that are in short comparisons.
    pub(super) quick: bool,
    pub(super) warm_up: Duration,
    pub(super) run: Duration,
    pub(super) repeat: usize,
    /// Whether instructions are counted under callgrind.
    pub(super) callgrind: bool,
}

impl Plan {
    /// `repeat`: runs of each peer, if not as many as usual.
    pub(super) fn new(quick: bool, repeat: Option<usize>) -> Self {
        let (warm_up, run, usual) = match quick {
            true => (180, 430, 1),
            false => (250, 1_500, 5),
        };
        let [warm_up, run] = [warm_up, run].map(Duration::from_millis);
        Self { quick, warm_up, run, repeat: repeat.unwrap_or(usual).max(1), callgrind: false }
    }

    /// Whether a variant is measured.
    pub(super) fn includes(&self, variant: &Variant) -> bool {
        variant.quick || !self.quick
    }

    /// Whether a variant's system calls, instructions and allocations are counted.
    pub(super) fn counts(&self, variant: &Variant) -> bool {
        variant.counted && (!self.quick || self.callgrind)
    }

    /// Runs of each peer in a variant.
    pub(super) fn runs(&self, variant: &Variant) -> usize {
        if variant.starts_fresh() { self.repeat.min(FRESH) } else { self.repeat }
    }

    /// The time that these scenarios take with these peers. `setup` says what a variant asks of them.
    pub(super) fn estimate(
        &self,
        scenarios: &[&Scenario],
        peers: &[Peer],
        setup: impl Fn(&Variant) -> Setup,
    ) -> Duration {
        let variants = scenarios.iter().flat_map(|scenario| scenario.variants);
        variants
            .filter(|variant| self.includes(variant))
            .map(|variant| {
                let setup = setup(variant);
                let parts: Vec<_> = peers.iter().filter(|peer| peer.supports(&setup)).collect();
                let runs = self.runs(variant) as u32;
                let starts = if variant.starts_fresh() { runs } else { 1 };
                let start: Duration = parts.iter().map(|peer| start(**peer, &setup)).sum();
                let run = (self.run_time(variant.work) + BETWEEN) * runs + self.count_time(variant);
                start * starts + run * parts.len() as u32
            })
            .sum()
    }

    /// The time that repetitions of disturbed runs may take.
    pub(super) fn spare(estimate: Duration) -> Duration {
        estimate.mul_f64(SPARE)
    }

    /// The time of the counting runs of one peer.
    fn count_time(&self, variant: &Variant) -> Duration {
        match (self.counts(variant), self.callgrind) {
            (false, _) => Duration::ZERO,
            (true, false) => counting::KERNEL_TIME,
            (true, true) => counting::KERNEL_TIME + counting::CALLGRIND_TIME,
        }
    }

    /// The time of one run of one peer.
    fn run_time(&self, work: Work) -> Duration {
        let once = self.warm_up + self.run;
        match work {
            Work::Requests { .. } | Work::Bulk { .. } | Work::Connections { .. } => once,
            Work::Grpc { .. } | Work::WebSocket => once,
            // Start and end have a second each, and connections are opened one after the other.
            Work::Idle { connections } => Duration::from_secs(2) + Duration::from_millis(connections as u64),
            Work::Changes { .. } => once * 2,
            Work::Mesh { .. } => once + mesh::TIME,
            // A closed loop, and two loads of each rate: direct and through the proxy.
            Work::Latency => once * (1 + 2 * RATES.len() as u32),
        }
    }
}

/// The time that a peer needs to start.
fn start(peer: Peer, setup: &Setup) -> Duration {
    let (each, per_object) = match peer {
        // A control plane, a token and a sidecar that joins.
        Peer::Outrigger => (1_000, 0.4),
        Peer::Envoy => (400, 0.1),
        Peer::Haproxy | Peer::Nginx | Peer::Pingora => (100, 0.05),
        Peer::Relay => (30, 0.0),
    };
    let objects = setup.routes + setup.services;
    Duration::from_millis(each + (per_object * objects as f64) as u64)
}

/// The time that has passed, beside the estimate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    begin: Instant,
    estimate: Duration,
}

impl Clock {
    pub(super) fn start(estimate: Duration) -> Self {
        Self { begin: Instant::now(), estimate }
    }

    /// As in `[2:05 of about 26:40]`.
    pub(super) fn print(&self) -> String {
        format!("[{} of about {}]", minutes(self.begin.elapsed()), minutes(self.estimate))
    }
}

/// As in `26:40`.
pub(super) fn minutes(time: Duration) -> String {
    format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::scenarios;

    fn estimate(quick: bool) -> Duration {
        let all: Vec<_> = scenarios::ALL.iter().collect();
        let backend = "127.0.0.1:80".parse().unwrap();
        Plan::new(quick, None).estimate(&all, &Peer::ALL, |variant| variant.asks(backend, Some(backend)))
    }

    #[test]
    fn all_scenarios_with_all_peers_and_repetitions_are_planned_for_half_an_hour() {
        let estimate = estimate(false);
        assert!(
            estimate + Plan::spare(estimate) < Duration::from_secs(1_800),
            "{}",
            minutes(estimate + Plan::spare(estimate))
        );
    }

    #[test]
    fn the_short_comparison_is_planned_for_two_minutes() {
        let estimate = estimate(true);
        assert!(estimate < Duration::from_secs(120), "{}", minutes(estimate));
    }

    #[test]
    fn a_time_is_printed_in_minutes_and_seconds() {
        assert_eq!(minutes(Duration::from_millis(125_900)), "2:05");
    }
}
