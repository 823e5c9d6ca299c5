use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use outrigger_core::explanation::{Explanation, FailedRequest};
use outrigger_core::reason::Reason;

use super::*;

mod reference;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns every command that help shows, with its whole name: `outrigger token create`.
fn commands() -> Vec<(String, clap::Command)> {
    let mut root = Outrigger::command().disable_help_subcommand(true);
    root.build();
    let (mut commands, mut open) = (Vec::new(), vec![("outrigger".to_owned(), root)]);
    while let Some((name, command)) = open.pop() {
        let mut inner: Vec<_> = command.get_subcommands().filter(|inner| !inner.is_hide_set()).collect();
        inner.reverse();
        open.extend(inner.into_iter().map(|inner| (format!("{name} {}", inner.get_name()), inner.clone())));
        commands.push((name, command));
    }
    commands
}

fn is_group(command: &clap::Command) -> bool {
    command.has_subcommands()
}

#[test]
fn every_command_and_flag_has_a_help_text() {
    Outrigger::command().debug_assert();
    for (name, command) in commands() {
        assert!(command.get_about().is_some(), "{name}");
        for flag in command.get_arguments().filter(|flag| !flag.is_hide_set()) {
            assert!(flag.get_help().is_some(), "{name} {}", flag.get_id());
        }
    }
}

#[test]
fn help_fits_a_screen_or_groups_its_flags() {
    for (name, mut command) in commands() {
        let headings: BTreeSet<_> = command
            .get_arguments()
            .filter(|flag| !flag.is_hide_set())
            .filter_map(|flag| flag.get_help_heading().map(str::to_owned))
            .collect();
        for help in [command.render_help(), command.render_long_help()].map(|help| help.to_string()) {
            let lines = help.lines().count();
            assert!(lines <= 40 || headings.len() >= 2, "{name}: {lines} lines, {headings:?}\n{help}");
            let long = help.lines().find(|line| line.chars().count() > 100 && !line.starts_with("Usage:"));
            assert_eq!(long, None, "{name}");
        }
    }
}

#[test]
fn every_command_has_an_example_of_its_own_or_in_its_group() {
    let has_example = |command: &clap::Command| {
        command.get_after_help().is_some_and(|help| help.to_string().contains("Examples:\n  # "))
    };
    let all = commands();
    let grouped = |name: &str| {
        all.iter().any(|(group, of)| {
            name.starts_with(&format!("{group} ")) && group != "outrigger" && has_example(of)
        })
    };
    for (name, command) in all.iter().filter(|(_, command)| !is_group(command)) {
        assert!(has_example(command) || grouped(name), "{name}");
    }
}

#[test]
fn the_lines_of_examples_fit_a_terminal_of_80_columns() {
    for (name, command) in commands() {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples = help.split_once("Examples:\n").map_or("", |(_, examples)| examples);
        let long = examples.lines().find(|line| line.chars().count() > 80);
        assert_eq!(long, None, "{name}");
    }
}

#[test]
fn the_same_flag_is_spelled_the_same_everywhere() {
    let mut seen: BTreeMap<String, (String, Option<char>)> = Default::default();
    for (name, command) in commands().iter().filter(|(name, _)| !name.ends_with("sample")) {
        for flag in
            command.get_arguments().filter(|flag| matches!(flag.get_long(), Some("output" | "namespace")))
        {
            let long = flag.get_long().unwrap().to_owned();
            let (first, short) = seen.entry(long.clone()).or_insert_with(|| (name.clone(), flag.get_short()));
            assert_eq!(*short, flag.get_short(), "--{long} of {name} and of {first}");
        }
    }
    assert_eq!(seen["output"].1, Some('o'));
    assert_eq!(seen["namespace"].1, Some('n'));
}

#[test]
fn every_command_that_an_answer_of_a_proxy_names_exists() {
    let mut commands = 0;
    for reason in Reason::ALL {
        let text = Explanation::new(reason, FailedRequest::default()).to_string();
        let (_, see) = text.split_once("; see: ").unwrap();
        if see.starts_with("outrigger ") {
            let parsed = Outrigger::try_parse_from(see.split_whitespace());
            assert!(parsed.is_ok(), "{see}: {}", parsed.unwrap_err());
            commands += 1;
        }
    }
    assert!(commands >= 15, "{commands}");
}

#[test]
fn every_command_line_in_the_documents_is_valid() {
    let mut pages: Vec<PathBuf> =
        std::fs::read_dir(root().join("docs")).unwrap().map(|page| page.unwrap().path()).collect();
    pages.push(root().join("README.md"));
    let mut understood = 0;
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for block in text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            for line in block.replace("\\\n", " ").lines().filter(|line| line.starts_with("outrigger ")) {
                let shell = |word: &&str| !matches!(*word, "&" | ">" | "|");
                let words = line.split_whitespace().take_while(shell);
                let parsed = Outrigger::try_parse_from(words);
                assert!(parsed.is_ok(), "{}: {line}\n{}", page.display(), parsed.unwrap_err());
                understood += 1;
            }
        }
    }
    assert!(understood >= 20, "{understood} commands");
}
