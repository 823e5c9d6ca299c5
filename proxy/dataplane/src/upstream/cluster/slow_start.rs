//! Slow start: a host that is new, or passes its checks again, gets a part of its weight, by which the balancer draws it.
//!
//! With checks, a host is in use since it passed; otherwise, since this worker received its endpoint. The endpoints that a cluster has at
//! first do not start slowly: they would do so all alike.

use std::time::Duration;

use outrigger_policy::slow_start::SlowStart;

use crate::upstream::host::Host;
use crate::upstream::shared::Moment;

/// Returns the part of its weight that a host has, from 0 to 1.
pub(super) fn part(slow: &SlowStart, host: &Host, now: Moment) -> f64 {
    age(host, now).map_or(1.0, |age| slow.part(age))
}

/// Returns how long a host has been in use. `None` if it has been since the beginning.
fn age(host: &Host, now: Moment) -> Option<Duration> {
    match &*host.checked.borrow() {
        Some(checked) => checked.recovered().map(|at| now.since_start.saturating_sub(at)),
        None => host.is_late.then(|| now.clock.saturating_duration_since(host.since)),
    }
}
