//! The second half of docs/cli.md, which is written from the definitions of the commands.

use std::fmt::Write as _;

use clap::{Arg, Command};

use super::{commands, is_group, root};

const WRITE: &str = "OUTRIGGER_WRITE_DOCS";
const HEADING: &str = "## Reference\n";

#[test]
fn the_page_of_the_command_line_is_current() {
    let path = root().join("docs/cli.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (introduction, _) = page.split_once(HEADING).unwrap();
    let current = format!("{introduction}{HEADING}{}", reference());
    if std::env::var_os(WRITE).is_some() {
        return std::fs::write(&path, &current).unwrap();
    }
    assert!(
        page == current,
        "docs/cli.md is not current: run `{WRITE}=1 cargo test -p outrigger --bin outrigger`"
    );
}

fn reference() -> String {
    let mut text = String::new();
    for (name, command) in commands().into_iter().skip(1) {
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let (notes, examples) = after.split_once("Examples:\n").unwrap_or((&after, ""));
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        write!(text, "\n### {name}\n\n{about}.\n").unwrap();
        if !notes.trim().is_empty() {
            write!(text, "\n{}\n", notes.trim().replace('<', "&lt;")).unwrap();
        }
        if !is_group(&command) {
            flags(&mut text, &command);
        }
        if !examples.is_empty() {
            let lines: String = examples
                .lines()
                .map(|line| line.strip_prefix("  ").unwrap_or(line).to_owned() + "\n")
                .collect();
            write!(text, "\n```sh\n{lines}```\n").unwrap();
        }
    }
    text
}

fn flags(text: &mut String, command: &Command) {
    let hidden = |flag: &&Arg| flag.is_hide_set() || matches!(flag.get_id().as_str(), "help" | "version");
    let flags: Vec<_> = command.get_arguments().filter(|flag| !hidden(flag)).collect();
    if flags.is_empty() {
        return;
    }
    text.push_str("\n| flag | default | variable | |\n|---|---|---|---|\n");
    for flag in flags {
        let defaults: Vec<_> =
            flag.get_default_values().iter().map(|value| format!("`{}`", value.display())).collect();
        let default = match (flag.is_required_set(), flag.get_action().takes_values()) {
            (true, _) => "required".to_owned(),
            (false, true) => defaults.join(" "),
            (false, false) => String::new(),
        };
        let variable = flag.get_env().map(|name| format!("`{}`", name.display())).unwrap_or_default();
        let help = flag.get_long_help().or(flag.get_help()).map(ToString::to_string).unwrap_or_default();
        let help = help
            .split("\n\nPossible values:")
            .next()
            .unwrap()
            .replace(".\n\n", ". ")
            .replace("\n\n", ". ")
            .replace('\n', " ");
        let values: Vec<_> =
            flag.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
        let values = match (flag.get_action().takes_values(), values.is_empty()) {
            (true, false) => format!(" ({})", values.join(", ")),
            _ => String::new(),
        };
        let (name, help) = (name(flag), help.trim_end_matches('.').replace('|', "\\|").replace('<', "&lt;"));
        writeln!(text, "| {name} | {default} | {variable} | {help}{values} |").unwrap();
    }
}

/// Returns `-o`, `--output FORMAT`.
fn name(flag: &Arg) -> String {
    let value = match (flag.get_action().takes_values(), flag.get_value_names()) {
        (true, Some([value, ..])) => value.replace('|', "\\|"),
        _ => String::new(),
    };
    let Some(long) = flag.get_long() else { return format!("`{value}`") };
    let short = flag.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
    format!("{short}`--{}`", format!("{long} {value}").trim_end())
}
