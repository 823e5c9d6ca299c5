//! What is known of a test while it runs: for the live view and for the lines in its place.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::engine::Running;
use super::recorder::Second;
use super::spec::{Spec, Until};
use super::units::milliseconds;

/// Seconds of which the live view shows percentiles.
const RECENT: usize = 5;

/// The test so far.
pub(super) struct Progress {
    pub(super) title: String,
    until: Until,
    /// Since the warm-up.
    pub(super) elapsed: Option<Duration>,
    ended: u64,
    pub(super) answered: u64,
    pub(super) failed: u64,
    pub(super) connections: u64,
    /// Those that are over.
    pub(super) seconds: Vec<Second>,
    pub(super) latency: Histogram<u32>,
}

impl Progress {
    /// Of a test that has just begun.
    pub(super) fn new(title: String, spec: &Spec) -> Self {
        Self {
            title,
            until: spec.until,
            elapsed: None,
            ended: 0,
            answered: 0,
            failed: 0,
            connections: 0,
            seconds: Vec::new(),
            latency: Second::new().latency,
        }
    }

    /// Takes over what has been measured since the last call.
    pub(super) fn update(&mut self, running: &Running) {
        self.elapsed = running.elapsed();
        self.ended = running.ended();
        self.connections = running.connections();
        self.add(running.seconds(self.seconds.len()));
    }

    pub(super) fn add(&mut self, seconds: Vec<Second>) {
        for second in seconds {
            self.answered += second.answered;
            self.failed += second.failed;
            // All have the same bounds.
            let _ = self.latency.add(&second.latency);
            self.seconds.push(second);
        }
    }

    /// How much of the test is over, 0 to 1.
    pub(super) fn share(&self) -> f64 {
        let share = match self.until {
            Until::Elapsed(length) => self.elapsed.unwrap_or_default().as_secs_f64() / length.as_secs_f64(),
            Until::Requests(count) => (self.answered + self.failed) as f64 / count as f64,
        };
        share.clamp(0.0, 1.0)
    }

    /// The latencies of the last seconds.
    pub(super) fn recent(&self) -> Histogram<u32> {
        let mut recent = Second::new().latency;
        for second in self.seconds.iter().rev().take(RECENT) {
            let _ = recent.add(&second.latency);
        }
        recent
    }

    /// One line for second number `number`, counted from 0.
    pub(super) fn line(&self, number: usize) -> Option<String> {
        let second = self.seconds.get(number)?;
        let at = |quantile| milliseconds(second.latency.value_at_quantile(quantile));
        let (answered, failed) = (second.answered, second.failed);
        let [p50, p99, max] = [at(0.5), at(0.99), at(1.0)];
        Some(format!(
            "{:>5} s {answered:>9}/s  p50 {p50} ms  p99 {p99} ms  max {max} ms  failed {failed}",
            number + 1
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_add_up_and_each_has_a_line() {
        let mut progress = super::super::view::testing::progress();
        assert_eq!((progress.answered, progress.failed), (300, 2));
        assert_eq!(progress.line(5), None);
        let line = progress.line(1).unwrap();
        assert!(line.contains("    2 s       200/s  p50 2.") && line.ends_with("failed 0"), "{line}");
        progress.elapsed = Some(Duration::from_secs(1));
        assert_eq!(progress.share(), 0.25);
        assert_eq!(progress.recent().len(), 300);
    }
}
