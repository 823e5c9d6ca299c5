//! The binary `outrigger-proxy`.

use std::process::ExitCode;

use clap::Parser;
use outrigger_proxy::Args;

/// A sidecar: takes what an application sends and receives, and carries it through the mesh.
#[derive(Debug, Parser)]
#[command(name = "outrigger-proxy", version, about)]
struct Command {
    #[command(flatten)]
    args: Args,
}

fn main() -> ExitCode {
    match outrigger_proxy::run(Command::parse().args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outrigger-proxy: {error}");
            ExitCode::FAILURE
        }
    }
}
