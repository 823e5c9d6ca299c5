//! Which host gets the next attempt: who serves, whose answers are in doubt, and the cluster's balancing among them.
//!
//! Called once for each attempt. Costs no lock; endpoints are followed first, if they have changed.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use outrigger_config::cluster::{Balancing, Discovery};
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;
use tokio::time::Instant;

use super::Cluster;
use crate::upstream::balance::{self, Comparison};
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
        let hosts = Rc::clone(&self.hosts.borrow());
        let now = self.shared.now();
        let clock = Instant::now();
        let doubted = Cell::new(None);
        let detects = self.config.borrow().outlier.is_some();
        if tried.is_empty()
            && let Some(host) = self.probed(&hosts, now, probing)
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
        // When nobody serves, everybody is asked: an ejection is a guess, and an error is certain. Before that those are asked
        // which work and want to be left alone.
        let host = self
            .choose(&hosts, answering, fresh)
            .or_else(|| again.then(|| self.choose(&hosts, answering, |_| true)).flatten())
            .or_else(|| self.choose(&hosts, serving, fresh))
            .or_else(|| again.then(|| self.choose(&hosts, serving, |_| true)).flatten())
            .or_else(|| self.choose(&hosts, |host| is_in_service(host), fresh))
            .or_else(|| self.draw(&hosts, |host| host.takes_new && fresh(host)))
            .or_else(|| self.draw(&hosts, |host| host.takes_new))
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
        hosts: &[Rc<Host>],
        serves: impl Fn(&Rc<Host>) -> bool,
        wanted: impl Fn(&Rc<Host>) -> bool,
    ) -> Option<Rc<Host>> {
        let groups = Rc::clone(&self.groups.borrow());
        if groups.is_plain() {
            return self.draw(hosts, |host| wanted(host) && serves(host));
        }
        let candidates = groups.candidates(|at| serves(&hosts[at]), |at| wanted(&hosts[at]), fastrand::f64);
        let weight = |at: usize| hosts[at].weight;
        let below = |below| fastrand::u64(..below);
        let any = || fastrand::choice(&candidates).copied();
        let picked = self.compared(hosts, |balancing, by| match balancing {
            Balancing::PeakEwma => balance::pick_by_weight(&candidates, 2, weight, by, below),
            Balancing::LeastRequest { choices } => {
                balance::pick_by_weight(&candidates, choices, weight, by, below)
            }
            Balancing::RoundRobin if groups.weights_differ => {
                balance::pick_by_weight(&candidates, 1, weight, by, below)
            }
            Balancing::RoundRobin => {
                let turn = self.turn.get();
                let next = candidates.iter().find(|at| **at >= turn).or(candidates.first()).copied();
                self.turn.set(next.map_or(0, |at| at + 1));
                next.map(|next| by.unless_failing(next, any))
            }
            Balancing::Random => any().map(|at| by.unless_failing(at, any)),
        });
        picked.map(|index| Rc::clone(&hosts[index]))
    }

    fn draw(&self, hosts: &[Rc<Host>], usable: impl Fn(&Rc<Host>) -> bool) -> Option<Rc<Host>> {
        let usable = |index: usize| usable(&hosts[index]);
        let below = |below: usize| fastrand::usize(..below);
        let picked = self.compared(hosts, |balancing, by| match balancing {
            Balancing::PeakEwma => balance::pick(hosts.len(), 2, by, usable, below),
            Balancing::LeastRequest { choices } => balance::pick(hosts.len(), choices, by, usable, below),
            Balancing::RoundRobin => {
                let from = |turn: usize| {
                    (0..hosts.len()).map(|step| (turn + step) % hosts.len()).find(|at| usable(*at))
                };
                let next = from(self.turn.get());
                self.turn.set(next.map_or(0, |at| at + 1));
                next.map(|at| by.unless_failing(at, || from(below(hosts.len()))))
            }
            Balancing::Random => balance::pick(hosts.len(), 1, by, usable, below),
        });
        picked.map(|index| Rc::clone(&hosts[index]))
    }

    /// Calls `pick` with how the cluster balances and how its hosts compare for that.
    fn compared(
        &self,
        hosts: &[Rc<Host>],
        pick: impl FnOnce(Balancing, Comparison<'_>) -> Option<usize>,
    ) -> Option<usize> {
        let now = Instant::now();
        let balancing = self.config.borrow().balancing;
        let cost = |at: usize| match balancing {
            Balancing::PeakEwma => hosts[at].cost(now),
            Balancing::LeastRequest { .. } => Some(hosts[at].load.queue()),
            Balancing::RoundRobin | Balancing::Random => Some(0.0),
        };
        let failing = |at: usize| hosts[at].load.failing.at(now);
        pick(balancing, Comparison { cost: &cost, failing: &failing, chance: &fastrand::f64 })
    }
}

/// Whether a host takes requests and is not ejected.
fn is_in_service(host: &Host) -> bool {
    host.takes_new && host.health.is_serving()
}
