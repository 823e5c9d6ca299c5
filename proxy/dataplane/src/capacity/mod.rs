//! A bounded number of something (requests, connections), shared fairly between the peers that use it.
//!
//! Counts are process-wide. While there are no waiters, an admission and its end are a few atomic additions. A lock is taken by
//! a peer that has to wait, and by a release while there are waiters. Waiting costs nothing until something changes: a release,
//! or an exchange that may be cut ([`owed`]), wakes exactly the waiter whose turn it is.
//!
//! A peer may hold at most [`SHARE_OF_FREE`] times as much as is free. So a lone peer leaves a sixteenth free, a new peer finds
//! some of it free, and peers that all want more converge to equal shares as their exchanges end; nothing is revoked. (This is
//! the dynamic threshold of Choudhury and Hahne, 1998, for buffers of switches.) The last 1/[`FOR_NEWCOMERS`] of it is
//! reserved for peers that hold nothing. A capacity of less than 16 has no reserve: its configured limit is meant to be used in
//! full. Waiters are served in order within a peer, and the peer that holds least first.
//!
//! The amount that a peer holds is read before the count is changed, so a peer may exceed its share by one for each other
//! worker that admits it at that moment. The limit itself is exact.

pub(crate) mod admission;
pub(crate) mod budget;
mod waiting;
mod owed;
mod queue;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use foldhash::HashMap;
use outrigger_core::peer::PeerKey;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

pub(crate) use self::owed::{Debt, Debts};
use self::waiting::Waiters;

/// How many times the free amount one peer may hold.
const SHARE_OF_FREE: u32 = 15;

/// The fraction of a capacity that is reserved for peers that hold nothing of it: one part in this many.
const FOR_NEWCOMERS: u32 = 32;

/// With fewer peers than this, entries of peers that are gone are not removed.
const FEW_PEERS: usize = 64;

/// A bounded number of something that peers share.
#[derive(Debug)]
pub(crate) struct Capacity {
    /// Whether it is shared fairly. If not, the first waiter gets each unit.
    is_shared: bool,
    limit: AtomicU32,
    used: AtomicU32,
    /// The number of waiters in `queue`.
    waiting: AtomicU32,
    queue: Mutex<Waiters>,
    /// Notified when something is free that no waiter may acquire.
    leftover: Notify,
    peers: Mutex<Peers>,
    debts: Arc<Debts>,
}

#[derive(Debug, Default)]
struct Peers {
    holdings: HashMap<PeerKey, Weak<Holding>>,
    /// The number of entries at which those of peers that are gone are removed.
    tidy_at: usize,
}

/// The amount of a capacity that one peer holds. Shared by all handles of that peer.
#[derive(Debug)]
pub(crate) struct Holding {
    capacity: Arc<Capacity>,
    used: AtomicU32,
    /// Whether an exchange of another peer was cut for this one and has not ended yet.
    is_cut_for: AtomicBool,
}

/// One unit of a capacity. It is returned when dropped.
#[derive(Debug)]
#[must_use = "dropping it gives it back"]
pub(crate) struct Share {
    /// `None` once it was returned.
    holding: Option<Arc<Holding>>,
}

impl Capacity {
    /// Creates a capacity of `limit`. `debts` are the exchanges that hold some of it while their client owes bytes.
    pub(crate) fn new(limit: u32, debts: Arc<Debts>) -> Arc<Self> {
        Arc::new(Self::of(limit, debts, true))
    }

    /// Creates a capacity of `limit` whose peers' newest waiters are served first. Nothing of it can be cut.
    pub(crate) fn newest_first(limit: u32) -> Arc<Self> {
        Arc::new(Self { queue: Mutex::new(Waiters::newest_first()), ..Self::of(limit, Arc::default(), true) })
    }

    /// Creates a capacity of `limit` without fair shares: waiters are served in order.
    pub(crate) fn unshared(limit: u32) -> Arc<Holding> {
        Arc::new(Holding::none_of(Arc::new(Self::of(limit, Arc::default(), false))))
    }

    fn of(limit: u32, debts: Arc<Debts>, is_shared: bool) -> Self {
        Self {
            is_shared,
            limit: AtomicU32::new(limit),
            used: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            queue: Mutex::default(),
            leftover: Notify::new(),
            peers: Mutex::default(),
            debts,
        }
    }

    /// Changes the limit. Units that are held stay held.
    pub(crate) fn set_limit(&self, limit: u32) {
        let before = self.limit.swap(limit, SeqCst);
        if limit > before {
            self.changed();
        }
    }

    /// Returns the amount in use.
    pub(crate) fn used(&self) -> u32 {
        self.used.load(SeqCst)
    }

    /// Returns the handle of `peer`. Takes a lock and hashes: callers should keep the handle.
    pub(crate) fn holding(self: &Arc<Self>, peer: &PeerKey) -> Arc<Holding> {
        let mut peers = locked(&self.peers);
        if let Some(holding) = peers.holdings.get(peer).and_then(Weak::upgrade) {
            return holding;
        }
        if peers.holdings.len() >= peers.tidy_at {
            peers.holdings.retain(|_, holding| holding.strong_count() > 0);
            peers.tidy_at = (2 * peers.holdings.len()).max(FEW_PEERS);
        }
        let holding = Arc::new(Holding::none_of(Arc::clone(self)));
        peers.holdings.insert(peer.clone(), Arc::downgrade(&holding));
        holding
    }
}

impl Holding {
    fn none_of(capacity: Arc<Capacity>) -> Self {
        Self { capacity, used: AtomicU32::new(0), is_cut_for: AtomicBool::new(false) }
    }

    /// Returns the capacity that it belongs to.
    pub(crate) fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    /// Returns the amount that the peer holds.
    pub(crate) fn used(&self) -> u32 {
        self.used.load(SeqCst)
    }

    /// Acquires one more unit without waiting. Returns `None` if all units are in use, if the peer has its share, or if it has
    /// to wait behind others, its own earlier waiters included.
    pub(crate) fn try_take(self: &Arc<Self>) -> Option<Share> {
        let capacity = &self.capacity;
        if capacity.waiting.load(SeqCst) == 0 {
            return self.take();
        }
        let mut queue = locked(&capacity.queue);
        capacity.serve(&mut queue);
        if queue.has(self) { None } else { self.take() }
    }

    /// Acquires one more unit, waiting for it until `deadline`. Returns `None` when the deadline has passed. Cancel-safe.
    pub(crate) async fn take_by(self: &Arc<Self>, deadline: Instant) -> Option<Share> {
        timeout_at(deadline, self.wait()).await.ok()?
    }

    /// Like [`Self::take_by`], if something that others hold can be cut. Otherwise returns `None` at once.
    pub(crate) async fn take_what_is_owed_by(self: &Arc<Self>, deadline: Instant) -> Option<Share> {
        if self.capacity.debts.can_cut_for(self) { self.take_by(deadline).await } else { None }
    }

    /// Returns whether something is free, but not for this peer.
    pub(crate) fn has_its_share(&self) -> bool {
        let (limit, used) = (self.capacity.limit.load(SeqCst), self.capacity.used.load(SeqCst));
        used < limit && !may_take(limit, used, self.used())
    }

    fn take(self: &Arc<Self>) -> Option<Share> {
        let capacity = &self.capacity;
        let limit = capacity.limit.load(SeqCst);
        let own = self.used();
        capacity
            .used
            .fetch_update(SeqCst, SeqCst, |used| {
                let may = if capacity.is_shared { may_take(limit, used, own) } else { used < limit };
                may.then(|| used + 1)
            })
            .ok()?;
        self.used.fetch_add(1, SeqCst);
        Some(Share { holding: Some(Arc::clone(self)) })
    }

    /// Acquires one more unit, whether or not that is within the limit.
    fn take_beyond(self: &Arc<Self>) -> Share {
        self.capacity.used.fetch_add(1, SeqCst);
        self.used.fetch_add(1, SeqCst);
        Share { holding: Some(Arc::clone(self)) }
    }

    fn give_back(&self) {
        self.used.fetch_sub(1, SeqCst);
        self.capacity.used.fetch_sub(1, SeqCst);
    }
}

impl Share {
    /// Returns the handle of the peer that holds it.
    pub(crate) fn holding(&self) -> Option<Arc<Holding>> {
        self.holding.clone()
    }

    /// Transfers it to another peer. Returns `None` if that peer has its share; the unit is then returned.
    pub(crate) fn move_to(mut self, to: &Arc<Holding>) -> Option<Self> {
        let from = self.holding.take()?;
        let capacity = &from.capacity;
        let used = capacity.used.load(SeqCst).saturating_sub(1);
        if !may_take(capacity.limit.load(SeqCst), used, to.used()) {
            drop(Self { holding: Some(from) });
            return None;
        }
        to.used.fetch_add(1, SeqCst);
        from.used.fetch_sub(1, SeqCst);
        // The previous peer holds less now, and may have waiters.
        capacity.changed();
        Some(Self { holding: Some(Arc::clone(to)) })
    }

    /// Returns it, and leaves it to the caller to serve the waiters.
    fn give_back(mut self) {
        if let Some(holding) = self.holding.take() {
            holding.give_back();
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(holding) = self.holding.take() else { return };
        holding.give_back();
        holding.capacity.changed();
    }
}

impl PartialEq for Holding {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

/// Returns whether a peer that holds `own` may have one more, where `used` of `limit` are in use.
fn may_take(limit: u32, used: u32, own: u32) -> bool {
    let free = limit.saturating_sub(used);
    match own {
        0 => free > 0,
        own => free > limit / FOR_NEWCOMERS && own < free.saturating_mul(SHARE_OF_FREE),
    }
}

/// The list is valid even if a thread panicked while it held the lock.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
