//! How an endpoint that is new begins: the field `slowStart` of a BackendTrafficPolicy.

use std::time::Duration;

/// The weight of an endpoint grows from a part of it to all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlowStart {
    /// How long it grows; not zero.
    pub window: Duration,
    /// The least part of the weight, in percent. None is 10.
    pub min_weight_percent: Option<u32>,
    /// How fast it grows at first, in percent of a linear growth's aggression; not zero. None is 100.
    pub aggression_percent: Option<u32>,
}
