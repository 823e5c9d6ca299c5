//! One plot per scenario: bars of the medians of its first figure, a group per variant, with the range of the values.

use plotters::prelude::*;

use super::Report;
use crate::compare::results::Summary;
use crate::compare::scenarios;

const SIZE: (u32, u32) = (860, 420);
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(117, 112, 179),
    RGBColor(0, 158, 115),
    RGBColor(150, 150, 150),
    RGBColor(230, 171, 2),
];

/// Returns each measured scenario with its plot, as SVG.
pub(super) fn all(report: &Report<'_>) -> Result<Vec<(String, String)>, String> {
    let mut plots = Vec::new();
    for scenario in scenarios::ALL {
        let rows: Vec<_> = super::primary(report).filter(|row| row.0 == scenario.id).collect();
        if let Some((_, _, metric)) = rows.first() {
            let groups: Vec<_> = rows.iter().map(|row| (row.1.as_str(), values(report, row))).collect();
            let svg = draw(&format!("{}: {metric}", scenario.id), report, &groups);
            plots.push((scenario.id.to_owned(), svg.map_err(|error| format!("{}: {error}", scenario.id))?));
        }
    }
    Ok(plots)
}

fn values(report: &Report<'_>, row: &(String, String, String)) -> Vec<Option<Summary>> {
    let get = |name| report.results.get(row, name).map(|(_, summary)| summary);
    report.peers.iter().map(|found| get(found.peer.name())).collect()
}

/// `groups`: a name, and a bar per peer.
fn draw(
    title: &str,
    report: &Report<'_>,
    groups: &[(&str, Vec<Option<Summary>>)],
) -> Result<String, Box<dyn std::error::Error>> {
    let highest =
        groups.iter().flat_map(|(_, bars)| bars.iter().flatten()).map(|bar| bar.max).fold(0.0, f64::max);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(28)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..groups.len() as f64, 0.0..(highest * 1.1).max(1e-9))?;
        let name =
            |at: &f64| groups.get(*at as usize).map_or_else(String::new, |(name, _)| (*name).to_owned());
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(groups.len() * 2 + 1)
            .x_label_formatter(&|at| if (at.fract() - 0.5).abs() < 0.01 { name(at) } else { String::new() })
            .draw()?;
        let width = 0.8 / report.peers.len() as f64;
        for (column, (found, colour)) in report.peers.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let bars =
                groups.iter().enumerate().filter_map(|(group, (_, bars))| Some((group, bars[column]?)));
            let left = |group: usize| group as f64 + 0.1 + width * column as f64;
            chart
                .draw_series(bars.clone().map(|(group, bar)| {
                    Rectangle::new(
                        [(left(group), 0.0), (left(group) + width * 0.9, bar.median)],
                        colour.filled(),
                    )
                }))?
                .label(found.peer.name())
                .legend(|(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], colour.filled()));
            chart.draw_series(bars.map(|(group, bar)| {
                let middle = left(group) + width * 0.45;
                PathElement::new([(middle, bar.min), (middle, bar.max)], BLACK)
            }))?;
        }
        chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
        area.present()?;
    }
    Ok(svg)
}
