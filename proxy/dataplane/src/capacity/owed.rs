//! Exchanges whose client owes bytes: what may be cut when another peer needs its place.
//!
//! An exchange is listed once its client has owed something for a while, and leaves the list when the client goes on, so
//! that only what stands still costs a lock. Cutting says so to the exchange, which ends itself.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::Waker;

use foldhash::HashMap;

use super::{Capacity, Holding, locked};

/// The exchanges of one cluster, or the connections of the process, whose client owes bytes.
#[derive(Debug, Default)]
pub(crate) struct Debts {
    /// Whether one may be cut for a peer that holds as much, such as the same one.
    for_equals: bool,
    next: AtomicU64,
    listed: Mutex<HashMap<u64, Arc<Entry>>>,
}

#[derive(Debug)]
struct Entry {
    /// What the exchange holds, of each capacity one.
    holdings: Box<[Arc<Holding>]>,
    cut: AtomicBool,
    waker: Mutex<Waker>,
}

/// One exchange on the list. Dropped, it is off it.
#[derive(Debug)]
pub(crate) struct Debt {
    id: u64,
    entry: Arc<Entry>,
    debts: Arc<Debts>,
}

impl Debts {
    /// A list of what nobody misses: it may be cut for the same peer, too.
    pub(super) fn for_equals_too() -> Self {
        Self { for_equals: true, ..Self::default() }
    }

    /// Puts an exchange on the list. `waker` is called when it is cut.
    pub(crate) fn list(self: &Arc<Self>, holdings: Box<[Arc<Holding>]>, waker: &Waker) -> Debt {
        let id = self.next.fetch_add(1, Relaxed);
        let entry =
            Arc::new(Entry { holdings, cut: AtomicBool::new(false), waker: Mutex::new(waker.clone()) });
        locked(&self.listed).insert(id, Arc::clone(&entry));
        Debt { id, entry, debts: Arc::clone(self) }
    }

    /// Cuts the oldest exchange of the peer that holds most of `capacity`, if that is more than one above `own`: taking it
    /// from one that would then have less than who gets it would be no fairer. One that nobody misses is cut if that peer
    /// holds as much.
    pub(super) fn cut_one(&self, capacity: &Capacity, own: u32) {
        let mut listed = locked(&self.listed);
        let Some((_, id)) = self.richest(&listed, capacity, own) else { return };
        if let Some(entry) = listed.remove(&id) {
            entry.cut.store(true, Relaxed);
            locked(&entry.waker).wake_by_ref();
        }
    }

    /// Whether [`Self::cut_one`] would cut something.
    pub(super) fn can_cut(&self, capacity: &Capacity, own: u32) -> bool {
        self.richest(&locked(&self.listed), capacity, own).is_some()
    }

    fn richest(
        &self,
        listed: &HashMap<u64, Arc<Entry>>,
        capacity: &Capacity,
        own: u32,
    ) -> Option<(u32, u64)> {
        let least = if self.for_equals { own } else { own + 2 };
        let held = listed.iter().map(|(id, entry)| (entry.held_of(capacity), *id));
        held.filter(|(held, _)| *held >= least).max_by_key(|(held, id)| (*held, std::cmp::Reverse(*id)))
    }
}

impl Entry {
    fn held_of(&self, capacity: &Capacity) -> u32 {
        let of = self.holdings.iter().find(|holding| std::ptr::eq(&*holding.capacity, capacity));
        of.map_or(0, |holding| holding.used())
    }
}

impl Debt {
    /// Whether it was cut. If not, `waker` is called when it is.
    pub(crate) fn is_cut(&self, waker: &Waker) -> bool {
        locked(&self.entry.waker).clone_from(waker);
        self.entry.cut.load(Relaxed)
    }
}

impl Drop for Debt {
    fn drop(&mut self) {
        locked(&self.debts.listed).remove(&self.id);
    }
}
