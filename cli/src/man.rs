//! `outrigger man`: the manual pages, one for each command.

use std::path::PathBuf;

use clap::Args;
use clap_mangen::{Man, generate_to};

use crate::output::print;

/// Writes the manual pages.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  # Read the page of outrigger
  outrigger man | man -l -

  # Write the pages of all commands
  outrigger man /usr/local/share/man/man1")]
pub(crate) struct ManArgs {
    /// Directory for the pages of all commands. Without it, the page of outrigger is printed.
    directory: Option<PathBuf>,
}

/// Returns an error if the pages cannot be written.
pub(crate) fn run(args: ManArgs, command: clap::Command) -> Result<(), String> {
    match args.directory {
        Some(directory) => std::fs::create_dir_all(&directory)
            .and_then(|()| generate_to(command, &directory))
            .map_err(|error| format!("{}: {error}", directory.display())),
        None => {
            let mut page = Vec::new();
            Man::new(command).render(&mut page).map_err(|error| error.to_string())?;
            print(&String::from_utf8_lossy(&page))
        }
    }
}
