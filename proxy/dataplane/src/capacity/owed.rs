//! Exchanges whose client owes bytes, which may be cut when another peer needs their capacity.
//!
//! An exchange is listed once its client has owed bytes for a while, and leaves the list when the client continues, so that
//! only stalled exchanges cost a lock. Cutting notifies the exchange, which first drops its [`Debt`] and then returns what it
//! holds.
//!
//! Exchanges are grouped by peer, so that the cost of finding the one to be cut depends on the number of peers that owe, not on
//! the number of their exchanges.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Waker;

use foldhash::HashMap;
use futures_util::task::AtomicWaker;

use super::{Capacity, Holding, locked};

/// The exchanges of one cluster, or the connections of the process, whose client owes bytes.
#[derive(Debug, Default)]
pub(crate) struct Debts {
    /// Whether an exchange may be cut for a peer that holds as much, such as the same peer.
    for_equals: bool,
    listed: Mutex<Listed>,
}

#[derive(Debug, Default)]
struct Listed {
    /// Keyed by the address of the first of a peer's holdings, which the group keeps alive.
    peers: HashMap<usize, Owing>,
    next: u64,
}

/// The exchanges of one peer.
#[derive(Debug)]
struct Owing {
    /// The capacities of which each exchange holds one unit.
    holdings: Box<[Arc<Holding>]>,
    /// The exchanges by age, the oldest first. Never empty.
    exchanges: BTreeMap<u64, Arc<Exchange>>,
}

#[derive(Debug, Default)]
struct Exchange {
    /// The peer that it was cut for, once it was cut.
    cut_for: OnceLock<Arc<Holding>>,
    waker: AtomicWaker,
}

/// One exchange on the list. It leaves the list when dropped.
#[derive(Debug)]
pub(crate) struct Debt {
    id: u64,
    peer: usize,
    exchange: Arc<Exchange>,
    /// Whether the exchange has observed that it was cut.
    heard: Cell<bool>,
    debts: Arc<Debts>,
}

impl Debts {
    /// Creates a list of exchanges that can be cut without harm. They may also be cut for the same peer.
    pub(super) fn for_equals_too() -> Self {
        Self { for_equals: true, ..Self::default() }
    }

    /// Adds an exchange to the list. It holds one unit of each of `holdings`, all of which belong to the same peer. If a waiter
    /// may get such a unit, an exchange is cut at once. `waker` is woken when this one is cut.
    pub(crate) fn list(self: &Arc<Self>, holdings: &[&Arc<Holding>], waker: &Waker) -> Debt {
        let exchange = Arc::<Exchange>::default();
        exchange.waker.register(waker);
        let peer = holdings.first().map_or(0, |holding| Arc::as_ptr(holding).addr());
        let id = locked(&self.listed).insert(peer, holdings, &exchange);
        for holding in holdings {
            holding.capacity.is_owed();
        }
        Debt { id, peer, exchange, heard: Cell::new(false), debts: Arc::clone(self) }
    }

    /// Cuts an exchange for the peer of `needing`: the oldest one of the peer that holds most of that capacity, if that peer
    /// holds at least two more than `needing`; with fewer it would then have less than the peer that gets the unit. On a list
    /// for equals, it is cut if that peer holds as much. Returns false if there is none.
    pub(super) fn cut_for(&self, needing: &Arc<Holding>) -> bool {
        let mut listed = locked(&self.listed);
        let Some((peer, id)) = self.richest(&listed, needing) else { return false };
        let Some(exchange) = listed.remove(peer, id) else { return false };
        needing.is_cut_for.store(true, SeqCst);
        let first = exchange.cut_for.set(Arc::clone(needing)).is_ok();
        drop(listed);
        exchange.waker.wake();
        first
    }

    /// Returns whether [`Self::cut_for`] would cut something.
    pub(super) fn can_cut_for(&self, needing: &Holding) -> bool {
        self.richest(&locked(&self.listed), needing).is_some()
    }

    fn richest(&self, listed: &Listed, needing: &Holding) -> Option<(usize, u64)> {
        let own = needing.used();
        let least = if self.for_equals { own } else { own + 2 };
        let oldest = listed.peers.iter().filter_map(|(peer, owing)| {
            let (id, _) = owing.exchanges.first_key_value()?;
            let held = owing.held_of(&needing.capacity);
            (held >= least).then_some((held, std::cmp::Reverse(*id), *peer))
        });
        oldest.max().map(|(_, std::cmp::Reverse(id), peer)| (peer, id))
    }
}

impl Listed {
    fn insert(&mut self, peer: usize, holdings: &[&Arc<Holding>], exchange: &Arc<Exchange>) -> u64 {
        let id = self.next;
        self.next += 1;
        let owing = self.peers.entry(peer).or_insert_with(|| Owing {
            holdings: holdings.iter().map(|holding| Arc::clone(holding)).collect(),
            exchanges: BTreeMap::new(),
        });
        owing.exchanges.insert(id, Arc::clone(exchange));
        id
    }

    fn remove(&mut self, peer: usize, id: u64) -> Option<Arc<Exchange>> {
        let owing = self.peers.get_mut(&peer)?;
        let exchange = owing.exchanges.remove(&id);
        if owing.exchanges.is_empty() {
            self.peers.remove(&peer);
        }
        exchange
    }
}

impl Owing {
    fn held_of(&self, capacity: &Capacity) -> u32 {
        let of = self.holdings.iter().find(|holding| std::ptr::eq(&*holding.capacity, capacity));
        of.map_or(0, |holding| holding.used())
    }
}

impl Debt {
    /// Returns whether the exchange was cut. If not, `waker` is woken when it is. A cut exchange drops this before it returns
    /// what it holds, so that the next one is cut only if one unit was not enough.
    pub(crate) fn is_cut(&self, waker: &Waker) -> bool {
        self.exchange.waker.register(waker);
        self.heard.set(self.exchange.cut_for.get().is_some());
        self.heard.get()
    }
}

impl Drop for Debt {
    fn drop(&mut self) {
        locked(&self.debts.listed).remove(self.peer, self.id);
        if let Some(holding) = self.exchange.cut_for.get() {
            holding.is_cut_for.store(false, SeqCst);
            // The exchange continued before it observed the cut, and keeps its unit.
            if !self.heard.get() {
                holding.capacity.is_owed();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use outrigger_core::peer::PeerKey;

    use super::*;

    #[test]
    fn the_oldest_exchange_of_the_peer_that_holds_most_is_cut() {
        let debts = Arc::<Debts>::default();
        let capacity = Capacity::new(100, Arc::clone(&debts));
        let peer = |number| capacity.holding(&PeerKey::new(None, IpAddr::from([10, 0, 0, number])));
        let (some, most, none) = (peer(1), peer(2), peer(3));
        let _held: Vec<_> = [(&some, 4), (&most, 9)]
            .into_iter()
            .flat_map(|(peer, held)| (0..held).map(move |_| peer.try_take().unwrap()))
            .collect();
        let list = |peer| debts.list(&[peer], Waker::noop());
        let (first, oldest, younger) = (list(&some), list(&most), list(&most));
        let cut = || [&first, &oldest, &younger].map(|debt| debt.is_cut(Waker::noop()));
        assert!(debts.cut_for(&none));
        assert_eq!(cut(), [false, true, false]);
        assert!(!debts.can_cut_for(&most), "not for itself, and not from who has less");
        drop(younger);
        assert!(debts.cut_for(&none) && first.is_cut(Waker::noop()));
        assert!(!debts.cut_for(&none), "all were cut");
        drop((first, oldest));
        assert!(locked(&debts.listed).peers.is_empty());
    }
}
