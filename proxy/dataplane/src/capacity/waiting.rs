//! Waits for a capacity in its queue. A waiter is woken by changes and costs nothing until then.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll};

use tokio::sync::futures::Notified;
use tokio::sync::oneshot;

use super::queue::{Queue, Ticket};
use super::{Capacity, Holding, Share, locked};

/// The waiters for a capacity.
pub(super) type Waiters = Queue<Arc<Holding>, oneshot::Sender<Share>>;

/// Resolves to a share when it is its turn. Leaves the queue when dropped.
#[derive(Debug)]
pub(crate) struct Waiting {
    holding: Arc<Holding>,
    ticket: Ticket,
    receiver: oneshot::Receiver<Share>,
}

impl Capacity {
    /// Returns the number of waiters.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(SeqCst)
    }

    /// Returns whether there are waiters.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    /// Resolves when, from now on, something is free that no waiter may acquire. Cancel-safe.
    pub(super) fn leftover(&self) -> Notified<'_> {
        self.leftover.notified()
    }

    /// Serves the waiters, if any, after a unit was returned or became available to another peer.
    pub(super) fn changed(&self) {
        if self.is_waited_for() {
            self.serve(&mut locked(&self.queue));
        }
    }

    /// Records that an exchange that holds some of it was listed as one that may be cut.
    pub(super) fn is_owed(&self) {
        if self.is_waited_for() {
            self.reclaim(&locked(&self.queue));
        }
    }

    /// Serves the waiters in order of their turn, as far as units are free for them.
    pub(super) fn serve(&self, queue: &mut Waiters) {
        while let Some(next) = queue.next(|_| true, |holding| holding.used()).map(Arc::clone) {
            // If the peer that holds least may not acquire it, no other peer may.
            let Some(share) = next.take() else { break };
            let Some(waiter) = queue.pop(&next) else { return share.give_back() };
            self.waiting.fetch_sub(1, SeqCst);
            // The receiver exists as long as the waiter is in the queue.
            if let Err(share) = waiter.send(share) {
                share.give_back();
            }
        }
        if self.used.load(SeqCst) < self.limit.load(SeqCst) {
            self.leftover.notify_waiters();
        }
        self.reclaim(queue);
    }

    /// Cuts an exchange for each waiting peer, in order of their turn. No further one is cut for a peer while one is ending for
    /// it.
    fn reclaim(&self, queue: &Waiters) {
        let eligible = |holding: &Arc<Holding>| !holding.is_cut_for.load(SeqCst);
        while let Some(next) = queue.next(eligible, |holding| holding.used()) {
            // If nothing can be cut for the peer that holds least, nothing can be cut for another.
            if !self.debts.cut_for(next) {
                return;
            }
        }
    }
}

impl Holding {
    /// Waits for one more unit. While it waits, exchanges of peers that hold more, and whose client owes bytes, are cut.
    pub(crate) fn wait(self: &Arc<Self>) -> Waiting {
        let capacity = &self.capacity;
        let (sender, receiver) = oneshot::channel();
        let mut queue = locked(&capacity.queue);
        // Incremented before the free amount is checked, so that a release from now on sees the waiter.
        capacity.waiting.fetch_add(1, SeqCst);
        let ticket = queue.push(self, sender);
        capacity.serve(&mut queue);
        Waiting { holding: Arc::clone(self), ticket, receiver }
    }
}

impl Future for Waiting {
    type Output = Option<Share>;

    /// Never `None`: the queue holds the sender.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Share>> {
        Pin::new(&mut self.receiver).poll(cx).map(Result::ok)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.receiver.is_terminated() {
            return;
        }
        let capacity = &self.holding.capacity;
        // If it was served since the last poll, the share is returned with its receiver.
        if locked(&capacity.queue).remove(&self.holding, self.ticket).is_some() {
            capacity.waiting.fetch_sub(1, SeqCst);
        }
    }
}
