//! Drain: a signal that goes out once, a deadline, and a count of what still runs.
//!
//! One [`Drain`] belongs to the process. Every connection and stream holds a [`DrainGuard`]; drain is complete when the
//! last guard is gone. What is left at the deadline is cut off by whoever waits, by dropping its runtime.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

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

impl Drain {
    /// Makes a drain that has not started.
    pub fn new() -> Self {
        let (signal, receiver) = watch::channel(None);
        let (alive, finished) = mpsc::channel(1);
        Self { signal, guard: DrainGuard { signal: receiver, _alive: alive }, finished }
    }

    /// A guard for something that starts now.
    pub fn guard(&self) -> DrainGuard {
        self.guard.clone()
    }

    /// Tells every guard, and waits until all are dropped or `within` has passed. Call it once, at the end.
    pub async fn drain(self, within: Duration) -> Drained {
        let Self { signal, guard, mut finished } = self;
        drop(guard);
        let deadline = Instant::now() + within;
        signal.send_replace(Some(deadline));
        match tokio::time::timeout_at(deadline, finished.recv()).await {
            Ok(_) => Drained::Complete,
            Err(_) => Drained::DeadlinePassed,
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

    /// Whether drain has started. Costs one atomic read when it has not changed.
    pub fn is_draining(&self) -> bool {
        self.signal.borrow().is_some()
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
}
