//! The binary `outrigger-proxy`.

use std::process::ExitCode;

use clap::{ArgMatches, Args as _, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use outrigger_proxy::{Args, DrainArgs, Error, WaitArgs};

/// Sidecar proxy: carries an application's inbound and outbound traffic through the mesh
#[derive(Debug, Parser)]
#[command(name = "outrigger-proxy", version, subcommand_negates_reqs = true)]
struct OutriggerProxy {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask the proxy of this pod to drain inbound: clients leave, and further connections are still accepted
    Drain(DrainArgs),
    /// Wait until the proxy of this pod is ready
    Wait(WaitArgs),
}

/// The flags of the proxy are read only without a command: a command also runs where they are environment variables.
fn run(matches: &ArgMatches) -> Result<Result<(), Error>, clap::Error> {
    Ok(match OutriggerProxy::from_arg_matches(matches)?.command {
        Some(Command::Drain(args)) => outrigger_proxy::drain(&args),
        Some(Command::Wait(args)) => outrigger_proxy::wait(&args),
        None => outrigger_proxy::run(Args::from_arg_matches(matches)?),
    })
}

fn main() -> ExitCode {
    let command = OutriggerProxy::command();
    let about = command.get_about().cloned().unwrap_or_default();
    let matches = Args::augment_args(command).about(about).get_matches();
    match run(&matches) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("outrigger-proxy: {error}");
            ExitCode::FAILURE
        }
        Err(usage) => usage.exit(),
    }
}
