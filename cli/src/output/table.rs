//! A table as kubectl prints it: a header in capitals, columns aligned, no borders. A row that needs attention is
//! coloured as a whole.

use anstyle::{AnsiColor, Style};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement};

/// What is printed for a value that does not exist.
pub(crate) const NONE: &str = "-";

/// How a row is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// No colour.
    Plain,
    /// Yellow: may be temporary.
    Warning,
    /// Red: an error.
    Error,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Warning => AnsiColor::Yellow.on_default(),
            Self::Error => AnsiColor::Red.on_default(),
        }
    }
}

/// A table.
#[derive(Debug)]
pub(crate) struct Table {
    table: comfy_table::Table,
    tones: Vec<Tone>,
}

impl Table {
    /// Returns a table without rows.
    pub(crate) fn new(header: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        Self { table, tones: Vec::new() }
    }

    /// Aligns a column of numbers to the right.
    pub(crate) fn numbers(&mut self, column: usize) {
        if let Some(column) = self.table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }

    /// Adds a row. A cell without text gets a dash.
    pub(crate) fn row<C: AsRef<str>>(&mut self, tone: Tone, cells: impl IntoIterator<Item = C>) {
        let cells = cells.into_iter().map(|cell| match cell.as_ref() {
            "" => NONE.to_owned(),
            text => printable(text),
        });
        self.table.add_row(cells.collect::<Vec<_>>());
        self.tones.push(tone);
    }

    /// Returns the lines of the table, or an empty text if it has no row.
    pub(crate) fn to_text(&self) -> String {
        let header = Style::new().bold();
        let styles = std::iter::once(header).chain(self.tones.iter().map(|tone| tone.style()));
        let lines = self.table.lines().zip(styles);
        match self.tones.is_empty() {
            true => String::new(),
            false => lines.map(|(line, style)| format!("{style}{}{style:#}\n", line.trim_end())).collect(),
        }
    }
}

/// Escapes control characters: names and reasons come from other machines, and a terminal obeys what it is sent.
pub(crate) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for one in text.chars() {
        match one.is_control() {
            true => printable.extend(one.escape_debug()),
            false => printable.push(one),
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_a_missing_value_is_a_dash() {
        let mut table = Table::new(&["NAME", "VERSION"]);
        table.row(Tone::Plain, ["web-1", "0.1.0"]);
        table.row(Tone::Plain, ["a-long-name", ""]);
        let plain = anstream::adapter::strip_str(&table.to_text()).to_string();
        assert_eq!(plain, "NAME         VERSION\nweb-1        0.1.0\na-long-name  -\n");
    }

    #[test]
    fn numbers_are_aligned_to_the_right() {
        let mut table = Table::new(&["NAME", "SENT"]);
        table.numbers(1);
        table.row(Tone::Plain, ["web", "7"]);
        table.row(Tone::Plain, ["cart", "12345"]);
        let plain = anstream::adapter::strip_str(&table.to_text()).to_string();
        assert_eq!(plain, "NAME   SENT\nweb       7\ncart  12345\n");
    }

    #[test]
    fn a_row_that_needs_attention_is_red() {
        let mut table = Table::new(&["NAME"]);
        table.row(Tone::Plain, ["web"]);
        table.row(Tone::Error, ["cart"]);
        let text = table.to_text();
        assert!(text.contains("\nweb\n") && text.contains("\n\u{1b}[31mcart\u{1b}[0m\n"), "{text:?}");
    }

    #[test]
    fn a_name_cannot_control_the_terminal() {
        let mut table = Table::new(&["NAME"]);
        table.row(Tone::Plain, ["a\u{1b}[2Jb\nc"]);
        let text = table.to_text();
        assert!(text.ends_with("\na\\u{1b}[2Jb\\nc\n"), "{text:?}");
    }
}
