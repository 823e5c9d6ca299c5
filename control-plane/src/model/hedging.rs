//! When callers of a Service send a request to a second endpoint while the first one has not answered.

use std::time::Duration;

/// When a request is hedged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hedging {
    /// The percentile of the latency of first attempts after which a second one begins, in tenths: from 500 to 999.
    pub percentile_tenths: u32,
    /// The minimum delay. `None` is the mesh's default.
    pub min_delay: Option<Duration>,
    /// The maximum delay, which applies too while the percentile is unknown. Without it, no request is hedged then.
    pub max_delay: Option<Duration>,
}
