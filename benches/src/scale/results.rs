//! The figures of a run, as tables and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::compare::Spent;

/// What was measured.
#[derive(Debug)]
pub(super) struct Results {
    /// The control plane.
    pub(super) name: &'static str,
    pub(super) proxies: usize,
    pub(super) services: usize,
    /// When each proxy had its certificate, if the control plane signs any, and all resources, after the start of all; sorted.
    pub(super) certified: Vec<Duration>,
    pub(super) configured: Vec<Duration>,
    /// What was refused or failed and was repeated, with how often: in the cold start, and later.
    pub(super) cold_failures: BTreeMap<String, usize>,
    pub(super) later_failures: BTreeMap<String, usize>,
    pub(super) cold_cpu: Cpu,
    /// For each change: when each proxy had it, sorted.
    pub(super) changes: Vec<Vec<Duration>>,
    pub(super) changes_cpu: Cpu,
    /// When each proxy had all resources again after all connections were closed and opened at once, sorted.
    pub(super) reconnected: Vec<Duration>,
    pub(super) reconnect_cpu: Cpu,
    /// While nothing changes.
    pub(super) idle_cpu: Cpu,
    /// The control plane's private memory (RssAnon) in bytes: before the first proxy, after the cold start, after the changes.
    pub(super) memory: [u64; 3],
}

/// CPU time of a part of the run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cpu {
    /// The control plane, and what else its core did.
    pub(super) control_plane: Spent,
    /// The simulated proxies together.
    pub(super) fleet: Duration,
}

impl Results {
    fn per_proxy(&self, total: f64) -> f64 {
        total / self.proxies as f64
    }

    /// Certificates signed a second, from the start to the last of them. None if there are none.
    fn certificates_a_second(&self) -> Option<f64> {
        let last = self.certified.last()?;
        Some(self.certified.len() as f64 / last.as_secs_f64())
    }

    /// When the last proxy had each change, sorted.
    fn to_last(&self) -> Vec<Duration> {
        let mut last: Vec<_> = self.changes.iter().filter_map(|change| change.last().copied()).collect();
        last.sort_unstable();
        last
    }

    /// When each proxy had each change, sorted.
    pub(super) fn each_proxy(&self) -> Vec<Duration> {
        let mut all = self.changes.concat();
        all.sort_unstable();
        all
    }

    fn change_cpu_us(&self) -> f64 {
        let changes = self.changes.len().max(1) as f64;
        self.per_proxy(self.changes_cpu.control_plane.cpu().as_secs_f64() * 1e6 / changes)
    }

    fn idle_cpu_us(&self) -> f64 {
        let Spent { wall, .. } = self.idle_cpu.control_plane;
        self.per_proxy(self.idle_cpu.control_plane.cpu().as_secs_f64() * 1e6 / wall.as_secs_f64())
    }

    /// Private memory in bytes that the control plane needs more than before the first proxy, for each proxy.
    fn memory_per_proxy(&self, at: usize) -> f64 {
        self.per_proxy(self.memory[at] as f64 - self.memory[0] as f64)
    }

    /// Returns the table.
    pub(super) fn table(&self) -> String {
        let mut table = String::new();
        let _ = writeln!(table, "{}: {} proxies, {} services\n", self.name, self.proxies, self.services);
        let _ = writeln!(table, "| | median | p99 | last |\n|---|---|---|---|");
        for (name, times) in [
            ("cold start: certificate after, s", &self.certified),
            ("cold start: all resources after, s", &self.configured),
            ("reconnect of all: all resources after, s", &self.reconnected),
            ("a change at one proxy after, s", &self.each_proxy()),
            ("a change at the last proxy after, s", &self.to_last()),
        ] {
            if !times.is_empty() {
                let [median, p99, last] = [0.5, 0.99, 1.0].map(|share| percentile(times, share));
                let _ = writeln!(table, "| {name} | {median:.3} | {p99:.3} | {last:.3} |");
            }
        }
        table.push('\n');
        if let Some(rate) = self.certificates_a_second() {
            let _ = writeln!(table, "- certificates signed a second in the cold start: {rate:.0}");
        }
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let [before, cold, changed] = self.memory.map(mib);
        let _ = write!(
            table,
            "\
- CPU of the control plane: {} in the cold start, {} in the reconnect, {:.0} µs per proxy and change, {:.1} µs per proxy and second \
at rest
- private memory of the control plane: {before:.1} MiB before, {cold:.1} MiB after the cold start, {changed:.1} MiB after the \
changes; {:.1} and {:.1} KiB per proxy
- CPU of the simulated proxies: {:.1} s in the cold start, {:.0} µs per proxy and change
",
            self.cold_cpu,
            self.reconnect_cpu,
            self.change_cpu_us(),
            self.idle_cpu_us(),
            self.memory_per_proxy(1) / 1024.0,
            self.memory_per_proxy(2) / 1024.0,
            self.cold_cpu.fleet.as_secs_f64(),
            self.per_proxy(self.changes_cpu.fleet.as_secs_f64() * 1e6 / self.changes.len().max(1) as f64),
        );
        for (when, failures) in [("in the cold start", &self.cold_failures), ("later", &self.later_failures)]
        {
            for (what, count) in failures {
                let _ = writeln!(table, "- repeated {when}: {count} x {what}");
            }
        }
        table
    }

    pub(super) fn json(&self) -> Value {
        let summary = |times: &[Duration]| {
            let [median, p99, last] = [0.5, 0.99, 1.0].map(|share| percentile(times, share));
            json!({"median": median, "p99": p99, "last": last})
        };
        let to_last = self.to_last();
        json!({
            "proxies": self.proxies,
            "services": self.services,
            "name": self.name,
            "cold_start": {
                "certificate_seconds": summary(&self.certified),
                "resources_seconds": summary(&self.configured),
                "certificates_per_second": self.certificates_a_second(),
                "cpu": self.cold_cpu.json(),
                "repeated": self.cold_failures,
            },
            "reconnect": {"resources_seconds": summary(&self.reconnected), "cpu": self.reconnect_cpu.json()},
            "changes": {
                "to_last_seconds": summary(&to_last),
                "each_proxy_seconds": summary(&self.each_proxy()),
                "samples_to_last_seconds": to_last.iter().map(Duration::as_secs_f64).collect::<Vec<_>>(),
                "cpu": self.changes_cpu.json(),
                "cpu_us_per_proxy_and_change": self.change_cpu_us(),
                "repeated": self.later_failures,
            },
            "idle": {"cpu": self.idle_cpu.json(), "cpu_us_per_proxy_and_second": self.idle_cpu_us()},
            "private_memory_bytes": {
                "before": self.memory[0],
                "after_cold_start": self.memory[1],
                "after_changes": self.memory[2],
                "per_proxy_after_cold_start": self.memory_per_proxy(1),
                "per_proxy_after_changes": self.memory_per_proxy(2),
            },
        })
    }
}

impl Cpu {
    fn json(self) -> Value {
        json!({
            "control_plane_seconds": self.control_plane.cpu().as_secs_f64(),
            "proxies_seconds": self.fleet.as_secs_f64(),
            "other_share_of_core": self.control_plane.other,
        })
    }
}

impl std::fmt::Display for Cpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Spent { wall, other, .. } = self.control_plane;
        let (cpu, wall) = (self.control_plane.cpu().as_secs_f64(), wall.as_secs_f64());
        write!(f, "{cpu:.2} s of {wall:.2} s ({:.0} % of its core went to others)", other * 100.0)
    }
}

/// Returns a percentile in seconds by the nearest rank, of sorted times; NaN if there are none.
fn percentile(sorted: &[Duration], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).map_or(f64::NAN, Duration::as_secs_f64)
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    pub(in super::super) fn seconds(times: &[u64]) -> Vec<Duration> {
        times.iter().copied().map(Duration::from_secs).collect()
    }

    pub(in super::super) fn results() -> Results {
        let cpu = |seconds| {
            let (user, wall) = (Duration::from_secs(seconds), Duration::from_secs(10));
            Cpu {
                control_plane: Spent { wall, user, system: Duration::ZERO, other: 0.0 },
                fleet: Duration::ZERO,
            }
        };
        Results {
            proxies: 2,
            services: 10,
            name: "ours",
            certified: seconds(&[1, 4]),
            configured: seconds(&[2, 5]),
            cold_failures: [("certificate: Unavailable".to_owned(), 3)].into(),
            later_failures: BTreeMap::new(),
            cold_cpu: cpu(3),
            changes: vec![seconds(&[1, 9]), seconds(&[2, 3])],
            changes_cpu: cpu(8),
            reconnected: seconds(&[1, 1]),
            reconnect_cpu: cpu(2),
            idle_cpu: cpu(1),
            memory: [1 << 20, 3 << 20, 5 << 20],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{results, seconds};
    use super::*;

    #[test]
    fn figures_are_per_proxy_and_change() {
        let json = results().json();
        let at = |pointer: &str| json.pointer(pointer).unwrap().as_f64().unwrap();
        assert_eq!(at("/cold_start/certificates_per_second"), 0.5);
        assert_eq!(at("/changes/to_last_seconds/median"), 3.0);
        assert_eq!(at("/changes/to_last_seconds/last"), 9.0);
        assert_eq!(at("/changes/cpu_us_per_proxy_and_change"), 2e6);
        assert_eq!(at("/idle/cpu_us_per_proxy_and_second"), 5e4);
        assert_eq!(at("/private_memory_bytes/per_proxy_after_cold_start"), f64::from(1 << 20));
    }

    #[test]
    fn the_table_names_what_was_repeated() {
        let table = results().table();
        assert!(table.contains("| cold start: all resources after, s | 2.000 | 5.000 | 5.000 |"), "{table}");
        assert!(table.contains("repeated in the cold start: 3 x certificate: Unavailable"), "{table}");
        let unsigned = Results { certified: Vec::new(), ..results() }.table();
        assert!(!unsigned.contains("certificate after") && !unsigned.contains("signed"), "{unsigned}");
    }

    #[test]
    fn percentiles_are_samples() {
        let hundred = seconds(&(1..=100).collect::<Vec<_>>());
        assert_eq!([0.5, 0.99, 1.0].map(|share| percentile(&hundred, share)), [50.0, 99.0, 100.0]);
        assert_eq!(percentile(&seconds(&[7]), 0.5), 7.0);
        assert!(percentile(&[], 0.5).is_nan());
    }
}
