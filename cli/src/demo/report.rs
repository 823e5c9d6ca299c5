//! What the demo prints at its end: the checks, one trace as a tree, and the resources that each sidecar used.

use std::collections::BTreeMap;
use std::time::Duration;

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use outrigger::memory::Memory;

use super::collector::{Span, Trace};
use super::load::Window;

/// The width, in columns, at which text is wrapped.
const WIDTH: usize = 110;

/// One finished check.
pub(super) struct Row {
    /// The number in README.md, by which rows are ordered.
    pub(super) number: u8,
    /// What was checked.
    pub(super) name: &'static str,
    /// The outcome, or why the check failed.
    pub(super) verdict: Result<String, String>,
    /// The requests sent since the previous check ended.
    pub(super) window: Window,
}

/// The resources that one sidecar used during the run.
pub(super) struct Cost {
    pub(super) name: String,
    /// Requests per second, in both directions.
    pub(super) per_second: f64,
    /// CPU, in percent of one core.
    pub(super) cpu: f64,
    /// Memory at one and at thirty seconds after its start; `None` if it did not run that long.
    pub(super) memory: [Option<Memory>; 2],
}

/// The check that lasts for the whole run. Its figures cover the whole run.
const THROUGHOUT: u8 = 6;

/// Formats the table of checks: below each its outcome, and why requests sent during it were lost or cut off.
pub(super) fn checks(rows: &[Row], whole: &Window) -> String {
    let mut table =
        vec![["check", "result", "sent", "lost", "POSTs cut off", "p50", "p99"].map(str::to_owned)];
    table.extend(rows.iter().map(|row| {
        let window = if row.number == THROUGHOUT { whole } else { &row.window };
        let passed = row.verdict.is_ok() && window.lost().is_empty();
        [
            format!("{} {}", row.number, row.name),
            if passed { "ok" } else { "FAILED" }.to_owned(),
            window.sent().to_string(),
            window.lost().len().to_string(),
            window.cut_off().len().to_string(),
            milliseconds(window.quantile(0.5)),
            milliseconds(window.quantile(0.99)),
        ]
    }));
    let table = columns(&table, &[2, 3, 4, 5, 6]);
    let (heads, lines) = table.split_once('\n').unwrap_or_default();
    let mut text = format!("{heads}\n");
    for (row, line) in rows.iter().zip(lines.lines()) {
        let (Ok(seen) | Err(seen)) = &row.verdict;
        text.push_str(&format!("{line}\n{}", wrapped(seen)));
        for (failure, times) in failures(&row.window) {
            text.push_str(&wrapped(&format!("{times} x {failure}")));
        }
    }
    text
}

/// Counts each reason for which requests were lost or POSTs cut off.
fn failures(window: &Window) -> BTreeMap<String, usize> {
    let lost = window.lost().into_iter().map(|why| format!("lost: {why}"));
    let cut_off = window.cut_off().into_iter().map(|why| format!("POST cut off: {why}"));
    let mut counted = BTreeMap::new();
    for failure in lost.chain(cut_off) {
        *counted.entry(failure).or_default() += 1;
    }
    counted
}

/// Wraps `text` at spaces into indented lines.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::from("   ")];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        if lines[last].trim().is_empty() || lines[last].chars().count() + 1 + word.chars().count() <= WIDTH {
            lines[last].push_str(&format!(" {word}"));
        } else {
            lines.push(format!("    {word}"));
        }
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

/// Formats the table of sidecars.
pub(super) fn costs(costs: &[Cost]) -> String {
    let heads = ["sidecar", "requests/s", "CPU %", "RSS / RssAnon / PSS, MiB, at 1 s", "at 30 s"];
    let mut table = vec![heads.map(str::to_owned)];
    for cost in costs {
        let [young, settled] =
            cost.memory.map(|memory| memory.map_or_else(|| "-".to_owned(), |memory| memory.to_string()));
        table.push([
            cost.name.clone(),
            format!("{:.0}", cost.per_second),
            format!("{:.1}", cost.cpu),
            young,
            settled,
        ]);
    }
    columns(&table, &[1, 2, 3, 4])
}

/// Formats a trace as a tree. Each hop has up to four spans: two of the caller's sidecar (outbound), two of the callee's (inbound).
pub(super) fn tree(trace: &Trace) -> String {
    let mut text = format!(
        "the trace {} of one checkout\neach line is a span of a sidecar: <- is followed by its caller, -> by its callee\n\n",
        trace.id()
    );
    let mut table = vec![["start", "duration", "sidecar"].map(str::to_owned)];
    let begin = trace.root().start;
    for (depth, span) in trace.walk() {
        let starts = Duration::from_nanos(span.start.saturating_sub(begin));
        table.push([
            format!("+{}", milliseconds(Some(starts))),
            milliseconds(Some(span.duration)),
            format!("{:indent$}{}", "", describe(span), indent = depth * 2),
        ]);
    }
    text.push_str(&columns(&table, &[0, 1]));
    text
}

/// Describes a span: its sidecar, the direction, and the peer.
fn describe(span: &Span) -> String {
    let attribute = |name: &str| span.attributes.get(name).map_or("", String::as_str);
    let service = &span.service;
    let status = attribute("http.response.status_code");
    match (attribute("outrigger.direction"), span.kind) {
        ("outbound", SpanKind::Server) => {
            let request = match attribute("rpc.service").rsplit('.').next() {
                Some("") | None => format!("{} {}", attribute("http.request.method"), attribute("url.path")),
                Some(rpc) => format!("gRPC {rpc}/{}", attribute("rpc.method")),
            };
            let to = attribute("outrigger.destination.service").replace(".svc.cluster.local", "");
            format!("{service} outbound <- application: {request} to {to}")
        }
        ("outbound", _) => {
            let peer = attribute("outrigger.destination.spiffe_id");
            let again = match attribute("http.request.resend_count") {
                "" => String::new(),
                times => format!(" (retry {times})"),
            };
            format!("{service} outbound -> {peer}: {status}{again}")
        }
        ("inbound", SpanKind::Server) => {
            format!("{service} inbound <- {}", attribute("outrigger.source.spiffe_id"))
        }
        _ => format!("{service} inbound -> application: {status}"),
    }
}

fn milliseconds(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "-".into(), |duration| format!("{:.1} ms", duration.as_secs_f64() * 1e3))
}

/// Aligns columns: those in `right` to the right, the others to the left.
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
    use super::super::load::Sample;
    use super::*;

    #[test]
    fn a_table_is_aligned() {
        let table = [["a".to_owned(), "10".to_owned()], ["long".to_owned(), "7".to_owned()]];
        assert_eq!(columns(&table, &[1]), "a     10\nlong   7\n");
    }

    #[test]
    fn a_sidecar_that_ran_for_less_than_thirty_seconds_has_one_memory_sample() {
        let memory = Memory { rss: 20 << 20, anonymous: 5 << 20, pss: 9 << 20 };
        let cost = Cost { name: "cart-1".into(), per_second: 5.0, cpu: 1.0, memory: [Some(memory), None] };
        let text = costs(&[cost]);
        let row: Vec<_> = text.lines().last().unwrap().split("  ").filter(|cell| !cell.is_empty()).collect();
        assert_eq!(
            row.iter().map(|cell| cell.trim()).collect::<Vec<_>>(),
            ["cart-1", "5", "1.0", "20.0 / 5.0 / 9.0", "-"]
        );
    }

    fn row(number: u8, verdict: Result<String, String>) -> Row {
        Row { number, name: "canary", verdict, window: Window::default() }
    }

    #[test]
    fn the_outcome_of_a_check_is_below_it_and_every_line_fits() {
        let seen = "nine words of thirteen letters each, more or less ".repeat(9);
        let text = checks(&[row(1, Ok("fine".into())), row(2, Err(seen))], &Window::default());
        assert!(text.contains("\n1 canary  ok         0     0"), "{text}");
        assert!(text.contains("\n2 canary  FAILED     0     0"), "{text}");
        assert!(text.contains("\n    fine\n") && text.lines().all(|line| line.len() <= WIDTH), "{text}");
    }

    #[test]
    fn a_check_that_lost_a_request_has_not_passed() {
        let lost = || Window(vec![Sample::lost("gone")]);
        let third = Row { window: lost(), ..row(3, Ok("killed".into())) };
        let text = checks(&[third, row(THROUGHOUT, Ok("renewed".into()))], &lost());
        assert!(
            text.contains("3 canary  FAILED     1     1") && text.contains("6 canary  FAILED     1     1"),
            "{text}"
        );
        assert_eq!(
            text.matches("1 x lost: gone").count(),
            1,
            "a lost request is reported with the check during which it was sent: {text}"
        );
    }
}
