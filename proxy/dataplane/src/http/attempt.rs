//! One attempt: a request sent to one host, until the head of its answer or its failure.
//!
//! Cancelled at any await, the exchange is given up and its connection with it.

use std::cell::Cell;
use std::time::Duration;

use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;
use outrigger_policy::retry::RetryPolicy;
use tokio::time::Instant;

use super::journal::Journal;
use super::limit::{Late, Limit};
use super::replay::Replay;
use crate::codec::answer::Answer;
use crate::codec::head::RequestHead;
use crate::codec::server::Responder;
use crate::upstream::bounds::Peer;
use crate::upstream::dial::Use;
use crate::upstream::host::Host;
use crate::upstream::pool::{Exchange, Speaks};

/// What is sent, and how long it may take.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    /// The request's head, as the host gets it.
    pub(super) head: &'a RequestHead,
    /// The request's body.
    pub(super) body: &'a Replay,
    /// Whose request it is.
    pub(super) peer: &'a Peer,
    /// In which version it goes to a plaintext host.
    pub(super) speaks: Speaks,
    /// How long this attempt may take.
    pub(super) limit: Limit,
}

/// An attempt that got no answer.
pub(super) struct Failed {
    /// Why.
    pub(super) failure: Failure,
    /// Whether its connection had carried a request before.
    pub(super) reused: bool,
}

impl Attempt<'_> {
    /// Sends it to `host`. Interim answers go to the client. `moved` counts the bytes of the request.
    pub(super) async fn send(
        self,
        host: &Host,
        journal: &mut Journal,
        responder: &mut Responder,
        moved: impl Fn() -> u64,
    ) -> Result<(Answer, Exchange), Failed> {
        let Self { head, body, peer, speaks, limit } = self;
        let reached = Cell::new(Reached::NotWritten);
        let stale = Cell::new(false);
        let exchange = async {
            let purpose = if head.upgrade.is_some() { Use::Upgrade } else { Use::Requests };
            let lease = host.lease(purpose, speaks, peer).await?;
            journal.try_connected(lease.peer.as_ref());
            stale.set(lease.reused);
            reached.set(Reached::Maybe);
            let mut exchange = lease.send(head, body.next());
            loop {
                match exchange.answer().await? {
                    // A client that is gone is noticed where the final answer goes.
                    Answer::Interim(head) => drop(responder.interim(head).await),
                    answer => return Ok((answer, exchange)),
                }
            }
        };
        let late = |what| Err(Failure::upstream(Reason::UpstreamRequestTimeout, reached.get(), what));
        let answered = limit.run(exchange, moved).await.unwrap_or_else(|which| match which {
            Late::Still => late("no byte moved"),
            Late::Deadline => late("no answer in time"),
        });
        answered.map_err(|failure| Failed { failure, reused: stale.get() })
    }
}

/// How long one attempt may take and stand still, its response included, of a request with this `limit`.
pub(super) fn limit(retry: Option<&RetryPolicy>, limit: Limit) -> Limit {
    let deadline = retry.and_then(|retry| retry.per_try_timeout).map(|limit| Instant::now() + limit);
    Limit { deadline: deadline.into_iter().chain(limit.deadline).min(), idle: idle(retry, limit.idle) }
}

/// How long one attempt may stand still, its response included.
pub(super) fn idle(retry: Option<&RetryPolicy>, of_request: Option<Duration>) -> Option<Duration> {
    retry.and_then(|retry| retry.per_try_idle_timeout).into_iter().chain(of_request).min()
}
