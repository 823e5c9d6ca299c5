//! Whether and when another attempt of a request may begin beside one.

use std::time::Duration;

use super::Forwarding;
use crate::codec::head::RequestHead;

/// When another attempt of a request begins beside one.
pub(super) struct Plan {
    /// This long after the first one began, if the percentile is known.
    pub(super) after: Option<Duration>,
    /// This long after the first one had a connection, and after each other one began.
    pub(super) per_try: Option<Duration>,
    /// Whether the latency of first attempts is recorded.
    pub(super) learns: bool,
}

impl Forwarding<'_> {
    /// Returns whether another attempt of the request may begin beside one. Not if it may not be executed twice, or its session has
    /// an endpoint, which another one's response would end.
    pub(super) fn may_hedge(&self, head: &RequestHead) -> bool {
        let of_session = self.session.as_ref().is_some_and(|session| session.pinned().is_some());
        !of_session && head.upgrade.is_none() && self.retry.is_some_and(|retry| retry.repeats(&head.method))
    }

    /// Returns when another attempt of the request begins beside the next one. Returns `None` if that is not configured or not
    /// permitted ([`Self::may_hedge`]).
    pub(super) fn hedging(&self, head: &RequestHead) -> Option<Plan> {
        let retry = self.retry?;
        let hedging = self.cluster.hedging();
        if hedging.is_none() && !self.attempts.hedge_on_per_try_timeout {
            return None;
        }
        let hedging = hedging.filter(|_| head.method.is_idempotent());
        let per_try = retry.per_try_timeout.filter(|_| self.attempts.hedge_on_per_try_timeout);
        if hedging.is_none() && per_try.is_none() || !self.may_hedge(head) {
            return None;
        }
        let after = hedging.as_ref().and_then(|hedging| self.cluster.hedge_after(hedging));
        Some(Plan { after, per_try, learns: hedging.is_some() })
    }
}
