//! Counts what the proxies do in the window of a run: system calls, instructions, calls of the allocator. `compare` makes runs of their
//! own for it, because counting costs time.
//!
//! [`Meter::begin`] and [`Meter::end`] are called at both ends of the window, [`Meter::answered`] with the number of requests in it. A
//! counter that the machine does not have, or that cannot see a program, is an error of that figure alone.

mod allocator;
mod perf;

use std::cell::{Cell, RefCell};
use std::path::Path;

use self::allocator::Probes;
use self::perf::Perf;
use crate::callgrind;

pub(super) const SYSCALLS: &str = "syscalls per request";
pub(super) const INSTRUCTIONS: &str = "instructions per request, user";
pub(super) const CALLGRIND: &str = "instructions per request, user, under callgrind";
pub(super) const ALLOCATIONS: &str = "calls of malloc and its like per request";

/// A figure, or why there is none.
pub(super) type Counted = (&'static str, Result<f64, String>);

/// Counts in one window.
pub(super) struct Meter<'run> {
    counter: Counter<'run>,
    requests: Cell<u64>,
}

enum Counter<'run> {
    Perf {
        perf: Box<RefCell<Perf>>,
        /// Why calls of the allocator are not counted.
        uncounted: Option<String>,
        /// Kept until the counting ends.
        _probes: Option<Probes>,
    },
    Callgrind {
        processes: &'run [u32],
        directory: &'run Path,
        before: Cell<u64>,
        counted: Cell<u64>,
    },
}

impl<'run> Meter<'run> {
    /// Counts with the kernel's counters. Returns an error if perf is missing or may not count.
    pub(super) fn perf(processes: &[u32], directory: &Path) -> Result<Self, String> {
        let (probes, uncounted) = match Probes::install(processes) {
            Ok(probes) => (Some(probes), None),
            Err(why) => (None, Some(why)),
        };
        let events = probes.as_ref().map(Probes::events).unwrap_or_default();
        let perf = Perf::start(processes, events, directory)?;
        let counter = Counter::Perf { perf: Box::new(RefCell::new(perf)), uncounted, _probes: probes };
        Ok(Self { counter, requests: Cell::new(0) })
    }

    /// Counts instructions of processes that run under callgrind, with its files in `directory`.
    pub(super) fn callgrind(processes: &'run [u32], directory: &'run Path) -> Self {
        let counter =
            Counter::Callgrind { processes, directory, before: Cell::new(0), counted: Cell::new(0) };
        Self { counter, requests: Cell::new(0) }
    }

    /// Begins the window.
    #[expect(clippy::await_holding_refcell_ref, reason = "a meter belongs to one task")]
    pub(super) async fn begin(&self) -> Result<(), String> {
        match &self.counter {
            Counter::Perf { perf, .. } => perf.borrow_mut().enable().await,
            Counter::Callgrind { processes, directory, before, .. } => {
                before.set(callgrind::executed(processes, directory).await?);
                Ok(())
            }
        }
    }

    /// Ends it.
    #[expect(clippy::await_holding_refcell_ref, reason = "a meter belongs to one task")]
    pub(super) async fn end(&self) -> Result<(), String> {
        match &self.counter {
            Counter::Perf { perf, .. } => perf.borrow_mut().disable().await,
            Counter::Callgrind { processes, directory, before, counted } => {
                let after = callgrind::executed(processes, directory).await?;
                counted.set(after.saturating_sub(before.get()));
                Ok(())
            }
        }
    }

    /// So many requests were answered in the window.
    pub(super) fn answered(&self, requests: u64) {
        self.requests.set(requests);
    }

    /// Ends the counting and returns its figures.
    pub(super) async fn finish(self) -> Result<Vec<Counted>, String> {
        let requests = self.requests.get().max(1) as f64;
        match self.counter {
            Counter::Perf { perf, uncounted, _probes } => {
                let counts = perf.into_inner().finish().await?;
                let allocations = match uncounted {
                    Some(why) => Err(why),
                    None => counts.allocations.ok_or_else(|| "not counted by perf".into()),
                };
                let missing = || "no counter in this kernel".to_owned();
                Ok(vec![
                    (SYSCALLS, counts.syscalls.ok_or_else(missing)),
                    (INSTRUCTIONS, counts.instructions.ok_or_else(missing)),
                    (ALLOCATIONS, allocations),
                ]
                .into_iter()
                .map(|(metric, count)| (metric, count.map(|count| count as f64 / requests)))
                .collect())
            }
            Counter::Callgrind { counted, .. } => Ok(vec![(CALLGRIND, Ok(counted.get() as f64 / requests))]),
        }
    }
}
