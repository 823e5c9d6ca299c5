//! What a run cost: CPU time of the proxies, and how much of their core went to anything else meanwhile.
//!
//! The CPU time of a process is the sum of its threads' clocks in `/proc/PID/task/TID/schedstat`, in nanoseconds, which the scheduler
//! brings up to date at every switch and every timer interrupt. Its division into user and system time is that of `/proc/PID/stat`, which is
//! sampled, and which counts threads that have ended. A core's idle time is in `/proc/stat` (proc(5)) and has ticks of 10 ms: what could be the rounding of a tick is not counted as other
//! load, or a run of half a second would hardly ever be undisturbed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Other load on the proxy's core, as a share of a run's time, from which the run is discarded: 3 %.
pub(super) const DISTURBED: f64 = 0.03;

/// The CPU time of the measured processes since their start, and the state of their core.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    at: Instant,
    /// By the samples of the kernel.
    user: Duration,
    system: Duration,
    /// The CPU time of each thread.
    threads: BTreeMap<u32, Duration>,
    core: Core,
}

/// What happened between two accounts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spent {
    /// Duration of the run.
    pub(crate) wall: Duration,
    /// User time of the measured processes.
    pub(crate) user: Duration,
    /// System time of the measured processes.
    pub(crate) system: Duration,
    /// Share of the core's time that went to other processes or other virtual machines (0 to 1).
    pub(crate) other: f64,
}

impl Account {
    /// Reads the accounts of `processes`, which run on `core`. Returns an error if one of them has ended.
    pub(crate) fn read(processes: &[u32], core: usize) -> Result<Self, String> {
        let (mut user, mut system, mut threads) = (Duration::ZERO, Duration::ZERO, BTreeMap::new());
        for pid in processes {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            let times = stat.ok().as_deref().and_then(process_times);
            let (more_user, more_system) = times.ok_or("a measured process has ended")?;
            user += more_user;
            system += more_system;
            threads.extend(thread_times(*pid)?);
        }
        let stat = std::fs::read_to_string("/proc/stat").map_err(|error| format!("/proc/stat: {error}"))?;
        let core = Core::parse(&stat, core).ok_or_else(|| format!("/proc/stat has no core {core}"))?;
        Ok(Self { at: Instant::now(), user, system, threads, core })
    }

    /// Returns what was spent from `self` to `later`.
    pub(crate) fn until(&self, later: &Self) -> Spent {
        let wall = later.at - self.at;
        let before = |thread| self.threads.get(thread).copied().unwrap_or_default();
        let used = later.threads.iter().map(|(thread, time)| time.saturating_sub(before(thread)));
        let cpu: Duration = used.sum();
        let sampled = [later.user.saturating_sub(self.user), later.system.saturating_sub(self.system)];
        // Each of the two may be a tick too much. More than that was used by threads that have ended.
        let all = sampled[0] + sampled[1];
        let cpu = if all > cpu + tick() * 2 { all } else { cpu };
        let user = cpu.mul_f64(share(sampled));
        let idle = later.core.idle.saturating_sub(self.core.idle);
        let stolen = later.core.stolen.saturating_sub(self.core.stolen);
        let busy = wall.saturating_sub(idle).saturating_sub(stolen);
        let other = (busy.saturating_sub(cpu) + stolen).saturating_sub(tick());
        Spent { wall, user, system: cpu - user, other: other.as_secs_f64() / wall.as_secs_f64().max(1e-9) }
    }
}

impl Spent {
    /// User and system time.
    pub(crate) fn cpu(&self) -> Duration {
        self.user + self.system
    }
}

/// The part of the first of two times in their sum: half if both are zero.
fn share([one, other]: [Duration; 2]) -> f64 {
    let sum = one + other;
    if sum.is_zero() { 0.5 } else { one.as_secs_f64() / sum.as_secs_f64() }
}

/// The CPU time of each thread of a process.
fn thread_times(pid: u32) -> Result<Vec<(u32, Duration)>, String> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    let threads = threads.map_err(|error| format!("/proc/{pid}/task: {error}"))?;
    let time = |thread: std::fs::DirEntry| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        let nanoseconds = text.split_whitespace().next()?.parse().ok()?;
        Some((thread.file_name().to_str()?.parse().ok()?, Duration::from_nanos(nanoseconds)))
    };
    // A thread may end meanwhile.
    let times: Vec<_> = threads.flatten().filter_map(time).collect();
    match times.is_empty() {
        true => Err(format!("/proc/{pid}/task has no thread with a schedstat")),
        false => Ok(times),
    }
}

/// Fields 14 and 15 of `/proc/PID/stat`; the second field is the command in parentheses and may hold anything.
fn process_times(stat: &str) -> Option<(Duration, Duration)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some((ticks(fields.next()?)?, ticks(fields.next()?)?))
}

/// The unit of `/proc/stat`.
fn tick() -> Duration {
    Duration::from_secs(1) / rustix::param::clock_ticks_per_second() as u32
}

fn ticks(field: &str) -> Option<Duration> {
    let ticks: u64 = field.parse().ok()?;
    Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// One core's time that no process of this machine used.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Core {
    idle: Duration,
    /// Used by other virtual machines while something here was ready to run.
    stolen: Duration,
}

impl Core {
    /// The line `cpuN user nice system idle iowait irq softirq steal ...`.
    fn parse(stat: &str, core: usize) -> Option<Self> {
        let name = format!("cpu{core}");
        let mut fields = stat
            .lines()
            .map(str::split_whitespace)
            .find_map(|mut fields| (fields.next() == Some(name.as_str())).then_some(fields))?
            .map(ticks);
        let idle = fields.nth(3)?? + fields.next()??;
        let stolen = fields.nth(2)??;
        Some(Self { idle, stolen })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn times_of_a_process_are_read_after_its_command() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 150 25 0 0 20 0 1 0 100 1 1";
        assert_eq!(process_times(stat), Some((milliseconds(1500), milliseconds(250))));
        assert_eq!(process_times("7 (a)"), None);
    }

    #[test]
    fn idle_and_stolen_time_of_a_core_are_read() {
        let stat = "cpu 1 1 1 1 1 1 1 1 1 1\ncpu0 10 0 10 100 5 0 1 7 0 0\ncpu1 0 0 0 9 0 0 0 1 0 0\n";
        assert_eq!(Core::parse(stat, 0), Some(Core { idle: milliseconds(1050), stolen: milliseconds(70) }));
        assert_eq!(Core::parse(stat, 2), None);
    }

    fn account(at: Instant, sampled: [u64; 2], threads: &[(u32, u64)], idle: u64) -> Account {
        let [user, system] = sampled.map(milliseconds);
        let threads = threads.iter().map(|(thread, time)| (*thread, milliseconds(*time))).collect();
        Account { at, user, system, threads, core: Core { idle: milliseconds(idle), stolen: Duration::ZERO } }
    }

    #[test]
    fn what_the_processes_did_not_use_is_other_load() {
        let at = Instant::now();
        let before = account(at, [0, 0], &[(1, 50), (2, 10)], 0);
        let after = account(at + milliseconds(1000), [30, 60], &[(1, 650), (3, 100)], 200);
        let spent = before.until(&after);
        assert_eq!((spent.cpu(), spent.user.as_millis()), (milliseconds(700), 233));
        assert!((spent.other - 0.09).abs() < 1e-9, "all but a tick: {spent:?}");
        let after = Account { user: milliseconds(790), ..after };
        assert_eq!(before.until(&after).cpu(), milliseconds(850), "with a thread that has ended");
    }

    #[test]
    fn the_rounding_of_a_tick_is_no_other_load() {
        let at = Instant::now();
        let before = account(at, [0, 0], &[(1, 0)], 0);
        let after = account(at + milliseconds(450), [0, 0], &[(1, 440)], 0);
        assert_eq!(before.until(&after).other, 0.0);
    }

    #[test]
    fn this_process_has_an_account() {
        let account = Account::read(&[std::process::id()], 0).unwrap();
        assert!(account.until(&account).cpu().is_zero());
        assert!(Account::read(&[u32::MAX], 0).is_err());
    }
}
