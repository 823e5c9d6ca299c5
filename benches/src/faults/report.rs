//! The effect of a fault on the load as a table row. Requests before the fault are not counted.

use std::fmt::Write as _;
use std::time::Duration;

use super::load::{Outcome, Sample};

/// The figures of one fault and one proxy.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Figures {
    /// Requests sent after the fault began.
    pub(super) sent: usize,
    /// GETs without a 200. Each could have been retried.
    pub(super) lost: usize,
    /// POSTs without a 200: interrupted, or lost.
    pub(super) posts: usize,
    /// The lowest number of responses in a second after the fault, as a percentage of the load.
    pub(super) least: f64,
    p50: Duration,
    p99: Duration,
    max: Duration,
    /// The 99th percentile of requests sent from three seconds after the fault on.
    pub(super) settled: Duration,
    /// Percentage of responses from the faulty endpoint.
    share: f64,
    /// Executions per request, over all endpoints.
    pub(super) executions: Option<f64>,
    /// The most frequent way in which a request failed.
    why: Option<String>,
}

impl Figures {
    /// Computes the figures of `samples` since `fault` began. `per_second` is the load, `victim` the affected endpoint.
    pub(super) fn of(
        samples: &[Sample],
        fault: Duration,
        length: Duration,
        per_second: u32,
        victim: &str,
    ) -> Self {
        let after: Vec<_> = samples.iter().filter(|sample| sample.sent >= fault).collect();
        let failed: Vec<_> = after.iter().filter(|sample| sample.outcome != Outcome::Answered).collect();
        let latencies = |from: Duration| {
            let mut latencies: Vec<_> =
                after.iter().filter(|sample| sample.sent >= from).map(|sample| sample.latency).collect();
            latencies.sort_unstable();
            latencies
        };
        let all = latencies(fault);
        let with_endpoint = after.iter().filter(|sample| sample.endpoint.is_some()).count();
        let of_victim = after.iter().filter(|sample| sample.endpoint.as_deref() == Some(victim)).count();
        Self {
            sent: after.len(),
            lost: failed.iter().filter(|sample| !sample.post).count(),
            posts: failed.iter().filter(|sample| sample.post).count(),
            least: least(samples, fault, length) as f64 * 100.0 / f64::from(per_second),
            p50: quantile(&all, 0.5),
            p99: quantile(&all, 0.99),
            max: all.last().copied().unwrap_or_default(),
            settled: quantile(&latencies(fault + Duration::from_secs(3)), 0.99),
            share: of_victim as f64 * 100.0 / with_endpoint.max(1) as f64,
            executions: None,
            why: commonest(failed.iter().map(|sample| said(&sample.outcome))),
        }
    }
}

/// Returns the lowest number of responses in a second from the fault to the end of the load.
fn least(samples: &[Sample], fault: Duration, length: Duration) -> usize {
    let seconds = length.saturating_sub(fault).as_secs() as usize;
    let mut answers = vec![0; seconds];
    for sample in samples.iter().filter(|sample| sample.outcome == Outcome::Answered) {
        let Some(since) = sample.ended().checked_sub(fault) else { continue };
        if let Some(count) = answers.get_mut(since.as_secs() as usize) {
            *count += 1;
        }
    }
    answers.into_iter().min().unwrap_or_default()
}

/// Returns the value below which `share` (0 to 1) of `sorted` lies, or zero if it is empty.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let at = (sorted.len().saturating_sub(1)) as f64 * share;
    sorted.get(at.round() as usize).copied().unwrap_or_default()
}

fn said(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Answered => "answered".into(),
        Outcome::Refused(status, reason) => format!("{status} {}", reason.as_deref().unwrap_or_default()),
        Outcome::Broken(why) => why.clone(),
        Outcome::Late => "no answer in time".into(),
    }
}

fn commonest(all: impl Iterator<Item = String>) -> Option<String> {
    let mut counts = std::collections::BTreeMap::new();
    for one in all {
        *counts.entry(one).or_insert(0_usize) += 1;
    }
    counts
        .into_iter()
        .max_by_key(|(_, count)| *count)
        .map(|(text, count)| format!("{count} x {}", text.trim()))
}

/// Returns a Markdown table with a row for each fault and proxy.
pub(super) fn table(rows: &[(&str, &str, Figures)]) -> String {
    let mut out = String::from(
        "| fault | proxy | sent | GETs lost | POSTs failed | least answers/s, % of load | p50 ms | p99 ms | max ms | p99 ms after 3 s | by the faulty one, % | executions a request | most failures |\n\
         |---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|\n",
    );
    for (fault, proxy, figures) in rows {
        let Figures { sent, lost, posts, least, p50, p99, max, settled, share, executions, why } = figures;
        let [p50, p99, max, settled] =
            [p50, p99, max, settled].map(|time| format!("{:.1}", time.as_secs_f64() * 1e3));
        let executions = executions.map_or("-".into(), |executions| format!("{executions:.2}"));
        let why = why.as_deref().unwrap_or("-");
        let _ = writeln!(
            out,
            "| {fault} | {proxy} | {sent} | {lost} | {posts} | {least:.0} | {p50} | {p99} | {max} | {settled} | {share:.1} | {executions} | {why} |"
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(sent: u64, latency: u64, post: bool, outcome: Outcome) -> Sample {
        let [sent, latency] = [sent, latency].map(Duration::from_millis);
        let endpoint = (outcome == Outcome::Answered).then(|| "b".to_owned());
        Sample { sent, latency, post, outcome, endpoint }
    }

    #[test]
    fn what_was_sent_before_the_fault_does_not_count() {
        let samples = [
            sample(500, 1, false, Outcome::Late),
            sample(1000, 2, false, Outcome::Answered),
            sample(1500, 900, true, Outcome::Broken("reset".into())),
            sample(2000, 3, false, Outcome::Refused(503, None)),
            sample(2500, 4, false, Outcome::Answered),
        ];
        let [fault, length] = [1, 3].map(Duration::from_secs);
        let figures = Figures::of(&samples, fault, length, 2, "b");
        assert_eq!((figures.sent, figures.lost, figures.posts), (4, 1, 1));
        assert_eq!((figures.least, figures.share), (50.0, 100.0));
        assert_eq!(figures.max, Duration::from_millis(900));
        assert!(table(&[("frozen", "plain", figures)]).contains("| frozen | plain | 4 | 1 | 1 | 50 |"));
    }
}
