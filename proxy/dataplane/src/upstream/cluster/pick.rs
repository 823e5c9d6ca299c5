//! Which host gets the next attempt: who serves, whose answers are in doubt, and the cluster's balancing among them.
//!
//! Called once for each attempt. Costs no lock; endpoints are followed first, if they have changed.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use outrigger_config::cluster::Discovery;
use outrigger_config::endpoint::groups::Group;
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;
use tokio::time::Instant;

use super::Cluster;
use super::membership::Membership;
use crate::upstream::balance::Candidates;
use crate::upstream::host::Host;
use crate::upstream::shared::Moment;
use crate::upstream::silence::Doubt;

/// What a pick has found.
#[derive(Debug)]
pub(crate) struct Picked {
    /// Where the next attempt goes.
    pub(crate) host: Rc<Host>,
    /// Another host that was met on the way, of which it is in doubt whether it still answers.
    pub(crate) doubted: Option<Rc<Host>>,
}

/// Whether a request may find out how a host is whose ejection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probing {
    /// No: nobody counts how it ends.
    Never,
    /// Where no better one comes: it may be lost.
    Uncovered,
    /// Yes: it can be sent again.
    Covered,
}

impl Cluster {
    /// The host for the next attempt: none of those `attempted` while there is another, none that is ejected or leaves requests
    /// unanswered while there is another. `original` is where the connection was going before it was redirected.
    /// `probing` says whether the request may find out how an ejected host is.
    pub(crate) fn pick(
        &self,
        attempted: &[SocketAddr],
        original: Option<SocketAddr>,
        probing: Probing,
    ) -> Result<Picked, Failure> {
        let none = |why: &str| Failure::upstream(Reason::NoHealthyUpstream, Reached::NotWritten, why);
        if let Discovery::OriginalDestination(transport) = &self.config.borrow().discovery {
            let address = original.ok_or_else(|| none("the connection was not redirected"))?;
            return Ok(Picked { host: self.unlisted(address, transport), doubted: None });
        }
        let now = Moment::at(Instant::now(), &self.shared);
        self.follow_endpoints(now);
        self.count_hosts(now);
        let members = &*self.members.borrow();
        if attempted.is_empty()
            && let Some(host) = self.probed(members.availability().ejected(), now, probing)
        {
            return Ok(Picked { host, doubted: None });
        }
        let doubted = Cell::new(None);
        let serving = |host: &Rc<Host>| is_in_service(host) && !host.health.is_pushed_back(now.since_start);
        let answering = |host: &Rc<Host>| match self.doubt(host, now) {
            None => serving(host),
            Some(doubt) => {
                // Ejected for failures, or asking to be left alone: no silence that a request has to explain.
                if host.takes_new && (serving(host) || host.health.is_silent()) {
                    doubted.set(Some(Rc::clone(host)));
                }
                serving(host) && !doubt.avoided
            }
        };
        let fresh = |host: &Rc<Host>| !attempted.contains(&host.address);
        let again = !attempted.is_empty();
        let choose = |usable: &dyn Fn(&Rc<Host>) -> bool| self.choose(members, now, usable);
        // When no host is healthy, every host may be picked: an ejection is a guess, and an error is certain. Before that those are asked
        // which work and want to be left alone.
        let host = choose(&|host| fresh(host) && answering(host))
            .or_else(|| again.then(|| choose(&answering)).flatten())
            .or_else(|| choose(&|host| fresh(host) && serving(host)))
            .or_else(|| again.then(|| choose(&serving)).flatten())
            .or_else(|| choose(&|host| fresh(host) && is_in_service(host)))
            .or_else(|| choose(&|host| fresh(host) && host.takes_new))
            .or_else(|| choose(&|host| host.takes_new))
            .ok_or_else(|| {
                let empty = members.hosts().is_empty();
                none(if empty { "the cluster has no endpoint" } else { "no endpoint is healthy" })
            })?;
        Ok(Picked { host, doubted: doubted.take() })
    }

    /// Counts the available hosts, if ejections have changed or the endpoints' groups have.
    fn count_hosts(&self, now: Moment) {
        let changes = self.state.ejections.changes();
        if self.members.borrow().availability().is_due(changes, now.clock) {
            self.count_all_hosts(now);
        }
    }

    /// Counts the available hosts.
    pub(super) fn count_all_hosts(&self, now: Moment) {
        let changes = self.state.ejections.changes();
        self.members.borrow_mut().count(changes, now.clock, |host| self.is_available(host, now));
    }

    /// Whether the host gets its share of requests.
    pub(super) fn is_available(&self, host: &Host, now: Moment) -> bool {
        is_in_service(host)
            && !host.health.is_pushed_back(now.since_start)
            && !self.doubt(host, now).is_some_and(|doubt| doubt.avoided)
    }

    fn doubt(&self, host: &Host, now: Moment) -> Option<Doubt> {
        self.config.borrow().outlier.as_ref().and_then(|_| host.doubt(now.clock))
    }

    /// A host whose ejection is over and of which it is not known yet whether it is well.
    fn probed(&self, ejected: &[Rc<Host>], now: Moment, probing: Probing) -> Option<Rc<Host>> {
        if probing == Probing::Never {
            return None;
        }
        let covered = probing == Probing::Covered;
        let due = |host: &&Rc<Host>| host.takes_new && host.health.claim_probe(now.since_start, covered);
        ejected.iter().find(due).map(Rc::clone)
    }

    /// One of the usable hosts, by priority, health, locality and weight where the cluster has them.
    fn choose(
        &self,
        members: &Membership,
        now: Moment,
        usable: &dyn Fn(&Rc<Host>) -> bool,
    ) -> Option<Rc<Host>> {
        let hosts = members.hosts();
        let usable = |host: usize| usable(&hosts[host]);
        let random = || self.rng.borrow_mut().f64();
        let picked = members.groups().pick(members.availability().by_group(), random, |group, at| {
            let Group { hosts: of_group, weight_sums, .. } = group;
            let candidates = Candidates {
                group: at,
                hosts: of_group,
                weight_sums: weight_sums.as_deref(),
                usable: &usable,
            };
            let rng = &mut *self.rng.borrow_mut();
            let (cost, load) = (|at: usize| hosts[at].cost(now.clock), |at: usize| &hosts[at].load);
            self.balancer.borrow().pick(cost, load, &candidates, now.clock, rng)
        });
        picked.map(|index| Rc::clone(&hosts[index]))
    }
}

/// Whether a host takes requests and is not ejected.
fn is_in_service(host: &Host) -> bool {
    host.takes_new && host.health.is_serving()
}
