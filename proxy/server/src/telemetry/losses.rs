//! Counts the log lines, access log lines, spans, log records and metrics that were delivered or lost.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tracing_appender::non_blocking::ErrorCounter;

use super::signal::Signal;

/// Counters behind the bounded channels, updated by the writer threads. Workers count what the channels refuse
/// (`outrigger_dataplane::metrics::ProcessCounters`).
#[derive(Debug, Default)]
pub(crate) struct Losses {
    /// Lines of the proxy's own log that were dropped. None without such a log.
    own_log: Option<ErrorCounter>,
    log_lines_written: AtomicU64,
    log_lines_lost: AtomicU64,
    spans: Exports,
    log_records: Exports,
    metrics: Exports,
}

#[derive(Debug, Default)]
struct Exports {
    exported: AtomicU64,
    lost: AtomicU64,
}

/// The values at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Lines of the proxy's own log that were not written.
    pub(crate) own_lines_lost: u64,
    /// Access log lines written.
    pub(crate) log_lines_written: u64,
    /// Access log lines that could not be written.
    pub(crate) log_lines_lost: u64,
    /// Spans that the collector accepted.
    pub(crate) spans_exported: u64,
    /// Spans that could not be exported.
    pub(crate) spans_lost: u64,
    /// Access log records that the collector accepted.
    pub(crate) log_records_exported: u64,
    /// Access log records that could not be exported.
    pub(crate) log_records_lost: u64,
    /// Exports of metrics that the collector accepted.
    pub(crate) metric_exports: u64,
    /// Exports of metrics that failed.
    pub(crate) metric_exports_failed: u64,
}

impl Losses {
    /// Returns zeroed counters, beside the counter of lines that the proxy's own log has dropped.
    pub(crate) fn new(own_log: ErrorCounter) -> Self {
        Self { own_log: Some(own_log), ..Self::default() }
    }

    /// Adds access log lines, written or lost.
    pub(crate) fn lines(&self, written: bool, count: u64) {
        if written { &self.log_lines_written } else { &self.log_lines_lost }.fetch_add(count, Relaxed);
    }

    /// Adds items of a signal that a collector accepted, and such that could not be exported.
    pub(crate) fn exported(&self, signal: Signal, accepted: u64, lost: u64) {
        let exports = match signal {
            Signal::Traces => &self.spans,
            Signal::Metrics => &self.metrics,
            Signal::Logs => &self.log_records,
        };
        exports.exported.fetch_add(accepted, Relaxed);
        exports.lost.fetch_add(lost, Relaxed);
    }

    /// Returns the current values.
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            own_lines_lost: self.own_log.as_ref().map_or(0, |dropped| dropped.dropped_lines() as u64),
            log_lines_written: self.log_lines_written.load(Relaxed),
            log_lines_lost: self.log_lines_lost.load(Relaxed),
            spans_exported: self.spans.exported.load(Relaxed),
            spans_lost: self.spans.lost.load(Relaxed),
            log_records_exported: self.log_records.exported.load(Relaxed),
            log_records_lost: self.log_records.lost.load(Relaxed),
            metric_exports: self.metrics.exported.load(Relaxed),
            metric_exports_failed: self.metrics.lost.load(Relaxed),
        }
    }
}
