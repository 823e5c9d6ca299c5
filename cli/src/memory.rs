//! The memory of a process, as Linux accounts for it.
//!
//! RSS alone misleads: it counts pages of the program's file, which the page cache holds once for all processes that run it.
//! `RssAnon` is what the process alone holds; PSS adds its share of the pages that several processes map.

use std::fmt;

/// The memory of a process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Resident set: every mapped page that is in memory.
    pub rss: u64,
    /// Anonymous resident pages: heap and stacks, which no other process shares.
    pub anonymous: u64,
    /// Proportional set size: shared pages count by one over the number of processes that map them.
    pub pss: u64,
}

impl Memory {
    /// Returns the memory of the process `pid`. Returns `None` if it has ended, or if there is no `/proc`.
    pub fn of(pid: u32) -> Option<Self> {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
        Self::parse(&read("status")?, &read("smaps_rollup")?)
    }

    /// Reads `/proc/PID/status` and `/proc/PID/smaps_rollup` (proc(5)).
    fn parse(status: &str, rollup: &str) -> Option<Self> {
        Some(Self {
            rss: field(status, "VmRSS:")?,
            anonymous: field(status, "RssAnon:")?,
            pss: field(rollup, "Pss:")?,
        })
    }
}

/// A line such as `VmRSS:     20480 kB`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rss, anonymous, pss } = *self;
        let [rss, anonymous, pss] =
            [rss, anonymous, pss].map(|bytes| format!("{:.1}", bytes as f64 / f64::from(1 << 20)));
        write!(f, "{rss} / {anonymous} / {pss}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_anonymous_and_proportional_memory_are_distinguished() {
        let status = "Name:\toutrigger\nVmHWM:\t   9000 kB\nVmRSS:\t   8192 kB\nRssAnon:\t   2048 kB\n";
        let rollup =
            "55e0-7ffd ---p 0 00:00 0 [rollup]\nRss:  8192 kB\nPss:    4096 kB\nPss_Anon:  2048 kB\n";
        let memory = Memory::parse(status, rollup).unwrap();
        assert_eq!(memory, Memory { rss: 8 << 20, anonymous: 2 << 20, pss: 4 << 20 });
        assert_eq!(memory.to_string(), "8.0 / 2.0 / 4.0");
        assert_eq!(Memory::parse("Name:\tzombie\n", ""), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_running_process_holds_memory_of_its_own() {
        let memory = Memory::of(std::process::id()).unwrap();
        assert!(
            memory.anonymous > 0 && memory.anonymous <= memory.rss && memory.pss <= memory.rss,
            "{memory:?}"
        );
    }
}
