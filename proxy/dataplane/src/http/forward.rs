//! Sends a request upstream, as often as it takes and its policies allow, until an answer may be relayed.
//!
//! Each try picks a host from the endpoints of the moment. Cancelled at any await, every guard gives back what it holds
//! and the try under way is given up.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::{HeaderMap, Method};
use outrigger_core::error::{Failure, Reached, Side};
use outrigger_core::reason::Reason;
use outrigger_policy::circuit_breaker::Room;
use outrigger_policy::outlier;
use outrigger_policy::retry::{Decision, Outcome, Retries, RetryPolicy};
use outrigger_policy::retry_budget::Retrying;
use tokio::time::Instant;

use super::filters::Admitted;
use super::journal::Journal;
use super::limit::{Late, Limit};
use super::replay::Replay;
use super::respond::grpc_status;
use super::trace_context::Trace;
use crate::codec::answer::Answer;
use crate::codec::body::Body;
use crate::codec::client::Exchange;
use crate::codec::head::{RequestHead, ResponseHead};
use crate::codec::server::Responder;
use crate::codec::upgrade::Upgraded;
use crate::upstream::cluster::Cluster;
use crate::upstream::dial::Use;
use crate::upstream::host::{Asking, Host};

/// How often a request is sent again because the idle connection that it was written to had just been closed; a host that
/// closes every connection is left after so many.
const STALE_CONNECTIONS: u32 = 2;

/// Where a request goes and what may be done for it; decided from one snapshot.
#[derive(Debug)]
pub(super) struct Forwarding<'a> {
    /// The cluster.
    pub(super) cluster: Rc<Cluster>,
    /// Its hosts, where they are not the cluster's to pick: what the client's own name resolved to.
    pub(super) hosts: Option<Vec<Rc<Host>>>,
    /// Where the connection was going before it was redirected here.
    pub(super) original: SocketAddr,
    /// The route's retries.
    pub(super) retry: Option<&'a RetryPolicy>,
    /// How long the whole request may take and stand still.
    pub(super) limit: Limit,
    /// Its place in a trace.
    pub(super) trace: &'a Trace,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Reply {
    /// A response to be relayed.
    Answer(ResponseHead, Body, Option<Held>),
    /// A tunnel to be relayed.
    Tunnel(ResponseHead, Upgraded, Held),
}

/// What a request holds until its last byte is through.
#[derive(Debug)]
pub(super) struct Held {
    /// How long it may go on.
    pub(super) limit: Limit,
    cluster: Rc<Cluster>,
    host: Rc<Host>,
    _room: Room,
    _asking: Asking,
    _retrying: Option<Retrying>,
    _exchange: Exchange,
}

impl Reply {
    /// The fields that the client will see.
    pub(super) fn headers(&mut self) -> &mut HeaderMap {
        let (Self::Answer(head, ..) | Self::Tunnel(head, ..)) = self;
        &mut head.headers
    }
}

impl Held {
    /// The response broke off after its head was relayed.
    pub(super) fn broke_off(&self, failure: &Failure) {
        if failure.side == Side::Upstream {
            self.cluster.observe(&self.host, outlier::Outcome::LocalOrigin);
        }
    }
}

/// What follows a try.
enum Next {
    /// One more, after a pause. A charged one holds its room in the budget.
    Again(Duration, Option<Retrying>),
    /// The outcome stands, for this reason if not for its own.
    Stands(Option<Reason>),
}

impl Forwarding<'_> {
    /// Carries it out. `responder` is for interim responses alone.
    ///
    /// Fails with the last try's failure, which says of all tries together how far they came.
    pub(super) async fn run(
        &self,
        admitted: Admitted,
        journal: &mut Journal,
        responder: &mut Responder,
    ) -> Result<Reply, Failure> {
        let room = self.cluster.admit()?;
        let (mut head, body) = admitted.into_parts();
        let body = Replay::new(body);
        let mut progress = Progress::default();
        let mut retrying = None;
        loop {
            let host = self.pick(&progress.tried)?;
            let asking = host.begin();
            let span = self.trace.try_span();
            journal.try_begins(&self.cluster.name, host.address, host.instance.as_ref(), span);
            self.cluster.series.tries.increment();
            let received = journal.received();
            self.trace.write(&mut head.headers, span);
            let outcome = self.attempt(&host, &head, &body, journal, responder, || received.get()).await;
            let next = match &outcome {
                Ok((answer, _)) => {
                    let (status, headers) = answer_facts(answer);
                    asking.answered();
                    self.cluster.observe(&host, judged(status, headers));
                    journal.try_answered(status.as_u16(), grpc_status(headers));
                    self.after_answer(status, headers, &head, &body, &mut progress)
                }
                Err(failed) => {
                    if failed.failure.side == Side::Upstream {
                        asking.failed();
                        self.blame(&host, &failed.failure);
                    }
                    journal.try_failed(&failed.failure);
                    self.after_failure(failed, &head, &body, &mut progress)
                }
            };
            match (next, outcome) {
                (Next::Again(pause, paid), outcome) => {
                    journal.try_ends();
                    // What was answered is given up before the next try begins.
                    drop(outcome);
                    self.cluster.series.retries.increment();
                    progress.tried.push(host.address);
                    retrying = paid;
                    if !pause.is_zero() {
                        drop(asking);
                        tokio::time::sleep(pause).await;
                    }
                }
                (Next::Stands(reason), Ok((answer, exchange))) => {
                    if let Some(reason) = reason {
                        journal.set_reason(reason);
                    }
                    body.let_go();
                    let held = Held {
                        limit: Limit { idle: self.idle_of_try(), ..self.limit },
                        cluster: Rc::clone(&self.cluster),
                        host,
                        _room: room,
                        _asking: asking,
                        _retrying: retrying,
                        _exchange: exchange,
                    };
                    return Ok(match answer {
                        Answer::Interim(head) => Reply::Answer(head, Body::empty(), Some(held)),
                        Answer::Final(head, body) => Reply::Answer(head, body, Some(held)),
                        Answer::Switched(head, upgraded) => Reply::Tunnel(head, upgraded, held),
                    });
                }
                (Next::Stands(reason), Err(Failed { mut failure, .. })) => {
                    failure.reason = reason.unwrap_or(failure.reason);
                    failure.reached = progress.furthest;
                    return Err(failure);
                }
            }
        }
    }

    fn pick(&self, tried: &[SocketAddr]) -> Result<Rc<Host>, Failure> {
        let Some(hosts) = &self.hosts else { return self.cluster.pick(tried, Some(self.original)) };
        let fresh = hosts.iter().find(|host| !tried.contains(&host.address));
        fresh.or(hosts.first()).map(Rc::clone).ok_or_else(|| {
            Failure::upstream(Reason::NoHealthyUpstream, Reached::NotWritten, "the host has no address")
        })
    }

    /// One try, within its time.
    async fn attempt(
        &self,
        host: &Host,
        head: &RequestHead,
        body: &Replay,
        journal: &mut Journal,
        responder: &mut Responder,
        moved: impl Fn() -> u64,
    ) -> Result<(Answer, Exchange), Failed> {
        let reached = Cell::new(Reached::NotWritten);
        let stale = Cell::new(false);
        let exchange = async {
            let purpose = if head.upgrade.is_some() { Use::Upgrade } else { Use::Requests };
            let lease = host.lease(purpose, self.cluster.speaks(head.version)).await?;
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
        let limit = Limit { deadline: self.try_deadline(), idle: self.idle_of_try() };
        let answered = limit.run(exchange, moved).await.unwrap_or_else(|which| match which {
            Late::Still => late("no byte moved"),
            Late::Deadline => late("no answer in time"),
        });
        answered.map_err(|failure| Failed { failure, reused: stale.get() })
    }

    fn try_deadline(&self) -> Option<Instant> {
        let of_try = self.retry.and_then(|retry| retry.per_try_timeout).map(|limit| Instant::now() + limit);
        of_try.into_iter().chain(self.limit.deadline).min()
    }

    /// How long a try may stand still, its response included.
    fn idle_of_try(&self) -> Option<Duration> {
        let of_try = self.retry.and_then(|retry| retry.per_try_idle_timeout);
        of_try.into_iter().chain(self.limit.idle).min()
    }

    fn after_answer(
        &self,
        status: http::StatusCode,
        headers: &HeaderMap,
        head: &RequestHead,
        body: &Replay,
        progress: &mut Progress,
    ) -> Next {
        progress.furthest = Reached::Maybe;
        let (Some(retry), true) = (self.retry, body.is_whole()) else { return Next::Stands(None) };
        let outcome = Outcome::Answered { status, headers };
        self.decided(retry.decide(&mut progress.retries, &head.method, outcome, fastrand::u32(..)))
    }

    fn after_failure(
        &self,
        failed: &Failed,
        head: &RequestHead,
        body: &Replay,
        progress: &mut Progress,
    ) -> Next {
        let Failed { failure, reused } = failed;
        progress.furthest = progress.furthest.max(failure.reached);
        if !body.is_whole() {
            return Next::Stands(None);
        }
        if *reused
            && came_late(failure, &head.method)
            && progress.stale < STALE_CONNECTIONS
            && self.in_time(Duration::ZERO)
        {
            progress.stale += 1;
            return Next::Again(Duration::ZERO, None);
        }
        if self.hosts.as_ref().is_some_and(|hosts| progress.tried.len() + 1 < hosts.len())
            && failure.reached == Reached::NotWritten
            && self.in_time(Duration::ZERO)
        {
            return Next::Again(Duration::ZERO, None);
        }
        let Some(retry) = self.retry else { return Next::Stands(None) };
        let outcome = Outcome::Failed(failure);
        match self.decided(retry.decide(&mut progress.retries, &head.method, outcome, fastrand::u32(..))) {
            // The failure says more than that it was the last.
            Next::Stands(Some(Reason::UpstreamRetryLimitExceeded)) => Next::Stands(None),
            next => next,
        }
    }

    fn decided(&self, decision: Decision) -> Next {
        match decision {
            Decision::Stands => Next::Stands(None),
            Decision::LimitReached => Next::Stands(Some(Reason::UpstreamRetryLimitExceeded)),
            Decision::Retry { after, .. } if !self.in_time(after) => Next::Stands(None),
            Decision::Retry { after, charged: false } => Next::Again(after, None),
            Decision::Retry { after, charged: true } => match self.cluster.retry() {
                Some(paid) => Next::Again(after, Some(paid)),
                None => Next::Stands(Some(Reason::RetryBudgetExceeded)),
            },
        }
    }

    fn in_time(&self, pause: Duration) -> bool {
        self.limit.deadline.is_none_or(|deadline| Instant::now() + pause < deadline)
    }

    /// Counts a failure against its host, unless it is a bound of ours that was reached.
    fn blame(&self, host: &Host, failure: &Failure) {
        if !matches!(failure.reason, Reason::UpstreamOverflow | Reason::NoHealthyUpstream) {
            self.cluster.observe(host, outlier::Outcome::LocalOrigin);
        }
    }
}

/// What happened to a request so far.
#[derive(Debug)]
struct Progress {
    retries: Retries,
    tried: Vec<SocketAddr>,
    stale: u32,
    furthest: Reached,
}

impl Default for Progress {
    fn default() -> Self {
        Self { retries: Retries::default(), tried: Vec::new(), stale: 0, furthest: Reached::NotWritten }
    }
}

/// A try that got no answer.
struct Failed {
    failure: Failure,
    /// Whether its connection had carried a request before.
    reused: bool,
}

/// Whether a request failed because its connection, which had been idle, was closed just then, and may be sent again with
/// or without a retry policy: it was provably not processed, or is idempotent and got no byte of an answer (RFC 9110
/// section 9.2.2). A stream that the peer refused is for the policy; one above its GOAWAY just came late.
fn came_late(failure: &Failure, method: &Method) -> bool {
    (failure.never_processed() && failure.reason != Reason::UpstreamRemoteReset)
        || (failure.reason == Reason::UpstreamConnectionTermination && method.is_idempotent())
}

fn answer_facts(answer: &Answer) -> (http::StatusCode, &HeaderMap) {
    let (Answer::Interim(head) | Answer::Final(head, _) | Answer::Switched(head, _)) = answer;
    (head.status, &head.headers)
}

/// What ejection makes of an answer. gRPC says in its own status what HTTP says in 5xx.
fn judged(status: http::StatusCode, headers: &HeaderMap) -> outlier::Outcome {
    match (status.as_u16(), grpc_status(headers)) {
        (502..=504, _) | (_, Some(4 | 14)) => outlier::Outcome::GatewayError,
        (500.., _) | (_, Some(2 | 12 | 13 | 15)) => outlier::Outcome::ServerError,
        _ => outlier::Outcome::Success,
    }
}
