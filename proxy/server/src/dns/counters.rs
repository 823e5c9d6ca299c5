//! What became of queries, for the metric `outrigger_dns_queries_total`.

use std::sync::atomic::{AtomicU64, Ordering};

/// What became of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueryOutcome {
    /// A name of the mesh: its addresses, or that it has none of the requested type.
    Answered,
    /// A name server's response was passed on.
    Forwarded,
    /// No name server responded in time, or all of them failed.
    Failed,
    /// Malformed, or of a kind that is not supported.
    Rejected,
    /// Not processed, because too many queries were in progress.
    Dropped,
}

/// Counts queries by outcome. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct QueryCounters(std::sync::Arc<[AtomicU64; 5]>);

impl QueryCounters {
    /// Every outcome, with its value of the label `result`.
    const OUTCOMES: [(QueryOutcome, &'static str); 5] = [
        (QueryOutcome::Answered, "answered"),
        (QueryOutcome::Forwarded, "forwarded"),
        (QueryOutcome::Failed, "failed"),
        (QueryOutcome::Rejected, "rejected"),
        (QueryOutcome::Dropped, "dropped"),
    ];

    /// Counts a query.
    pub(super) fn count(&self, outcome: QueryOutcome) {
        if let Some(counter) = self.0.get(outcome as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the count of each outcome, with its label.
    pub(crate) fn read(&self) -> [(&'static str, u64); 5] {
        Self::OUTCOMES.map(|(outcome, label)| {
            (label, self.0.get(outcome as usize).map_or(0, |counter| counter.load(Ordering::Relaxed)))
        })
    }
}
