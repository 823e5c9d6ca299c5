//! A pair of attempts: one at a host that is in doubt, covered by one at another host ([`pair`]).

use std::pin::pin;
use std::rc::Rc;

use tokio::time::{Instant, timeout, timeout_at};

use super::super::attempt::{Ended, Response};
use super::super::decide::Attempting;
use super::super::leg::{Leg, Way};
use super::super::pair;
use super::super::request_context::RequestContext;
use super::super::time_limit::TimeLimit;
use super::Forwarding;
use crate::codec::body::Body;
use crate::upstream::host::Host;

impl Forwarding<'_> {
    /// Makes an attempt at a host that is in doubt, and another at `cover` if the first is not answered soon.
    pub(super) async fn pair(
        &self,
        doubted: Rc<Host>,
        cover: Rc<Host>,
        request: &mut Attempting<'_, '_>,
    ) -> Ended {
        let attempt = (self.begin(&doubted, request), request.progress.begun.saturating_sub(1));
        let RequestContext { head, journal, .. } = &*request.cx;
        let to = (self.cluster.speaks(head.version), Rc::clone(request.peer));
        let way = Way { limit: TimeLimit::default(), bytes: journal.bytes() };
        let mut probe = Leg::to(attempt, (head.clone(), Body::empty()), to, way);
        let left = self.limit.deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let soon = left.into_iter().chain([doubted.cover_after()]).min().unwrap_or_default();
        match timeout(soon, probe.answer()).await {
            Ok(answered) => {
                let RequestContext { journal, responder, .. } = &mut *request.cx;
                probe.ended(answered, journal, responder).await
            }
            Err(_) => self.covered(probe, cover, request).await,
        }
    }

    async fn covered(
        &self,
        mut probe: Leg<'static>,
        cover: Rc<Host>,
        request: &mut Attempting<'_, '_>,
    ) -> Ended {
        request.cx.journal.attempt_ends();
        request.progress.covered();
        let may_be_hedged = self.may_hedge(&request.cx.head);
        let asking = self.begin(&cover, request);
        self.cluster.series.retries.increment();
        // Limited to one a second for each host in doubt, whether or not the budget has capacity.
        let paid = self.cluster.retry();
        let began = Instant::now();
        let answered = {
            let mut covering = pin!(self.attempt(asking, request));
            tokio::select! {
                biased;
                answered = probe.answer() => match answered {
                    Ok(answered) => answered,
                    Err(failed) => {
                        self.cluster.blame(&probe.asking, &failed.failure, failed.connection);
                        return Ended { paid, ..covering.await };
                    }
                },
                ended = &mut covering => {
                    let Err(failed) = &ended.outcome else {
                        // A host that fails at once is no baseline for one that works.
                        if ended.is_served() {
                            pair::judge(probe, Rc::clone(&self.cluster), began.elapsed());
                        }
                        return Ended { paid, ..ended };
                    };
                    // The doubted host still has the request and may answer it.
                    let Some(answered) = self.answer_of(&mut probe, may_be_hedged).await else {
                        return Ended { paid, ..ended };
                    };
                    self.cluster.blame(&ended.asking, &failed.failure, failed.connection);
                    answered
                }
            }
        };
        let RequestContext { journal, responder, .. } = &mut *request.cx;
        journal.attempt_resumes(probe.number);
        Ended { paid, ..probe.ended(Ok(answered), journal, responder).await }
    }

    /// Returns the response of the doubted host within the time left for the request. Returns None if it fails or takes longer.
    async fn answer_of(&self, probe: &mut Leg<'static>, may_be_hedged: bool) -> Option<Response> {
        match self.attempt_limit(|| may_be_hedged).deadline {
            Some(deadline) => timeout_at(deadline, probe.answer()).await.ok()?.ok(),
            None => probe.answer().await.ok(),
        }
    }
}
