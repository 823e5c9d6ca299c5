//! The waiters for a capacity: in order of arrival within a peer, or in the opposite order, and by an [`Order`] between peers.
//!
//! A waiter that is cancelled is removed at once, so that every entry is live. Selecting the next peer iterates over all
//! waiting peers. Only waiters, and releases while there are waiters, pay for this.

use std::collections::{BTreeMap, VecDeque};

/// The order in which peers are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Order {
    /// The peer that holds least. Among equals, the one that was not served for longest.
    #[default]
    LeastHeld,
}

impl Order {
    fn next<'a, K>(self, peers: impl Iterator<Item = &'a K>, held: impl Fn(&K) -> u32) -> Option<&'a K> {
        match self {
            Self::LeastHeld => peers.min_by_key(|peer| held(peer)),
        }
    }
}

/// Identifies one waiter. Unique within the queue's lifetime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// One line of waiters per peer. A line that was served moves behind the others, so that peers that hold the same take turns.
#[derive(Debug)]
pub(super) struct Queue<K, T> {
    order: Order,
    newest_first: bool,
    lines: VecDeque<Line<K, T>>,
    next: u64,
}

/// The waiters of one peer, the oldest first. Never empty.
#[derive(Debug)]
struct Line<K, T> {
    peer: K,
    waiters: BTreeMap<Ticket, T>,
}

impl<K, T> Default for Queue<K, T> {
    fn default() -> Self {
        Self { order: Order::default(), newest_first: false, lines: VecDeque::new(), next: 0 }
    }
}

impl<K: Clone + PartialEq, T> Queue<K, T> {
    /// Creates a queue in which the newest waiter of a peer is served first.
    pub(super) fn newest_first() -> Self {
        Self { newest_first: true, ..Self::default() }
    }

    /// Adds a waiter for `peer`.
    pub(super) fn push(&mut self, peer: &K, waiter: T) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        match self.position(peer) {
            Some(at) => {
                self.lines[at].waiters.insert(ticket, waiter);
            }
            None => self.lines.push_back(Line { peer: peer.clone(), waiters: [(ticket, waiter)].into() }),
        }
        ticket
    }

    /// Returns whether `peer` has waiters.
    pub(super) fn has(&self, peer: &K) -> bool {
        self.position(peer).is_some()
    }

    /// Returns the peer whose turn it is, of those that wait and are `eligible`. `held` returns how much a peer holds.
    pub(super) fn next(&self, eligible: impl Fn(&K) -> bool, held: impl Fn(&K) -> u32) -> Option<&K> {
        self.order.next(self.lines.iter().map(|line| &line.peer).filter(|peer| eligible(peer)), held)
    }

    /// Removes the waiter of `peer` whose turn it is: the oldest or, if the queue is made so, the newest.
    pub(super) fn pop(&mut self, peer: &K) -> Option<T> {
        let mut line = self.lines.remove(self.position(peer)?)?;
        let next = if self.newest_first { line.waiters.pop_last() } else { line.waiters.pop_first() };
        let (_, waiter) = next?;
        if !line.waiters.is_empty() {
            self.lines.push_back(line);
        }
        Some(waiter)
    }

    /// Removes a waiter that is cancelled. Returns None if it was already served.
    pub(super) fn remove(&mut self, peer: &K, ticket: Ticket) -> Option<T> {
        let at = self.position(peer)?;
        let waiter = self.lines[at].waiters.remove(&ticket);
        if self.lines[at].waiters.is_empty() {
            self.lines.remove(at);
        }
        waiter
    }

    fn position(&self, peer: &K) -> Option<usize> {
        self.lines.iter().position(|line| line.peer == *peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served<T>(queue: &mut Queue<char, T>) -> Vec<T> {
        std::iter::from_fn(|| {
            let peer = *queue.next(|_| true, |_| 0)?;
            queue.pop(&peer)
        })
        .collect()
    }

    #[test]
    fn waiters_are_served_in_order_within_a_peer_and_equal_peers_in_turn() {
        let mut queue = Queue::default();
        for waiter in ["a1", "a2", "a3"] {
            queue.push(&'a', waiter);
        }
        queue.push(&'b', "b1");
        assert_eq!(served(&mut queue), ["a1", "b1", "a2", "a3"]);
        assert!(!queue.has(&'a'));
    }

    #[test]
    fn the_newest_is_served_first_if_the_queue_is_made_so() {
        let mut queue = Queue::newest_first();
        for (peer, waiter) in [('a', "a1"), ('a', "a2"), ('b', "b1"), ('a', "a3")] {
            queue.push(&peer, waiter);
        }
        assert_eq!(served(&mut queue), ["a3", "b1", "a2", "a1"]);
    }

    #[test]
    fn the_peer_that_holds_least_comes_first() {
        let mut queue = Queue::default();
        queue.push(&'a', 1);
        queue.push(&'b', 2);
        let held = |peer: &char| if *peer == 'a' { 5 } else { 2 };
        assert_eq!(queue.next(|_| true, held), Some(&'b'));
        assert_eq!(queue.next(|peer| *peer != 'b', held), Some(&'a'));
    }

    #[test]
    fn a_waiter_that_gives_up_leaves_the_queue_at_once_and_alone() {
        let mut queue = Queue::default();
        let tickets = [queue.push(&'a', "a1"), queue.push(&'a', "a2"), queue.push(&'b', "b1")];
        assert_eq!(queue.pop(&'a'), Some("a1"));
        assert_eq!(queue.remove(&'a', tickets[0]), None, "it was served");
        assert_eq!(queue.remove(&'a', tickets[1]), Some("a2"));
        assert!(!queue.has(&'a'));
        queue.push(&'a', "a3");
        assert_eq!(queue.remove(&'a', tickets[1]), None, "a ticket is never given twice");
        assert_eq!(served(&mut queue), ["b1", "a3"]);
    }
}
