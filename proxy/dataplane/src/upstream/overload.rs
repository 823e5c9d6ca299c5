//! Admission in front of an application that may be overloaded: requests wait here, and not inside of the application.
//!
//! [`outrigger_policy::overload`] decides how many the application gets at once. Requests above that wait, the newest first, as
//! its client is the most likely to wait still; and the peer that has the fewest requests in the application comes first, so that
//! what a peer gets does not depend on how much others send. A request that waits too long is refused.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;
use outrigger_policy::overload::{Begun, Limiter, Observed, OverloadMode};
use tokio::time::{Instant, timeout_at};

use super::shared::{SharedCluster, SharedClusters};
use crate::capacity::{Capacity, Holding, Share};
use crate::metrics::ClusterSeries;

/// How often a waiting request checks how long it may wait.
const CHECK: Duration = Duration::from_millis(50);

/// One application, as seen by one worker.
#[derive(Debug)]
pub(super) struct Overload {
    mode: Cell<OverloadMode>,
    limiter: Arc<Limiter>,
    /// The requests that the application has.
    running: Arc<Capacity>,
    clock: Arc<SharedClusters>,
    series: Arc<ClusterSeries>,
    observed: RefCell<Observed>,
}

/// A request that the application has. Dropped, it was given up.
#[derive(Debug)]
#[must_use = "dropping it gives the request up"]
pub(crate) struct Running(Option<Work>);

/// What is known of it until it ends.
#[derive(Debug)]
struct Work {
    of: Rc<Overload>,
    begun: Begun,
    share: Share,
}

impl Overload {
    pub(super) fn new(
        mode: OverloadMode,
        state: &SharedCluster,
        clock: Arc<SharedClusters>,
        series: Arc<ClusterSeries>,
    ) -> Rc<Self> {
        let (limiter, running) = (Arc::clone(&state.limiter), Arc::clone(state.in_use.running()));
        let observed = RefCell::default();
        Rc::new(Self { mode: Cell::new(mode), limiter, running, clock, series, observed })
    }

    /// Sets the mode of a newer configuration.
    pub(super) fn set(&self, mode: OverloadMode) {
        self.mode.set(mode);
        if mode != OverloadMode::Enforce {
            self.running.set_limit(u32::MAX);
        }
        if mode == OverloadMode::Off {
            self.limiter.stop();
        }
    }

    /// Admits a request of the peer that holds `holding`, whose client waits until `deadline` at most. It is
    /// unknown if nothing is done about overload.
    pub(super) async fn admit(
        self: &Rc<Self>,
        holding: &Arc<Holding>,
        deadline: Option<Instant>,
    ) -> Result<Running, Failure> {
        if self.mode.get() == OverloadMode::Off {
            return Ok(Running::UNKNOWN);
        }
        let now = Instant::now();
        let useless = |at: Instant| {
            self.limiter.turnaround().is_some_and(|least| deadline.is_some_and(|end| at + least > end))
        };
        if self.mode.get() == OverloadMode::Enforce && useless(now) {
            return Err(self.refusal());
        }
        let share = match holding.try_take() {
            Some(share) => share,
            // Boxed, because most requests do not wait.
            None => Box::pin(self.wait(holding, now, deadline)).await?,
        };
        let in_flight = self.running.used();
        if self.mode.get() == OverloadMode::Observe && in_flight > self.limiter.limit() {
            self.series.overload_waits.increment();
        }
        let begun = self.limiter.begin(self.clock.now(), in_flight);
        Ok(Running(Some(Work { of: Rc::clone(self), begun, share })))
    }

    async fn wait(
        &self,
        holding: &Arc<Holding>,
        began: Instant,
        deadline: Option<Instant>,
    ) -> Result<Share, Failure> {
        self.series.overload_waits.increment();
        let mut waiting = holding.wait();
        loop {
            let patience = began + self.limiter.patience();
            let until = deadline.map_or(patience, |deadline| patience.min(deadline));
            let now = Instant::now();
            if now >= until {
                return Err(self.refusal());
            }
            if let Ok(Some(share)) = timeout_at(until.min(now + CHECK), &mut waiting).await {
                return Ok(share);
            }
            self.round();
        }
    }

    fn refusal(&self) -> Failure {
        self.series.overload_refused.increment();
        let what = "the application has more requests than it can process";
        Failure::upstream(Reason::Overloaded, Reached::NotWritten, what)
    }

    /// Sets the limit again, if it is time.
    pub(super) fn round(&self) {
        if self.mode.get() == OverloadMode::Off {
            return;
        }
        let Self { limiter, running, .. } = self;
        let mut observed = self.observed.borrow_mut();
        let limit = limiter.round(self.clock.now(), running.used(), running.waiting(), &mut observed);
        if let Some(limit) = limit.filter(|_| self.mode.get() == OverloadMode::Enforce) {
            drop(observed);
            running.set_limit(limit);
        }
    }
}

impl Running {
    /// A request that is no work for an application behind this proxy.
    pub(crate) const UNKNOWN: Self = Self(None);

    /// Records that the application answers.
    pub(crate) fn answered(&mut self) {
        let Some(Work { of, begun, share }) = self.0.take() else { return };
        of.limiter.answered(begun, of.clock.now(), of.running.used(), &mut of.observed.borrow_mut());
        drop(share);
        of.round();
    }

    /// Records that no attempt got an answer. Only if time ran out does this say how long the application takes.
    pub(crate) fn failed(&mut self, failure: &Failure) {
        self.unanswered(failure.reason == Reason::UpstreamRequestTimeout);
    }

    fn unanswered(&mut self, given_up: bool) {
        let Some(Work { of, begun, share }) = self.0.take() else { return };
        of.limiter.unanswered(begun, of.clock.now(), given_up, &mut of.observed.borrow_mut());
        drop(share);
        of.round();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.unanswered(true);
    }
}
