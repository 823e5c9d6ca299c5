//! Which core runs what: the measured proxies have one core to themselves; load, backend, control plane and this program have
//! the others. Called by `compare` before anything is started. A machine with one core is refused.

use std::marker::PhantomData;

use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

/// The division of the machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cores {
    /// The core of the proxies.
    pub(crate) proxy: usize,
    others: CpuSet,
}

impl Cores {
    /// Takes the first core that this process may use for the proxies, and moves all threads of this process to the others.
    /// Returns an error if there is only one core.
    pub(crate) fn divide() -> Result<Self, String> {
        let all = sched_getaffinity(None).map_err(|error| format!("cannot read the affinity: {error}"))?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core));
        let proxy = cores.next().ok_or("no core")?;
        let mut others = CpuSet::new();
        cores.for_each(|core| others.set(core));
        if others.count() == 0 {
            return Err("the proxy and its load need a core each, and this machine has one".into());
        }
        let cores = Self { proxy, others };
        let threads = std::fs::read_dir("/proc/self/task").map_err(|error| format!("/proc/self: {error}"))?;
        for thread in threads.flatten() {
            let id = thread.file_name().to_str().and_then(|id| id.parse().ok()).and_then(Pid::from_raw);
            if let Some(id) = id {
                sched_setaffinity(Some(id), &cores.others)
                    .map_err(|error| format!("cannot pin a thread: {error}"))?;
            }
        }
        Ok(cores)
    }

    /// A core for the load.
    pub(crate) fn load(&self) -> usize {
        (0..CpuSet::MAX_CPU).find(|core| self.others.is_set(*core)).unwrap_or_default()
    }

    /// Until the guard is dropped, processes that this thread starts run on the proxies' core.
    pub(crate) fn on_proxy_core(&self) -> Result<Pinned, String> {
        let mut one = CpuSet::new();
        one.set(self.proxy);
        sched_setaffinity(None, &one)
            .map_err(|error| format!("cannot pin to core {}: {error}", self.proxy))?;
        Ok(Pinned { others: self.others, thread: PhantomData })
    }
}

/// See [`Cores::on_proxy_core`]. It belongs to the thread that created it.
pub(crate) struct Pinned {
    others: CpuSet,
    thread: PhantomData<*const ()>,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let Self { others, thread: PhantomData } = self;
        // It was possible a moment ago; a later measurement shows other load on the core if it is not.
        let _ = sched_setaffinity(None, others);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_started_meanwhile_runs_on_the_proxys_core() {
        std::thread::spawn(|| {
            let before = sched_getaffinity(None).unwrap();
            let proxy = (0..CpuSet::MAX_CPU).find(|core| before.is_set(*core)).unwrap();
            let pinned = Cores { proxy, others: before }.on_proxy_core().unwrap();
            let child = std::process::Command::new("cat").arg("/proc/self/status").output().unwrap();
            let status = String::from_utf8(child.stdout).unwrap();
            assert!(status.contains(&format!("Cpus_allowed_list:\t{proxy}\n")), "{status}");
            drop(pinned);
            assert_eq!(sched_getaffinity(None).unwrap(), before);
        })
        .join()
        .unwrap();
    }
}
