//! The hosts of a cluster, kept up to date with its endpoints.
//!
//! The cost of an update is that of what it changed: the endpoints before and after the changed part of the list are the same
//! values, so that their hosts are neither visited nor replaced.

use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::HashMap;
use outrigger_config::endpoint::groups::Groups;
use outrigger_config::endpoint::{Endpoint, Endpoints};
use tokio::time::Instant;

use super::availability::{Allowed, Availability};
use crate::upstream::host::Host;

/// The hosts of a cluster.
#[derive(Debug, Default)]
pub(super) struct Membership {
    /// The endpoints of `hosts`, in the same order.
    endpoints: Arc<Endpoints>,
    hosts: Vec<Rc<Host>>,
    availability: Availability,
}

impl Membership {
    /// Returns the hosts, in the order of their endpoints.
    pub(super) fn hosts(&self) -> &[Rc<Host>] {
        &self.hosts
    }

    /// Returns the endpoints with their hosts.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&Endpoint, &Rc<Host>)> {
        self.endpoints.list.iter().map(|endpoint| &**endpoint).zip(&self.hosts)
    }

    /// The hosts must be counted before the next pick.
    pub(super) fn forget_counts(&mut self) {
        self.availability.reset();
    }

    /// Returns their groups.
    pub(super) fn groups(&self) -> &Groups {
        self.endpoints.groups()
    }

    /// Returns whether endpoints are picked by hashes.
    pub(super) fn hashes(&self) -> bool {
        self.endpoints.hashing().is_some()
    }

    /// Returns the index of the host of a hash (`Endpoints::of_hash`).
    pub(super) fn of_hash(&self, hash: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        self.endpoints.of_hash(hash, self.availability.by_group(), usable)
    }

    /// Returns the host at this address.
    pub(super) fn at(&self, address: SocketAddr) -> Option<&Rc<Host>> {
        self.hosts.get(self.endpoints.at(address)?)
    }

    /// Returns which of them are available, as counted last.
    pub(super) fn availability(&self) -> &Availability {
        &self.availability
    }

    /// Counts the available hosts. `changes` is that of the cluster's ejections.
    pub(super) fn count(
        &mut self,
        changes: u64,
        now: Instant,
        allowed: Allowed,
        is_available: impl Fn(&Host) -> bool,
    ) {
        self.availability.set_allowed(allowed);
        self.availability.count(self.endpoints.groups(), &self.hosts, changes, now, is_available);
    }

    /// Returns whether the hosts are those of `endpoints`.
    pub(super) fn is_of(&self, endpoints: &Arc<Endpoints>) -> bool {
        Arc::ptr_eq(&self.endpoints, endpoints)
    }

    /// Updates the hosts to `endpoints`. `host` returns the host of an endpoint, given the previous one at its address.
    /// Retires pools that are no longer used.
    pub(super) fn follow(
        &mut self,
        endpoints: Arc<Endpoints>,
        is_available: impl Fn(&Host) -> bool,
        mut host: impl FnMut(&Endpoint, Option<&Rc<Host>>) -> Rc<Host>,
    ) {
        let (replaced, by) = changed(&self.endpoints.list, &endpoints.list);
        let changed = &endpoints.list[by.clone()];

        let known: HashMap<SocketAddr, &Rc<Host>> =
            self.hosts[replaced.clone()].iter().map(|host| (host.address, host)).collect();
        let new: Vec<_> =
            changed.iter().map(|endpoint| host(endpoint, known.get(&endpoint.address).copied())).collect();
        let kept: HashMap<SocketAddr, Rc<Host>> =
            new.iter().map(|host| (host.address, Rc::clone(host))).collect();
        if !self.availability.is_counted() || !self.groups().are_those_of(endpoints.groups()) {
            self.availability.reset();
        } else {
            for at in replaced.clone() {
                let host = &self.hosts[at];
                self.availability.remove(self.endpoints.groups().of(at), host, is_available(host));
            }
            for (at, host) in by.zip(&new) {
                self.availability.add(endpoints.groups().of(at), host, is_available(host));
            }
        }
        for old in self.hosts.splice(replaced, new) {
            let stays = kept.get(&old.address).is_some_and(|host| Rc::ptr_eq(&host.pool, &old.pool));
            if !stays {
                old.pool.retire();
            }
        }
        self.endpoints = endpoints;
    }
}

/// Returns the part of `before` that was replaced, and the part of `after` that replaces it. What precedes and follows them is
/// the same.
fn changed<T>(before: &[Arc<T>], after: &[Arc<T>]) -> (Range<usize>, Range<usize>) {
    let same = |(before, after): &(&Arc<T>, &Arc<T>)| Arc::ptr_eq(before, after);
    let head = before.iter().zip(after).take_while(same).count();
    let tail = before[head..].iter().rev().zip(after[head..].iter().rev()).take_while(same).count();
    (head..before.len() - tail, head..after.len() - tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_looked_at() {
        let all: Vec<_> = (0..10).map(Arc::new).collect();
        let without = |at: usize| [&all[..at], &all[at + 1..]].concat();
        let with = |at: usize| [&all[..at], &[Arc::new(99)], &all[at..]].concat();
        assert_eq!(changed(&all, &all), (10..10, 10..10));
        for at in [0, 4, 9] {
            assert_eq!(changed(&all, &without(at)), (at..at + 1, at..at));
            assert_eq!(changed(&all, &with(at)), (at..at, at..at + 1));
            let mut other = all.clone();
            other[at] = Arc::new(99);
            assert_eq!(changed(&all, &other), (at..at + 1, at..at + 1));
        }
        assert_eq!(changed(&[], &all), (0..0, 0..10));
        assert_eq!(changed(&all, &[]), (0..10, 0..0));
        assert_eq!(changed(&[&all[..], &all[..1]].concat(), &all), (10..11, 10..10));
    }
}
