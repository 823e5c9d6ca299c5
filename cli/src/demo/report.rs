//! What the demo prints at its end: the checks, the calls of one trace, and the resources that each sidecar used.

use std::collections::BTreeMap;
use std::time::Duration;

use outrigger::memory::Memory;

use super::collector::{Call, Trace};
use super::load::Window;
use crate::output::table::{Table, Tone};

/// The width, in columns, at which text is wrapped. It fits every terminal.
const WIDTH: usize = 79;

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
    let mut table = Table::new(&["CHECK", "RESULT", "SENT", "LOST", "CUT OFF", "P50", "P99"]);
    (2..=6).for_each(|column| table.numbers(column));
    for row in rows {
        let window = if row.number == THROUGHOUT { whole } else { &row.window };
        let passed = row.verdict.is_ok() && window.lost().is_empty();
        table.row(
            if passed { Tone::Plain } else { Tone::Error },
            [
                format!("{} {}", row.number, row.name),
                if passed { "ok" } else { "FAILED" }.to_owned(),
                window.sent().to_string(),
                window.lost().len().to_string(),
                window.cut_off().len().to_string(),
                milliseconds(window.quantile(0.5)),
                milliseconds(window.quantile(0.99)),
            ],
        );
    }
    let table = table.to_text();
    let (header, lines) = table.split_once('\n').unwrap_or_default();
    let mut text = format!("{header}\n");
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
    let mut table = Table::new(&["SIDECAR", "REQUESTS/S", "CPU %", "MIB AT 1 S", "MIB AT 30 S"]);
    (1..=4).for_each(|column| table.numbers(column));
    for cost in costs {
        let [young, settled] = cost.memory.map(|memory| memory.map_or_else(String::new, |it| it.to_string()));
        let (per_second, cpu) = (format!("{:.0}", cost.per_second), format!("{:.1}", cost.cpu));
        table.row(Tone::Plain, [cost.name.clone(), per_second, cpu, young, settled]);
    }
    format!(
        "resources of each sidecar\nrequests in both directions; memory as RSS / RssAnon / PSS\n\n{}",
        table.to_text()
    )
}

/// Formats a trace: one line for each call, those that the callee made meanwhile indented below it.
pub(super) fn trace(trace: &Trace) -> String {
    let mut table = Table::new(&["START", "CALLER", "CALLEE", "CALL"]);
    (0..=2).for_each(|column| table.numbers(column));
    let calls = trace.calls();
    let begin = calls.iter().map(|call| call.client.start).min().unwrap_or_default();
    for call in &calls {
        let start = Duration::from_nanos(call.client.start.saturating_sub(begin));
        table.row(
            Tone::Plain,
            [
                format!("+{}", milliseconds(Some(start))),
                milliseconds(Some(call.client.duration)),
                milliseconds(call.server.map(|span| span.duration)),
                format!("{:indent$}{}", "", describe(call), indent = call.depth * 2),
            ],
        );
    }
    format!(
        "trace {} of one checkout\neach line is a call: how long it took at the caller's and the callee's sidecar\n\n{}",
        trace.id(),
        table.to_text()
    )
}

/// Describes a call: who called whom, the request, the status.
fn describe(call: &Call<'_>) -> String {
    let client = |name: &str| call.client.attributes.get(name).map_or("", String::as_str);
    let path = call.server.and_then(|span| span.attributes.get("url.path")).map_or("", String::as_str);
    let (request, status) = match client("rpc.method") {
        "" => (format!("{} {path}", client("http.request.method")), client("http.response.status_code")),
        method => (method.rsplit('.').next().unwrap_or(method).to_owned(), client("rpc.status_code")),
    };
    // An attempt that reached no sidecar has no server span.
    let callee = call.server.map_or(client("server.address"), |span| &span.service);
    let again = match client("http.request.resend_count") {
        "" => String::new(),
        count => format!(" (retry {count})"),
    };
    format!("{} -> {callee}: {request}, {status}{again}", call.client.service)
}

fn milliseconds(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "-".into(), |duration| format!("{:.1} ms", duration.as_secs_f64() * 1e3))
}

#[cfg(test)]
mod tests {
    use super::super::collector::Span;
    use super::super::load::Sample;
    use super::*;

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

    /// The lines of a report, as a pipe gets them.
    fn printed(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    /// Whether the report has a row with these cells.
    fn has(text: &str, cells: [&str; 4]) -> bool {
        text.lines().any(|line| {
            let found = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
            found.take(4).eq(cells)
        })
    }

    #[test]
    fn the_outcome_of_a_check_is_below_it_and_every_line_fits() {
        let seen = "nine words of thirteen letters each, more or less ".repeat(9);
        let text = printed(&checks(&[row(1, Ok("fine".into())), row(2, Err(seen))], &Window::default()));
        assert!(has(&text, ["1 canary", "ok", "0", "0"]), "{text}");
        assert!(has(&text, ["2 canary", "FAILED", "0", "0"]), "{text}");
        assert!(text.contains("\n    fine\n") && text.lines().all(|line| line.len() <= WIDTH), "{text}");
    }

    #[test]
    fn a_check_that_lost_a_request_has_not_passed() {
        let lost = || Window(vec![Sample::lost("gone")]);
        let third = Row { window: lost(), ..row(3, Ok("killed".into())) };
        let text = printed(&checks(&[third, row(THROUGHOUT, Ok("renewed".into()))], &lost()));
        assert!(has(&text, ["3 canary", "FAILED", "1", "1"]), "{text}");
        assert!(has(&text, ["6 canary", "FAILED", "1", "1"]), "{text}");
        assert_eq!(
            text.matches("1 x lost: gone").count(),
            1,
            "a lost request is reported with the check during which it was sent: {text}"
        );
    }

    #[test]
    fn a_call_is_one_line_with_its_callee_and_its_status() {
        let span = |service: &str, attributes: &[(&str, &str)]| {
            let attributes = attributes.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            Span::of(service, attributes.collect())
        };
        let (http, path) = (
            span("web", &[("http.request.method", "GET"), ("http.response.status_code", "200")]),
            span("cart", &[("url.path", "/cart")]),
        );
        let call = |client, server| describe(&Call { depth: 0, client, server });
        assert_eq!(call(&http, Some(&path)), "web -> cart: GET /cart, 200");
        let rpc = [("rpc.method", "demo.Payments/Charge"), ("rpc.status_code", "UNAVAILABLE")];
        let again = [("server.address", "payments"), ("http.request.resend_count", "1")];
        let rpc = span("cart", &[rpc, again].concat());
        assert_eq!(call(&rpc, None), "cart -> payments: Payments/Charge, UNAVAILABLE (retry 1)");
    }
}
