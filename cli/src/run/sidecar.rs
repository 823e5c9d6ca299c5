//! The sidecar of `outrigger run`: `outrigger proxy` with its output in a log file.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::time::Duration;

use super::RunArgs;

/// Runs until SIGTERM. The log file is opened here, as the user of the sidecar. Returns an error if it cannot start.
pub(super) fn run(args: RunArgs) -> Result<ExitCode, String> {
    let log = match args.log_file() {
        Some(path) => {
            let file = File::options().create(true).append(true).open(&path);
            let file = file.map_err(|error| format!("--log-file {}: {error}", path.display()))?;
            rustix::stdio::dup2_stderr(&file).map(|()| file.into())
        }
        None => std::io::stderr().as_fd().try_clone_to_owned().map_err(|_| rustix::io::Errno::BADF),
    };
    // stdout belongs to the program.
    log.and_then(rustix::stdio::dup2_stdout).map_err(|error| format!("the log of the sidecar: {error}"))?;
    let mut proxy = args.proxy;
    // The supervisor sends SIGTERM when the program has ended: no outbound traffic is left to wait for.
    (proxy.drain_minimum, proxy.drain_quiet) = (Duration::ZERO, Duration::ZERO);
    outrigger_proxy::run(proxy).map(|()| ExitCode::SUCCESS).map_err(|error| error.to_string())
}
