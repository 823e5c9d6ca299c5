//! Who waits for a capacity: in order within a peer.
//!
//! The number of lines is that of the peers that wait now. Walking them is paid for by those that have to wait.

use std::collections::VecDeque;

/// A line for each peer. A line that was served goes behind the others, so that peers that hold the same take turns.
#[derive(Debug)]
pub(super) struct Queue<K, T> {
    lines: VecDeque<Line<K, T>>,
}

/// The waiters of one peer, the oldest first. Never empty.
#[derive(Debug)]
struct Line<K, T> {
    peer: K,
    waiters: VecDeque<T>,
}

impl<K, T> Default for Queue<K, T> {
    fn default() -> Self {
        Self { lines: VecDeque::new() }
    }
}

impl<K: Clone + PartialEq, T> Queue<K, T> {
    /// One more waits for `peer`.
    pub(super) fn push(&mut self, peer: &K, waiter: T) {
        match self.lines.iter_mut().find(|line| line.peer == *peer) {
            Some(line) => line.waiters.push_back(waiter),
            None => self.lines.push_back(Line { peer: peer.clone(), waiters: VecDeque::from([waiter]) }),
        }
    }

    /// Whether somebody waits for `peer`.
    pub(super) fn has(&self, peer: &K) -> bool {
        self.lines.iter().any(|line| line.peer == *peer)
    }

    /// Drops those at the front of their lines that have given up; how many.
    pub(super) fn drop_fronts(&mut self, gone: impl Fn(&T) -> bool) -> u32 {
        let mut dropped = 0;
        self.lines.retain_mut(|line| {
            while line.waiters.front().is_some_and(&gone) {
                line.waiters.pop_front();
                dropped += 1;
            }
            !line.waiters.is_empty()
        });
        dropped
    }

    /// The peer that waits and has least, by `holds`. Of equals, the one that was not served for longest.
    pub(super) fn least(&self, holds: impl Fn(&K) -> u32) -> Option<&K> {
        self.lines.iter().map(|line| &line.peer).min_by_key(|peer| holds(peer))
    }

    /// The oldest waiter of `peer`.
    pub(super) fn next(&mut self, peer: &K) -> Option<T> {
        let at = self.lines.iter().position(|line| line.peer == *peer)?;
        let mut line = self.lines.remove(at)?;
        let waiter = line.waiters.pop_front();
        if !line.waiters.is_empty() {
            self.lines.push_back(line);
        }
        waiter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiters_are_served_in_order_within_a_peer_and_equal_peers_in_turn() {
        let mut queue = Queue::default();
        for waiter in ["a1", "a2", "a3"] {
            queue.push(&'a', waiter);
        }
        queue.push(&'b', "b1");
        let served: Vec<_> = std::iter::from_fn(|| {
            let peer = *queue.least(|_| 0)?;
            queue.next(&peer)
        })
        .collect();
        assert_eq!(served, ["a1", "b1", "a2", "a3"]);
        assert!(!queue.has(&'a'));
    }

    #[test]
    fn the_peer_that_holds_least_comes_first() {
        let mut queue = Queue::default();
        queue.push(&'a', 1);
        queue.push(&'b', 2);
        assert_eq!(queue.least(|peer| if *peer == 'a' { 5 } else { 2 }), Some(&'b'));
    }

    #[test]
    fn those_that_gave_up_are_passed_over() {
        let mut queue = Queue::default();
        for waiter in [1, 2, 3] {
            queue.push(&'a', waiter);
        }
        queue.push(&'b', 1);
        assert_eq!(queue.drop_fronts(|waiter| *waiter < 3), 3);
        assert_eq!((queue.next(&'a'), queue.has(&'b')), (Some(3), false));
    }
}
