//! What a thread of the generator costs, and on which core it runs: how the generator shows that it is not the bottleneck.

use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// The CPU time that a thread has used and that it has waited for a core, at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    at: Instant,
    cpu: Duration,
    waited: Duration,
}

/// The same between two moments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ThreadUse {
    pub(crate) elapsed: Duration,
    pub(crate) cpu: Duration,
    /// How long the thread was ready to run while other threads had its core.
    pub(crate) waited: Duration,
}

impl Sample {
    /// Of the calling thread.
    pub(super) fn now() -> Self {
        // The second number is the time on the run queue in nanoseconds (Documentation/scheduler/sched-stats.rst).
        let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let waited = schedstat.split_whitespace().nth(1).and_then(|text| text.parse().ok());
        // Side by side, so that both cover the same span: reading the file takes longer the first time than later.
        let cpu = clock_gettime(ClockId::ThreadCPUTime);
        Self {
            at: Instant::now(),
            cpu: Duration::new(cpu.tv_sec.unsigned_abs(), cpu.tv_nsec.unsigned_abs() as u32),
            waited: Duration::from_nanos(waited.unwrap_or(0)),
        }
    }

    /// What the calling thread has used since `self`.
    pub(super) fn used(&self) -> ThreadUse {
        let now = Self::now();
        ThreadUse {
            elapsed: now.at - self.at,
            cpu: now.cpu.saturating_sub(self.cpu),
            waited: now.waited.saturating_sub(self.waited),
        }
    }
}

impl ThreadUse {
    /// The share of a core that the thread used, 0 to 1.
    pub(crate) fn share(&self) -> f64 {
        self.cpu.as_secs_f64() / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// The share of the time in which the thread waited for a core, 0 to 1.
    pub(crate) fn waiting(&self) -> f64 {
        self.waited.as_secs_f64() / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Pins the calling thread to a core. Returns an error if the process may not run there.
pub(crate) fn pin(core: usize) -> Result<(), String> {
    if core >= CpuSet::MAX_CPU {
        return Err(format!("there is no core {core}"));
    }
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).map_err(|error| format!("cannot run on core {core}: {error}"))
}

/// Raises the limit of open files to what the process may have. Returns an error if `files` are still too many.
pub(crate) fn allow_files(files: usize) -> Result<(), String> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // What was not raised is found by the comparison below.
    let _ = setrlimit(Resource::Nofile, limit);
    match getrlimit(Resource::Nofile).current {
        Some(allowed) if allowed < files as u64 => {
            Err(format!("{files} connections need more open files than the limit of {allowed} (ulimit -n)"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_thread_is_told_from_a_sleeping_one() {
        let asleep = Sample::now();
        std::thread::sleep(Duration::from_millis(50));
        let asleep = asleep.used();
        assert!(asleep.share() < 0.5, "{asleep:?}");
        let busy = Sample::now();
        while busy.used().cpu < Duration::from_millis(20) {}
        let busy = busy.used();
        assert!(busy.cpu >= Duration::from_millis(20), "{busy:?}");
        // A thread cannot use more than one core. The two clocks are not read at the same instant, nor adjusted alike.
        assert!(busy.share() < 1.01, "{busy:?}");
    }

    #[test]
    fn a_core_that_is_not_there_is_refused() {
        assert!(pin(5_000).unwrap_err().contains("core 5000"));
        assert!(allow_files(usize::MAX >> 1).is_err() && allow_files(16).is_ok());
    }
}
