//! What a load test has measured, of all workers together.

use std::time::Duration;

use super::cpu::ThreadUse;
use super::recorder::{Second, Tally};

/// The generator's share of a core from which on its own speed limits what it measures.
const SATURATED: f64 = 0.9;
/// The share of the time that a thread may wait for a core that other processes use.
const CROWDED: f64 = 0.05;
/// The generator's own lateness that distorts latencies: this share of the median, and at least that many nanoseconds.
const LATE: f64 = 0.2;
const LATE_AT_LEAST: u64 = 200_000;

/// The result of a load test.
#[derive(Debug)]
pub(crate) struct Measurement {
    pub(crate) tally: Tally,
    /// Of the measurement without the warm-up.
    pub(crate) elapsed: Duration,
    pub(crate) seconds: Vec<Second>,
    /// Connections that were opened, those before the warm-up included.
    pub(crate) connections: u64,
    /// The generator's threads.
    pub(crate) threads: Vec<ThreadUse>,
}

impl Measurement {
    /// Answered requests per second.
    pub(crate) fn throughput(&self) -> f64 {
        self.tally.answered as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// CPU time of the generator per request that it sent.
    pub(crate) fn cpu_per_request(&self) -> Duration {
        let cpu: Duration = self.threads.iter().map(|thread| thread.cpu).sum();
        cpu.div_f64((self.tally.answered + self.tally.failed()).max(1) as f64)
    }

    /// Says in plain words what makes the figures doubtful; empty if nothing does.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let most = |share: fn(&ThreadUse) -> f64| self.threads.iter().map(share).fold(0.0, f64::max);
        let busy = most(ThreadUse::share);
        if busy > SATURATED {
            warnings.push(format!(
                "The load generator used {:.0} % of a core: the figures are its own limit, not the server's. Give it more --threads and cores, or less load.",
                busy * 100.0
            ));
        }
        let waiting = most(ThreadUse::waiting);
        if waiting > CROWDED {
            warnings.push(format!(
                "The load generator waited {:.0} % of the time for a core that others used: latencies include that. Give it a core of its own (--cores).",
                waiting * 100.0
            ));
        }
        let (lag, median) =
            (self.tally.lag.value_at_quantile(0.99), self.tally.latency.value_at_quantile(0.5));
        if lag > LATE_AT_LEAST && lag as f64 > median as f64 * LATE {
            warnings.push(format!(
                "The load generator itself started 1 % of the requests {:.2} ms or more late: latencies include that.",
                lag as f64 / 1e6
            ));
        }
        if self.tally.unsent > 0 {
            warnings.push(format!(
                "{} requests were due and never sent, because all connections waited for answers. They count with their age at the end; the target cannot keep this rate, or needs more --connections.",
                self.tally.unsent
            ));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement(cpu: u64, waited: u64) -> Measurement {
        let [cpu, waited] = [cpu, waited].map(Duration::from_millis);
        let threads = vec![ThreadUse { elapsed: Duration::from_secs(1), cpu, waited }];
        let elapsed = Duration::from_secs(2);
        Measurement { tally: Tally::new(), elapsed, seconds: Vec::new(), connections: 1, threads }
    }

    #[test]
    fn figures_without_a_reason_for_doubt_have_no_warning() {
        assert_eq!(measurement(500, 10).warnings(), Vec::<String>::new());
    }

    #[test]
    fn a_generator_at_its_limit_says_so() {
        let warnings = measurement(950, 100).warnings();
        assert!(warnings[0].contains("95 % of a core"), "{warnings:?}");
        assert!(warnings[1].contains("10 % of the time"), "{warnings:?}");
        let mut late = measurement(500, 0);
        late.tally.lag.record(3_000_000).unwrap();
        late.tally.unsent = 7;
        let warnings = late.warnings();
        assert!(warnings[0].contains("3.00 ms") && warnings[1].starts_with("7 requests"), "{warnings:?}");
    }

    #[test]
    fn throughput_and_cost_are_per_answer() {
        let mut measurement = measurement(500, 0);
        measurement.tally.answered = 1000;
        assert_eq!(measurement.throughput(), 500.0);
        assert_eq!(measurement.cpu_per_request(), Duration::from_micros(500));
    }
}
