//! How many connections the process may have open: sized by its descriptors, so that some are left for the rest of it.
//!
//! Those that clients made are at most half, since each may need one to an endpoint: an accepted connection is served. They are
//! shared between peers like any other capacity. Those to endpoints may be all that is left.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::{Capacity, Debts, Holding, Share};

/// Connections of clients that one worker serves at a time.
const ACCEPTED_PER_WORKER: u32 = 20_000;

/// Descriptors that are left for the admin port, discovery, DNS and files that are opened later.
const RESERVE: usize = 64;

/// And for each worker: its runtime, and its end of each listener.
const RESERVE_PER_WORKER: usize = 16;

/// However few descriptors there are: so many connections are tried.
const FEWEST: u32 = 16;

/// The connections of the process.
#[derive(Debug)]
pub struct ConnectionBudget {
    pub(super) accepted: Arc<Capacity>,
    /// Connections of clients that have no request under way.
    pub(super) idle: Arc<Debts>,
    accepted_limit: u32,
    limit: u32,
    /// All connections that are open.
    open: Arc<Holding>,
    /// Notified when a request waits for a connection to an endpoint to close.
    wanted: Notify,
}

impl ConnectionBudget {
    /// A budget of `limit` connections, of which at most `accepted` are made by clients.
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

    /// The budget of a process that may have `descriptors` open and has `open` already.
    pub fn of_descriptors(descriptors: usize, open: usize, workers: usize) -> Arc<Self> {
        let left = descriptors.saturating_sub(open + RESERVE + RESERVE_PER_WORKER * workers);
        let limit = u32::try_from(left).unwrap_or(u32::MAX).max(FEWEST);
        let workers = u32::try_from(workers).unwrap_or(u32::MAX);
        Self::new((limit / 2).min(ACCEPTED_PER_WORKER.saturating_mul(workers)), limit)
    }

    /// The connections that are open, to be taken from for one to an endpoint.
    pub(crate) fn open(&self) -> &Arc<Holding> {
        &self.open
    }

    /// One more that a client made. Always within the budget, of which no more than their part is theirs.
    pub(super) fn accept(&self) -> Share {
        self.open.take_beyond()
    }

    /// Notifies every worker that a request waits for a connection to close, of a cluster or of the process.
    pub(crate) fn call_for_one(&self) {
        self.wanted.notify_waiters();
    }

    /// Resolves when, from now on, a request waits for a connection to close. Cancel-safe.
    pub(crate) fn called_for_one(&self) -> Notified<'_> {
        self.wanted.notified()
    }

    /// The most that one cluster may have of it.
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
