//! The time by which policies measure: since a fixed point of the process, so that all workers have the same.
//!
//! Used by filters and by the tasks that fetch for them.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;

/// Returns the time since this was called first in the process.
pub(super) fn uptime() -> Duration {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let now = Instant::now();
    now.saturating_duration_since(*BEGAN.get_or_init(|| now))
}
