//! `outrigger run`: a program, unchanged, with its sidecar beside it and its connections redirected to that sidecar.
//!
//! Four processes of this binary, which read the same command line: the supervisor, which is root; the sidecar, which runs as a
//! user of its own; the launcher, which joins the program's cgroup and becomes the program; and the guard, which kills what runs in that
//! cgroup if the supervisor is killed. Only connections of the cgroup are redirected, so that several programs share a machine and
//! its addresses.

mod supervisor;
mod sidecar;
mod launcher;
mod guard;

mod cgroup;
mod sockets;
mod handover;
mod environment;
pub(crate) mod name_service;
mod user;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, Args, ValueEnum};
use outrigger_proxy::OutboundExclusions;

use self::user::User;

const PROGRAM: &str = "Program";

/// Flags of `outrigger proxy` that would have no effect: the addresses of redirected sockets are chosen here, the sidecar ends when the
/// program has ended, and no kubelet probes the program.
const NOT_OFFERED: [&str; 7] = [
    "transparent_outbound",
    "transparent_inbound",
    "dns",
    "drain_minimum",
    "drain_quiet",
    "app_probes",
    "pod_ip",
];

/// Runs a program with its sidecar.
#[derive(Debug, Args)]
#[command(mut_args = offered)]
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

    /// The cgroup of the program, for launcher and guard.
    #[arg(long, hide = true)]
    cgroup: Option<PathBuf>,

    /// The port of redirected connections, for sidecar and launcher.
    #[arg(long, hide = true)]
    outbound_port: Option<u16>,

    /// The port of redirected DNS queries, for the sidecar.
    #[arg(long, hide = true)]
    dns_port: Option<u16>,
}

/// Hides and refuses what has no effect.
fn offered(flag: Arg) -> Arg {
    match flag.get_id().as_str() {
        // Connections are redirected to another port.
        "outbound" => flag.default_value(None),
        id if NOT_OFFERED.contains(&id) => flag.hide(true).conflicts_with("program"),
        _ => flag,
    }
}

/// A process that the supervisor starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    Sidecar,
    Launcher,
    Guard,
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

    fn outbound_port(&self) -> Result<u16, String> {
        self.outbound_port.ok_or_else(|| "--outbound-port is missing".to_owned())
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
        Some(Role::Guard) => guard::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        run: RunArgs,
    }

    fn parsed(flags: &[&str]) -> Result<RunArgs, clap::Error> {
        let needed =
            ["run", "--control-plane", "10.0.0.1:15010", "--control-plane-ca", "r", "--state-dir", "s"];
        let words = needed.iter().chain(flags).chain(&["--", "true"]);
        Command::try_parse_from(words).map(|command| command.run)
    }

    #[test]
    fn flags_without_an_effect_are_refused_and_not_in_the_help() {
        let command = <Command as clap::CommandFactory>::command();
        let is_hidden = |id| command.get_arguments().any(|flag| flag.get_id() == id && flag.is_hide_set());
        for id in NOT_OFFERED {
            let flag = format!("--{}", id.replace('_', "-"));
            let value = match id {
                "drain_minimum" | "drain_quiet" => "1s",
                "app_probes" => "{}",
                "pod_ip" => "10.0.0.1",
                _ => "127.0.0.1:15001",
            };
            let error = parsed(&[&flag, value]).unwrap_err();
            assert_eq!(error.kind(), clap::error::ErrorKind::ArgumentConflict, "{error}");
            assert!(error.to_string().contains(&flag), "{error}");
            assert!(is_hidden(id), "{flag}");
        }
        assert!(!is_hidden("drain_timeout"));
    }

    #[test]
    fn an_outbound_port_for_clients_that_know_it_is_opened_only_on_request() {
        assert_eq!(parsed(&[]).unwrap().proxy.outbound, None);
        let outbound = parsed(&["--outbound", "127.0.0.1:15001"]).unwrap().proxy.outbound;
        assert_eq!(outbound, Some("127.0.0.1:15001".parse().unwrap()));
    }
}
