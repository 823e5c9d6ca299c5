//! What a run cost: CPU time of the proxies, and how much of their core went to anything else meanwhile.
//!
//! From `/proc/PID/stat` and `/proc/stat` (proc(5)), in ticks of 10 ms: a run of two seconds is accurate to about 1 %. A process's
//! time is the scheduler's own sum over all its threads, also those that have ended; the kernel divides it into user and
//! system time by samples, so that the two parts are less accurate than their sum.

use std::time::{Duration, Instant};

/// Other load on the proxy's core, as a share of a run's time, from which the run is discarded: 3 %.
pub(super) const DISTURBED: f64 = 0.03;

/// The CPU time of the measured processes since their start, and the state of their core.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account {
    at: Instant,
    user: Duration,
    system: Duration,
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
        let (mut user, mut system) = (Duration::ZERO, Duration::ZERO);
        for pid in processes {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            let times = stat.ok().as_deref().and_then(process_times);
            let (more_user, more_system) = times.ok_or("a measured process has ended")?;
            user += more_user;
            system += more_system;
        }
        let stat = std::fs::read_to_string("/proc/stat").map_err(|error| format!("/proc/stat: {error}"))?;
        let core = Core::parse(&stat, core).ok_or_else(|| format!("/proc/stat has no core {core}"))?;
        Ok(Self { at: Instant::now(), user, system, core })
    }

    /// Returns what was spent from `self` to `later`.
    pub(crate) fn until(&self, later: &Self) -> Spent {
        let wall = later.at - self.at;
        let (user, system) = (later.user.saturating_sub(self.user), later.system.saturating_sub(self.system));
        let idle = later.core.idle.saturating_sub(self.core.idle);
        let stolen = later.core.stolen.saturating_sub(self.core.stolen);
        let busy = wall.saturating_sub(idle).saturating_sub(stolen);
        let other = busy.saturating_sub(user + system) + stolen;
        Spent { wall, user, system, other: other.as_secs_f64() / wall.as_secs_f64().max(1e-9) }
    }
}

impl Spent {
    /// User and system time.
    pub(crate) fn cpu(&self) -> Duration {
        self.user + self.system
    }
}

/// Fields 14 and 15 of `/proc/PID/stat`; the second field is the command in parentheses and may hold anything.
fn process_times(stat: &str) -> Option<(Duration, Duration)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some((ticks(fields.next()?)?, ticks(fields.next()?)?))
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

    #[test]
    fn what_the_processes_did_not_use_is_other_load() {
        let at = Instant::now();
        let core = |idle| Core { idle: milliseconds(idle), stolen: Duration::ZERO };
        let before = Account { at, user: Duration::ZERO, system: Duration::ZERO, core: core(0) };
        let after = Account {
            at: at + milliseconds(1000),
            user: milliseconds(300),
            system: milliseconds(400),
            core: core(200),
        };
        let spent = before.until(&after);
        assert_eq!(spent.cpu(), milliseconds(700));
        assert!((spent.other - 0.1).abs() < 1e-9, "{spent:?}");
    }

    #[test]
    fn this_process_has_an_account() {
        let account = Account::read(&[std::process::id()], 0).unwrap();
        assert!(account.until(&account).cpu().is_zero());
        assert!(Account::read(&[u32::MAX], 0).is_err());
    }
}
