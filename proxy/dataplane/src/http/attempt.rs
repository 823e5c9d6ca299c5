//! One attempt: a request sent to one host, until the head of its answer or its failure. A host that takes too long to
//! connect to is left for another one, since nothing was written.
//!
//! Cancelled at any await, the exchange is given up and its connection with it.

use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use outrigger_core::error::{Failure, Reached, Side};
use outrigger_core::identity::SpiffeId;
use outrigger_core::reason::Reason;
use outrigger_policy::blame::{self, Freshness};
use outrigger_policy::outlier::Outcome;
use outrigger_policy::response::ResponseFacts;
use outrigger_policy::retry::RetryPolicy;
use outrigger_policy::retry_budget::RetryPermit;
use outrigger_policy::timeout;
use tokio::time::Instant;

use super::journal::Journal;
use super::refusal;
use super::replay::ReplayBody;
use super::request_context::RequestContext;
use super::time_limit::{TimeLimit, TimedOut};
use crate::codec::answer::{Answer, Payload};
use crate::codec::field_value;
use crate::codec::head::{RequestHead, ResponseHead};
use crate::codec::server::Responder;
use crate::upstream::bounds::Peer;
use crate::upstream::dial::Purpose;
use crate::upstream::host::{Host, HostAttempt};
use crate::upstream::pool::{Exchange, Lease, Speaks};
use crate::upstream::race::{Winner, race};

/// What is sent, and how long it may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt<'a> {
    /// The request's head, as the host gets it.
    pub(super) head: &'a RequestHead,
    /// The request's body.
    pub(super) body: &'a ReplayBody,
    /// Whose request it is.
    pub(super) peer: &'a Rc<Peer>,
    /// In which version it goes to a plaintext host.
    pub(super) speaks: Speaks,
    /// How long this attempt may take.
    pub(super) limit: TimeLimit,
}

/// What a host answered.
pub(super) struct Response {
    /// The final head.
    pub(super) head: ResponseHead,
    /// The facts in its fields that policies use.
    pub(super) facts: ResponseFacts,
    /// What follows it.
    pub(super) payload: Payload,
    /// Keeps the connection until the last byte.
    pub(super) exchange: Exchange,
}

/// How an attempt ended, and at which host.
pub(super) struct Ended {
    pub(super) asking: HostAttempt,
    pub(super) outcome: Result<Response, Failed>,
    /// The right to have asked another host beside the first.
    pub(super) paid: Option<RetryPermit>,
    /// The retry that was decided before it ended, while others were in flight: the rest of its back-off, and its permit.
    /// Boxed, because it is rare and would make every request larger.
    pub(super) decided: Option<Box<(Duration, Option<RetryPermit>)>>,
}

impl Ended {
    /// The end of the only attempt.
    pub(super) fn new(asking: HostAttempt, outcome: Result<Response, Failed>) -> Self {
        Self { asking, outcome, paid: None, decided: None }
    }

    /// Whether it has a response that is not a failure of the host.
    pub(super) fn is_served(&self) -> bool {
        self.outcome.as_ref().is_ok_and(|response| judged(response.facts) == Some(Outcome::Success))
    }
}

/// Returns the outcome that a response is for its host.
pub(super) fn judged(facts: ResponseFacts) -> Option<Outcome> {
    blame::answered(facts.status.as_u16(), facts.grpc_status, facts.reason)
}

/// An attempt that got no answer.
pub(super) struct Failed {
    /// Why.
    pub(super) failure: Failure,
    /// Whether its connection had carried a request before.
    pub(super) reused: bool,
    /// Whether that had been closed while it was idle, as far as one can tell.
    pub(super) connection: Freshness,
    /// Where it was given up because its host is silent while others answer: the right to send it to one of them.
    pub(super) moved: Option<RetryPermit>,
}

impl Failed {
    pub(super) fn new(failure: Failure, reused: bool) -> Self {
        Self { failure, reused, connection: Freshness::Fresh, moved: None }
    }
}

/// What the state of a connection explains about a failure on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Carrier {
    reused: bool,
    was_idle: bool,
    connected: Instant,
}

impl Carrier {
    /// Returns the state of a connection that was leased at `connected`.
    pub(super) fn of(lease: &Lease, connected: Instant) -> Self {
        Self { reused: lease.reused, was_idle: lease.was_idle, connected }
    }

    /// Returns the failure of an attempt on it, which happens now.
    pub(super) fn failed(self, failure: Failure) -> Failed {
        let connection = match self.was_idle && self.connected.elapsed() < STALE_WITHIN {
            true => Freshness::Stale,
            false => Freshness::Fresh,
        };
        Failed { connection, ..Failed::new(failure, self.reused) }
    }
}

/// How long a peer may take to say that a connection is closed on which a request was just written. What breaks later was
/// being worked on.
pub(super) const STALE_WITHIN: Duration = Duration::from_secs(1);

impl Attempt<'_> {
    /// A connection to the host of `asking`, which has just begun, that can carry the request at once; None if it has to be
    /// waited for ([`Self::connect`]).
    pub(super) fn ready_connection(&self, asking: &HostAttempt) -> Option<Lease> {
        asking.host().ready_lease(self.purpose(), self.speaks, self.peer, asking.began())
    }

    fn purpose(&self) -> Purpose {
        if self.head.upgrade.is_some() { Purpose::Upgrade } else { Purpose::Requests }
    }

    /// A connection to the host of `asking`; or to the one that `rival` gives when the first takes too long, which is then
    /// the host of `asking`. `failed` is called for a host that failed while the other was still connecting.
    pub(super) async fn connect(
        &self,
        asking: &mut HostAttempt,
        journal: &mut Journal,
        moved: impl Fn() -> u64 + Unpin,
        rival: impl FnOnce(&Host) -> Option<HostAttempt>,
        failed: impl FnOnce(&HostAttempt, &Failure),
    ) -> Result<Lease, Failed> {
        let purpose = self.purpose();
        let lease =
            |host: &Rc<Host>| Host::lease_of(Rc::clone(host), purpose, self.speaks, Rc::clone(self.peer));
        let first = Rc::clone(asking.host());
        let (mut second, mut lost) = (None, None);
        let mut leasing = pin!(lease(&first));
        let (winner, connected) = {
            let connecting = pin!(race(
                leasing.as_mut(),
                first.patience(),
                || {
                    second = first.is_connecting().then(|| rival(&first)).flatten();
                    second.as_ref().map(|second: &HostAttempt| lease(second.host()))
                },
                |_, failure| lost = Some(failure),
            ));
            match self.limit.run(connecting, moved).await {
                Ok(raced) => raced,
                Err(which) => (Winner::First, Err(late(which, Reached::NotWritten))),
            }
        };
        if let Some(mut loser) = second {
            if winner == Winner::Second {
                std::mem::swap(asking, &mut loser);
                journal.attempt_elsewhere(asking.host().address, asking.host().instance.as_ref());
            }
            match lost {
                Some(failure) => failed(&loser, &failure),
                // It took too long, and nothing more is known of it.
                None if winner == Winner::Second => loser.failed(),
                None => {}
            }
        }
        connected.map_err(|failure| Failed::new(failure, false))
    }

    /// Sends it on `lease`, which it has since `connected`, to `host`. Interim answers go to the client. `moved` counts the bytes of the request. Each time
    /// that the host is found silent, `moving` says whether the attempt is given up for one at another host.
    pub(super) async fn send(
        &self,
        (lease, connected): (Lease, Instant),
        host: &Host,
        journal: &mut Journal,
        responder: &mut Responder,
        moved: impl Fn() -> u64 + Unpin,
        mut moving: impl FnMut() -> Option<RetryPermit>,
    ) -> Result<Response, Failed> {
        let Self { head, body, limit, .. } = self;
        let (carrier, peer) = (Carrier::of(&lease, connected), lease.facts.peer.clone());
        // While the client owes a part of its request, the missing response is not the upstream's fault.
        let side = || if body.is_sent() { Side::Upstream } else { Side::Downstream };
        journal.attempt_connected(&lease.facts, lease.protocol(), connected);
        let interim = async |head| {
            host.heard();
            // A client that is gone is noticed where the final answer goes.
            let _ = responder.interim(head).await;
        };
        let answer = pin!(response(lease.send(head, body.next()), peer, interim));
        let mut answered = limit.run(answer, moved);
        loop {
            tokio::select! {
                biased;
                answered = &mut answered => {
                    let answered = answered.unwrap_or_else(|which| {
                        Err(Failure { side: side(), ..late(which, Reached::Maybe) })
                    });
                    return answered.map_err(|failure| carrier.failed(failure));
                }
                () = host.found_silent(), if head.method.is_idempotent() => {
                    if let moved @ Some(_) = moving() {
                        return Err(Failed { moved, ..carrier.failed(silent()) });
                    }
                }
            }
        }
    }
}

/// The final answer of an exchange with `peer`. Interim ones go to `interim`.
pub(super) async fn response(
    mut exchange: Exchange,
    peer: Option<SpiffeId>,
    mut interim: impl AsyncFnMut(ResponseHead),
) -> Result<Response, Failure> {
    loop {
        let head = match exchange.answer().await.map_err(|failure| of_sidecar(failure, peer.as_ref()))? {
            Answer::Interim(head) => head,
            Answer::Final(mut head, payload) => {
                refusal::check(&mut head.headers, peer.as_ref())?;
                let facts = ResponseFacts::read(head.status, &head.headers, SystemTime::now);
                return Ok(Response { head, facts, payload, exchange });
            }
        };
        // Boxed, since it is rare.
        Box::pin(interim(head)).await;
    }
}

/// A sidecar refuses a stream if it could not reach its application (docs/sidecar-contract.md, "Refusals").
fn of_sidecar(failure: Failure, peer: Option<&SpiffeId>) -> Failure {
    match (failure.reason, failure.reached, peer) {
        (Reason::UpstreamRemoteReset, Reached::NotProcessed, Some(_)) => {
            Failure { reason: Reason::ApplicationUnreachable, ..failure }
        }
        _ => failure,
    }
}

/// The failure of an attempt that has reached a time limit.
pub(super) fn late(which: TimedOut, reached: Reached) -> Failure {
    let what = match which {
        TimedOut::Idle => "no byte moved",
        TimedOut::Deadline => "no answer in time",
    };
    Failure::upstream(Reason::UpstreamRequestTimeout, reached, what)
}

/// Returns until when somebody waits for the response to a request with this `limit`: as its route says, its client
/// (`grpc-timeout`), or the sidecar before this one ([`timeout::EXPECTED`]).
pub(super) fn awaited_until(cx: &RequestContext<'_>, limit: TimeLimit) -> Option<Instant> {
    // A time that overflows the clock never passes.
    let of_client =
        timeout::of_client(&cx.head.headers).and_then(|waits| cx.journal.began().checked_add(waits));
    of_client.into_iter().chain(limit.deadline).min()
}

/// Tells the host how long this proxy waits, if that is limited.
pub(super) fn expect(headers: &mut HeaderMap, limit: TimeLimit, now: Instant) {
    let Some(deadline) = limit.deadline else { return };
    let left = deadline.saturating_duration_since(now).as_millis();
    let left = u64::try_from(left).unwrap_or(u64::MAX);
    if let Some(value) = field_value::copied(itoa::Buffer::new().format(left).as_bytes()) {
        headers.insert(timeout::EXPECTED, value);
    }
}

/// A host leaves a request unanswered that another one answers.
pub(super) fn silent() -> Failure {
    Failure::upstream(Reason::UpstreamRequestTimeout, Reached::Maybe, "silent while others answer")
}

/// How long one attempt may take and stand still, its response included, of a request with this `limit`.
pub(super) fn limit(retry: Option<&RetryPolicy>, limit: TimeLimit) -> TimeLimit {
    let deadline = retry.and_then(|retry| retry.per_try_timeout).map(|limit| Instant::now() + limit);
    TimeLimit { deadline: deadline.into_iter().chain(limit.deadline).min(), idle: idle(retry, limit.idle) }
}

/// How long one attempt may stand still, its response included.
pub(super) fn idle(retry: Option<&RetryPolicy>, of_request: Option<Duration>) -> Option<Duration> {
    retry.and_then(|retry| retry.per_try_idle_timeout).into_iter().chain(of_request).min()
}
