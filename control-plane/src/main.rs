//! `outrigger-control-plane`: the control plane alone, for images. `outrigger control-plane` is the same.

use std::process::ExitCode;

use clap::Parser;
use outrigger_control_plane::run::{Args, run};

/// The control plane of the Outrigger service mesh.
#[derive(Debug, Parser)]
#[command(name = "outrigger-control-plane", version)]
struct Command {
    #[command(flatten)]
    args: Args,
}

#[expect(clippy::print_stderr, reason = "the error is for the caller, whatever the log filter is")]
fn main() -> ExitCode {
    match run(Command::parse().args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outrigger-control-plane: {error}");
            ExitCode::FAILURE
        }
    }
}
