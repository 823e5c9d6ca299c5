//! The number of connections that the process may have open, derived from its file descriptor limit. Some descriptors are
//! reserved for other uses.
//!
//! At most half of the connections may be downstream, since each of them may need an upstream connection: an accepted
//! connection is served. Downstream connections are shared between peers like any other capacity. Upstream connections may use
//! all that is left.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::{Capacity, Debts, Holding, Share};

/// Downstream connections that one worker serves at a time.
const ACCEPTED_PER_WORKER: u32 = 20_000;

/// Descriptors that are reserved for the admin port, discovery, DNS and files that are opened later.
const RESERVE: usize = 64;

/// Descriptors that are reserved for each worker: its runtime, and its end of each listener.
const RESERVE_PER_WORKER: usize = 16;

/// The minimum budget, however few descriptors there are.
const FEWEST: u32 = 16;

/// The connection budget of the process.
#[derive(Debug)]
pub struct ConnectionBudget {
    pub(super) accepted: Arc<Capacity>,
    /// Downstream connections that have no active request.
    pub(super) idle: Arc<Debts>,
    accepted_limit: u32,
    limit: u32,
    /// All open connections.
    open: Arc<Holding>,
    /// Notified when a request waits for an upstream connection to close.
    wanted: Notify,
}

impl ConnectionBudget {
    /// Creates a budget of `limit` connections, of which at most `accepted` are downstream.
    pub fn new(accepted: u32, limit: u32) -> Arc<Self> {
        let idle = Arc::new(Debts::for_equals_too());
        Arc::new(Self {
            accepted: Capacity::new(accepted, Arc::clone(&idle)),
            idle,
            accepted_limit: accepted,
            limit,
            open: Capacity::unshared(limit),
            wanted: Notify::new(),
        })
    }

    /// Creates the budget of a process that may have `descriptors` open and has `open` already.
    pub fn of_descriptors(descriptors: usize, open: usize, workers: usize) -> Arc<Self> {
        let left = descriptors.saturating_sub(open + RESERVE + RESERVE_PER_WORKER * workers);
        let limit = u32::try_from(left).unwrap_or(u32::MAX).max(FEWEST);
        let workers = u32::try_from(workers).unwrap_or(u32::MAX);
        Self::new((limit / 2).min(ACCEPTED_PER_WORKER.saturating_mul(workers)), limit)
    }

    /// Returns the open connections, from which the permit for an upstream connection is acquired.
    pub(crate) fn open(&self) -> &Arc<Holding> {
        &self.open
    }

    /// Counts one more downstream connection. It is always within the budget, since admission limits their number.
    pub(super) fn accept(&self) -> Share {
        self.open.take_beyond()
    }

    /// Notifies every worker that a request waits for a connection of a cluster or of the process to close.
    pub(crate) fn call_for_one(&self) {
        self.wanted.notify_waiters();
    }

    /// Resolves when, from now on, a request waits for a connection to close. Cancel-safe.
    pub(crate) fn called_for_one(&self) -> Notified<'_> {
        self.wanted.notified()
    }

    /// Returns the maximum number of connections that one cluster may use.
    pub(crate) fn of_one_cluster(&self) -> u32 {
        self.limit - self.accepted_limit.min(self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_the_process_may_open_is_for_clients() {
        let budget = ConnectionBudget::of_descriptors(256, 36, 1);
        assert_eq!((budget.limit, budget.accepted_limit, budget.of_one_cluster()), (140, 70, 70));
        let budget = ConnectionBudget::of_descriptors(1 << 20, 36, 2);
        assert_eq!(budget.accepted_limit, 40_000);
        assert_eq!(ConnectionBudget::of_descriptors(10, 36, 1).limit, FEWEST);
    }

    #[test]
    fn endpoints_get_what_clients_leave() {
        let budget = ConnectionBudget::new(2, 5);
        let accepted = [budget.accept(), budget.accept()];
        let opened: Vec<_> = std::iter::from_fn(|| budget.open().try_take()).collect();
        assert_eq!(opened.len(), 3);
        drop(accepted);
        assert!(budget.open().try_take().is_some());
    }
}
