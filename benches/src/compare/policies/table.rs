//! The table of what each policy costs: medians, their spread, and the difference to the first row.

use std::fmt::Write as _;

use super::super::account::DISTURBED;
use super::super::results::Summary;

/// One run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// CPU time of the server's sidecar, in microseconds per request.
    pub(super) server: f64,
    /// The same of the client's sidecar.
    pub(super) client: f64,
    /// The share of their core that went to anything else.
    pub(super) other: f64,
}

/// The runs of a case.
#[derive(Debug)]
pub(super) struct Row<'case> {
    pub(super) name: &'case str,
    pub(super) samples: Vec<Sample>,
}

/// Returns the table as Markdown. A row is marked if other load disturbed one of its runs.
pub(super) fn print(rows: &[Row<'_>]) -> String {
    let mut text =
        "| policy | server's sidecar: CPU, µs per request | difference | client's sidecar | difference |\n\
                    |---|---|---|---|---|\n"
            .to_owned();
    let of =
        |row: &Row<'_>, side: fn(&Sample) -> f64| middle(&row.samples.iter().map(side).collect::<Vec<_>>());
    let first = rows.first().map(|row| [of(row, |one| one.server).0, of(row, |one| one.client).0]);
    let first = first.unwrap_or_default();
    for row in rows {
        let [server, client] = [of(row, |one| one.server), of(row, |one| one.client)];
        let mark = if row.samples.iter().any(|one| one.other > DISTURBED) { " (disturbed)" } else { "" };
        let _ = writeln!(
            text,
            "| {}{mark} | {:.1} ± {:.1} | {:+.1} | {:.1} ± {:.1} | {:+.1} |",
            row.name,
            server.0,
            server.1,
            server.0 - first[0],
            client.0,
            client.1,
            client.0 - first[1]
        );
    }
    text
}

/// Returns the median and the spread. Of none, both are 0.
fn middle(values: &[f64]) -> (f64, f64) {
    Summary::of(values).map_or((0.0, 0.0), |summary| (summary.median, summary.mad))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_medians_and_the_difference_to_the_first() {
        let sample = |server, other| Sample { server, client: 2.0 * server, other };
        let rows = [
            Row { name: "none", samples: vec![sample(10.0, 0.0), sample(30.0, 0.0), sample(11.0, 0.0)] },
            Row { name: "one", samples: vec![sample(12.0, 0.0), sample(12.5, 0.5), sample(14.0, 0.0)] },
        ];
        let text = print(&rows);
        let lines: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "| none | 11.0 ± 1.0 | +0.0 | 22.0 ± 2.0 | +0.0 |",
                "| one (disturbed) | 12.5 ± 0.5 | +1.5 | 25.0 ± 1.0 | +3.0 |"
            ]
        );
    }
}
