//! The results of `scale` as files: `scale.json` with the figures, `scale.md` with tables, `scale.svg` with plots of when the proxies had what.

use std::path::Path;
use std::time::Duration;

use plotters::prelude::*;
use serde_json::json;

use super::results::Results;
use crate::compare::describe_machine;
use crate::plot::{Line, draw, failed};

const SIZE: (u32, u32) = (960, 1080);
/// Of the control planes, in the order of the tables.
const COLOURS: [RGBColor; 2] = [RGBColor(0, 114, 178), RGBColor(213, 94, 0)];
/// Points of a line.
const POINTS: usize = 200;

/// Writes all files into `directory`, which is created. Returns an error if that fails.
pub(super) fn write(all: &[Results], directory: &Path) -> Result<(), String> {
    std::fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let file = |name: &str, text: String| {
        let file = directory.join(name);
        std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))
    };
    let machine = describe_machine();
    let control_planes: Vec<_> = all.iter().map(Results::json).collect();
    let json = json!({"machine": machine, "control_planes": control_planes});
    file("scale.json", format!("{json:#}\n"))?;
    let tables: Vec<_> = all.iter().map(|results| format!("## {}", results.table())).collect();
    file("scale.md", format!("# Control planes\n\nMachine: {machine}.\n\n{}", tables.join("\n")))?;
    file("scale.svg", plots(all)?)
}

/// The part of the proxies that had something by when: in the cold start, in the reconnect, and after a change.
fn plots(all: &[Results]) -> Result<String, String> {
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let areas = root.split_evenly((3, 1));
    let of = |times: fn(&Results) -> Vec<Duration>| -> Vec<Line> {
        let each = all.iter().zip(COLOURS.iter().cycle());
        each.map(|(results, color)| Line {
            name: results.name,
            color: *color,
            points: arrivals(&times(results)),
        })
        .collect()
    };
    for (area, (title, lines)) in areas.iter().zip([
        ("cold start: % of proxies with all resources", of(|results| results.configured.clone())),
        ("reconnect of all: % of proxies with all resources", of(|results| results.reconnected.clone())),
        ("a change: % of proxies that have it, over all changes", of(Results::each_proxy)),
    ]) {
        let end =
            lines.iter().filter_map(|line| line.points.last()).map(|(time, _)| *time).fold(0.0, f64::max);
        draw(area, title, "seconds", &lines, end.max(1e-3), |time| format!("{time:.2}"))?;
    }
    root.present().map_err(failed)?;
    drop((areas, root));
    Ok(svg)
}

/// Seconds and the percentage that had arrived by then, of sorted times.
fn arrivals(sorted: &[Duration]) -> Vec<(f64, f64)> {
    let point = |step: usize| {
        let rank = (sorted.len() * step).div_ceil(POINTS).max(1);
        let time = sorted.get(rank - 1)?;
        Some((time.as_secs_f64(), 100.0 * step as f64 / POINTS as f64))
    };
    (0..=POINTS).filter_map(point).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::results::testing::{results, seconds};
    use super::*;

    #[test]
    fn all_files_are_written() {
        let directory = tempfile::tempdir().unwrap();
        write(&[results()], &directory.path().join("new")).unwrap();
        let read = |name: &str| std::fs::read_to_string(directory.path().join("new").join(name)).unwrap();
        let json: Value = serde_json::from_str(&read("scale.json")).unwrap();
        assert_eq!(json["control_planes"], json!([results().json()]));
        assert!(read("scale.md").contains(&results().table()));
        assert!(read("scale.svg").contains("a change: % of proxies"));
    }

    #[test]
    fn a_line_ends_with_the_last_arrival() {
        let points = arrivals(&seconds(&[1, 2, 4]));
        assert_eq!((points[0], points[POINTS / 2], points[POINTS]), ((1.0, 0.0), (2.0, 50.0), (4.0, 100.0)));
        assert!(arrivals(&[]).is_empty());
    }
}
