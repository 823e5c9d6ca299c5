//! Slow start: a host that is new, or passes its checks again, gets a part of the attempts that are picked for it; the others are
//! drawn among all hosts of its group again.
//!
//! So its share is that of a host with so much less weight, as in Envoy. With checks, a host is in use since it passed; otherwise, since this
//! worker received its endpoint. The endpoints that a cluster has at first do not start slowly: they would do so all alike.

use std::rc::Rc;
use std::time::Duration;

use outrigger_policy::slow_start::SlowStart;

use super::Cluster;
use crate::upstream::balance::Candidates;
use crate::upstream::host::Host;
use crate::upstream::shared::Moment;

/// How often another host is drawn, at most. Only if nearly all hosts are new, one of them gets more than its part.
const DRAWS: usize = 8;

impl Cluster {
    /// Returns the index `picked`, or another one if its host starts slowly.
    pub(super) fn unless_slow(
        &self,
        slow: &SlowStart,
        hosts: &[Rc<Host>],
        picked: usize,
        candidates: &Candidates<'_>,
        now: Moment,
    ) -> usize {
        let (mut rng, mut picked) = (self.rng.borrow_mut(), picked);
        for _ in 0..DRAWS {
            let Some(age) = age(&hosts[picked], now) else { break };
            let part = slow.part(age);
            if part >= 1.0 || rng.f64() < part {
                break;
            }
            picked = candidates.draw(None, &mut rng).unwrap_or(picked);
        }
        picked
    }
}

/// Returns how long a host has been in use. `None` if it has been since the beginning.
fn age(host: &Host, now: Moment) -> Option<Duration> {
    match &*host.checked.borrow() {
        Some(checked) => checked.recovered().map(|at| now.since_start.saturating_sub(at)),
        None => host.is_late.then(|| now.clock.saturating_duration_since(host.since)),
    }
}
