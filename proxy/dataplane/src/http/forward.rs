//! Sends a request upstream, as often as needed and as its policies allow, until a response may be relayed.
//!
//! Each attempt picks one of the current endpoints. If the future is cancelled at an await, every guard releases what it holds
//! and the active attempt is cancelled.

mod covered;
mod hedged;
mod plan;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use http::{HeaderName, Version};
use outrigger_config::route::Attempts;
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;
use outrigger_policy::blame::Freshness;
use outrigger_policy::pushback::Pushback;
use outrigger_policy::retry::RetryPolicy;
use outrigger_policy::stateful_session::Session;
use tokio::time::Instant;

use super::attempt::{self, Attempt, Ended, Failed, Response};
use super::decide::{Attempting, Progress, RetryDecision, RetryRules};
use super::filters::Admitted;
use super::journal::Journal;
use super::leg::Answered;
use super::replay::{BufferLimits, ReplayBody};
use super::reply::{Reply, ResponseGuard};
use super::request_context::RequestContext;
use super::request_timeout::{Owe, RequestLimit, RequestTimeout};
use super::session;
use super::time_limit::TimeLimit;
use super::trace_context::Trace;
use crate::codec::answer::Payload;
use crate::codec::body::Body;
use crate::codec::head::RequestHead;
use crate::upstream::cluster::{Cluster, PickBy, Picked, Probing};
use crate::upstream::host::{Host, HostAttempt};
use crate::upstream::overload::Running;

/// The number of the attempt in a request, and the number of attempts in a response (Envoy's `x-envoy-attempt-count`).
const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// The longest time that a request waits for an endpoint that pushes back, before it is sent there again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Where a request is sent and which policies apply; decided from one snapshot.
#[derive(Debug)]
pub(super) struct Forwarding<'a> {
    /// The cluster.
    pub(super) cluster: Rc<Cluster>,
    /// The hosts, if they are not picked by the cluster: those that the client's own name resolved to.
    pub(super) hosts: Option<Vec<Rc<Host>>>,
    /// The hash of the request, if the cluster picks endpoints by hashes.
    pub(super) hash: Option<u64>,
    /// Its session, if the route has them.
    pub(super) session: Option<Box<Session<'a>>>,
    /// The route's retry policy.
    pub(super) retry: Option<&'a RetryPolicy>,
    /// How much of the body is buffered for retries, and where attempts are counted.
    pub(super) attempts: &'a Attempts,
    /// The time limits of the whole request, in total and without progress.
    pub(super) limit: TimeLimit,
    /// When the whole request body must have been received (`HttpConnectionManager.request_timeout`).
    pub(super) body_deadline: Option<Instant>,
}

impl Forwarding<'_> {
    /// Forwards to a destination outside the mesh, without time limits: none is configured for it.
    pub(super) fn passthrough(cluster: Rc<Cluster>, hosts: Vec<Rc<Host>>) -> Self {
        Self {
            cluster,
            hosts: Some(hosts),
            hash: None,
            session: None,
            retry: None,
            attempts: &Attempts::DEFAULT,
            limit: TimeLimit::default(),
            body_deadline: None,
        }
    }

    /// Forwards the request. Interim responses are sent to the client at once.
    ///
    /// Returns the last attempt's failure if all fail, with the furthest state that any attempt reached.
    pub(super) async fn run(&self, admitted: Admitted<'_, '_>) -> Result<Reply, Failure> {
        let cx = admitted.into_context();
        let (body, _clock) = self.timed_body(cx);
        let lookup = TimeLimit { idle: None, ..self.limit }.run(cx.on.context.lookup(&self.cluster), || 0);
        lookup.await.unwrap_or_else(|which| Err(attempt::late(which, Reached::NotWritten)))?;
        let permit = self.cluster.admit(&cx.on.client.key).await?;
        // What an upgrade opens is no work for the application.
        let mut running = match cx.head.upgrade {
            None => self.cluster.run(&permit.peer, attempt::awaited_until(cx, self.limit)).await?,
            Some(_) => Running::UNKNOWN,
        };
        let body = ReplayBody::new(body, || BufferLimits {
            limit: self.attempts.kept_bytes,
            of_worker: Rc::clone(&cx.on.context.kept_bytes),
            metrics: cx.journal.metrics(),
        });
        let rules = RetryRules {
            cluster: &self.cluster,
            retry: self.retry,
            deadline: self.limit.deadline,
            resolved: self.hosts.as_ref().map(Vec::len),
        };
        let (peer, progress) = (&permit.peer, Progress::default());
        let mut request = Attempting { cx, body: &body, peer, rules: &rules, progress };
        let mut retrying = None;
        loop {
            let Ended { asking, outcome, paid, decided } = match self.next(&mut request).await {
                Ok(ended) => ended,
                // Previous attempts may have been processed.
                Err(none) => {
                    running.failed(&none);
                    return Err(Failure { reached: none.reached.max(request.progress.furthest), ..none });
                }
            };
            let Attempting { cx, progress, .. } = &mut request;
            retrying = paid.or(retrying);
            let host = Rc::clone(asking.host());
            self.note(&asking, &outcome, &mut cx.journal);
            let next = match (&outcome, decided) {
                (_, Some(decided)) => {
                    let (pause, paid) = *decided;
                    RetryDecision::Retry(pause, paid)
                }
                (Ok(response), None) => {
                    let next = rules.after_answer(response, &cx.head, &body, progress);
                    let original = cx.on.client.destination;
                    self.heeding(response.facts.pushback, next, &host, original, &progress.tried)
                }
                (Err(failed), None) if failed.moved.is_some() => RetryDecision::Retry(Duration::ZERO, None),
                (Err(failed), None) => rules.after_failure(failed, &cx.head, &body, progress),
            };
            match (next, outcome) {
                (RetryDecision::Retry(pause, paid), outcome) => {
                    cx.journal.attempt_ends();
                    self.cluster.series.retries.increment();
                    progress.tried.push(host.address);
                    // The response is dropped before the next attempt begins.
                    retrying = paid.or(outcome.err().and_then(|failed| failed.moved));
                    if !pause.is_zero() {
                        drop(asking);
                        tokio::time::sleep(pause).await;
                    }
                }
                (RetryDecision::Final(reason), Ok(Response { mut head, payload, exchange, .. })) => {
                    running.answered();
                    if let Some(reason) = reason {
                        cx.journal.set_reason(reason);
                    }
                    body.stop_buffering();
                    if self.attempts.count_in_response {
                        head.headers.insert(ATTEMPT_COUNT, progress.begun.into());
                    }
                    if let Some(session) = &self.session {
                        session::count(session, host.address, &self.cluster.series);
                        let (of, now) = (&self.cluster.name, SystemTime::now());
                        session.answered_by(host.address, of, now, &mut cx.response_changes);
                    }
                    let frames = host.frames();
                    let guard = ResponseGuard {
                        limit: TimeLimit { idle: attempt::idle(self.retry, self.limit.idle), ..self.limit },
                        cluster: Rc::clone(&self.cluster),
                        host,
                        permit,
                        asking,
                        _retrying: retrying,
                        _exchange: exchange,
                    };
                    return Ok(match payload {
                        Payload::Body(body) => {
                            Reply::Response(head, body.frames_counted(frames), Some(guard))
                        }
                        Payload::Tunnel(upgraded) => Reply::Tunnel(head, upgraded, guard),
                    });
                }
                (RetryDecision::Final(reason), Err(Failed { mut failure, .. })) => {
                    running.failed(&failure);
                    failure.reason = reason.unwrap_or(failure.reason);
                    failure.reached = progress.furthest;
                    return Err(failure);
                }
            }
        }
    }

    /// Takes the request's body. The client has a limited time to send it, until the response arrives.
    fn timed_body(&self, cx: &mut RequestContext<'_>) -> (Body, Option<RequestTimeout<impl Owe + use<>>>) {
        let limits = &cx.on.limits;
        // A gRPC call may be idle between messages before it is answered; an upload may not.
        let stillness = if cx.grpc { limits.stream_timeout } else { limits.body_timeout };
        let (cluster, key) = (Rc::clone(&self.cluster), cx.on.client.key.clone());
        let body = std::mem::replace(&mut cx.body, Body::empty());
        RequestLimit { deadline: self.body_deadline, stillness }
            .start(body, move |waker: &_| cluster.peer(&key).owes(waker))
    }

    /// Makes the next attempt, at the host that is picked for it.
    async fn next(&self, request: &mut Attempting<'_, '_>) -> Result<Ended, Failure> {
        let covered = self.retry.is_some() && request.cx.head.method.is_idempotent();
        let probing = if covered { Probing::Covered } else { Probing::Uncovered };
        let Picked { mut host, doubted } =
            self.pick(request.cx.on.client.destination, &request.progress.tried, probing)?;
        if let Some(doubted) = doubted.filter(|_| request.progress.tried.is_empty()) {
            let cover = match host.address == doubted.address {
                true => self.pick(request.cx.on.client.destination, &[doubted.address], Probing::Never)?.host,
                false => Rc::clone(&host),
            };
            if cover.address == doubted.address {
                // There is no other host.
            } else if request.may_be_paired() && doubted.takes_pair() {
                // Boxed, because it is rare and would make every request larger.
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
    fn begin(&self, host: &Rc<Host>, request: &mut Attempting<'_, '_>) -> HostAttempt {
        let RequestContext { head, journal, trace, .. } = &mut *request.cx;
        self.begin_at(host, head, journal, trace, &mut request.progress)
    }

    fn begin_at(
        &self,
        host: &Rc<Host>,
        head: &mut RequestHead,
        journal: &mut Journal,
        trace: &Trace,
        progress: &mut Progress,
    ) -> HostAttempt {
        let limit = self.attempt_limit(|| self.may_hedge(head));
        let headers = &mut head.headers;
        let asking = host.begin();
        let span = trace.attempt_span(progress.begun);
        let endpoint = (host.address, host.instance.as_ref());
        journal.attempt_begins(&self.cluster.name, endpoint, span, asking.began());
        self.cluster.series.attempts.increment();
        trace.write(headers, span);
        attempt::expect(headers, limit, asking.began());
        progress.begun += 1;
        if self.attempts.count_in_request {
            headers.insert(ATTEMPT_COUNT, progress.begun.into());
        }
        asking
    }

    /// Records the outcome of an attempt, for its host and in the current record.
    fn note(&self, asking: &HostAttempt, outcome: &Answered, journal: &mut Journal) {
        match outcome {
            Ok(Response { facts, .. }) => {
                asking.heard();
                self.cluster.record(asking, attempt::judged(*facts));
                if let Some(Pushback::After(after)) = facts.pushback {
                    self.cluster.push_back(asking.host(), after);
                }
                journal.attempt_answered(facts.status.as_u16(), facts.grpc_status);
            }
            Err(failed) => {
                journal.attempt_failed(&failed.failure);
                if failed.moved.is_none() {
                    self.cluster.blame(asking, &failed.failure, failed.connection);
                }
            }
        }
    }

    /// How long one attempt that begins now may take and stand still. If the request `may_be_hedged` after the attempt's timeout,
    /// that does not end the attempt, as in Envoy.
    fn attempt_limit(&self, may_be_hedged: impl FnOnce() -> bool) -> TimeLimit {
        match self.attempts.hedge_on_per_try_timeout && may_be_hedged() {
            true => TimeLimit { idle: attempt::idle(self.retry, self.limit.idle), ..self.limit },
            false => attempt::limit(self.retry, self.limit),
        }
    }

    /// Makes one attempt, from the connection to the response head.
    async fn attempt(&self, mut asking: HostAttempt, request: &mut Attempting<'_, '_>) -> Ended {
        let Attempting { cx, body, peer, rules, progress } = request;
        let RequestContext { on, head, journal, responder, .. } = &mut **cx;
        let head = &*head;
        // An endpoint that uses its client's version may be an application that accepts upgrades in HTTP/1.1 only.
        let version = if head.upgrade.is_some() { Version::HTTP_11 } else { head.version };
        let speaks = self.cluster.speaks(version);
        let attempt =
            Attempt { head, body, peer, speaks, limit: self.attempt_limit(|| self.may_hedge(head)) };
        let bytes = journal.bytes();
        let moved = || bytes.received.get();
        let rival = |first: &Host| {
            let tried: Vec<_> = progress.tried.iter().copied().chain([first.address]).collect();
            let host = self.pick(on.client.destination, &tried, Probing::Never).ok()?.host;
            (!tried.contains(&host.address)).then(|| {
                self.cluster.series.attempts.increment();
                host.begin()
            })
        };
        let blame =
            |asking: &HostAttempt, failure: &Failure| self.cluster.blame(asking, failure, Freshness::Fresh);
        let lease = match attempt.ready_connection(&asking) {
            Some(lease) => (lease, asking.began()),
            // Boxed, because most requests find a connection and would be twice as large with it.
            None => match Box::pin(attempt.connect(&mut asking, journal, moved, rival, blame)).await {
                Ok(lease) => (lease, Instant::now()),
                Err(failed) => return Ended::new(asking, Err(failed)),
            },
        };
        if let Some(plan) = self.hedging(head) {
            // Boxed, because few routes have it.
            return Box::pin(self.hedged(lease, (asking, attempt.limit), plan, request)).await;
        }
        let moving = || rules.moving(head, body, progress);
        let outcome = attempt.send(lease, asking.host(), journal, responder, moved, moving).await;
        Ended::new(asking, outcome)
    }

    fn pick(&self, original: SocketAddr, tried: &[SocketAddr], probing: Probing) -> Result<Picked, Failure> {
        let Some(hosts) = &self.hosts else {
            let pinned = self.session.as_ref().and_then(|session| session.pinned());
            let by = PickBy { original: Some(original), hash: self.hash, pinned };
            return self.cluster.pick(tried, by, probing);
        };
        let fresh = hosts.iter().find(|host| !tried.contains(&host.address));
        let host = fresh.or(hosts.first()).map(Rc::clone).ok_or_else(|| {
            Failure::upstream(Reason::NoHealthyUpstream, Reached::NotWritten, "the host has no address")
        })?;
        Ok(Picked { host, doubted: None })
    }

    /// Applies the response's pushback to the decision: it is the minimum pause before the same host receives the request
    /// again.
    fn heeding(
        &self,
        pushback: Option<Pushback>,
        next: RetryDecision,
        host: &Host,
        original: SocketAddr,
        tried: &[SocketAddr],
    ) -> RetryDecision {
        let Some(pushback) = pushback else { return next };
        let RetryDecision::Retry(pause, paid) = next else { return next };
        let Pushback::After(wait) = pushback else { return RetryDecision::Final(None) };
        let tried: Vec<_> = tried.iter().copied().chain([host.address]).collect();
        let again =
            self.pick(original, &tried, Probing::Never).is_ok_and(|next| next.host.address == host.address);
        let pause = if again { pause.max(wait) } else { pause };
        // The limit is checked first: the requested pushback may overflow an Instant.
        let in_time = || self.limit.deadline.is_none_or(|deadline| Instant::now() + pause < deadline);
        // A longer wait is left to the client, which receives the pushback too.
        if pause <= LONGEST_PAUSE && in_time() {
            RetryDecision::Retry(pause, paid)
        } else {
            RetryDecision::Final(None)
        }
    }
}
