//! Sends a request upstream, as often as it takes and its policies allow, until an answer may be relayed.
//!
//! Each try picks a host from the endpoints of the moment. Cancelled at any await, every guard gives back what it holds
//! and the try under way is given up.

use std::net::SocketAddr;
use std::rc::Rc;

use http::HeaderMap;
use outrigger_core::error::{Failure, Reached, Side};
use outrigger_core::reason::Reason;
use outrigger_policy::outlier;
use outrigger_policy::retry::RetryPolicy;
use outrigger_policy::retry_budget::Retrying;

use super::attempt::{self, Attempt, Failed};
use super::decide::{Next, Progress, Rules};
use super::filters::Admitted;
use super::journal::Journal;
use super::limit::Limit;
use super::replay::Replay;
use super::respond::grpc_status;
use super::trace_context::Trace;
use crate::client::ClientFacts;
use crate::codec::answer::Answer;
use crate::codec::body::Body;
use crate::codec::head::ResponseHead;
use crate::codec::server::Responder;
use crate::codec::upgrade::Upgraded;
use crate::upstream::bounds::Room;
use crate::upstream::cluster::Cluster;
use crate::upstream::host::{Asking, Host};
use crate::upstream::pool::Exchange;

/// Where a request goes and what may be done for it; decided from one snapshot.
#[derive(Debug)]
pub(super) struct Forwarding<'a> {
    /// The cluster.
    pub(super) cluster: Rc<Cluster>,
    /// Its hosts, where they are not the cluster's to pick: what the client's own name resolved to.
    pub(super) hosts: Option<Vec<Rc<Host>>>,
    /// Whose request it is, and where the connection was going before it was redirected here.
    pub(super) client: &'a ClientFacts,
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
        let room = self.cluster.admit(&self.client.key).await?;
        let (mut head, body) = admitted.into_parts();
        let body = Replay::new(body);
        let rules = Rules {
            cluster: &self.cluster,
            retry: self.retry,
            deadline: self.limit.deadline,
            resolved: self.hosts.as_ref().map(Vec::len),
        };
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
            let attempt = Attempt {
                head: &head,
                body: &body,
                peer: &room.peer,
                speaks: self.cluster.speaks(head.version),
                limit: attempt::limit(self.retry, self.limit),
            };
            let outcome = attempt.send(&host, journal, responder, || received.get()).await;
            let next = match &outcome {
                Ok((answer, _)) => {
                    let (status, headers) = answer_facts(answer);
                    let judged = judged(status, headers);
                    if judged == outlier::Outcome::Success {
                        asking.answered();
                    } else {
                        asking.failed();
                    }
                    self.cluster.observe(&host, judged);
                    journal.try_answered(status.as_u16(), grpc_status(headers));
                    rules.after_answer(status, headers, &head, &body, &mut progress)
                }
                Err(failed) => {
                    if failed.failure.side == Side::Upstream {
                        asking.failed();
                        self.blame(&host, &failed.failure);
                    }
                    journal.try_failed(&failed.failure);
                    rules.after_failure(failed, &head, &body, &mut progress)
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
                        limit: Limit { idle: attempt::idle(self.retry, self.limit.idle), ..self.limit },
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
        let Some(hosts) = &self.hosts else { return self.cluster.pick(tried, Some(self.client.destination)) };
        let fresh = hosts.iter().find(|host| !tried.contains(&host.address));
        fresh.or(hosts.first()).map(Rc::clone).ok_or_else(|| {
            Failure::upstream(Reason::NoHealthyUpstream, Reached::NotWritten, "the host has no address")
        })
    }

    /// Counts a failure against its host, unless it is a bound of ours that was reached.
    fn blame(&self, host: &Host, failure: &Failure) {
        if !matches!(failure.reason, Reason::UpstreamOverflow | Reason::NoHealthyUpstream) {
            self.cluster.observe(host, outlier::Outcome::LocalOrigin);
        }
    }
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
        (429, _) | (_, Some(8)) => outlier::Outcome::Overloaded,
        _ => outlier::Outcome::Success,
    }
}
