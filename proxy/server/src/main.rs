//! The binary `outrigger-proxy`.

use std::process::ExitCode;

use clap::Parser;
use outrigger_proxy::Args;

/// Sidecar proxy: carries an application's inbound and outbound traffic through the mesh
#[derive(Debug, Parser)]
#[command(name = "outrigger-proxy", version)]
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
