//! The certificate and the trust roots as a table, from `/certs`.

use jiff::Timestamp;
use serde_json::Value;

use super::dump::{list, text};
use crate::output::table::{Table, Tone};
use crate::output::time::{has_passed, relative};

/// Returns the table.
pub(super) fn table(page: &Value, wide: bool, now: Timestamp) -> String {
    let mut header = vec!["TYPE", "NAME", "SERIAL", "ENDS"];
    header.extend(wide.then_some("NOT BEFORE"));
    let mut table = Table::new(&header);
    if let Some(identity) = page["spiffe_id"].as_str() {
        let end = text(&page["not_after"]);
        let tone = if has_passed(end, now) { Tone::Error } else { Tone::Plain };
        let ends = if wide { end.to_owned() } else { relative(end, now) };
        let mut cells = vec!["certificate", identity, text(&page["serial"]), &ends];
        cells.extend(wide.then_some(text(&page["not_before"])));
        table.row(tone, cells);
    }
    for root in list(&page["roots"]) {
        for subject in list(&root["subjects"]) {
            let name = format!("{} ({})", text(&root["trust_domain"]), text(subject));
            let mut cells = vec!["root", &name, "", ""];
            cells.extend(wide.then_some(""));
            table.row(Tone::Plain, cells);
        }
    }
    table.to_text()
}
