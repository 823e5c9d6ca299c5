//! Hedging: another attempt of a request begins while one is in flight, and the first good response is relayed.
//!
//! It begins when the latency of the first attempt exceeds the percentile configured for the cluster, or, as in Envoy
//! (`HedgePolicy.hedge_on_per_try_timeout`), when an attempt exceeds the per-attempt timeout. A response that the retry policy would
//! retry, and a failure, are dropped while another attempt is in flight. The others are cancelled when one has won. If the future is
//! dropped, all of them are.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use outrigger_core::error::{Reached, Side};
use outrigger_core::reason::Reason;
use outrigger_policy::blame::Freshness;
use outrigger_policy::retry_budget::RetryPermit;
use tokio::time::{Instant, sleep_until};

use super::super::attempt::{Attempt, Ended, late};
use super::super::decide::{Attempting, Progress, RetryDecision, RetryRules};
use super::super::journal::Journal;
use super::super::leg::{Answered, Leg, Way};
use super::super::replay::ReplayBody;
use super::super::request_context::RequestContext;
use super::super::time_limit::{TimeLimit, TimedOut};
use super::super::trace_context::Trace;
use super::Forwarding;
use super::plan::Plan;
use crate::codec::body::ByteCounts;
use crate::codec::head::RequestHead;
use crate::upstream::bounds::{Peer, RequestPermit};
use crate::upstream::cluster::Probing;
use crate::upstream::host::{Host, HostAttempt};
use crate::upstream::pool::{Lease, Speaks};

/// If a deadline is observed later than this, this process itself was stalled. Responses may have come meanwhile, so that no
/// attempt begins before they are read.
const STOOD_STILL: Duration = Duration::from_millis(100);
const UNTIL_READ: Duration = Duration::from_millis(10);

/// Why another attempt begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The latency exceeds the percentile.
    Latency,
    /// The per-attempt timeout.
    Timeout,
    /// The host was found silent while others answer.
    Silence,
}

/// What happens next, if no attempt ends before.
enum Step {
    /// It is decided whether another attempt begins.
    Hedge(Cause),
    /// An attempt begins, which was decided before its back-off.
    Begin(Permits),
}

/// What an attempt holds. `hedges` is whether another one was in flight when it was decided.
#[derive(Default)]
struct Permits {
    request: Option<RequestPermit>,
    paid: Option<RetryPermit>,
    hedges: bool,
}

/// What ends a wait.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, in a future that is boxed")]
enum Event {
    /// The attempt at this index has ended.
    Ended(usize, Answered),
    /// The only attempt has interim responses.
    Interims,
    /// The newest attempt's host was found silent.
    Silent,
    /// The time of the next step has come.
    Due,
}

/// The attempts of one request that are in flight, the newest last, and what they share.
struct Race<'h> {
    forwarding: &'h Forwarding<'h>,
    rules: &'h RetryRules<'h>,
    head: &'h RequestHead,
    body: &'h ReplayBody,
    bytes: Rc<ByteCounts>,
    peer: &'h Rc<Peer>,
    progress: &'h mut Progress,
    journal: &'h mut Journal,
    trace: &'h Trace,
    original: SocketAddr,
    speaks: Speaks,
    plan: Plan,
    /// The number of the first attempt.
    first: u32,
    legs: Vec<(Leg<'h>, Permits)>,
    next: Option<(Instant, Step)>,
}

impl Forwarding<'_> {
    /// Makes the attempt of `asking` on `lease` within `limit`, and others beside it as `plan` says. Returns the first good outcome,
    /// or the last one.
    pub(super) async fn hedged(
        &self,
        lease: (Lease, Instant),
        (asking, limit): (HostAttempt, TimeLimit),
        plan: Plan,
        request: &mut Attempting<'_, '_>,
    ) -> Ended {
        let Attempting { cx, body, peer, rules, progress } = request;
        let RequestContext { on, head, journal, responder, trace, .. } = &mut **cx;
        let (head, bytes) = (&*head, journal.bytes());
        let speaks = self.cluster.speaks(head.version);
        journal.attempt_connected(&lease.0.facts, lease.0.protocol(), lease.1);
        let percentile = plan.after.map(|after| (asking.began() + after, Step::Hedge(Cause::Latency)));
        let timeout = plan.per_try.map(|after| (lease.1 + after, Step::Hedge(Cause::Timeout)));
        let first = progress.begun.saturating_sub(1);
        let attempt = Attempt { head, body, peer, speaks, limit };
        let leg = Leg::on(lease, (asking, first), attempt, Rc::clone(&bytes));
        let mut race = Race {
            forwarding: self,
            rules,
            head,
            body,
            bytes,
            peer,
            progress,
            journal,
            trace,
            original: on.client.destination,
            speaks,
            plan,
            first,
            legs: vec![(leg, Permits::default())],
            next: percentile.into_iter().chain(timeout).min_by_key(|(at, _)| *at),
        };
        loop {
            match race.event().await {
                Event::Ended(at, answered) => {
                    let Some((leg, permits, answered)) = race.ended(at, answered) else { continue };
                    let is_good = race.is_good(&answered);
                    let decided = if is_good { None } else { race.decided() };
                    race.settle(&leg, permits.hedges && is_good, answered.is_ok());
                    let ended = leg.ended(answered, race.journal, responder).await;
                    return Ended { paid: permits.paid, decided, ..ended };
                }
                Event::Interims => {
                    if let Some((leg, _)) = race.legs.first() {
                        leg.relay_interims(responder, &race.bytes).await;
                    }
                }
                Event::Silent if race.head.method.is_idempotent() && !race.is_beginning() => {
                    race.hedge(Cause::Silence);
                }
                Event::Silent => {}
                Event::Due => race.due(),
            }
        }
    }
}

impl<'h> Race<'h> {
    async fn event(&mut self) -> Event {
        let mut timer = pin!(self.next.as_ref().map(|(at, _)| sleep_until(*at)));
        poll_fn(|cx| {
            for (at, (leg, _)) in self.legs.iter_mut().enumerate() {
                if let Poll::Ready(answered) = leg.poll_answer(cx) {
                    return Poll::Ready(Event::Ended(at, answered));
                }
            }
            if let [(leg, _)] = &*self.legs
                && leg.has_interims()
            {
                return Poll::Ready(Event::Interims);
            }
            if self.legs.last().is_some_and(|(leg, _)| leg.take_silent()) {
                return Poll::Ready(Event::Silent);
            }
            match timer.as_mut().as_pin_mut().map(|timer| timer.poll(cx)) {
                Some(Poll::Ready(())) => Poll::Ready(Event::Due),
                Some(Poll::Pending) | None => Poll::Pending,
            }
        })
        .await
    }

    /// Returns whether it is decided that another attempt begins.
    fn is_beginning(&self) -> bool {
        matches!(self.next, Some((_, Step::Begin(_))))
    }

    fn due(&mut self) {
        let Some((at, step)) = self.next.take() else { return };
        if at.elapsed() > STOOD_STILL {
            self.next = Some((Instant::now() + UNTIL_READ, step));
            return;
        }
        match step {
            Step::Hedge(cause) => self.hedge(cause),
            Step::Begin(permits) => {
                self.begin(permits);
            }
        }
    }

    /// Begins another attempt beside those in flight, after a back-off if an attempt has exceeded its timeout, or decides that none
    /// begins.
    fn hedge(&mut self, cause: Cause) {
        let Some((newest, _)) = self.legs.last() else { return };
        let (now, after) = (Instant::now(), self.plan.per_try);
        // After silence, another one may be planned, which begins in any case.
        if self.next.is_none() && cause != Cause::Timeout {
            self.next = after.map(|after| (newest.asking.began() + after, Step::Hedge(Cause::Timeout)));
        }
        if !self.body.is_received() {
            // The client has not sent all of it yet.
            let again = match cause {
                Cause::Latency => self.plan.after,
                Cause::Timeout => after,
                Cause::Silence => None,
            };
            if let Some(again) = again.filter(|_| self.body.is_whole()) {
                self.next = Some((now + again.max(UNTIL_READ), Step::Hedge(cause)));
            }
            return;
        }
        if cause == Cause::Timeout {
            let late = late(TimedOut::Deadline, Reached::Maybe);
            self.forwarding.cluster.blame(&newest.asking, &late, Freshness::Fresh);
        }
        // Only after its timeout does a request go to the same host again, as in Envoy.
        let elsewhere = self.pick().is_some_and(|host| !self.legs.iter().any(|(leg, _)| is_at(leg, &host)));
        if !elsewhere && cause != Cause::Timeout {
            return;
        }
        let Some((pause, request, paid)) = self.rules.hedge(self.progress, self.peer) else { return };
        let permits = Permits { request: Some(request), paid: Some(paid), hedges: true };
        if cause == Cause::Timeout {
            self.next = Some((now + pause, Step::Begin(permits)));
        } else {
            self.begin(permits);
        }
    }

    /// Begins another attempt. Returns false if there is no host for it.
    fn begin(&mut self, permits: Permits) -> bool {
        let (Some(body), Some(host)) = (self.body.copy(), self.pick()) else { return false };
        self.journal.attempt_ends();
        let (mut head, Forwarding { cluster, .. }) = (self.head.clone(), self.forwarding);
        let asking = self.forwarding.begin_at(&host, &mut head, self.journal, self.trace, self.progress);
        cluster.series.retries.increment();
        if permits.hedges {
            cluster.series.hedges.increment();
        }
        let number = self.progress.begun.saturating_sub(1);
        let timeout = self.plan.per_try.map(|after| (asking.began() + after, Step::Hedge(Cause::Timeout)));
        let limit = self.forwarding.attempt_limit(|| true);
        let way = Way { limit, bytes: Rc::clone(&self.bytes) };
        let leg = Leg::to((asking, number), (head, body), (self.speaks, Rc::clone(self.peer)), way);
        self.legs.push((leg, permits));
        self.next = timeout;
        true
    }

    /// Returns the host of the next attempt: one without an attempt, if there is one.
    fn pick(&self) -> Option<Rc<Host>> {
        let in_flight = self.legs.iter().map(|(leg, _)| leg.asking.host().address);
        let tried: Vec<_> = self.progress.tried.iter().copied().chain(in_flight).collect();
        Some(self.forwarding.pick(self.original, &tried, Probing::Never).ok()?.host)
    }

    /// Takes the outcome of one attempt. Returns it if it is the request's.
    fn ended(&mut self, at: usize, answered: Answered) -> Option<(Leg<'h>, Permits, Answered)> {
        let is_newest = at + 1 == self.legs.len();
        let (leg, mut permits) = self.legs.remove(at);
        self.learn(&leg, &answered);
        if self.is_good(&answered) || self.legs.is_empty() && !self.is_beginning() {
            return Some((leg, permits, answered));
        }
        // If an older attempt fails, a newer one already is its retry.
        if is_newest && !self.is_beginning() {
            self.next = match self.decide(&leg, &answered) {
                RetryDecision::Retry(pause, paid) => {
                    // It takes the place of the failed one.
                    let permits = Permits { request: permits.request.take(), paid, hedges: false };
                    Some((Instant::now() + pause, Step::Begin(permits)))
                }
                RetryDecision::Final(_) => None,
            };
        }
        let reached = answered.as_ref().err().map_or(Reached::Maybe, |failed| failed.failure.reached);
        self.progress.furthest = self.progress.furthest.max(reached);
        self.progress.tried.push(leg.asking.host().address);
        if self.legs.is_empty() && !self.begin_hedge() {
            return Some((leg, permits, answered));
        }
        self.journal.attempt_resumes(leg.number);
        leg.note_connection(self.journal);
        self.forwarding.note(&leg.asking, &answered, self.journal);
        self.journal.attempt_ends();
        None
    }

    /// Begins the hedge that is decided, if any: without another attempt in flight, nothing is gained by its back-off. That of a
    /// retry, which spares the upstream, remains. Returns false if none begins.
    fn begin_hedge(&mut self) -> bool {
        match self.next.take() {
            Some((_, Step::Begin(permits))) if permits.hedges => self.begin(permits),
            next => {
                self.next = next;
                false
            }
        }
    }

    /// Takes the retry that is decided: the rest of its back-off, and its permit.
    fn decided(&mut self) -> Option<Box<(Duration, Option<RetryPermit>)>> {
        let (at, Step::Begin(permits)) = self.next.take()? else { return None };
        Some(Box::new((at.saturating_duration_since(Instant::now()), permits.paid)))
    }

    /// Returns whether an outcome ends the request, although other attempts are in flight: a response that the policy would not
    /// retry, or the client's failure.
    fn is_good(&self, answered: &Answered) -> bool {
        match answered {
            Ok(response) => !self.forwarding.retry.is_some_and(|retry| {
                retry.would_retry(response.facts, &response.head.headers, &self.head.method)
            }),
            Err(failed) => failed.failure.side == Side::Downstream,
        }
    }

    fn decide(&mut self, leg: &Leg<'_>, answered: &Answered) -> RetryDecision {
        let host = leg.asking.host();
        match answered {
            Ok(response) => {
                let next = self.rules.after_answer(response, self.head, self.body, self.progress);
                let tried = &self.progress.tried;
                self.forwarding.heeding(response.facts.pushback, next, host, self.original, tried)
            }
            Err(failed) => self.rules.after_failure(failed, self.head, self.body, self.progress),
        }
    }

    /// Records the latency of the first attempt: that of its response, or for how long it was waited for.
    fn learn(&self, leg: &Leg<'_>, answered: &Answered) {
        let counts = match answered {
            Ok(response) => !response.facts.status.is_server_error(),
            Err(failed) => failed.failure.reason == Reason::UpstreamRequestTimeout,
        };
        if self.plan.learns && leg.number == self.first && counts {
            self.forwarding.cluster.note_first(leg.asking.age());
        }
    }

    /// Cancels the attempts that are still in flight. The record of `ended`, whose outcome is the request's, becomes the current
    /// one. `has_won` is whether it is a hedge whose outcome is not retried.
    fn settle(&mut self, ended: &Leg<'_>, has_won: bool, is_answered: bool) {
        for (leg, _) in std::mem::take(&mut self.legs) {
            self.journal.attempt_resumes(leg.number);
            leg.note_connection(self.journal);
            self.journal.attempt_ends();
            if is_answered {
                leg.asking.outrun();
                if self.plan.learns && leg.number == self.first {
                    self.forwarding.cluster.note_first(leg.asking.age());
                }
            }
        }
        if has_won && is_answered {
            self.forwarding.cluster.series.hedges_won.increment();
        }
        self.journal.attempt_resumes(ended.number);
    }
}

fn is_at(leg: &Leg<'_>, host: &Host) -> bool {
    leg.asking.host().address == host.address
}
