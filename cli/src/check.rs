//! `outrigger check`: validates a directory of configuration as a control plane would.

use std::path::PathBuf;

use clap::Args;
use outrigger_control_plane::source::check::check as check_directory;

use crate::output::print;

/// Reads a directory and prints every resource's conditions and every refusal.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  # Before a directory is given to a control plane
  outrigger check deploy/examples/shop")]
pub(crate) struct CheckArgs {
    /// The directory of Kubernetes YAML.
    directory: PathBuf,
}

/// Returns an error if any resource was refused.
pub(crate) fn check(args: CheckArgs) -> Result<(), String> {
    let report = check_directory(args.directory).map_err(|error| error.to_string())?;
    print(&report.to_string())?;
    match report.refused() {
        0 => Ok(()),
        refused => Err(format!("{refused} refused")),
    }
}
