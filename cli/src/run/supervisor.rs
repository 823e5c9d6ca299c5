//! The supervisor of `outrigger run`: starts the sidecar, then the program, and stops them in the opposite order.
//!
//! It passes signals to the program. SIGTERM is held back until other sidecars send no new requests to the program. A sidecar that
//! crashes is started again; if the supervisor itself is killed, the kernel kills the sidecar, and the guard all else.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::net::TcpListener;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use http::StatusCode;
use outrigger::admin;
use outrigger_proxy::CgroupCapture;
use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, getpgrp, kill_process};
use rustix::termios::tcgetpgrp;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::RunArgs;
use super::cgroup::Cgroup;
use super::environment::of_sidecar;
use super::sockets::Sockets;
use super::user::User;
use super::{handover, name_service};
use crate::output::print_error;

/// How long the program is offered no new requests before it gets SIGTERM: the deregistration and its propagation.
const DRAIN: Duration = Duration::from_secs(2);
/// How long the sidecar may take to end beyond its own drain timeout, and the guard.
const GRACE: Duration = Duration::from_secs(10);
/// How long the sidecar may take to become ready before the reason is printed.
const PATIENCE: Duration = Duration::from_secs(3);
/// The pause before a sidecar is started again.
const RESTART: Duration = Duration::from_secs(1);
/// How much of the end of the sidecar's log is read, in bytes.
const LAST_LINE: u64 = 4096;
/// The signals that the program gets.
const SIGNALS: [Signal; 6] =
    [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2];

/// Runs until the program has ended and its sidecar has drained. Returns an error if the program was not started.
pub(super) fn run(mut args: RunArgs) -> Result<ExitCode, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("run needs root, which redirects the connections of the program; see --user".into());
    }
    let sockets = Sockets::bind(!args.exclusions.excludes_dns())?;
    args.proxy.accept_redirected(sockets.outbound_port, sockets.dns_port);
    args.proxy.check().map_err(|error| error.to_string())?;
    // The readiness of another sidecar would be taken for that of this one.
    let admin = args.proxy.admin.get();
    TcpListener::bind(admin)
        .map_err(|error| format!("--admin {admin}: {error}; each run needs an address of its own"))?;
    if let Some(problem) = sockets.dns_port.and_then(|_| name_service::problem()) {
        print_error(&format!("outrigger: {problem}"));
    }
    args.user()?;
    let proxy_user = args.proxy_user()?;
    prepare_state_directory(&args.proxy.state_dir, &proxy_user)?;
    let cgroup = Cgroup::create()?;
    let (outbound, dns) = (sockets.outbound_port, sockets.dns_port);
    let capture = CgroupCapture::start(cgroup.id, cgroup.level, &args.exclusions, outbound, dns)
        .map_err(|error| error.to_string())?;
    let supervisor = Supervisor { args, proxy_user, cgroup, capture, sockets };
    crate::runtime::block_on(supervisor.run())
}

/// Creates the state directory for the sidecar's user.
fn prepare_state_directory(path: &Path, user: &User) -> Result<(), String> {
    let failed = |error: io::Error| format!("--state-dir {}: {error}", path.display());
    if !path.exists() {
        path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(failed)?;
        std::fs::DirBuilder::new().mode(0o700).create(path).map_err(failed)?;
        chown(path, Some(user.uid), Some(user.gid)).map_err(failed)?;
    }
    let owner = std::fs::metadata(path).map_err(failed)?.uid();
    if owner != user.uid && user.uid != 0 {
        let (path, uid, gid) = (path.display(), user.uid, user.gid);
        return Err(format!(
            "--state-dir {path} belongs to the user {owner}, but the sidecar runs as {uid}: chown -R {uid}:{gid} {path}"
        ));
    }
    Ok(())
}

struct Supervisor {
    args: RunArgs,
    proxy_user: User,
    // Dropped in this order: the program ends first.
    cgroup: Cgroup,
    capture: CgroupCapture,
    sockets: Sockets,
}

/// The sidecar or the guard.
struct Helper {
    process: Child,
    /// Closed when this process ends.
    link: UnixStream,
}

impl Supervisor {
    async fn run(&self) -> Result<ExitCode, String> {
        let mut signals = signals()?;
        let mut guard = self.start_guard()?;
        let mut sidecar = self.start_sidecar()?;
        let code = tokio::select! {
            ready = self.wait_ready(&mut sidecar.process) => {
                ready?;
                let status = self.run_program(&mut sidecar, &mut guard, &mut signals).await?;
                self.cgroup.kill();
                status.code().map_or_else(
                    || code_of_signal(status.signal().unwrap_or_default()),
                    |code| ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
                )
            }
            Some(signal) = signals.recv() => code_of_signal(signal.as_raw()),
        };
        self.stop_sidecar(sidecar, &mut signals).await;
        drop(guard.link);
        let _ = timeout(GRACE, guard.process.wait()).await;
        Ok(code)
    }

    /// Starts the program and waits until it has ended.
    async fn run_program(
        &self,
        sidecar: &mut Helper,
        guard: &mut Helper,
        signals: &mut mpsc::Receiver<Signal>,
    ) -> Result<ExitStatus, String> {
        let mut program = self
            .start("launcher")
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot start the program: {error}"))?;
        // When the program gets the SIGTERM that is held back.
        let mut held: Option<Instant> = None;
        let mut is_draining = self.args.proxy.service.is_empty();
        // When a sidecar that has crashed is started again.
        let mut restart: Option<Instant> = None;
        loop {
            tokio::select! {
                status = program.wait() => return status.map_err(|error| format!("the program: {error}")),
                ended = sidecar.process.wait(), if restart.is_none() => {
                    print_error(&format!("outrigger: {}; starting it again", self.ended(ended.ok())));
                    restart = Some(Instant::now() + RESTART);
                }
                () = at(restart) => {
                    *sidecar = self.start_sidecar()?;
                    restart = None;
                }
                _ = guard.process.wait() => *guard = self.start_guard()?,
                () = at(held) => {
                    held = None;
                    send(&program, Signal::TERM);
                }
                Some(signal) = signals.recv() => match signal {
                    Signal::TERM if !is_draining => {
                        is_draining = true;
                        held = Some(Instant::now() + DRAIN);
                        tokio::spawn(admin::post(self.args.proxy.admin.get(), "/drain?inboundonly"));
                    }
                    Signal::INT | Signal::QUIT if is_foreground() => {}
                    _ => {
                        match signal {
                            Signal::TERM => held = None,
                            // It opens its logs again.
                            Signal::HUP => send(&sidecar.process, signal),
                            _ => {}
                        }
                        send(&program, signal);
                    }
                },
            }
        }
    }

    /// Waits until the sidecar is ready, and says where its log is. Returns an error if it ends.
    async fn wait_ready(&self, sidecar: &mut Child) -> Result<(), String> {
        let admin = self.args.proxy.admin.get();
        let start = Instant::now();
        let mut reported = None;
        loop {
            if let Ok(Some(status)) = sidecar.try_wait() {
                return Err(self.ended(Some(status)));
            }
            let answer = admin::get(admin, "/ready").await;
            let problem = match &answer {
                Ok(answer) if answer.status() == StatusCode::OK => break,
                Ok(answer) => String::from_utf8_lossy(answer.body()).trim().to_owned(),
                Err(error) => error.clone(),
            };
            if start.elapsed() > PATIENCE && reported.as_ref() != Some(&problem) {
                print_error(&format!("outrigger: waiting for the sidecar: {problem}"));
                reported = Some(problem);
            }
            sleep(Duration::from_millis(50)).await;
        }
        if let Some(log) = self.args.log_file() {
            print_error(&format!("outrigger: the sidecar is ready; its log is {}", log.display()));
        }
        Ok(())
    }

    /// Ends the sidecar, which drains. It is killed if that takes too long, or when another signal asks for the end.
    async fn stop_sidecar(&self, mut sidecar: Helper, signals: &mut mpsc::Receiver<Signal>) {
        send(&sidecar.process, Signal::TERM);
        let asked = async {
            while let Some(signal) = signals.recv().await {
                if matches!(signal, Signal::TERM | Signal::INT | Signal::QUIT) {
                    return;
                }
            }
        };
        tokio::select! {
            _ = timeout(self.args.proxy.drain_timeout.saturating_add(GRACE), sidecar.process.wait()) => {}
            () = asked => print_error("outrigger: the sidecar is killed before it has drained"),
        }
    }

    fn start_sidecar(&self) -> Result<Helper, String> {
        self.sockets.listen().map_err(|error| format!("the sockets of the sidecar: {error}"))?;
        let mut command = self.start("sidecar");
        command
            .env_clear()
            .envs(of_sidecar(std::env::vars_os()))
            .uid(self.proxy_user.uid)
            .gid(self.proxy_user.gid)
            // Ctrl-C is for the program alone.
            .process_group(0)
            .kill_on_drop(true);
        start_helper(command, &self.sockets.all())
            .map_err(|error| format!("cannot start the sidecar: {error}"))
    }

    fn start_guard(&self) -> Result<Helper, String> {
        let mut sockets = self.sockets.all();
        sockets.push(self.capture.as_fd());
        start_helper(self.start("guard"), &sockets)
            .map_err(|error| format!("cannot start the guard: {error}"))
    }

    /// Returns the command of another process of this program, which stays the same if its file is replaced.
    fn start(&self, role: &str) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("outrigger");
        if role == "sidecar" {
            command.arg("--exit-with-parent");
        }
        command.args(["run", "--role", role, "--cgroup"]).arg(self.cgroup.directory());
        command.arg(format!("--outbound-port={}", self.sockets.outbound_port));
        command.args(self.sockets.dns_port.map(|port| format!("--dns-port={port}")));
        command.args(std::env::args_os().skip_while(|word| word != "run").skip(1));
        command
    }

    /// Says that the sidecar has ended, and why.
    fn ended(&self, status: Option<ExitStatus>) -> String {
        let status = status.map(|status| format!(" ({status})")).unwrap_or_default();
        let ended = format!("the sidecar, as user {}, ended{status}", self.proxy_user.uid);
        let Some(log) = self.args.log_file() else { return ended };
        let last = last_line(&log).unwrap_or_default();
        let last = last.trim_start_matches("outrigger: ");
        format!("{ended}: {last} (log: {})", log.display())
    }
}

/// Starts the sidecar or the guard, with sockets.
fn start_helper(mut command: Command, sockets: &[BorrowedFd<'_>]) -> io::Result<Helper> {
    let (link, stdin) = handover::send(sockets)?;
    let process = command.stdin(stdin).stdout(Stdio::null()).spawn()?;
    Ok(Helper { process, link })
}

/// Sends a signal, unless the process has just ended.
fn send(process: &Child, signal: Signal) {
    if let Some(pid) = process.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        let _ = kill_process(pid, signal);
    }
}

/// Waits until a time. Never ends without one.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Returns the last line of a log. It is in a directory of the sidecar's user, which may be compromised: a link or a pipe in its place is
/// not followed or waited for, and little of a long one is read.
fn last_line(log: &Path) -> io::Result<String> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut log = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(log)?;
    let metadata = log.metadata()?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    log.seek(SeekFrom::Start(metadata.len().saturating_sub(LAST_LINE)))?;
    let mut text = Vec::new();
    log.take(LAST_LINE).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).lines().last().unwrap_or_default().to_owned())
}

fn code_of_signal(signal: i32) -> ExitCode {
    ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX))
}

/// Returns true if Ctrl-C in the terminal reaches the program, which is in the process group of this process, by itself.
fn is_foreground() -> bool {
    File::open("/dev/tty").is_ok_and(|terminal| tcgetpgrp(terminal) == Ok(getpgrp()))
}

/// Returns a stream of the signals for the program.
fn signals() -> Result<mpsc::Receiver<Signal>, String> {
    let (sender, receiver) = mpsc::channel(16);
    for one in SIGNALS {
        let mut stream =
            signal(SignalKind::from_raw(one.as_raw())).map_err(|error| format!("signals: {error}"))?;
        let sender = sender.clone();
        tokio::spawn(async move { while stream.recv().await.is_some() && sender.send(one).await.is_ok() {} });
    }
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_log_is_read_and_neither_links_nor_pipes_are() {
        let directory = tempfile::tempdir().unwrap();
        let [log, link, pipe] = ["log", "link", "pipe"].map(|name| directory.path().join(name));
        std::fs::write(&log, format!("{}\nthe reason\n", "x".repeat(100_000))).unwrap();
        assert_eq!(last_line(&log).unwrap(), "the reason");
        std::os::unix::fs::symlink(&log, &link).unwrap();
        assert!(last_line(&link).is_err());
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(last_line(&pipe).is_err());
    }
}
