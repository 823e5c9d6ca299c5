//! The `process_*` metrics that Prometheus' client libraries agree on, read from `/proc/self`.

use procfs::process::{LimitValue, Process};
use procfs::{ProcError, ProcResult};

use super::{Family, single};

/// Returns the families of this process. What cannot be read is left out; without `/proc` that is everything.
pub fn families() -> Vec<Family> {
    read().unwrap_or_default()
}

fn read() -> ProcResult<Vec<Family>> {
    let process = Process::myself()?;
    let stat = process.stat()?;
    let ticks = procfs::ticks_per_second() as f64;
    let of = |name, help, value: f64| Family::gauge(name, help, single(value));
    let mut families = vec![
        Family::counter(
            "process_cpu_seconds_total",
            "CPU time spent, in user and kernel mode",
            single((stat.utime + stat.stime) as f64 / ticks),
        ),
        of("process_threads", "Threads", stat.num_threads as f64),
        of("process_virtual_memory_bytes", "Virtual memory", stat.vsize as f64),
        of("process_resident_memory_bytes", "Resident memory", (stat.rss * procfs::page_size()) as f64),
    ];
    let mut add = |name, help, value: Result<f64, ProcError>| {
        families.extend(value.ok().map(|value| of(name, help, value)));
    };
    let started = procfs::boot_time_secs().map(|boot| boot as f64 + stat.starttime as f64 / ticks);
    add("process_start_time_seconds", "Start of the process, as a Unix timestamp", started);
    add("process_open_fds", "Open file descriptors", process.fd_count().map(|count| count as f64));
    let limit = process.limits().map(|limits| match limits.max_open_files.soft_limit {
        LimitValue::Unlimited => f64::INFINITY,
        LimitValue::Value(limit) => limit as f64,
    });
    add("process_max_fds", "File descriptors that may be open", limit);
    Ok(families)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::Points;
    use super::super::text::unix_seconds;
    use super::*;

    #[test]
    fn this_process_has_memory_descriptors_threads_and_a_start() {
        let families = families();
        let value = |name: &str| {
            let family = families.iter().find(|family| family.name == name);
            match &family.unwrap_or_else(|| panic!("no {name}")).points {
                Points::Counter(points) | Points::Gauge(points) => points[0].value,
                Points::Histogram(_) => panic!("{name} is a histogram"),
            }
        };
        assert!(value("process_resident_memory_bytes") > 1e5);
        assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
        assert!((3.0..value("process_max_fds")).contains(&value("process_open_fds")));
        assert!(value("process_threads") >= 1.0 && value("process_cpu_seconds_total") >= 0.0);
        let age = unix_seconds(SystemTime::now()) - value("process_start_time_seconds");
        assert!((-2.0..86_400.0).contains(&age), "{age}");
    }
}
