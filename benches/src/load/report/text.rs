//! The results as text for a terminal.

use std::fmt::Write as _;

use hdrhistogram::Histogram;

use super::super::cpu::ThreadUse;
use super::super::units::milliseconds;
use super::{QUANTILES, Report};

/// Returns the whole report. Writing to a String does not fail.
pub(in super::super) fn text(report: &Report<'_>) -> String {
    let (measured, tally) = (report.measured, &report.measured.tally);
    let mut out = format!("{}\n{}\n\n", report.url, report.title());
    let seconds = measured.elapsed.as_secs_f64().max(1e-9);
    let received = tally.received as f64 / seconds / 1e6;
    let _ = writeln!(
        out,
        "answered {:>12}   {:.1} requests/s, {received:.2} MB/s received",
        tally.answered,
        measured.throughput()
    );
    let _ = writeln!(out, "failed   {:>12}", tally.failed());
    for (failure, count) in &tally.failures {
        let _ = writeln!(out, "         {count:>12}   {failure}");
    }
    if report.has_schedule() {
        let _ = writeln!(out, "not sent {:>12}   due while every stream waited for an answer", tally.unsent);
    }
    let _ = writeln!(out, "opened   {:>12}   connections\n", measured.connections);
    let _ = write!(out, "{:<28}", "milliseconds");
    for name in QUANTILES.iter().map(|(name, _)| *name).chain(["max", "mean"]) {
        let _ = write!(out, "{name:>9}");
    }
    match report.has_schedule() {
        true => {
            row(&mut out, "latency from intended start", &tally.latency);
            row(&mut out, "from actual start", &tally.service);
            row(&mut out, "generator's own lateness", &tally.lag);
        }
        false => row(&mut out, "latency", &tally.latency),
    }
    out.push('\n');
    stages(&mut out, report);
    let shares = |share: fn(&ThreadUse) -> f64| {
        let shares = measured.threads.iter().map(|thread| format!("{:.0} %", share(thread) * 100.0));
        shares.collect::<Vec<_>>().join(", ")
    };
    let _ = writeln!(
        out,
        "\ngenerator: {} of a core, {} of the time waiting for one, {:.1} µs of CPU per request",
        shares(ThreadUse::share),
        shares(ThreadUse::waiting),
        measured.cpu_per_request().as_secs_f64() * 1e6
    );
    for warning in measured.warnings() {
        let _ = writeln!(out, "WARNING: {warning}");
    }
    out
}

fn row(out: &mut String, name: &str, histogram: &Histogram<u64>) {
    let _ = write!(out, "\n{name:<28}");
    for (_, quantile) in QUANTILES {
        let _ = write!(out, "{:>9}", milliseconds(histogram.value_at_quantile(quantile)));
    }
    let _ = write!(out, "{:>9}{:>9}", milliseconds(histogram.max()), milliseconds(histogram.mean() as u64));
}

fn stages(out: &mut String, report: &Report<'_>) {
    let stages = report.stages();
    if stages.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "\n{:>12}{:>14}{:>10}{:>10}{:>10}",
        "requests/s", "answered/s", "failed", "p50 ms", "p99 ms"
    );
    for result in stages {
        let _ = writeln!(
            out,
            "{:>12.0}{:>14.1}{:>10}{:>10}{:>10}",
            result.stage.from,
            result.answered as f64 / result.seconds.max(1) as f64,
            result.failed,
            milliseconds(result.latency.value_at_quantile(0.5)),
            milliseconds(result.latency.value_at_quantile(0.99)),
        );
    }
}
