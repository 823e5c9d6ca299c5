//! Drain: a signal, a deadline, and a count of the connections that are left.
//!
//! Every connection holds a [`DrainGuard`]; a drain is complete when the last guard is dropped. The caller ends what is left
//! at the deadline by dropping its runtime. A process has two drains, [`Drains`], which run one after the other. Before that, a
//! [`DrainNotice`] can ask connections to end while listeners still accept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// A process's drains, in order: inbound connections first, then outbound ones once the application no longer needs them.
/// The application may need outbound connections to finish its inbound requests.
#[derive(Debug, Default)]
pub struct Drains {
    inbound: Drain,
    outbound: Drain,
}

/// The guards of a process's connections, by direction.
#[derive(Debug, Clone)]
pub struct Guards {
    /// For connections to the application.
    pub inbound: DrainGuard,
    /// For connections from the application.
    pub outbound: DrainGuard,
}

/// The owner's handle: starts the drain and waits for its completion.
#[derive(Debug)]
pub struct Drain {
    signal: watch::Sender<Phase>,
    guard: DrainGuard,
    finished: mpsc::Receiver<()>,
}

/// Held by a connection or task that must finish before the process ends. Reports when the drain has started. Cloning is
/// cheap.
#[derive(Debug, Clone)]
pub struct DrainGuard {
    signal: watch::Receiver<Phase>,
    /// Set before `signal`, so that a task woken by the signal observes it.
    draining: Arc<AtomicBool>,
    _alive: mpsc::Sender<()>,
}

/// Starts the part of a drain that needs no deadline. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DrainNotice {
    signal: watch::Sender<Phase>,
    draining: Arc<AtomicBool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    /// Connections end; listeners accept further ones, which end soon.
    Notified,
    /// Connections end, and listeners close.
    Draining,
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
    /// Creates drains that have not started.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns guards for a new connection. A holder that keeps both must drop the inbound guard when its drain starts.
    pub fn guards(&self) -> Guards {
        Guards { inbound: self.inbound.guard(), outbound: self.outbound.guard() }
    }

    /// Returns the notice of the inbound drain.
    pub fn inbound_notice(&self) -> DrainNotice {
        let Drain { signal, guard, .. } = &self.inbound;
        DrainNotice { signal: signal.clone(), draining: Arc::clone(&guard.draining) }
    }

    /// Drains inbound, waits until the application no longer needs outbound (`unneeded`), then drains outbound.
    ///
    /// Returns at `deadline` at the latest. The outbound drain starts no later than `notice` before it, even if inbound
    /// connections are left, so that its clients are notified before their connections are closed.
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
        // Times out if inbound does not complete or the application still needs outbound.
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
    /// Creates a drain that has not started.
    pub fn new() -> Self {
        let (signal, receiver) = watch::channel(Phase::Running);
        let (alive, finished) = mpsc::channel(1);
        let guard = DrainGuard { signal: receiver, draining: Arc::default(), _alive: alive };
        Self { signal, guard, finished }
    }

    /// Returns a guard for a new connection or task.
    pub fn guard(&self) -> DrainGuard {
        self.guard.clone()
    }

    /// Notifies every guard, then waits until all are dropped or `within` has elapsed.
    pub async fn drain(self, within: Duration) -> Drained {
        self.start(Instant::now() + within).await
    }

    /// Notifies every guard before it returns. The future waits until they are dropped.
    fn start(self, deadline: Instant) -> impl Future<Output = Drained> {
        let Self { signal, guard, mut finished } = self;
        guard.draining.store(true, Ordering::Release);
        drop(guard);
        signal.send_replace(Phase::Draining);
        async move {
            // Held until the end: for the guards, a dropped sender also means that the drain has started.
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

impl DrainNotice {
    /// Asks connections to end, also those that are accepted later. Listeners still accept.
    pub fn send(&self) {
        self.draining.store(true, Ordering::Release);
        self.signal.send_if_modified(|phase| {
            let running = *phase == Phase::Running;
            *phase = (*phase).max(Phase::Notified);
            running
        });
    }
}

impl DrainGuard {
    /// Returns a guard of the same drain that only the returned notice notifies: for a connection that may have to end before the
    /// drain. The caller sends the notice when the drain starts, too.
    pub fn with_own_notice(&self) -> (DrainNotice, Self) {
        let (signal, receiver) = watch::channel(Phase::Running);
        let draining = Arc::<AtomicBool>::default();
        let notice = DrainNotice { signal, draining: Arc::clone(&draining) };
        (notice, Self { signal: receiver, draining, _alive: self._alive.clone() })
    }

    /// Completes when connections are to end: at the notice or the start of the drain, immediately if that is past, or when
    /// the owner is dropped. Cancel safe.
    pub async fn started(&mut self) {
        let _ = self.signal.wait_for(|phase| *phase >= Phase::Notified).await;
    }

    /// Completes when listeners are to close: at the start of the drain, or when the owner is dropped. Cancel safe.
    pub async fn closing(&mut self) {
        let _ = self.signal.wait_for(|phase| *phase == Phase::Draining).await;
    }

    /// Returns whether connections are to end. Called for each request; costs one atomic load.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_guard_with_a_notice_of_its_own_is_notified_alone_and_waited_for() {
        let drain = Drain::new();
        let guard = drain.guard();
        let (notice, mut single) = guard.with_own_notice();
        notice.send();
        single.started().await;
        assert!(single.is_draining() && !guard.is_draining());
        drop(guard);
        assert_eq!(drain.drain(Duration::from_secs(1)).await, Drained::DeadlinePassed);
    }

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
    async fn a_notice_ends_connections_and_the_drain_closes_listeners() {
        let drains = Drains::new();
        let Guards { mut inbound, outbound } = drains.guards();
        let (notice, mut listener) = (drains.inbound_notice(), inbound.clone());
        notice.send();
        inbound.started().await;
        assert!(inbound.is_draining() && !outbound.is_draining());
        let closing = tokio::time::timeout(Duration::from_secs(60), listener.closing());
        assert!(closing.await.is_err(), "listeners still accept");
        drop((inbound, outbound));
        let work = tokio::spawn(async move { listener.closing().await });
        let deadline = Instant::now() + Duration::from_secs(10);
        assert_eq!(drains.drain(deadline, Duration::ZERO, async {}).await, Drained::Complete);
        assert!(work.is_finished());
        notice.send();
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
    async fn outbound_stays_open_while_the_application_needs_it() {
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
    async fn outbound_clients_are_notified_before_the_deadline_whatever_still_runs() {
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
