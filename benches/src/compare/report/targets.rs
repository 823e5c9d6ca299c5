//! What Outrigger's figures are to be, beside what they are: the first table of a report, and the table of docs/benchmarks.md.
//!
//! A target that was not measured, or whose peer was not, has no row.

use std::fmt::Write as _;

use super::Report;
use super::markdown::number;
use crate::compare::peers::Peer;

/// What one figure is to be: at least, and beyond that.
struct Target {
    scenario: &'static str,
    variant: &'static str,
    metric: &'static str,
    least: Bound,
    goal: Bound,
}

/// A limit of a figure of Outrigger.
#[derive(Clone, Copy)]
enum Bound {
    /// At most so much.
    Most(f64),
    /// At most so much of a peer's figure.
    Part(Peer, f64),
    /// At least so much of a peer's figure.
    Times(Peer, f64),
}

const CPU: &str = "CPU, µs per request";
const MESSAGE: &str = "CPU, µs per message";
const BULK: &str = "MB per second of CPU";
const ROUTES: &str = "CPU / CPU with 1 route";
const ADDED_70: &str = "p99 added at 70 %, ms";
const ADDED_30: &str = "p99 added at 30 %, ms";

const fn target([scenario, variant, metric]: [&'static str; 3], least: Bound, goal: Bound) -> Target {
    Target { scenario, variant, metric, least, goal }
}

use Bound::{Most, Part, Times};
use Peer::{Envoy, Haproxy, Pingora};

const TARGETS: [Target; 23] = [
    target(["S1", "200 B", CPU], Part(Haproxy, 1.05), Part(Haproxy, 1.0)),
    target(["S1", "16 KiB", CPU], Part(Haproxy, 1.05), Part(Haproxy, 1.0)),
    target(["S2", "200 B", CPU], Part(Haproxy, 1.2), Part(Haproxy, 1.0)),
    target(["S2", "16 KiB", CPU], Part(Haproxy, 1.0), Part(Haproxy, 1.0)),
    target(["S3", "", CPU], Part(Haproxy, 1.4), Part(Haproxy, 1.0)),
    target(["S3", "", CPU], Part(Pingora, 0.5), Part(Haproxy, 1.0)),
    target(["S4", "mTLS, two proxies", BULK], Times(Envoy, 1.0), Times(Envoy, 1.1)),
    target(["S4", "plain", BULK], Times(Envoy, 1.3), Times(Envoy, 2.0)),
    target(["S5", "HTTP/1.1", "MiB private at start"], Most(3.0), Most(2.0)),
    target(["S5", "HTTP/1.1", "KiB private per idle connection"], Most(5.0), Most(2.0)),
    target(["S5", "mTLS with HTTP/2", "KiB private per idle connection"], Most(20.0), Most(12.0)),
    target(["S6", "", "CPU, µs per connection"], Part(Envoy, 0.9), Part(Envoy, 0.7)),
    target(["S7", "unary", MESSAGE], Part(Envoy, 0.5), Part(Haproxy, 1.0)),
    target(["S7", "streaming", MESSAGE], Part(Envoy, 0.5), Part(Haproxy, 1.0)),
    target(["S8", "10,000 prefixes", ROUTES], Most(1.2), Most(1.05)),
    target(["S8", "10,000 exact paths", ROUTES], Most(1.2), Most(1.05)),
    target(["S9", "tracing 1 % and access log", "CPU / CPU with neither"], Most(1.1), Most(1.05)),
    target(
        ["S10", "20 endpoints, 2,000 requests a second", "p99 with changes / without"],
        Most(1.2),
        Most(1.05),
    ),
    target(["S11", "", MESSAGE], Part(Envoy, 0.6), Part(Haproxy, 1.0)),
    target(["S12", "as S1 with 200 B", ADDED_30], Part(Haproxy, 1.3), Part(Haproxy, 1.0)),
    target(["S12", "as S2 with 200 B", ADDED_30], Part(Haproxy, 1.3), Part(Haproxy, 1.0)),
    target(["S12", "as S1 with 200 B", ADDED_70], Part(Haproxy, 1.3), Part(Haproxy, 1.0)),
    target(["S12", "as S2 with 200 B", ADDED_70], Part(Haproxy, 1.3), Part(Haproxy, 1.0)),
];

/// Returns the table, or nothing if no target was measured.
pub(super) fn print(report: &Report<'_>) -> String {
    let rows: String = TARGETS.iter().filter_map(|target| row(report, target)).collect();
    match rows.is_empty() {
        true => String::new(),
        false => format!("\n## Targets\n\n| | Outrigger | at least | goal |\n|---|---|---|---|\n{rows}"),
    }
}

fn row(report: &Report<'_>, target: &Target) -> Option<String> {
    let Target { scenario, variant, metric, least, goal } = target;
    let at = [*scenario, *variant, *metric].map(str::to_owned);
    let ours = median(report, &at, Peer::Outrigger)?;
    let mut row = String::new();
    let name = if variant.is_empty() { (*scenario).to_owned() } else { format!("{scenario}, {variant}") };
    let _ = write!(row, "| {name}: {metric} | {}", number(ours));
    for (cell, bound) in [least, goal].into_iter().enumerate() {
        match judged(report, &at, ours, *bound) {
            Some(text) => drop(write!(row, " | {text}")),
            None if cell == 0 => return None,
            None => row.push_str(" | -"),
        }
    }
    row.push_str(" |\n");
    Some(row)
}

/// Says what the limit is, and whether the figure keeps it. Returns None if the peer was not measured.
fn judged(report: &Report<'_>, at: &[String; 3], ours: f64, bound: Bound) -> Option<String> {
    let (text, limit, keeps) = match bound {
        Most(limit) => (format!("≤ {limit}"), limit, ours <= limit),
        Part(peer, part) => {
            let limit = median(report, at, peer)? * part;
            (format!("≤ {} × {part} = {}", peer.name(), number(limit)), limit, ours <= limit)
        }
        Times(peer, times) => {
            let limit = median(report, at, peer)? * times;
            (format!("≥ {} × {times} = {}", peer.name(), number(limit)), limit, ours >= limit)
        }
    };
    let percent = (ours / limit - 1.0).abs() * 100.0;
    Some(match keeps {
        true => format!("{text}: reached"),
        false if percent < 1.0 => format!("{text}: **missed** by less than 1 %"),
        false => format!("{text}: **missed** by {percent:.0} %"),
    })
}

fn median(report: &Report<'_>, [scenario, variant, metric]: &[String; 3], peer: Peer) -> Option<f64> {
    let row = (scenario.clone(), variant.clone(), metric.clone());
    report.results.get(&row, peer.name()).map(|(_, summary)| summary.median)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Plan;
    use crate::compare::results::{Figure, Place, Results};
    use crate::compare::scenarios;

    #[test]
    fn every_target_is_of_a_variant() {
        for target in &TARGETS {
            assert!(scenarios::find(target.scenario, target.variant).is_some(), "{}", target.scenario);
        }
    }

    #[test]
    fn a_target_is_reached_or_missed_beside_its_peer() {
        let mut results = Results::default();
        let mut add = |scenario, variant, peer: Peer, metric, value| {
            let place = Place { scenario, variant, peer: peer.name() };
            results.add(&place, &[Figure::new(metric, value)], false);
        };
        add("S1", "200 B", Peer::Outrigger, CPU, 21.0);
        add("S1", "200 B", Haproxy, CPU, 20.0);
        add("S4", "plain", Peer::Outrigger, BULK, 150.0);
        add("S4", "plain", Envoy, BULK, 100.0);
        add("S5", "HTTP/1.1", Peer::Outrigger, "MiB private at start", 4.5);
        add("S6", "", Peer::Outrigger, "CPU, µs per connection", 1.0);
        let plan = Plan::new(false, None);
        let report = Report { results: &results, failures: &[], uncounted: &[], peers: &[], plan };
        let text = print(&report);
        let rows: Vec<_> = text.lines().skip(5).collect();
        assert_eq!(
            rows,
            [
                "| S1, 200 B: CPU, µs per request | 21.0 | ≤ HAProxy × 1.05 = 21.0: reached | ≤ HAProxy × 1 = 20.0: **missed** by 5 % |",
                "| S4, plain: MB per second of CPU | 150 | ≥ Envoy × 1.3 = 130: reached | ≥ Envoy × 2 = 200: **missed** by 25 % |",
                "| S5, HTTP/1.1: MiB private at start | 4.50 | ≤ 3: **missed** by 50 % | ≤ 2: **missed** by 125 % |",
            ]
        );
    }
}
