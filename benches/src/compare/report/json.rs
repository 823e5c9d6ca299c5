//! `compare.json`: every value of every run, for programs.

use serde::Serialize;

use super::Report;
use crate::compare::results::{Samples, Summary};

#[derive(Serialize)]
struct File<'run> {
    machine: &'run str,
    versions: Vec<(&'static str, &'run str)>,
    run_seconds: f64,
    runs: usize,
    failures: &'run [String],
    uncounted: &'run [String],
    figures: Vec<Row<'run>>,
}

#[derive(Serialize)]
struct Row<'run> {
    scenario: &'run str,
    variant: &'run str,
    metric: &'run str,
    peer: &'static str,
    #[serde(flatten)]
    summary: Summary,
    /// Outrigger's median divided by this one.
    ratio: Option<f64>,
    #[serde(flatten)]
    samples: &'run Samples,
}

pub(super) fn print(report: &Report<'_>, machine: &str) -> Result<String, String> {
    let mut figures = Vec::new();
    for row in report.results.rows() {
        let ours = report.results.get(row, report.peers[0].peer.name()).map(|(_, summary)| summary.median);
        for found in report.peers {
            let Some((samples, summary)) = report.results.get(row, found.peer.name()) else { continue };
            figures.push(Row {
                scenario: &row.0,
                variant: &row.1,
                metric: &row.2,
                peer: found.peer.name(),
                summary,
                ratio: ours.map(|ours| ours / summary.median).filter(|ratio| ratio.is_finite()),
                samples,
            });
        }
    }
    let file = File {
        machine,
        versions: report.peers.iter().map(|found| (found.peer.name(), found.version.as_str())).collect(),
        run_seconds: report.plan.run.as_secs_f64(),
        runs: report.plan.repeat,
        failures: report.failures,
        uncounted: report.uncounted,
        figures,
    };
    serde_json::to_string_pretty(&file).map(|text| text + "\n").map_err(|error| error.to_string())
}
