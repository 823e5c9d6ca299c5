//! Sends a request upstream, as often as it takes and its policies allow, until an answer may be relayed.
//!
//! Each try picks a host from the endpoints of the moment. Cancelled at any await, every guard gives back what it holds
//! and the try under way is given up.

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, Version};
use outrigger_config::route::Attempts;
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;
use outrigger_policy::blame::{self, Blame, Connection};
use outrigger_policy::outlier::Outcome;
use outrigger_policy::pushback::{Pushback, pushback};
use outrigger_policy::retry::RetryPolicy;
use outrigger_policy::retry_budget::Retrying;
use tokio::time::{Instant, timeout, timeout_at};

use super::attempt::{self, Attempt, Ended, Failed};
use super::decide::{Next, Progress, Rules};
use super::filters::Admitted;
use super::journal::Journal;
use super::limit::Limit;
use super::pair::Probe;
use super::replay::{Keeping, Replay};
use super::respond::{self, grpc_status};
use super::trace_context::Trace;
use crate::capacity::Debt;
use crate::client::ClientFacts;
use crate::codec::answer::Answer;
use crate::codec::body::Body;
use crate::codec::head::{RequestHead, ResponseHead};
use crate::codec::server::Responder;
use crate::codec::upgrade::Upgraded;
use crate::upstream::bounds::{Peer, RequestPermit};
use crate::upstream::cluster::{Cluster, Picked, Probing};
use crate::upstream::host::{Asking, Host};
use crate::upstream::pool::Exchange;

/// Which attempt a request is, and how many there were (Envoy's `x-envoy-attempt-count`).
const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// The longest that a request waits for an endpoint that pushes back, before it is sent there again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

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
    /// What is kept for them, and who is told of them.
    pub(super) attempts: &'a Attempts,
    /// Bytes of bodies that the worker keeps.
    pub(super) kept_bytes: &'a Rc<Cell<usize>>,
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
    permit: RequestPermit,
    asking: Asking,
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
    /// Lists the request as one whose client owes it to take its answer, until it is dropped.
    pub(super) fn owes(&self, waker: &Waker) -> Debt {
        self.permit.peer.owes(waker)
    }

    /// The response broke off after its head was relayed.
    pub(super) fn broke_off(&self, failure: &Failure) {
        self.failed_late(blame::failed(failure, Connection::Fresh).outcome);
    }

    /// The response has ended, and its trailers say how the request did.
    pub(super) fn ended(&self, grpc_status: u8) {
        self.failed_late(blame::answered(200, Some(grpc_status), None));
    }

    fn failed_late(&self, outcome: Option<Outcome>) {
        if let Some(outcome) = outcome.filter(|outcome| outcome.is_failure()) {
            self.asking.failed();
            self.cluster.observe_late(&self.host, outcome);
        }
    }
}

/// A request under way: what its attempts share.
struct Request<'a> {
    head: &'a mut RequestHead,
    body: &'a Replay,
    peer: Rc<Peer>,
    rules: &'a Rules<'a>,
    progress: Progress,
    journal: &'a mut Journal,
    responder: &'a mut Responder,
}

impl Request<'_> {
    /// Whether two hosts may execute it, one for certain and the other perhaps.
    fn may_be_paired(&self) -> bool {
        self.head.method.is_safe() && self.head.upgrade.is_none() && self.body.is_empty()
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
        let permit = self.cluster.admit(&self.client.key).await?;
        let (mut head, body) = admitted.into_parts();
        let body = Replay::new(body, || Keeping {
            limit: self.attempts.kept_bytes,
            of_worker: Rc::clone(self.kept_bytes),
            metrics: journal.metrics(),
        });
        let rules = Rules {
            cluster: &self.cluster,
            retry: self.retry,
            deadline: self.limit.deadline,
            resolved: self.hosts.as_ref().map(Vec::len),
        };
        let mut request = Request {
            head: &mut head,
            body: &body,
            peer: Rc::clone(&permit.peer),
            rules: &rules,
            progress: Progress::default(),
            journal,
            responder,
        };
        let mut retrying = None;
        loop {
            let Ended { asking, outcome, paid } = match self.next(&mut request).await {
                Ok(ended) => ended,
                // What was sent before may have been processed.
                Err(none) => {
                    return Err(Failure { reached: none.reached.max(request.progress.furthest), ..none });
                }
            };
            let Request { head, progress, journal, .. } = &mut request;
            retrying = paid.or(retrying);
            let host = Rc::clone(asking.host());
            let next = match &outcome {
                Ok((answer, _)) => {
                    let (status, headers) = answer_facts(answer);
                    asking.heard();
                    self.judge(&asking, judged(status, headers));
                    let pushback = pushback(status, headers, SystemTime::now());
                    if let Some(Pushback::After(after)) = pushback {
                        self.cluster.push_back(&host, after);
                    }
                    journal.try_answered(status.as_u16(), grpc_status(headers));
                    let next = rules.after_answer(status, headers, head, &body, progress);
                    self.heeding(pushback, next, &host, &progress.tried)
                }
                Err(failed) => {
                    journal.try_failed(&failed.failure);
                    if failed.moved.is_none() {
                        self.blame(&asking, &failed.failure, failed.connection);
                        rules.after_failure(failed, head, &body, progress)
                    } else {
                        Next::Again(Duration::ZERO, None)
                    }
                }
            };
            match (next, outcome) {
                (Next::Again(pause, paid), outcome) => {
                    journal.try_ends();
                    self.cluster.series.retries.increment();
                    progress.tried.push(host.address);
                    // What was answered is given up before the next try begins.
                    retrying = paid.or(outcome.err().and_then(|failed| failed.moved));
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
                        permit,
                        asking,
                        _retrying: retrying,
                        _exchange: exchange,
                    };
                    let mut answer = answer;
                    if self.attempts.count_in_response {
                        answer.headers().insert(ATTEMPT_COUNT, progress.begun.into());
                    }
                    return Ok(match answer {
                        Answer::Interim(head) => Reply::Answer(head, Body::empty(), Some(held)),
                        Answer::Final(head, body) => {
                            let body = body.frames_counted(held.host.frames());
                            Reply::Answer(head, body, Some(held))
                        }
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

    /// The next attempt, at the host that is picked for it.
    async fn next(&self, request: &mut Request<'_>) -> Result<Ended, Failure> {
        let covered = self.retry.is_some() && request.head.method.is_idempotent();
        let probing = if covered { Probing::Covered } else { Probing::Uncovered };
        let Picked { mut host, doubted } = self.pick(&request.progress.tried, probing)?;
        if let Some(doubted) = doubted.filter(|_| request.progress.tried.is_empty()) {
            let cover = match host.address == doubted.address {
                true => self.pick(&[doubted.address], Probing::Never)?.host,
                false => Rc::clone(&host),
            };
            if cover.address == doubted.address {
                // There is no other.
            } else if request.may_be_paired() && doubted.takes_pair() {
                // Boxed, so that what seldom happens makes no request larger.
                return Ok(Box::pin(self.pair(doubted, cover, request)).await);
            } else if doubted.takes_test() {
                self.cluster.weigh_silence(&doubted);
                host = doubted;
            }
        }
        let asking = self.begin(&host, request);
        Ok(self.attempt(asking, request).await)
    }

    /// Counts an attempt at `host`, which is about to be made.
    fn begin(&self, host: &Rc<Host>, request: &mut Request<'_>) -> Asking {
        let asking = host.begin();
        let span = self.trace.try_span();
        request.journal.try_begins(&self.cluster.name, host.address, host.instance.as_ref(), span);
        self.cluster.series.tries.increment();
        self.trace.write(&mut request.head.headers, span);
        request.progress.begun += 1;
        if self.attempts.count_in_request {
            request.head.headers.insert(ATTEMPT_COUNT, request.progress.begun.into());
        }
        asking
    }

    /// One attempt, from a connection to the head of an answer.
    async fn attempt(&self, mut asking: Asking, request: &mut Request<'_>) -> Ended {
        let Request { head, body, peer, rules, progress, journal, responder } = request;
        // What follows its client's version may be an application that takes upgrades in HTTP/1.1 alone.
        let version = if head.upgrade.is_some() { Version::HTTP_11 } else { head.version };
        let speaks = self.cluster.speaks(version);
        let attempt = Attempt { head, body, peer, speaks, limit: attempt::limit(self.retry, self.limit) };
        let received = journal.received();
        let moved = || received.get();
        let rival = |first: &Host| {
            let tried: Vec<_> = progress.tried.iter().copied().chain([first.address]).collect();
            let host = self.pick(&tried, Probing::Never).ok()?.host;
            (!tried.contains(&host.address)).then(|| {
                self.cluster.series.tries.increment();
                host.begin()
            })
        };
        let blame = |asking: &Asking, failure: &Failure| self.blame(asking, failure, Connection::Fresh);
        let outcome = match attempt.connect(&mut asking, journal, moved, rival, blame).await {
            Ok(lease) => {
                let moving = || rules.moving(head, body, progress);
                attempt.send(lease, asking.host(), journal, responder, moved, moving).await
            }
            Err(failed) => Err(failed),
        };
        Ended { asking, outcome, paid: None }
    }

    /// An attempt at a host of which it is in doubt whether it still answers, and at another when it does not soon.
    async fn pair(&self, doubted: Rc<Host>, cover: Rc<Host>, request: &mut Request<'_>) -> Ended {
        let asking = self.begin(&doubted, request);
        let mut probe = Probe::begin(
            asking,
            request.head.clone(),
            self.cluster.speaks(request.head.version),
            Rc::clone(&request.peer),
        );
        let left = self.limit.deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let soon = left.into_iter().chain([doubted.cover_after()]).min().unwrap_or_default();
        match timeout(soon, probe.answer()).await {
            Ok(answered) => probe.ended(answered, request.responder).await,
            Err(_) => self.covered(probe, cover, request).await,
        }
    }

    async fn covered(&self, mut probe: Probe, cover: Rc<Host>, request: &mut Request<'_>) -> Ended {
        request.journal.try_ends();
        request.progress.covered();
        let asking = self.begin(&cover, request);
        self.cluster.series.retries.increment();
        // One a second for each host in doubt, whether or not the budget has capacity.
        let paid = self.cluster.retry();
        let began = Instant::now();
        let answered = {
            let mut covering = pin!(self.attempt(asking, request));
            tokio::select! {
                biased;
                answered = probe.answer() => match answered {
                    Ok(answered) => answered,
                    Err(failure) => {
                        self.blame(&probe.asking, &failure, Connection::Fresh);
                        return Ended { paid, ..covering.await };
                    }
                },
                ended = &mut covering => {
                    let Err(failed) = &ended.outcome else {
                        // One that fails at once is no yardstick for one that works.
                        if ended.is_served() {
                            probe.judge(Rc::clone(&self.cluster), began.elapsed());
                        }
                        return Ended { paid, ..ended };
                    };
                    // The doubted host still has the request, and may answer it.
                    let Some(answered) = self.answer_of(&mut probe).await else {
                        return Ended { paid, ..ended };
                    };
                    self.blame(&ended.asking, &failed.failure, failed.connection);
                    answered
                }
            }
        };
        request.journal.try_returns();
        Ended { paid, ..probe.ended(Ok(answered), request.responder).await }
    }

    /// The answer of the doubted host within the time that the request has; None if it fails or takes longer.
    async fn answer_of(&self, probe: &mut Probe) -> Option<(Answer, Exchange)> {
        let deadline = attempt::limit(self.retry, self.limit).deadline;
        match deadline {
            Some(deadline) => timeout_at(deadline, probe.answer()).await.ok()?.ok(),
            None => probe.answer().await.ok(),
        }
    }

    fn pick(&self, tried: &[SocketAddr], probing: Probing) -> Result<Picked, Failure> {
        let Some(hosts) = &self.hosts else {
            return self.cluster.pick(tried, Some(self.client.destination), probing);
        };
        let fresh = hosts.iter().find(|host| !tried.contains(&host.address));
        let host = fresh.or(hosts.first()).map(Rc::clone).ok_or_else(|| {
            Failure::upstream(Reason::NoHealthyUpstream, Reached::NotWritten, "the host has no address")
        })?;
        Ok(Picked { host, doubted: None })
    }

    /// What follows, as the answer's pushback allows it: it bounds the pause before the same host is asked again.
    fn heeding(&self, pushback: Option<Pushback>, next: Next, host: &Host, tried: &[SocketAddr]) -> Next {
        let Some(pushback) = pushback else { return next };
        let Next::Again(pause, paid) = next else { return next };
        let Pushback::After(wait) = pushback else { return Next::Stands(None) };
        let tried: Vec<_> = tried.iter().copied().chain([host.address]).collect();
        let again = self.pick(&tried, Probing::Never).is_ok_and(|next| next.host.address == host.address);
        let pause = if again { pause.max(wait) } else { pause };
        // First the bound: what an endpoint asks for may be longer than a clock can hold.
        let in_time = || self.limit.deadline.is_none_or(|deadline| Instant::now() + pause < deadline);
        // The client, which gets the pushback too, can wait as well.
        if pause <= LONGEST_PAUSE && in_time() { Next::Again(pause, paid) } else { Next::Stands(None) }
    }

    /// Counts a failure against its host as far as the host is to blame for it.
    fn blame(&self, asking: &Asking, failure: &Failure, connection: Connection) {
        let Blame { alive, outcome } = blame::failed(failure, connection);
        asking.ended(failure, alive);
        self.judge(asking, outcome);
    }

    /// Counts what an attempt says about its host, if anything.
    fn judge(&self, asking: &Asking, outcome: Option<Outcome>) {
        let Some(outcome) = outcome else { return };
        if outcome == Outcome::Success {
            asking.answered();
        } else {
            asking.failed();
        }
        self.cluster.observe(asking.host(), outcome);
    }
}

impl Ended {
    /// Whether it is answered, and not with a failure.
    fn is_served(&self) -> bool {
        self.outcome.as_ref().is_ok_and(|(answer, _)| {
            let (status, headers) = answer_facts(answer);
            judged(status, headers) == Some(Outcome::Success)
        })
    }
}

fn answer_facts(answer: &Answer) -> (http::StatusCode, &HeaderMap) {
    let (Answer::Interim(head) | Answer::Final(head, _) | Answer::Switched(head, _)) = answer;
    (head.status, &head.headers)
}

/// What an answer says about its host.
fn judged(status: http::StatusCode, headers: &HeaderMap) -> Option<Outcome> {
    blame::answered(status.as_u16(), grpc_status(headers), respond::reason(headers))
}
