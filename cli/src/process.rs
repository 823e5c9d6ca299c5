//! One process of a mesh on this machine: an `outrigger` with its output in a log file, which is killed when its owner is dropped.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::memory::Memory;

/// The ages at which a process's memory is read: when it has just started, and when it has settled.
pub const MEMORY_AGES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// A sample for each of [`MEMORY_AGES`].
    memory: Arc<[OnceLock<Memory>; 2]>,
    sampling: JoinHandle<()>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.sampling.abort();
    }
}

impl Process {
    /// Starts `<program> <args>`, where `program` is an `outrigger`. Its output is appended to `<logs>/<name>.log`; its
    /// environment is `PATH` and `environment` alone. Returns an error if it cannot be started.
    pub fn start(
        program: &Path,
        name: &str,
        logs: &Path,
        args: Vec<OsString>,
        environment: &[(String, String)],
    ) -> Result<Self, String> {
        let log = logs.join(format!("{name}.log"));
        let failed = |error: std::io::Error| format!("cannot start {name}: {error}");
        let output = File::options().create(true).append(true).open(&log).map_err(failed)?;
        let child = Command::new(program)
            .arg("--exit-with-parent")
            .args(args)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(failed)?)
            .stderr(output)
            // A process group of its own: Ctrl-C reaches the demo alone, which then stops all processes.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let memory: Arc<[OnceLock<Memory>; 2]> = Arc::default();
        let sampling = tokio::spawn(sample(child.id(), MEMORY_AGES, Arc::clone(&memory)));
        Ok(Self { name: name.to_owned(), child, log, memory, sampling })
    }

    /// Returns an error with the end of its log if it has ended by itself.
    pub fn check_running(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                let end: Vec<_> = log.lines().rev().take(5).collect();
                let end: Vec<_> = end.into_iter().rev().collect();
                Err(format!("{} ended by itself ({status}): {}", self.name, end.join(" / ")))
            }
            Err(error) => Err(format!("{}: {error}", self.name)),
        }
    }

    /// Sends SIGKILL, as a crash.
    pub async fn kill(mut self) -> Result<(), String> {
        self.child.kill().await.map_err(|error| format!("cannot kill {}: {error}", self.name))
    }

    /// Returns its process ID, or `None` once it has ended.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends a signal. Returns an error once the process has ended.
    pub fn signal(&self, signal: Signal) -> Result<(), String> {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id as i32));
        let pid = pid.ok_or_else(|| format!("{} has ended", self.name))?;
        kill_process(pid, signal).map_err(|error| format!("cannot signal {}: {error}", self.name))
    }

    /// Sends SIGTERM and waits until the process has ended. Returns an error if that takes longer than `timeout` or if its
    /// exit code is not 0.
    pub async fn terminate(mut self, timeout: Duration) -> Result<(), String> {
        let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id as i32)) else { return Ok(()) };
        kill_process(pid, Signal::TERM).map_err(|error| format!("cannot stop {}: {error}", self.name))?;
        match tokio::time::timeout(timeout, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("{} ended with {status} when asked to stop", self.name)),
            Ok(Err(error)) => Err(format!("{}: {error}", self.name)),
            Err(_) => Err(format!("{} did not stop within {timeout:?}", self.name)),
        }
    }

    /// Returns the CPU time that it has used, or `None` once it has ended or if there is no `/proc`.
    pub fn usage(&self) -> Option<Usage> {
        Usage::of(self.child.id()?)
    }

    /// Returns its memory at each of [`MEMORY_AGES`], or `None` for an age that it has not reached.
    pub fn memory(&self) -> [Option<Memory>; 2] {
        [0, 1].map(|age| self.memory[age].get().copied())
    }
}

/// Reads the memory of `pid` at each of `ages`, counted from now.
async fn sample(pid: Option<u32>, ages: [Duration; 2], into: Arc<[OnceLock<Memory>; 2]>) {
    let started = Instant::now();
    for (age, sample) in ages.into_iter().zip(&*into) {
        tokio::time::sleep_until(started + age).await;
        if let Some(memory) = pid.and_then(Memory::of) {
            // Each is set once, here.
            let _ = sample.set(memory);
        }
    }
}

/// The CPU time of a process, from `/proc`.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// User and system time since its start.
    pub cpu: Duration,
    /// Since it was started.
    pub age: Duration,
}

impl Usage {
    fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the command in parentheses and may hold anything; utime and stime are fields 14 and 15,
        // the start in ticks since boot is 22 (proc(5)).
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let seconds = |ticks: u64| ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
        let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
        Some(Self {
            cpu: Duration::from_secs_f64(seconds(number(14)? + number(15)?)),
            age: Duration::from_secs_f64((uptime - seconds(number(22)?)).max(0.0)),
        })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_usage_of_a_process_is_read() {
        assert!(Usage::of(std::process::id()).unwrap().age < Duration::from_secs(3600));
    }

    #[tokio::test]
    async fn memory_is_read_at_each_age_that_a_process_reaches() {
        let samples: Arc<[OnceLock<Memory>; 2]> = Arc::default();
        let ages = [Duration::ZERO, Duration::from_secs(3600)];
        let sampling = tokio::spawn(sample(Some(std::process::id()), ages, Arc::clone(&samples)));
        while samples[0].get().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        sampling.abort();
        assert_eq!(samples[1].get(), None);
    }
}
