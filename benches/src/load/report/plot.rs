//! The plots: throughput over time, latency over time, and latency by percentile, one below the other, as SVG.

use plotters::prelude::*;

use super::Report;
use crate::plot::{Area, Line, draw, failed};

const SIZE: (u32, u32) = (960, 1080);
/// The percentile plot ends at this share of the requests: 99.999 %.
const NINES: f64 = 5.0;

/// Returns the plots. Returns an error if the library cannot draw them.
pub(in super::super) fn plots(report: &Report<'_>) -> Result<String, String> {
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let areas = root.split_evenly((3, 1));
    if let [rates, times, quantiles] = &areas[..] {
        let end = report.measured.elapsed.as_secs_f64().max(1.0);
        over_time(rates, "requests per second", &throughput(report), end)?;
        over_time(times, "latency in ms, by when the answer came", &latencies(report), end)?;
        by_quantile(quantiles, report)?;
    }
    root.present().map_err(failed)?;
    drop((areas, root));
    Ok(svg)
}

fn throughput(report: &Report<'_>) -> Vec<Line> {
    let of = |value: fn(&super::super::recorder::Second) -> u64| whole(report, |second| value(second) as f64);
    let mut lines = vec![Line { name: "answered", color: BLUE, points: of(|second| second.answered) }];
    if report.measured.tally.failed() > 0 {
        lines.push(Line { name: "failed", color: RED, points: of(|second| second.failed) });
    }
    let last = report.measured.elapsed.as_secs_f64();
    let steps = (0..=200).map(|step| last * f64::from(step) / 200.0 * 0.999_999);
    let offered: Vec<_> = steps.filter_map(|time| Some((time, report.offered(time)?))).collect();
    if !offered.is_empty() {
        lines.push(Line { name: "offered", color: RGBColor(150, 150, 150), points: offered });
    }
    lines
}

fn latencies(report: &Report<'_>) -> Vec<Line> {
    [("p50", 0.5, GREEN), ("p90", 0.9, BLUE), ("p99", 0.99, MAGENTA), ("max", 1.0, RED)]
        .into_iter()
        .map(|(name, quantile, color)| {
            let points = whole(report, |second| second.latency.value_at_quantile(quantile) as f64 / 1e6);
            Line { name, color, points }
        })
        .collect()
}

/// A point in the middle of each second that lies in the measurement as a whole.
fn whole(report: &Report<'_>, value: impl Fn(&super::super::recorder::Second) -> f64) -> Vec<(f64, f64)> {
    let whole = (report.measured.elapsed.as_secs_f64() + 1e-6) as usize;
    let seconds = report.measured.seconds.iter().take(whole.max(1)).enumerate();
    seconds.map(|(number, second)| (number as f64 + 0.5, value(second))).collect()
}

fn over_time(area: &Area<'_>, title: &str, lines: &[Line], end: f64) -> Result<(), String> {
    draw(area, title, "seconds", lines, end, |time| format!("{time}"))
}

fn by_quantile(area: &Area<'_>, report: &Report<'_>) -> Result<(), String> {
    let curve = |histogram: &hdrhistogram::Histogram<u64>| {
        let steps = (0..=250).map(|step| NINES * f64::from(step) / 250.0);
        // What is beyond the last request has no percentile.
        let known = steps.take_while(|nines| 10_f64.powf(*nines) <= histogram.len().max(1) as f64);
        known
            .map(|nines| (nines, histogram.value_at_quantile(1.0 - 10_f64.powf(-nines)) as f64 / 1e6))
            .collect::<Vec<_>>()
    };
    let tally = &report.measured.tally;
    let mut lines = vec![Line { name: "latency", color: BLUE, points: curve(&tally.latency) }];
    if report.has_schedule() {
        lines.push(Line {
            name: "from actual start",
            color: RGBColor(150, 150, 150),
            points: curve(&tally.service),
        });
    }
    let label = |nines: &f64| {
        let percent = 100.0 - 100.0 * 10_f64.powf(-nines);
        let text = format!("{percent:.3}");
        format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
    };
    draw(area, "latency in ms by percentile", "percentile", &lines, NINES, label)
}
