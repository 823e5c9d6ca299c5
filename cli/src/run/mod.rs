//! `outrigger run`: a program, unchanged, with its sidecar beside it and its connections redirected to that sidecar.
//!
//! Three processes of this binary, which read the same command line: the supervisor, which is root; the sidecar, which runs as a
//! user of its own; and the launcher, which joins the program's cgroup and becomes the program. Only connections of that cgroup
//! are redirected, so that several programs share a machine and its addresses.

mod supervisor;
mod sidecar;
mod launcher;

mod cgroup;
mod user;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use outrigger_proxy::OutboundExclusions;

use self::user::User;

const PROGRAM: &str = "Program";

/// Runs a program with its sidecar.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    // First: its variables are named after the flags before it, too.
    #[command(flatten)]
    proxy: outrigger_proxy::Args,

    #[command(flatten)]
    exclusions: OutboundExclusions,

    /// User of the program, with its groups: a name or an ID of /etc/passwd [default: root, as run itself]
    #[arg(long, value_name = "USER", help_heading = PROGRAM)]
    user: Option<String>,

    /// User of the sidecar: a name or an ID; owns --state-dir and can read --token-file
    #[arg(long, value_name = "USER", default_value = "1500", help_heading = PROGRAM)]
    proxy_user: String,

    /// File of the sidecar's log, or - for stderr [default: sidecar.log in --state-dir]
    #[arg(long, value_name = "FILE|-", help_heading = PROGRAM)]
    log_file: Option<PathBuf>,

    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    program: Vec<OsString>,

    /// Which of the processes this is; the supervisor if absent.
    #[arg(long, value_enum, hide = true)]
    role: Option<Role>,

    /// The cgroup of the program, for the launcher.
    #[arg(long, hide = true)]
    cgroup: Option<PathBuf>,
}

/// A process that the supervisor starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    Sidecar,
    Launcher,
}

impl RunArgs {
    /// Finds the user of the program, if it is another one.
    fn user(&self) -> Result<Option<User>, String> {
        self.user.as_deref().map(|user| User::find("--user", user)).transpose()
    }

    /// Finds the user of the sidecar.
    fn proxy_user(&self) -> Result<User, String> {
        User::find("--proxy-user", &self.proxy_user)
    }

    /// Returns the file of the sidecar's log, or None for stderr.
    fn log_file(&self) -> Option<PathBuf> {
        match &self.log_file {
            Some(file) if file.as_os_str() == "-" => None,
            Some(file) => Some(file.clone()),
            None => Some(self.proxy.state_dir.join("sidecar.log")),
        }
    }
}

/// Runs one of the processes. Returns the exit code of the program: 128 and the signal that ended it, or 126 or 127 if it cannot
/// be started.
pub(crate) fn run(args: RunArgs) -> Result<ExitCode, String> {
    match args.role {
        None => supervisor::run(args),
        Some(Role::Sidecar) => sidecar::run(args),
        Some(Role::Launcher) => launcher::run(&args),
    }
}
