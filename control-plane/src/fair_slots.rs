//! A bounded number of slots for unauthenticated callers. A new caller always gets a slot: if none is free, the group
//! with the most slots loses its oldest one.
//!
//! So no caller is blocked by slots that others occupy: to evict a caller, others have to open as many connections as there are
//! slots, from as many networks, in the time that the caller needs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

/// A fixed number of slots, shared between groups.
#[derive(Debug)]
pub(crate) struct FairSlots<G> {
    limit: usize,
    state: Arc<Mutex<Occupancy<G>>>,
}

/// An occupied slot. Dropping it frees the slot.
#[derive(Debug)]
pub(crate) struct FairSlot<G: Ord + Clone> {
    group: G,
    number: u64,
    evicted: oneshot::Receiver<()>,
    state: Arc<Mutex<Occupancy<G>>>,
}

#[derive(Debug)]
struct Occupancy<G> {
    /// The occupied slots by group, the oldest first.
    groups: BTreeMap<G, BTreeMap<u64, Occupied>>,
    /// The groups by size; among equals, the one with the oldest slot comes last.
    order: BTreeSet<(usize, Reverse<u64>, G)>,
    taken: usize,
    next: u64,
}

#[derive(Debug)]
struct Occupied {
    since: Instant,
    /// Dropping it notifies the slot's owner.
    _evict: oneshot::Sender<()>,
}

impl<G: Ord + Clone> FairSlots<G> {
    /// Creates `limit` slots, at least one.
    pub(crate) fn new(limit: usize) -> Self {
        let state = Occupancy { groups: BTreeMap::new(), order: BTreeSet::new(), taken: 0, next: 0 };
        Self { limit: limit.max(1), state: Arc::new(Mutex::new(state)) }
    }

    /// Occupies a slot for a group. If none is free, another slot is evicted.
    pub(crate) fn acquire(&self, group: G) -> FairSlot<G> {
        let mut state = lock(&self.state);
        if state.taken >= self.limit {
            state.evict();
        }
        self.occupy(&mut state, group)
    }

    /// Occupies a slot for a group. If none is free, the slot that is next to be evicted is, if it has been occupied for `age`; else
    /// returns None.
    pub(crate) fn acquire_after(&self, group: G, age: Duration) -> Option<FairSlot<G>> {
        let mut state = lock(&self.state);
        if state.taken >= self.limit {
            if state.oldest()?.elapsed() < age {
                return None;
            }
            state.evict();
        }
        Some(self.occupy(&mut state, group))
    }

    fn occupy(&self, state: &mut Occupancy<G>, group: G) -> FairSlot<G> {
        state.next += 1;
        let (number, (sender, evicted)) = (state.next, oneshot::channel());
        state.change(&group, |members| {
            members.insert(number, Occupied { since: Instant::now(), _evict: sender });
        });
        state.taken += 1;
        FairSlot { group, number, evicted, state: Arc::clone(&self.state) }
    }

    /// Evicts the slot that is next to be evicted. Returns false if no slot is occupied.
    pub(crate) fn evict(&self) -> bool {
        lock(&self.state).evict()
    }
}

impl<G: Ord + Clone> Occupancy<G> {
    fn evict(&mut self) -> bool {
        let Some((_, Reverse(oldest), group)) = self.order.last().cloned() else { return false };
        self.change(&group, |members| drop(members.remove(&oldest)));
        self.taken -= 1;
        true
    }

    /// Returns since when the slot that is next to be evicted has been occupied.
    fn oldest(&self) -> Option<Instant> {
        let (_, Reverse(oldest), group) = self.order.last()?;
        self.groups.get(group)?.get(oldest).map(|slot| slot.since)
    }

    /// Changes a group and updates its position in the order.
    fn change(&mut self, group: &G, change: impl FnOnce(&mut BTreeMap<u64, Occupied>)) {
        let rank = |members: &BTreeMap<u64, _>| {
            let oldest = members.first_key_value().map_or(0, |(number, _)| *number);
            (members.len(), Reverse(oldest), group.clone())
        };
        let members = self.groups.entry(group.clone()).or_default();
        self.order.remove(&rank(members));
        change(members);
        if members.is_empty() {
            self.groups.remove(group);
        } else {
            self.order.insert(rank(members));
        }
    }
}

impl<G: Ord + Clone> FairSlot<G> {
    /// Waits until the slot is evicted.
    pub(crate) async fn evicted(&mut self) {
        let _ = (&mut self.evicted).await;
    }
}

impl<G: Ord + Clone> Drop for FairSlot<G> {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if state.groups.get(&self.group).is_some_and(|members| members.contains_key(&self.number)) {
            let (group, number) = (self.group.clone(), self.number);
            state.change(&group, |members| drop(members.remove(&number)));
            state.taken -= 1;
        }
    }
}

/// Locks a mutex. A poisoned lock is used: no code panics between two steps of a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn is_evicted(place: &mut FairSlot<&'static str>) -> bool {
        place.evicted().now_or_never().is_some()
    }

    #[test]
    fn the_group_with_the_most_slots_loses_its_oldest() {
        let slots = FairSlots::new(4);
        let mut alone = slots.acquire("alone");
        let mut many: Vec<_> = (0..3).map(|_| slots.acquire("many")).collect();
        let mut newcomer = slots.acquire("newcomer");
        assert_eq!(many.iter_mut().map(is_evicted).collect::<Vec<_>>(), [true, false, false]);
        many.push(slots.acquire("many"));
        assert_eq!(many.iter_mut().skip(1).map(is_evicted).collect::<Vec<_>>(), [true, false, false]);
        assert!(!is_evicted(&mut alone) && !is_evicted(&mut newcomer));
    }

    #[test]
    fn among_equal_groups_the_oldest_slot_is_evicted() {
        let slots = FairSlots::new(2);
        let (mut a, mut b) = (slots.acquire("a"), slots.acquire("b"));
        let mut c = slots.acquire("c");
        assert!(is_evicted(&mut a) && !is_evicted(&mut b));
        assert!(slots.evict() && is_evicted(&mut b) && !is_evicted(&mut c));
        assert!(slots.evict() && is_evicted(&mut c) && !slots.evict());
    }

    #[tokio::test(start_paused = true)]
    async fn a_patient_caller_gets_a_free_slot_or_one_that_is_old_enough() {
        let (slots, age) = (FairSlots::new(2), Duration::from_secs(1));
        let mut first = slots.acquire_after("a", age).unwrap();
        tokio::time::advance(age / 2).await;
        let mut second = slots.acquire_after("a", age).unwrap();
        assert!(slots.acquire_after("b", age).is_none());
        tokio::time::advance(age / 2).await;
        assert!(slots.acquire_after("b", age).is_some_and(|_| is_evicted(&mut first)));
        assert!(!is_evicted(&mut second));
    }

    #[test]
    fn a_dropped_slot_is_free_whether_it_was_evicted_or_not() {
        let slots = FairSlots::new(2);
        let (first, second) = (slots.acquire("a"), slots.acquire("a"));
        let mut third = slots.acquire("a");
        drop((first, second));
        let mut fourth = slots.acquire("b");
        assert!(!is_evicted(&mut third) && !is_evicted(&mut fourth));
        drop((third, fourth));
        let state = lock(&slots.state);
        assert!(state.taken == 0 && state.groups.is_empty() && state.order.is_empty());
    }
}
