//! A bounded number of callers who have not proved who they are. Every new caller gets a place; if none is free, the
//! group that has most gives up its oldest.
//!
//! So nobody waits for what strangers hold: to push somebody out, others have to open as many connections as there are
//! places, from as many addresses, in the time that an honest caller needs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The places.
#[derive(Debug)]
pub(crate) struct Crowd<G> {
    limit: usize,
    state: Arc<Mutex<State<G>>>,
}

/// A place taken; free again when dropped.
#[derive(Debug)]
pub(crate) struct Place<G: Ord + Clone> {
    group: G,
    number: u64,
    lost: oneshot::Receiver<()>,
    state: Arc<Mutex<State<G>>>,
}

#[derive(Debug)]
struct State<G> {
    /// Who has a place, by group, the oldest first.
    groups: BTreeMap<G, BTreeMap<u64, oneshot::Sender<()>>>,
    /// Each group by its size, and among equals the one whose oldest is oldest.
    order: BTreeSet<(usize, Reverse<u64>, G)>,
    taken: usize,
    next: u64,
}

impl<G: Ord + Clone> Crowd<G> {
    /// `limit` places, at least one.
    pub(crate) fn new(limit: usize) -> Self {
        let state = State { groups: BTreeMap::new(), order: BTreeSet::new(), taken: 0, next: 0 };
        Self { limit: limit.max(1), state: Arc::new(Mutex::new(state)) }
    }

    /// A place. Where all are taken, somebody loses theirs.
    pub(crate) fn enter(&self, group: G) -> Place<G> {
        let mut state = lock(&self.state);
        if state.taken >= self.limit {
            state.evict();
        }
        state.next += 1;
        let (number, (sender, lost)) = (state.next, oneshot::channel());
        state.change(&group, |members| {
            members.insert(number, sender);
        });
        state.taken += 1;
        Place { group, number, lost, state: Arc::clone(&self.state) }
    }

    /// Takes a place from the caller that is next to lose its own. Returns false if no caller has one.
    pub(crate) fn evict(&self) -> bool {
        lock(&self.state).evict()
    }
}

impl<G: Ord + Clone> State<G> {
    fn evict(&mut self) -> bool {
        let Some((_, Reverse(oldest), group)) = self.order.last().cloned() else { return false };
        // Dropping the sender tells the other end.
        self.change(&group, |members| drop(members.remove(&oldest)));
        self.taken -= 1;
        true
    }

    /// Changes a group and keeps the order in step.
    fn change(&mut self, group: &G, change: impl FnOnce(&mut BTreeMap<u64, oneshot::Sender<()>>)) {
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

impl<G: Ord + Clone> Place<G> {
    /// Waits until the place is lost.
    pub(crate) async fn lost(&mut self) {
        let _ = (&mut self.lost).await;
    }
}

impl<G: Ord + Clone> Drop for Place<G> {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if state.groups.get(&self.group).is_some_and(|members| members.contains_key(&self.number)) {
            let (group, number) = (self.group.clone(), self.number);
            state.change(&group, |members| drop(members.remove(&number)));
            state.taken -= 1;
        }
    }
}

/// The peer that an address counts for: all of an IPv6 /64 is one peer.
pub(crate) fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 => v4,
    }
}

/// Locks; no code that holds one of these locks can panic half-way through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn is_lost(place: &mut Place<&'static str>) -> bool {
        place.lost().now_or_never().is_some()
    }

    #[test]
    fn the_group_with_the_most_gives_up_its_oldest() {
        let crowd = Crowd::new(4);
        let mut alone = crowd.enter("alone");
        let mut many: Vec<_> = (0..3).map(|_| crowd.enter("many")).collect();
        let mut newcomer = crowd.enter("newcomer");
        assert_eq!(many.iter_mut().map(is_lost).collect::<Vec<_>>(), [true, false, false]);
        many.push(crowd.enter("many"));
        assert_eq!(many.iter_mut().skip(1).map(is_lost).collect::<Vec<_>>(), [true, false, false]);
        assert!(!is_lost(&mut alone) && !is_lost(&mut newcomer));
    }

    #[test]
    fn among_equals_the_oldest_goes() {
        let crowd = Crowd::new(2);
        let (mut a, mut b) = (crowd.enter("a"), crowd.enter("b"));
        let mut c = crowd.enter("c");
        assert!(is_lost(&mut a) && !is_lost(&mut b));
        assert!(crowd.evict() && is_lost(&mut b) && !is_lost(&mut c));
        assert!(crowd.evict() && is_lost(&mut c) && !crowd.evict());
    }

    #[test]
    fn a_place_is_free_when_it_is_dropped_whether_it_was_lost_or_not() {
        let crowd = Crowd::new(2);
        let (first, second) = (crowd.enter("a"), crowd.enter("a"));
        let mut third = crowd.enter("a");
        drop((first, second));
        let mut fourth = crowd.enter("b");
        assert!(!is_lost(&mut third) && !is_lost(&mut fourth));
        drop((third, fourth));
        let state = lock(&crowd.state);
        assert!(state.taken == 0 && state.groups.is_empty() && state.order.is_empty());
    }

    #[test]
    fn one_ipv6_network_is_one_origin() {
        let of = |text: &str| origin(text.parse().unwrap()).to_string();
        assert_eq!(of("fd00::1:2:3:4"), of("fd00::ffff"));
        assert_ne!(of("fd00::1"), of("fd00:0:0:1::1"));
        assert_eq!((of("10.0.0.1"), of("::ffff:10.0.0.1")), ("10.0.0.1".into(), "10.0.0.1".into()));
    }
}
