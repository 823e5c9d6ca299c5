//! Decides after each attempt whether the request is retried or its outcome is final. Does no I/O and never waits.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::Method;
use outrigger_core::error::{Failure, Reached, Side};
use outrigger_core::reason::Reason;
use outrigger_policy::retry::{Decision, Outcome, Retries, RetryPolicy};
use outrigger_policy::retry_budget::RetryPermit;
use tokio::time::Instant;

use super::attempt::{Failed, Response, silent};
use super::replay::ReplayBody;
use super::request_context::RequestContext;
use crate::codec::head::RequestHead;
use crate::upstream::bounds::{Peer, RequestPermit};
use crate::upstream::cluster::Cluster;

/// How many times a request is sent again regardless of its route, because the connection that it was given had just been
/// closed. This limits the attempts at a host that closes every connection.
const CLOSED_CONNECTIONS: u32 = 2;

/// The inputs of the decision that are the same for all attempts of a request.
#[derive(Debug)]
pub(super) struct RetryRules<'a> {
    /// The cluster that the request is sent to.
    pub(super) cluster: &'a Cluster,
    /// The route's retry policy.
    pub(super) retry: Option<&'a RetryPolicy>,
    /// When the request must have been answered.
    pub(super) deadline: Option<Instant>,
    /// The number of hosts that the client's own name resolved to, if they are not picked by the cluster.
    pub(super) resolved: Option<usize>,
}

/// Whether another attempt follows.
pub(super) enum RetryDecision {
    /// Another attempt after a delay, with its permit from the retry budget if it is charged to the budget.
    Retry(Duration, Option<RetryPermit>),
    /// The outcome is final; the reason, if any, replaces that of the outcome.
    Final(Option<Reason>),
}

/// The progress of a request so far.
#[derive(Debug)]
pub(super) struct Progress {
    /// The hosts that it was sent to.
    pub(super) tried: Vec<SocketAddr>,
    /// The number of attempts.
    pub(super) begun: u32,
    /// The furthest state that any attempt reached.
    pub(super) furthest: Reached,
    retries: Retries,
}

/// The state that the attempts of one request share.
pub(super) struct Attempting<'r, 'a> {
    pub(super) cx: &'r mut RequestContext<'a>,
    pub(super) body: &'r ReplayBody,
    pub(super) peer: &'r Rc<Peer>,
    pub(super) rules: &'r RetryRules<'r>,
    pub(super) progress: Progress,
}

impl Attempting<'_, '_> {
    /// Returns whether two hosts may execute it: one certainly, the other possibly.
    pub(super) fn may_be_paired(&self) -> bool {
        let head = &self.cx.head;
        head.method.is_safe() && head.upgrade.is_none() && self.body.is_empty()
    }
}

impl Progress {
    /// Counts an attempt at another host while the first one still has the request.
    pub(super) fn covered(&mut self) {
        self.retries.count();
        self.furthest = Reached::Maybe;
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self { retries: Retries::default(), tried: Vec::new(), begun: 0, furthest: Reached::NotWritten }
    }
}

impl RetryRules<'_> {
    /// Decides after a response.
    pub(super) fn after_answer(
        &self,
        response: &Response,
        head: &RequestHead,
        body: &ReplayBody,
        progress: &mut Progress,
    ) -> RetryDecision {
        progress.furthest = Reached::Maybe;
        let (Some(retry), true) = (self.retry, body.is_whole()) else { return RetryDecision::Final(None) };
        let outcome = Outcome::Answered { facts: response.facts, headers: &response.head.headers };
        self.decided(retry.decide(&mut progress.retries, &head.method, outcome, fastrand::u32(..)))
    }

    /// Decides after a failure.
    pub(super) fn after_failure(
        &self,
        failed: &Failed,
        head: &RequestHead,
        body: &ReplayBody,
        progress: &mut Progress,
    ) -> RetryDecision {
        let Failed { failure, reused, connection: _, moved: _ } = failed;
        progress.furthest = progress.furthest.max(failure.reached);
        if !body.is_whole() {
            return RetryDecision::Final(None);
        }
        if *reused && progress.retries.made() < CLOSED_CONNECTIONS && self.in_time(Duration::ZERO) {
            if came_late(failure) {
                progress.retries.count();
                return RetryDecision::Retry(Duration::ZERO, None);
            }
            if self.may_have_come_late(failure, &head.method) {
                progress.retries.count();
                return self.charged(Duration::ZERO);
            }
        }
        if self.resolved.is_some_and(|hosts| progress.tried.len() + 1 < hosts)
            && failure.reached == Reached::NotWritten
            && self.in_time(Duration::ZERO)
        {
            return RetryDecision::Retry(Duration::ZERO, None);
        }
        let Some(retry) = self.retry else { return RetryDecision::Final(None) };
        let outcome = Outcome::Failed(failure);
        match self.decided(retry.decide(&mut progress.retries, &head.method, outcome, fastrand::u32(..))) {
            // The failure's own reason says more than that the limit was reached.
            RetryDecision::Final(Some(Reason::UpstreamRetryLimitExceeded)) => RetryDecision::Final(None),
            // The client is to know that it must send less.
            RetryDecision::Final(Some(Reason::RetryBudgetExceeded)) if failure.reason.is_of_overload() => {
                RetryDecision::Final(None)
            }
            next => next,
        }
    }

    /// Returns a permit if a request that waits for a silent host is to be sent to another one. As for any retry, the route
    /// must permit it and the budget must have capacity. Returns `None` if the request continues to wait.
    pub(super) fn moving(
        &self,
        head: &RequestHead,
        body: &ReplayBody,
        progress: &mut Progress,
    ) -> Option<RetryPermit> {
        let retry = self.retry.filter(|_| body.is_whole() && head.method.is_idempotent())?;
        let (mut retries, failure) = (progress.retries, silent());
        match retry.decide(&mut retries, &head.method, Outcome::Failed(&failure), 0) {
            Decision::Retry { .. } => {}
            Decision::Stands | Decision::LimitReached => return None,
        }
        let moving = self.cluster.retry()?;
        progress.retries = retries;
        progress.furthest = progress.furthest.max(failure.reached);
        Some(moving)
    }

    /// Permits another attempt of a request of `peer` while one is in flight, if the policy's count, the limit on requests and the
    /// retry budget do. Returns the back-off before it, and its permits.
    pub(super) fn hedge(
        &self,
        progress: &mut Progress,
        peer: &Rc<Peer>,
    ) -> Option<(Duration, RequestPermit, RetryPermit)> {
        let mut retries = progress.retries;
        let pause =
            self.retry?.hedge(&mut retries, fastrand::u32(..)).filter(|pause| self.in_time(*pause))?;
        let (request, paid) = self.cluster.hedge(peer)?;
        progress.retries = retries;
        progress.furthest = Reached::Maybe;
        Some((pause, request, paid))
    }

    fn decided(&self, decision: Decision) -> RetryDecision {
        match decision {
            Decision::Stands => RetryDecision::Final(None),
            Decision::LimitReached => RetryDecision::Final(Some(Reason::UpstreamRetryLimitExceeded)),
            Decision::Retry { after, .. } if !self.in_time(after) => RetryDecision::Final(None),
            Decision::Retry { after, charged: false } => RetryDecision::Retry(after, None),
            Decision::Retry { after, charged: true } => self.charged(after),
        }
    }

    fn charged(&self, after: Duration) -> RetryDecision {
        match self.cluster.retry() {
            Some(paid) => RetryDecision::Retry(after, Some(paid)),
            None => RetryDecision::Final(Some(Reason::RetryBudgetExceeded)),
        }
    }

    /// Returns whether a request to a destination outside the mesh may be sent again because its connection, which had been
    /// idle, was closed at that moment: it is idempotent and has received no byte of a response (RFC 9110 section 9.2.2).
    /// Inside the mesh the route's policy decides: the caller's policy retries, the one in front of the application does not.
    fn may_have_come_late(&self, failure: &Failure, method: &Method) -> bool {
        self.resolved.is_some()
            && failure.reason == Reason::UpstreamConnectionTermination
            && failure.reached == Reached::Maybe
            && method.is_idempotent()
    }

    fn in_time(&self, pause: Duration) -> bool {
        self.deadline.is_none_or(|deadline| Instant::now() + pause < deadline)
    }
}

/// Returns whether a request failed because its connection was closed at that moment, and was provably not processed. A refused
/// stream is left to the policy; a stream above the last one of a GOAWAY counts as late.
fn came_late(failure: &Failure) -> bool {
    failure.side == Side::Upstream
        && failure.never_processed()
        && failure.reason == Reason::UpstreamConnectionTermination
}
