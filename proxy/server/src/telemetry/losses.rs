//! What telemetry delivered and what it lost: counted here by the threads that write, read by a scrape.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Lines and spans delivered and lost behind the bounded channels. What the channels themselves refused is counted by
/// the workers (`outrigger_dataplane::metrics::ProcessCounters`).
#[derive(Debug, Default)]
pub(crate) struct Losses {
    log_lines_written: AtomicU64,
    log_lines_lost: AtomicU64,
    spans_exported: AtomicU64,
    spans_lost: AtomicU64,
}

/// The counts at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Access log lines written.
    pub(crate) log_lines_written: u64,
    /// Access log lines that could not be written.
    pub(crate) log_lines_lost: u64,
    /// Spans that the collector took.
    pub(crate) spans_exported: u64,
    /// Spans that the collector did not take.
    pub(crate) spans_lost: u64,
}

impl Losses {
    /// Counts access log lines, by whether they were written.
    pub(crate) fn lines(&self, written: bool, count: u64) {
        if written { &self.log_lines_written } else { &self.log_lines_lost }.fetch_add(count, Relaxed);
    }

    /// Counts spans, by whether the collector took them.
    pub(crate) fn spans(&self, exported: bool, count: u64) {
        if exported { &self.spans_exported } else { &self.spans_lost }.fetch_add(count, Relaxed);
    }

    /// The counts, now.
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            log_lines_written: self.log_lines_written.load(Relaxed),
            log_lines_lost: self.log_lines_lost.load(Relaxed),
            spans_exported: self.spans_exported.load(Relaxed),
            spans_lost: self.spans_lost.load(Relaxed),
        }
    }
}
