//! Plots of lines as SVG, for the reports of `load` and `scale`.

use std::fmt::Display;

use plotters::prelude::*;

/// Labels of an axis: one for each nine of the percentiles of `load`.
const LABELS: usize = 6;
const FONT: (&str, u32) = ("sans-serif", 14);

/// A part of a picture.
pub(crate) type Area<'svg> = DrawingArea<SVGBackend<'svg>, plotters::coord::Shift>;

/// One line of a plot.
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) color: RGBColor,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Draws lines with axes from zero, up to `end` in x.
pub(crate) fn draw(
    area: &Area<'_>,
    title: &str,
    x: &str,
    lines: &[Line],
    end: f64,
    label: impl Fn(&f64) -> String,
) -> Result<(), String> {
    let highest = lines.iter().flat_map(|line| &line.points).map(|(_, y)| *y).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, FONT)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..end, 0.0..highest.max(1e-3) * 1.1)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc(x)
        .x_labels(LABELS)
        .x_label_formatter(&label)
        .max_light_lines(0)
        .draw()
        .map_err(failed)?;
    for line in lines {
        let color = line.color;
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), color.stroke_width(2)))
            .map_err(failed)?
            .label(line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .draw()
        .map_err(failed)
}

/// The error of a library that cannot draw.
pub(crate) fn failed(error: impl Display) -> String {
    format!("cannot draw: {error}")
}
