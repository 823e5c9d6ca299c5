//! Drain: a signal that goes out once, a deadline, and a count of what still runs.
//!
//! Every connection holds a [`DrainGuard`]; a drain is complete when the last guard is gone. What is left at the deadline is
//! cut off by whoever waits, by dropping its runtime. A process has two drains, [`Drains`], one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// A process's drains, in their order: what came in from others first, and what the application itself asks for when that
/// is done and the application needs it no more. It may need the latter to finish the former.
#[derive(Debug, Default)]
pub struct Drains {
    inbound: Drain,
    outbound: Drain,
}

/// The guards of a process's connections, by the side of the application on which their listener stands.
#[derive(Debug, Clone)]
pub struct Guards {
    /// For connections from others.
    pub inbound: DrainGuard,
    /// For connections from the application.
    pub outbound: DrainGuard,
}

/// The owner's end: starts the drain and waits for its completion.
#[derive(Debug)]
pub struct Drain {
    signal: watch::Sender<Option<Instant>>,
    guard: DrainGuard,
    finished: mpsc::Receiver<()>,
}

/// Held by whatever must finish before the process may end. Cheap to clone; says when drain has started.
#[derive(Debug, Clone)]
pub struct DrainGuard {
    signal: watch::Receiver<Option<Instant>>,
    /// Set before `signal` is, so that whoever was woken by that sees it.
    draining: Arc<AtomicBool>,
    _alive: mpsc::Sender<()>,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every guard was dropped in time.
    Complete,
    /// The deadline passed first.
    DeadlinePassed,
}

impl Drains {
    /// Makes drains that have not started.
    pub fn new() -> Self {
        Self::default()
    }

    /// Guards for what starts now. Whoever keeps them drops the inbound one when its drain starts.
    pub fn guards(&self) -> Guards {
        Guards { inbound: self.inbound.guard(), outbound: self.outbound.guard() }
    }

    /// Drains inbound, waits until the application needs outbound no more (`unneeded`), then drains outbound.
    ///
    /// All of it ends at `deadline`. The outbound drain starts `notice` before that at the latest, whatever still runs, so
    /// that its clients are told before they are cut off.
    pub async fn drain(
        self,
        deadline: Instant,
        notice: Duration,
        unneeded: impl Future<Output = ()>,
    ) -> Drained {
        let Self { inbound, outbound } = self;
        let latest = deadline.checked_sub(notice).unwrap_or(deadline);
        let inbound = inbound.start(deadline);
        tokio::pin!(inbound);
        let mut first = None;
        let quiet = async {
            first = Some(inbound.as_mut().await);
            unneeded.await;
        };
        // It passes where inbound never ends or the application never rests.
        let _ = tokio::time::timeout_at(latest, quiet).await;
        let second = outbound.start(deadline).await;
        let first = match first {
            Some(first) => first,
            None => inbound.await,
        };
        if first == Drained::Complete { second } else { first }
    }
}

impl Drain {
    /// Makes a drain that has not started.
    pub fn new() -> Self {
        let (signal, receiver) = watch::channel(None);
        let (alive, finished) = mpsc::channel(1);
        let guard = DrainGuard { signal: receiver, draining: Arc::default(), _alive: alive };
        Self { signal, guard, finished }
    }

    /// A guard for something that starts now.
    pub fn guard(&self) -> DrainGuard {
        self.guard.clone()
    }

    /// Tells every guard, and waits until all are dropped or `within` has passed. Call it once, at the end.
    pub async fn drain(self, within: Duration) -> Drained {
        self.start(Instant::now() + within).await
    }

    /// Tells every guard before it returns; the future waits for them.
    fn start(self, deadline: Instant) -> impl Future<Output = Drained> {
        let Self { signal, guard, mut finished } = self;
        guard.draining.store(true, Ordering::Release);
        drop(guard);
        signal.send_replace(Some(deadline));
        async move {
            // Kept: a signal whose sender is gone counts as started anyway.
            let _signal = signal;
            match tokio::time::timeout_at(deadline, finished.recv()).await {
                Ok(_) => Drained::Complete,
                Err(_) => Drained::DeadlinePassed,
            }
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl DrainGuard {
    /// Resolves when drain starts, at once if it has. Cancel-safe. Also resolves when the owner is gone.
    pub async fn started(&mut self) {
        let _ = self.signal.wait_for(Option::is_some).await;
    }

    /// Whether drain has started. Costs one atomic load: it is asked for each request.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn drain_waits_for_the_last_guard() {
        let drain = Drain::new();
        let mut guard = drain.guard();
        assert!(!guard.is_draining());
        let work = tokio::spawn(async move {
            guard.started().await;
            assert!(guard.is_draining());
            tokio::time::sleep(Duration::from_secs(3)).await;
        });
        assert_eq!(drain.drain(Duration::from_secs(10)).await, Drained::Complete);
        assert!(work.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn drain_gives_up_at_its_deadline() {
        let drain = Drain::new();
        let guard = drain.guard();
        assert_eq!(drain.drain(Duration::from_secs(10)).await, Drained::DeadlinePassed);
        assert!(guard.is_draining());
    }

    #[tokio::test(start_paused = true)]
    async fn outbound_drains_when_inbound_is_done() {
        let drains = Drains::new();
        let Guards { mut inbound, mut outbound } = drains.guards();
        let work = tokio::spawn(async move {
            inbound.started().await;
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert!(!outbound.is_draining());
            drop(inbound);
            outbound.started().await;
            tokio::time::sleep(Duration::from_secs(3)).await;
        });
        let start = Instant::now();
        let drained = drains.drain(start + Duration::from_secs(10), Duration::ZERO, async {}).await;
        assert_eq!(drained, Drained::Complete);
        assert!(work.is_finished());
        assert_eq!(start.elapsed(), Duration::from_secs(6));
    }

    #[tokio::test(start_paused = true)]
    async fn outbound_goes_on_while_the_application_needs_it() {
        let drains = Drains::new();
        let Guards { inbound, mut outbound } = drains.guards();
        drop(inbound);
        let start = Instant::now();
        let work = tokio::spawn(async move {
            outbound.started().await;
            start.elapsed()
        });
        let needed = tokio::time::sleep(Duration::from_secs(4));
        let drained = drains.drain(start + Duration::from_secs(10), Duration::from_secs(1), needed).await;
        assert_eq!(drained, Drained::Complete);
        assert_eq!(work.await.unwrap(), Duration::from_secs(4));
    }

    #[tokio::test(start_paused = true)]
    async fn outbound_clients_are_told_before_the_deadline_whatever_still_runs() {
        for inbound_ends in [true, false] {
            let drains = Drains::new();
            let Guards { inbound, mut outbound } = drains.guards();
            let held = (!inbound_ends).then_some(inbound);
            let start = Instant::now();
            let work = tokio::spawn(async move {
                outbound.started().await;
                start.elapsed()
            });
            let always = std::future::pending();
            let drained = drains.drain(start + Duration::from_secs(10), Duration::from_secs(1), always).await;
            assert_eq!(work.await.unwrap(), Duration::from_secs(9));
            assert_eq!(drained == Drained::Complete, inbound_ends);
            drop(held);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn both_drains_share_one_deadline() {
        let drains = Drains::new();
        let guards = drains.guards();
        let start = Instant::now();
        let drained = drains.drain(start + Duration::from_secs(10), Duration::ZERO, async {}).await;
        assert_eq!(drained, Drained::DeadlinePassed);
        assert_eq!(start.elapsed(), Duration::from_secs(10));
        assert!(guards.outbound.is_draining());
    }
}
