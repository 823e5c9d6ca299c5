//! Which host gets the next attempt: who serves, whose answers are in doubt, and the cluster's balancing among them.
//!
//! Called once for each attempt. Costs no lock; endpoints are followed first, if they have changed.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use outrigger_config::cluster::Discovery;
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;
use tokio::time::Instant;

use super::Cluster;
use super::membership::Membership;
use crate::upstream::balance::Candidates;
use crate::upstream::host::Host;

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
    /// The host for the next attempt: none of those `tried` while there is another, none that is ejected or leaves requests
    /// unanswered while there is another. `original` is where the connection was going before it was redirected.
    /// `probing` says whether the request may find out how an ejected host is.
    pub(crate) fn pick(
        &self,
        tried: &[SocketAddr],
        original: Option<SocketAddr>,
        probing: Probing,
    ) -> Result<Picked, Failure> {
        let none = |why: &str| Failure::upstream(Reason::NoHealthyUpstream, Reached::NotWritten, why);
        if let Discovery::OriginalDestination(transport) = &self.config.borrow().discovery {
            let address = original.ok_or_else(|| none("the connection was not redirected"))?;
            return Ok(Picked { host: self.unlisted(address, transport), doubted: None });
        }
        self.follow_endpoints();
        let members = self.members.borrow();
        let (members, hosts) = (&*members, members.hosts());
        let now = self.shared.now();
        let clock = Instant::now();
        let doubted = Cell::new(None);
        let detects = self.config.borrow().outlier.is_some();
        if tried.is_empty()
            && let Some(host) = self.probed(hosts, now, probing)
        {
            return Ok(Picked { host, doubted: None });
        }
        let serving = |host: &Rc<Host>| is_in_service(host) && !host.health.is_pushed_back(now);
        let doubt = |host: &Rc<Host>| detects.then(|| host.doubt(clock)).flatten();
        let answering = |host: &Rc<Host>| match doubt(host) {
            None => serving(host),
            Some(doubt) => {
                // Ejected for failures, or asking to be left alone: no silence that a request has to explain.
                if host.takes_new && (serving(host) || host.health.is_silent()) {
                    doubted.set(Some(Rc::clone(host)));
                }
                serving(host) && !doubt.avoided
            }
        };
        let fresh = |host: &Rc<Host>| !tried.contains(&host.address);
        let again = !tried.is_empty();
        // When no host is healthy, every host may be picked: an ejection is a guess, and an error is certain. Before that those are asked
        // which work and want to be left alone.
        let host = self
            .choose(members, answering, fresh)
            .or_else(|| again.then(|| self.choose(members, answering, |_| true)).flatten())
            .or_else(|| self.choose(members, serving, fresh))
            .or_else(|| again.then(|| self.choose(members, serving, |_| true)).flatten())
            .or_else(|| self.choose(members, |host| is_in_service(host), fresh))
            .or_else(|| self.draw(hosts, |host| host.takes_new && fresh(host)))
            .or_else(|| self.draw(hosts, |host| host.takes_new))
            .ok_or_else(|| {
                none(if hosts.is_empty() { "the cluster has no endpoint" } else { "no endpoint is healthy" })
            })?;
        Ok(Picked { host, doubted: doubted.take() })
    }

    /// A host whose ejection is over and of which it is not known yet whether it is well.
    fn probed(&self, hosts: &[Rc<Host>], now: Duration, probing: Probing) -> Option<Rc<Host>> {
        if probing == Probing::Never || self.state.ejections.now() == 0 {
            return None;
        }
        let covered = probing == Probing::Covered;
        hosts.iter().find(|host| host.takes_new && host.health.claim_probe(now, covered)).map(Rc::clone)
    }

    /// One of those that serve and are wanted, by priority, health, locality and weight where the cluster has them.
    fn choose(
        &self,
        members: &Membership,
        serves: impl Fn(&Rc<Host>) -> bool,
        wanted: impl Fn(&Rc<Host>) -> bool,
    ) -> Option<Rc<Host>> {
        let (hosts, groups) = (members.hosts(), members.groups());
        if groups.is_plain() {
            return self.draw(hosts, |host| wanted(host) && serves(host));
        }
        let list = groups.candidates(|at| serves(&hosts[at]), |at| wanted(&hosts[at]), fastrand::f64);
        let weight = |at: usize| hosts[at].weight;
        let weight: Option<&dyn Fn(usize) -> u32> = if groups.weights_differ { Some(&weight) } else { None };
        self.balance(hosts, &Candidates::Listed { list: &list, weight })
    }

    fn draw(&self, hosts: &[Rc<Host>], usable: impl Fn(&Rc<Host>) -> bool) -> Option<Rc<Host>> {
        let usable = |index: usize| usable(&hosts[index]);
        self.balance(hosts, &Candidates::Alike { count: hosts.len(), usable: &usable })
    }

    fn balance(&self, hosts: &[Rc<Host>], candidates: &Candidates<'_>) -> Option<Rc<Host>> {
        let mut rng = self.rng.borrow_mut();
        let now = Instant::now();
        let picked = self.balancer.borrow().pick(
            |at| hosts[at].cost(now),
            |at| &hosts[at].load,
            candidates,
            now,
            &mut rng,
        );
        picked.map(|index| Rc::clone(&hosts[index]))
    }
}

/// Whether a host takes requests and is not ejected.
fn is_in_service(host: &Host) -> bool {
    host.takes_new && host.health.is_serving()
}
