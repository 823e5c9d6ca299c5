//! `outrigger`: what a person types.
//!
//! The demo and the sample services live here; everything else is a thin command over a library: the two daemons,
//! and what asks or changes a control plane. Errors are one line on stderr, and exit 1.
#![allow(clippy::print_stdout, clippy::print_stderr)] // the one crate that talks to a person

mod control_plane;
mod demo;
mod sample;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Outrigger, a service mesh: a small L7 proxy beside each service, and a small control plane.
#[derive(Debug, Parser)]
#[command(name = "outrigger", version, about)]
struct Outrigger {
    #[command(subcommand)]
    command: Command,
    /// End when the process that started this one ends.
    #[arg(long, global = true, hide = true)]
    exit_with_parent: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole mesh on this machine and put it through what a mesh must survive.
    Demo(demo::DemoArgs),
    /// Run a sidecar (the same as outrigger-proxy).
    Proxy(outrigger_proxy::Args),
    /// Run a control plane (the same as outrigger-control-plane).
    ControlPlane(outrigger_control_plane::run::Args),
    /// Read a directory of configuration and say what a control plane would make of it.
    Check(control_plane::CheckArgs),
    /// Join tokens: how a workload gets its first certificate.
    Token(control_plane::TokenArgs),
    /// What a running control plane knows of its proxies, sources and registrations.
    Status(control_plane::StatusArgs),
    /// Every change of configuration: when, from where, what, accepted or refused.
    History(control_plane::HistoryArgs),
    /// Run one of the demo's sample services.
    Sample(sample::SampleArgs),
}

fn main() -> ExitCode {
    let outrigger = Outrigger::parse();
    if outrigger.exit_with_parent {
        exit_with_parent();
    }
    let outcome = match outrigger.command {
        Command::Demo(args) => demo::run(args),
        Command::Proxy(args) => outrigger_proxy::run(args).map_err(|error| error.to_string()),
        Command::ControlPlane(args) => {
            outrigger_control_plane::run::run(args).map_err(|error| error.to_string())
        }
        Command::Check(args) => control_plane::check(args),
        Command::Token(args) => control_plane::token(args),
        Command::Status(args) => control_plane::status(args),
        Command::History(args) => control_plane::history(args),
        Command::Sample(args) => sample::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outrigger: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Asks the kernel to kill this process when its parent dies (prctl(2), PR_SET_PDEATHSIG), so that even a killed
/// demo leaves nothing behind. Only Linux can.
fn exit_with_parent() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_command_is_well_formed_and_says_what_it_is_for() {
        Outrigger::command().debug_assert();
        for command in Outrigger::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for flag in command.get_arguments().filter(|flag| !flag.is_hide_set()) {
                assert!(flag.get_help().is_some(), "{} {}", command.get_name(), flag.get_id());
            }
        }
    }

    #[test]
    fn every_command_in_the_documents_is_understood() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut pages: Vec<PathBuf> =
            std::fs::read_dir(root.join("docs")).unwrap().map(|page| page.unwrap().path()).collect();
        pages.push(root.join("README.md"));
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
        assert!(understood >= 5, "{understood} commands");
    }
}
