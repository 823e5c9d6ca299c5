//! The guard of `outrigger run`: what runs in the program's cgroup ends with the supervisor, however that ends.
//!
//! It holds the redirection and its sockets too, so that both stay until the last process of the cgroup has ended: none is ever
//! without redirection.

use std::process::ExitCode;

use super::RunArgs;
use super::cgroup::remove;
use super::handover::{receive, wait_for_end};

/// Waits for the end of the supervisor, and removes the cgroup with its processes.
pub(super) fn run(args: &RunArgs) -> Result<ExitCode, String> {
    // Neither Ctrl-C nor the end of the terminal or of the supervisor is a signal for it.
    rustix::process::setsid().map_err(|error| format!("the session of the guard: {error}"))?;
    let cgroup = args.cgroup.as_deref().ok_or("--cgroup is missing")?;
    let held = receive().map_err(|error| format!("the sockets of the supervisor: {error}"))?;
    wait_for_end();
    remove(cgroup);
    drop(held);
    Ok(ExitCode::SUCCESS)
}
