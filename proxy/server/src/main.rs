//! The binary `outrigger-proxy`.

use std::process::ExitCode;

use clap::{ArgMatches, Args as _, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use outrigger_proxy::{Args, CaptureArgs, CniArgs, DrainArgs, WaitArgs};

/// Sidecar proxy: carries an application's inbound and outbound traffic through the mesh
#[derive(Debug, Parser)]
#[command(name = "outrigger-proxy", version, subcommand_negates_reqs = true)]
struct OutriggerProxy {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Redirect the connections of this network namespace to the sidecar, and verify it
    Capture(CaptureArgs),
    /// Install the CNI plugin on this node, or remove it
    Cni(CniArgs),
    /// Ask the proxy of this pod to drain inbound: clients leave, and further connections are still accepted
    Drain(DrainArgs),
    /// Wait until the proxy of this pod is ready
    Wait(WaitArgs),
}

/// The flags of the proxy are read only without a command: a command also runs where they are environment variables.
fn run(matches: &ArgMatches) -> Result<Result<(), String>, clap::Error> {
    Ok(match OutriggerProxy::from_arg_matches(matches)?.command {
        Some(Command::Capture(args)) => outrigger_proxy::capture(&args).map_err(|error| error.to_string()),
        Some(Command::Cni(args)) => outrigger_proxy::cni(&args).map_err(|error| error.to_string()),
        Some(Command::Drain(args)) => outrigger_proxy::drain(&args).map_err(|error| error.to_string()),
        Some(Command::Wait(args)) => outrigger_proxy::wait(&args).map_err(|error| error.to_string()),
        None => outrigger_proxy::run(Args::from_arg_matches(matches)?).map_err(|error| error.to_string()),
    })
}

fn main() -> ExitCode {
    if std::env::args_os().next().is_some_and(|program| outrigger_proxy::is_cni_plugin(&program)) {
        return outrigger_proxy::run_cni_plugin();
    }
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
