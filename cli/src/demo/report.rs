//! What the demo prints at its end: the checks, one trace as a tree, what each sidecar cost.

use std::collections::BTreeMap;
use std::time::Duration;

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use super::collector::Trace;
use super::load::Window;

/// One finished check.
pub(super) struct Row {
    /// What was checked.
    pub(super) name: String,
    /// What was seen, or why it failed.
    pub(super) verdict: Result<String, String>,
    /// The load that ran meanwhile.
    pub(super) window: Window,
}

impl Row {
    /// Whether the check held and no request was lost.
    pub(super) fn passed(&self) -> bool {
        self.verdict.is_ok() && self.window.lost().is_empty()
    }
}

/// What one sidecar cost over the run.
pub(super) struct Cost {
    pub(super) name: String,
    /// Requests that it handled, both directions, each second.
    pub(super) per_second: f64,
    /// CPU, in percent of one core.
    pub(super) cpu: f64,
    /// Resident memory in bytes.
    pub(super) rss: u64,
}

/// The table of checks.
pub(super) fn checks(rows: &[Row]) -> String {
    let mut table =
        vec![["check", "", "sent", "lost", "POSTs cut off", "p50", "p99", "seen"].map(str::to_owned)];
    for row in rows {
        let window = &row.window;
        table.push([
            row.name.clone(),
            if row.passed() { "ok".into() } else { "FAILED".into() },
            window.sent().to_string(),
            window.lost().len().to_string(),
            window.cut_off().len().to_string(),
            milliseconds(window.quantile(0.5)),
            milliseconds(window.quantile(0.99)),
            match &row.verdict {
                Ok(seen) => seen.clone(),
                Err(why) => why.clone(),
            },
        ]);
    }
    columns(&table, &[2, 3, 4, 5, 6])
}

/// Why requests were lost and POSTs cut off, each reason with how often; empty when there were none.
pub(super) fn casualties(rows: &[Row]) -> String {
    let mut counted: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows {
        let lost = row.window.lost().into_iter().map(|why| format!("{}: lost: {why}", row.name));
        let cut_off =
            row.window.cut_off().into_iter().map(|why| format!("{}: POST cut off: {why}", row.name));
        for casualty in lost.chain(cut_off) {
            *counted.entry(casualty).or_default() += 1;
        }
    }
    counted.iter().map(|(casualty, times)| format!("{times} x {casualty}\n")).collect()
}

/// The table of sidecars.
pub(super) fn costs(costs: &[Cost]) -> String {
    let mut table = vec![["sidecar", "requests/s", "CPU %", "RSS MiB"].map(str::to_owned)];
    for cost in costs {
        table.push([
            cost.name.clone(),
            format!("{:.0}", cost.per_second),
            format!("{:.1}", cost.cpu),
            format!("{:.1}", cost.rss as f64 / f64::from(1 << 20)),
        ]);
    }
    columns(&table, &[1, 2, 3])
}

/// A trace as a tree, each span with its duration and who spoke to whom.
pub(super) fn tree(trace: &Trace) -> String {
    let mut text = format!("trace {}\n", trace.id());
    let begin = trace.root().start;
    for (depth, span) in trace.walk() {
        let side = match span.kind {
            SpanKind::Server => "<-",
            SpanKind::Client => "->",
            _ => "--",
        };
        let peer = match span.kind {
            SpanKind::Client => span.attributes.get("outrigger.destination.spiffe_id"),
            _ => span.attributes.get("outrigger.source.spiffe_id"),
        };
        text.push_str(&format!(
            "{:>9} {:>9}  {:indent$}{side} {} {}{}\n",
            format!("+{}", milliseconds(Some(Duration::from_nanos(span.start.saturating_sub(begin))))),
            milliseconds(Some(span.duration)),
            "",
            span.service,
            span.name,
            peer.map(|peer| format!("  [{peer}]")).unwrap_or_default(),
            indent = depth * 2,
        ));
    }
    text
}

fn milliseconds(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "-".into(), |duration| format!("{:.1} ms", duration.as_secs_f64() * 1e3))
}

/// Aligns columns; those in `right` to the right.
fn columns<const N: usize>(table: &[[String; N]], right: &[usize]) -> String {
    let widths: Vec<usize> =
        (0..N).map(|column| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in table {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if right.contains(&column) {
                line.push_str(&format!("{cell:>width$}  "));
            } else {
                line.push_str(&format!("{cell:<width$}  "));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned() {
        let table = [["a".to_owned(), "10".to_owned()], ["long".to_owned(), "7".to_owned()]];
        assert_eq!(columns(&table, &[1]), "a     10\nlong   7\n");
    }

    #[test]
    fn a_check_that_lost_a_request_has_not_passed() {
        let row = Row { name: String::new(), verdict: Ok(String::new()), window: Window::default() };
        assert!(row.passed());
        let row = Row { verdict: Err("no".into()), ..row };
        assert!(!row.passed());
    }
}
