//! Processes of the peers: found in `PATH`, `/usr/sbin` and the cache that `benches/install-peers` fills; started on the proxies'
//! core; killed when dropped.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::compare::cores::Cores;

const PATIENCE: Duration = Duration::from_secs(20);

/// Returns the path of a program.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    cache()
        .into_iter()
        .chain(std::env::split_paths(&path))
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// The folder into which `benches/install-peers` puts programs.
fn cache() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = folder("OUTRIGGER_CACHE")
        .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("outrigger")))
        .or_else(|| Some(folder("HOME")?.join(".cache/outrigger")))?;
    Some(cache.join("peers"))
}

/// Returns the first line that mentions a number of `<program> <flag>`'s output.
pub(super) fn version(program: &Path, flag: &str) -> Option<String> {
    let output = std::process::Command::new(program).arg(flag).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines()
        .find(|line| line.contains(|one: char| one.is_ascii_digit()))
        .map(|line| line.trim().to_owned())
}

/// A running process of a peer.
pub(super) struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

/// Where the standard output of a process goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stdout {
    /// Into its log, as its standard error.
    Logged,
    Dropped,
}

/// A worker of nginx outlives its master if the master alone is killed.
impl Drop for Daemon {
    fn drop(&mut self) {
        for pid in self.processes().into_iter().filter_map(|id| Pid::from_raw(id as i32)) {
            // One that has ended already needs no signal.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

impl Daemon {
    /// Starts `program` on the proxies' core, with its output in `<logs>/<name>.log`.
    pub(super) fn start(
        cores: &Cores,
        program: &Path,
        name: &str,
        logs: &Path,
        args: &[&str],
    ) -> Result<Self, String> {
        Self::start_with(cores, program, name, logs, args, Stdout::Logged)
    }

    /// The same, with stdout where `stdout` says.
    pub(super) fn start_with(
        cores: &Cores,
        program: &Path,
        name: &str,
        logs: &Path,
        args: &[&str],
        stdout: Stdout,
    ) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot start {name}: {error}");
        let log = logs.join(format!("{name}.log"));
        let output = File::create(&log).map_err(failed)?;
        let stdout = match stdout {
            Stdout::Logged => output.try_clone().map_err(failed)?.into(),
            Stdout::Dropped => Stdio::null(),
        };
        let _pinned = cores.on_proxy_core()?;
        let child = Command::new(program)
            .args(args)
            .current_dir(logs)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Waits until it accepts connections on `address`. Returns an error with the end of its log if it ends first or takes too long.
    pub(super) async fn accepts(&mut self, address: SocketAddr) -> Result<(), String> {
        let begin = Instant::now();
        while TcpStream::connect(address).await.is_err() {
            let ended = self.child.try_wait().map_err(|error| error.to_string())?;
            if ended.is_some() || begin.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                let from = log.char_indices().rev().nth(2000).map_or(0, |(at, _)| at);
                return Err(format!("{} does not listen on {address}: {}", self.name, &log[from..]));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Returns the IDs of its process and of that process's children.
    pub(super) fn processes(&self) -> Vec<u32> {
        let Some(id) = self.child.id() else { return Vec::new() };
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        std::iter::once(id).chain(children.split_whitespace().filter_map(|id| id.parse().ok())).collect()
    }
}
