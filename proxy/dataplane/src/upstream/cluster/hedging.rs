//! What a cluster allows of hedging: when a second attempt of a request begins, and whether there is capacity for it.

use std::rc::Rc;
use std::time::Duration;

use outrigger_policy::hedging::Hedging;
use outrigger_policy::retry_budget::RetryPermit;

use super::Cluster;
use crate::upstream::bounds::{Peer, RequestPermit};

impl Cluster {
    /// Returns when requests are hedged, if that is configured.
    pub(crate) fn hedging(&self) -> Option<Hedging> {
        self.config.borrow().hedging
    }

    /// Returns how long a request waits for its first attempt before it is hedged. Returns `None` while that is unknown.
    pub(crate) fn hedge_after(&self, hedging: &Hedging) -> Option<Duration> {
        self.answers.hedge_after(hedging)
    }

    /// Records how long the first attempt of a request that may be hedged took, or was waited for.
    pub(crate) fn note_first(&self, latency: Duration) {
        self.answers.note_first(latency);
    }

    /// Acquires what one more attempt of a request of `peer` needs beside the first. Returns `None` if the limit on requests or the
    /// retry budget is exhausted.
    pub(crate) fn hedge(&self, peer: &Rc<Peer>) -> Option<(RequestPermit, RetryPermit)> {
        let request = self.bounds.request_at_once(peer)?;
        Some((request, self.retry()?))
    }
}
