//! The results of a comparison as files: `compare.json` with every value, `compare.md` with tables, and one plot per scenario.

mod json;
mod targets;
mod markdown;
mod plot;
mod machine;

use std::path::Path;

pub(crate) use self::machine::describe as describe_machine;
use super::results::Results;
use super::{Found, Plan};

/// What is reported.
pub(super) struct Report<'run> {
    pub(super) results: &'run Results,
    pub(super) failures: &'run [String],
    /// What could not be counted, with peer and reason.
    pub(super) uncounted: &'run [String],
    /// In the order of the columns; the first one is Outrigger.
    pub(super) peers: &'run [Found],
    pub(super) plan: Plan,
}

/// Writes all files into `directory`, which is created, and prints the tables. Returns an error if a file cannot be written.
pub(super) fn write(report: &Report<'_>, directory: &Path) -> Result<(), String> {
    std::fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let file = |name: &str, text: String| {
        let file = directory.join(name);
        std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))
    };
    let machine = describe_machine();
    file("compare.json", json::print(report, &machine)?)?;
    let tables = markdown::print(report, &machine, &targets::print(report));
    println!("{tables}");
    file("compare.md", tables)?;
    for (scenario, plot) in plot::all(report)? {
        file(&format!("{}.svg", scenario.to_lowercase()), plot)?;
    }
    Ok(())
}

/// The name and the version of a scenario's figure that stands for it: its first one.
fn primary<'run>(report: &Report<'run>) -> impl Iterator<Item = &'run (String, String, String)> {
    let rows = report.results.rows();
    rows.iter().enumerate().filter_map(move |(at, row)| {
        let first = rows.iter().position(|other| (&other.0, &other.1) == (&row.0, &row.1));
        (first == Some(at)).then_some(row)
    })
}
