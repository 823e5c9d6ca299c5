//! `compare.md`: a table per scenario, for people. A cell is the median and the median absolute deviation; behind it, Outrigger's
//! median divided by this peer's. A star marks a figure with runs that other load disturbed.

use std::fmt::Write as _;

use super::Report;
use crate::compare::scenarios;

pub(super) fn print(report: &Report<'_>, machine: &str, targets: &str) -> String {
    let mut text = String::from("# Comparison\n\n");
    let _ = writeln!(text, "Machine: {machine}.\n");
    for found in report.peers {
        let _ = writeln!(text, "- {}: {}", found.peer.name(), found.version);
    }
    let _ = writeln!(
        text,
        "\n{} runs of {} s each. A cell: median ± median absolute deviation (× Outrigger's median divided by this one).",
        report.plan.repeat,
        report.plan.run.as_secs_f64()
    );
    let (disturbed, runs) = disturbed(report);
    if disturbed > 0 {
        let _ = writeln!(
            text,
            "\\* **The machine was not quiet**: {disturbed} of {runs} runs were disturbed by other load in every attempt and used nevertheless."
        );
    }
    for failure in report.failures {
        let _ = writeln!(text, "\nFailed: {failure}");
    }
    if !report.uncounted.is_empty() {
        let _ = writeln!(text, "\nNot counted: {}.", report.uncounted.join("; "));
    }
    text.push_str(targets);
    let mut last = "";
    for row in report.results.rows() {
        let (scenario, variant, metric) = row;
        if scenario != last {
            last = scenario;
            head(&mut text, report, scenario);
        }
        let name = if variant.is_empty() { metric.clone() } else { format!("{variant}: {metric}") };
        let _ = write!(text, "| {name} |");
        let ours = report.results.get(row, report.peers[0].peer.name()).map(|(_, summary)| summary.median);
        for (column, found) in report.peers.iter().enumerate() {
            let Some((samples, summary)) = report.results.get(row, found.peer.name()) else {
                text.push_str(" - |");
                continue;
            };
            let star = if samples.disturbed > 0 { "\\*" } else { "" };
            let _ = write!(text, " {} ± {}{star}", number(summary.median), number(summary.mad));
            if let Some(ours) = ours.filter(|_| column > 0 && summary.median > 0.0) {
                let _ = write!(text, " (× {:.2})", ours / summary.median);
            }
            text.push_str(" |");
        }
        text.push('\n');
    }
    text
}

fn head(text: &mut String, report: &Report<'_>, scenario: &str) {
    let title = scenarios::ALL.iter().find(|known| known.id == scenario).map_or("", |known| known.title);
    let names: Vec<_> = report.peers.iter().map(|found| found.peer.name()).collect();
    let _ = writeln!(text, "\n## {scenario}: {title}\n\n| | {} |", names.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(names.len()));
}

/// Runs that were used although disturbed, and all runs: of each scenario's first figures.
fn disturbed(report: &Report<'_>) -> (usize, usize) {
    super::primary(report)
        .flat_map(|row| report.peers.iter().filter_map(|found| report.results.get(row, found.peer.name())))
        .fold((0, 0), |(disturbed, runs), (samples, _)| {
            (disturbed + samples.disturbed, runs + samples.values.len())
        })
}

/// Three significant digits.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::peers::Peer;
    use crate::compare::results::{Figure, Place, Results};
    use crate::compare::{Found, Plan};

    #[test]
    fn a_table_has_medians_and_ratios_and_says_what_was_disturbed() {
        let mut results = Results::default();
        let place = |peer| Place { scenario: "S1", variant: "200 B", peer };
        for value in [20.0, 24.0, 25.0] {
            results.add(&place("Outrigger"), &[Figure::new("µs", value)], false);
        }
        results.add(&place("HAProxy"), &[Figure::new("µs", 20.0)], true);
        let found = |peer| Found { peer, program: "x".into(), version: "1".into() };
        let peers = [found(Peer::Outrigger), found(Peer::Haproxy), found(Peer::Envoy)];
        let plan = Plan::new(false, None);
        let report =
            Report { results: &results, failures: &[], uncounted: &["Envoy: x".into()], peers: &peers, plan };
        let text = print(&report, "a machine", "\n## Targets\n");
        assert!(text.contains("| 200 B: µs | 24.0 ± 1.00 | 20.0 ± 0.00\\* (× 1.20) | - |"), "{text}");
        assert!(text.contains("\nNot counted: Envoy: x.\n"), "{text}");
        assert!(text.contains("1 of 4 runs were disturbed"), "{text}");
    }
}
