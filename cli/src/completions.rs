//! `outrigger completions`: completion scripts for shells.

use clap::Args;
use clap_complete::{Shell, generate};

use crate::output::print;

/// Prints a completion script.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  # For this shell
  source <(outrigger completions bash)

  # For every shell
  outrigger completions bash > /etc/bash_completion.d/outrigger
  outrigger completions zsh > ~/.zfunc/_outrigger
  outrigger completions fish > ~/.config/fish/completions/outrigger.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Returns an error only if the script cannot be written.
pub(crate) fn run(args: CompletionsArgs, mut command: clap::Command) -> Result<(), String> {
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    generate(args.shell, &mut command, name, &mut script);
    print(&String::from_utf8_lossy(&script))
}
