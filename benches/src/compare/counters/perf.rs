//! `perf stat` on running processes, switched on and off by its control FIFO: system calls (the tracepoint `raw_syscalls:sys_enter`),
//! instructions in user mode where the machine has that counter, and uprobes. Needs root. It is ended when dropped.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::timeout;

const SYSCALLS: &str = "raw_syscalls:sys_enter";
const INSTRUCTIONS: &str = "instructions:u";
/// Time for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running `perf stat`.
pub(super) struct Perf {
    child: Child,
    control: pipe::Sender,
    answers: pipe::Receiver,
    report: PathBuf,
    probes: Vec<String>,
}

/// What was counted. None is what perf cannot count here.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) syscalls: Option<u64>,
    pub(super) instructions: Option<u64>,
    /// The sum of all probes.
    pub(super) allocations: Option<u64>,
}

impl Perf {
    /// Starts it on `processes` with their threads, without counting yet. Its files go to `directory`.
    pub(super) fn start(processes: &[u32], probes: Vec<String>, directory: &Path) -> Result<Self, String> {
        let [control, answers] = ["perf.control", "perf.answers"].map(|name| directory.join(name));
        for fifo in [&control, &answers] {
            mkfifoat(CWD, fifo, Mode::RUSR | Mode::WUSR).map_err(text)?;
        }
        let report = directory.join("perf.csv");
        let processes: Vec<_> = processes.iter().map(ToString::to_string).collect();
        let mut command = Command::new("perf");
        command.args(["stat", "--delay=-1", "--field-separator=,", "--output"]).arg(&report);
        command.arg(format!("--control=fifo:{},{}", control.display(), answers.display()));
        for event in [SYSCALLS, INSTRUCTIONS].into_iter().chain(probes.iter().map(String::as_str)) {
            command.args(["--event", event]);
        }
        command.args(["--pid", &processes.join(",")]).env("LC_ALL", "C").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Read and write: opening does not wait for perf.
        let control = pipe::OpenOptions::new().read_write(true).open_sender(control).map_err(text)?;
        let answers = pipe::OpenOptions::new().read_write(true).open_receiver(answers).map_err(text)?;
        let child = command.spawn().map_err(|error| format!("perf: {error}"))?;
        Ok(Self { child, control, answers, report, probes })
    }

    pub(super) async fn enable(&mut self) -> Result<(), String> {
        self.say("enable\n").await
    }

    pub(super) async fn disable(&mut self) -> Result<(), String> {
        self.say("disable\n").await
    }

    /// Returns when perf has done it.
    async fn say(&mut self, command: &str) -> Result<(), String> {
        self.control.write_all(command.as_bytes()).await.map_err(text)?;
        let mut answer = [0; 16];
        tokio::select! {
            answered = timeout(PATIENCE, self.answers.read(&mut answer)) => {
                answered.map_err(|_| "perf does not answer")?.map_err(text)?;
                Ok(())
            }
            _ = self.child.wait() => Err("perf has ended: it needs root and tracefs".into()),
        }
    }

    /// Ends it and returns its counts.
    pub(super) async fn finish(mut self) -> Result<Counts, String> {
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id as i32)) {
            kill_process(pid, Signal::INT).map_err(text)?;
        }
        timeout(PATIENCE, self.child.wait()).await.map_err(|_| "perf does not end")?.map_err(text)?;
        let report = std::fs::read_to_string(&self.report).map_err(text)?;
        Ok(read(&report, &self.probes))
    }
}

/// Reads lines as `6903,,raw_syscalls:sys_enter,...`; the first field is `<not supported>` if there is no such counter.
fn read(report: &str, probes: &[String]) -> Counts {
    let count = |event: &str| -> Option<u64> {
        let mut fields = report.lines().map(|line| line.split(','));
        fields.find_map(|mut fields| {
            let (count, _unit, name) = (fields.next()?, fields.next()?, fields.next()?);
            (name == event).then(|| count.parse().ok())?
        })
    };
    let allocations = match probes {
        [] => None,
        probes => probes.iter().map(|event| count(event)).sum(),
    };
    Counts { syscalls: count(SYSCALLS), instructions: count(INSTRUCTIONS), allocations }
}

fn text(error: impl std::fmt::Display) -> String {
    format!("perf: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_and_missing_ones_are_none() {
        let report = "# started on Sun\n\n6903,,raw_syscalls:sys_enter,93303721,100.00,,\n\
                      5,,benches:a0,1,100.00,,\n7,,benches:a1,1,100.00,,\n<not supported>,,instructions:u,0,100.00,,\n";
        let probes = ["benches:a0".to_owned(), "benches:a1".to_owned()];
        let counts = Counts { syscalls: Some(6903), instructions: None, allocations: Some(12) };
        assert_eq!(read(report, &probes), counts);
        assert_eq!(read(report, &[]).allocations, None);
        assert_eq!(read(report, &["benches:a2".to_owned()]).allocations, None);
    }
}
