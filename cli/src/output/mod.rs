//! What commands print: a table for people or data for programs, written to stdout.
//!
//! Colours are removed unless stdout is a terminal and the environment allows them (NO_COLOR, CLICOLOR, CLICOLOR_FORCE, TERM). A
//! reader that closes the pipe early, such as `head`, ends the output and is not an error.

pub(crate) mod table;
pub(crate) mod time;

use std::io::{ErrorKind, Write};

use clap::{Args, ValueEnum};
use serde::Serialize;

/// The format of a command's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    Table,
    Wide,
    Json,
    Yaml,
}

/// The flag `-o`.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputArgs {
    /// A table, one with more columns, or all data as JSON or YAML.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = OutputFormat::Table)]
    #[arg(help_heading = "Output")]
    pub(crate) output: OutputFormat,
}

impl OutputArgs {
    /// Prints `data`, or the text that `table` returns. `table` gets whether the wide format was requested.
    pub(crate) fn print<T: Serialize>(
        self,
        data: &T,
        table: impl FnOnce(bool) -> String,
    ) -> Result<(), String> {
        match self.output {
            OutputFormat::Table => print(&table(false)),
            OutputFormat::Wide => print(&table(true)),
            OutputFormat::Json => print(&json(data)?),
            OutputFormat::Yaml => print(&yaml(data)?),
        }
    }
}

/// Returns `data` as indented JSON with a final newline.
pub(crate) fn json<T: Serialize>(data: &T) -> Result<String, String> {
    serde_json::to_string_pretty(data).map(|text| text + "\n").map_err(|error| error.to_string())
}

/// Returns `data` as one YAML document with a final newline.
pub(crate) fn yaml<T: Serialize>(data: &T) -> Result<String, String> {
    serde_saphyr::to_string(data)
        .map(|text| text.trim_end().to_owned() + "\n")
        .map_err(|error| error.to_string())
}

/// Writes `text` to stdout.
pub(crate) fn print(text: &str) -> Result<(), String> {
    let mut stdout = anstream::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("cannot write to stdout: {error}"))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes one line to stderr. If that fails, nothing can be reported.
pub(crate) fn print_error(line: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_yaml_have_the_same_data() {
        let data = serde_json::json!({ "name": "web", "ports": [80], "version": "1.0", "problem": null });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json(&data).unwrap()).unwrap(), data);
        let yaml = yaml(&data).unwrap();
        assert_eq!(serde_saphyr::from_str::<serde_json::Value>(&yaml).unwrap(), data, "{yaml}");
        assert!(yaml.contains("name: web\n") && yaml.ends_with('\n'), "{yaml}");
    }
}
