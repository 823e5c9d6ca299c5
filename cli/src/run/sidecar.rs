//! The sidecar of `outrigger run`: `outrigger proxy` with its output in a log file.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use outrigger_proxy::Embedding;
use tokio::signal::unix::{SignalKind, signal};

use super::RunArgs;
use super::handover::{is_orphan, receive};
use crate::output::print_error;

/// Runs until SIGTERM, on the sockets of the supervisor. The log file is opened here, as the user of the sidecar. Returns an error if it
/// cannot start.
pub(super) fn run(args: RunArgs) -> Result<ExitCode, String> {
    let sockets = receive().map_err(|error| format!("the sockets of the supervisor: {error}"))?;
    // It may have ended before this process asked to be killed then.
    if is_orphan() {
        return Err("the supervisor has ended".into());
    }
    // stdout belongs to the program.
    match args.log_file() {
        Some(path) => {
            open_log(&path)?;
            reopen_on_hangup(path)?;
        }
        None => {
            let stderr = io::stderr().as_fd().try_clone_to_owned();
            stderr
                .and_then(|stderr| Ok(rustix::stdio::dup2_stdout(stderr)?))
                .map_err(|error| format!("the log of the sidecar: {error}"))?;
        }
    }
    let (outbound, dns) = (args.outbound_port()?, args.dns_port);
    let mut proxy = args.proxy;
    proxy.accept_redirected(outbound, dns);
    // The supervisor sends SIGTERM when the program has ended: no outbound traffic is left to wait for.
    (proxy.drain_minimum, proxy.drain_quiet) = (Duration::ZERO, Duration::ZERO);
    let embedding = Embedding { sockets, ..Embedding::default() };
    outrigger_proxy::run_embedded(proxy, embedding)
        .map(|()| ExitCode::SUCCESS)
        .map_err(|error| error.to_string())
}

/// Makes a file stdout and stderr.
fn open_log(path: &Path) -> Result<(), String> {
    let opened = File::options().create(true).append(true).open(path).and_then(|file| {
        rustix::stdio::dup2_stderr(&file)?;
        Ok(rustix::stdio::dup2_stdout(&file)?)
    });
    opened.map_err(|error| format!("--log-file {}: {error}", path.display()))
}

/// Opens the log again on each SIGHUP, in a thread of its own, as the proxy does with its access log.
fn reopen_on_hangup(path: PathBuf) -> Result<(), String> {
    let wait = async move {
        let mut hangup = signal(SignalKind::hangup())?;
        while hangup.recv().await.is_some() {
            if let Err(error) = open_log(&path) {
                print_error(&format!("outrigger: {error}"));
            }
        }
        io::Result::Ok(())
    };
    let thread = std::thread::Builder::new().name("log-reopening".into());
    thread
        .spawn(move || crate::runtime::block_on(wait))
        .map(drop)
        .map_err(|error| format!("the log of the sidecar: {error}"))
}
