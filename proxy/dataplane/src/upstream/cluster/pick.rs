//! Picks the host of an attempt: by health, by doubts whether it still responds, and by the balancing of the cluster.
//!
//! Called once per attempt. Takes no lock. Applies a changed endpoint list first.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::cluster::dns::DnsEndpoints;
use outrigger_config::cluster::{Balancing, Discovery};
use outrigger_config::endpoint::HealthStatus;
use outrigger_config::endpoint::groups::Group;
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;
use outrigger_policy::hash_policy::HashPolicies;
use outrigger_policy::stateful_session::Pinned;
use tokio::time::Instant;

use super::Cluster;
use super::availability::Allowed;
use super::membership::Membership;
use super::slow_start::part;
use crate::upstream::balance::Candidates;
use crate::upstream::host::Host;
use crate::upstream::shared::Moment;
use crate::upstream::silence::Doubt;

/// The result of a pick.
#[derive(Debug)]
pub(crate) struct Picked {
    /// The host of the next attempt.
    pub(crate) host: Rc<Host>,
    /// Another host that was considered and may no longer respond.
    pub(crate) doubted: Option<Rc<Host>>,
}

/// What determines the host of a request or connection, besides health and load.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PickBy {
    /// The original destination of a redirected connection.
    pub(crate) original: Option<SocketAddr>,
    /// Its hash. Without one, a cluster that hashes picks at random.
    pub(crate) hash: Option<u64>,
    /// The endpoint of its session.
    pub(crate) pinned: Option<Pinned>,
}

impl PickBy {
    /// The original destination of a connection, and nothing else.
    pub(crate) fn original(destination: SocketAddr) -> Self {
        Self { original: Some(destination), ..Self::default() }
    }
}

/// Whether a request may be used to probe a host whose ejection time has elapsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probing {
    /// No: its outcome is not observed.
    Never,
    /// Only if no better request comes: it may be lost.
    Uncovered,
    /// Yes: it can be retried elsewhere.
    Covered,
}

/// The endpoint of a session.
enum OfSession {
    /// It is picked.
    Host(Picked),
    /// It may no longer respond. Another one is picked, and this one is in doubt.
    Silent(Rc<Host>),
    /// It is not available, and any other one may be picked.
    Any,
    /// It is not available, and no other one may be picked.
    None,
}

impl Cluster {
    /// Returns its name in DNS and its `connect_timeout` if its endpoints are the addresses of a name.
    pub(crate) fn of_dns(&self) -> Option<(Arc<DnsEndpoints>, Duration)> {
        let config = self.config.borrow();
        Some((Arc::clone(config.discovery.dns()?), config.connect_timeout))
    }

    /// Calls `hash` with the cluster's hash policies or, if it has none, those of the route. Returns `None` if the cluster does not
    /// pick endpoints by hashes.
    pub(crate) fn hash(
        &self,
        of_route: &HashPolicies,
        hash: impl FnOnce(&HashPolicies) -> Option<u64>,
    ) -> Option<u64> {
        let config = self.config.borrow();
        let Balancing::Hashing(_) = config.balancing else { return None };
        hash(if config.hash_policies.is_empty() { of_route } else { &config.hash_policies })
    }

    /// Returns the host for the next attempt: one that is not among `attempted`, not ejected and responding, if there is one.
    /// `probing` is whether the request may probe an ejected host.
    pub(crate) fn pick(
        &self,
        attempted: &[SocketAddr],
        by: PickBy,
        probing: Probing,
    ) -> Result<Picked, Failure> {
        let none = |why: &str| Failure::upstream(Reason::NoHealthyUpstream, Reached::NotWritten, why);
        if let Discovery::OriginalDestination(transport) = &self.config.borrow().discovery {
            let address = by.original.ok_or_else(|| none("the connection was not redirected"))?;
            return Ok(Picked { host: self.unlisted(address, transport), doubted: None });
        }
        let now = Moment::at(Instant::now(), &self.shared);
        self.follow_endpoints(now);
        self.count_hosts(now);
        let members = &*self.members.borrow();
        let allowed = members.availability().allowed();
        if self.config.borrow().health_check.is_some() {
            self.note_pick(allowed);
        }
        let mut silent = None;
        match by.pinned.map(|pinned| self.of_session(members, pinned, attempted, now)) {
            None | Some(OfSession::Any) => {}
            Some(OfSession::Silent(host)) => silent = Some(host),
            Some(OfSession::Host(picked)) => return Ok(picked),
            Some(OfSession::None) => return Err(none("the endpoint of the session is not available")),
        }
        let hash = members.hashes().then(|| by.hash.unwrap_or_else(|| self.rng.borrow_mut().u64(..)));
        if attempted.is_empty()
            && let Some(host) = self.probed(members, hash, now, probing)
        {
            return Ok(Picked { host, doubted: None });
        }
        let doubted = Cell::new(None);
        let in_service = |host: &Rc<Host>| is_in_service(host) && allowed.allows(host);
        let serving = |host: &Rc<Host>| in_service(host) && !host.health.is_pushed_back(now.since_start);
        let answering = |host: &Rc<Host>| match self.doubt(host, now) {
            None => serving(host),
            Some(doubt) => {
                // A host that is ejected for failures or pushes back is not suspected of silence.
                if host.takes_new && allowed.allows(host) && (serving(host) || host.health.is_silent()) {
                    doubted.set(Some(Rc::clone(host)));
                }
                serving(host) && !doubt.avoided
            }
        };
        let fresh = |host: &Rc<Host>| !attempted.contains(&host.address);
        let again = !attempted.is_empty();
        let choose = |usable: &dyn Fn(&Rc<Host>) -> bool| self.choose(members, hash, now, usable);
        // If no host is healthy, any host may be picked: an ejection is a guess, and an error is certain. Hosts that push
        // back, but work, are picked before that. Hosts that fail active checks are picked only in a panic.
        let in_panic = Allowed::in_panic(&self.config.borrow()).unwrap_or_default();
        let at_all = |host: &Rc<Host>| host.takes_new && in_panic.allows(host);
        let host = choose(&|host| fresh(host) && answering(host))
            .or_else(|| again.then(|| choose(&answering)).flatten())
            .or_else(|| choose(&|host| fresh(host) && serving(host)))
            .or_else(|| again.then(|| choose(&serving)).flatten())
            .or_else(|| choose(&|host| fresh(host) && in_service(host)))
            .or_else(|| choose(&|host| fresh(host) && host.takes_new && allowed.allows(host)))
            .or_else(|| choose(&|host| fresh(host) && at_all(host)))
            .or_else(|| choose(&at_all))
            .ok_or_else(|| {
                let empty = members.hosts().is_empty();
                none(if empty { "the cluster has no endpoint" } else { "no endpoint is healthy" })
            })?;
        Ok(Picked { host, doubted: silent.or_else(|| doubted.take()) })
    }

    /// Looks for the endpoint of a session. It is used as long as its status permits it, whatever its load is, and although it pushes back.
    fn of_session(
        &self,
        members: &Membership,
        pinned: Pinned,
        attempted: &[SocketAddr],
        now: Moment,
    ) -> OfSession {
        let Pinned { address, strict } = pinned;
        let statuses = self.config.borrow().session_statuses;
        let allowed = members.availability().allowed();
        let status = |host: &Host| match host.health.is_serving() && allowed.allows(host) {
            true => host.status,
            false => HealthStatus::Unhealthy,
        };
        let stays = |host: &&Rc<Host>| statuses.contains(status(host));
        let found = members.at(address).filter(stays).map(Rc::clone);
        match found {
            None if strict && !statuses.is_empty() => OfSession::None,
            Some(host) if strict => OfSession::Host(Picked { host, doubted: None }),
            Some(host) if !attempted.contains(&address) => match self.doubt(&host, now) {
                None => OfSession::Host(Picked { host, doubted: None }),
                Some(Doubt { avoided: true }) => OfSession::Silent(host),
                Some(Doubt { avoided: false }) => {
                    OfSession::Host(Picked { doubted: Some(Rc::clone(&host)), host })
                }
            },
            _ => OfSession::Any,
        }
    }

    /// Counts the available hosts if ejections or the groups of endpoints have changed.
    fn count_hosts(&self, now: Moment) {
        let changes = self.state.ejections.changes();
        if self.members.borrow().availability().is_due(changes, now.clock) {
            self.count_all_hosts(now);
        }
    }

    /// Counts the available hosts.
    pub(super) fn count_all_hosts(&self, now: Moment) {
        let changes = self.state.ejections.changes();
        let allowed = Allowed::now(&self.config.borrow(), self.members.borrow().hosts());
        let is_available = |host: &Host| self.is_available(host, now) && allowed.allows(host);
        self.members.borrow_mut().count(changes, now.clock, allowed, is_available);
    }

    /// Returns whether the host gets its share of requests, as far as active checks are not concerned.
    pub(super) fn is_available(&self, host: &Host, now: Moment) -> bool {
        is_in_service(host)
            && !host.health.is_pushed_back(now.since_start)
            && !self.doubt(host, now).is_some_and(|doubt| doubt.avoided)
    }

    fn doubt(&self, host: &Host, now: Moment) -> Option<Doubt> {
        self.config.borrow().outlier.as_ref().and_then(|_| host.doubt(now.clock))
    }

    /// Returns a host whose ejection time has elapsed and that is to be probed by this request. A request with a hash probes no
    /// host but its own.
    fn probed(
        &self,
        members: &Membership,
        hash: Option<u64>,
        now: Moment,
        probing: Probing,
    ) -> Option<Rc<Host>> {
        let (ejected, allowed) = (members.availability().ejected(), members.availability().allowed());
        if probing == Probing::Never || ejected.is_empty() {
            return None;
        }
        let covered = probing == Probing::Covered;
        let own = hash.map(|hash| members.of_hash(hash, |_| true));
        let is_own = |host: &Rc<Host>| match own {
            Some(own) => own.is_some_and(|own| Rc::ptr_eq(&members.hosts()[own], host)),
            None => true,
        };
        let due = |host: &&Rc<Host>| {
            host.takes_new
                && allowed.allows(host)
                && is_own(host)
                && host.health.claim_probe(now.since_start, covered)
        };
        ejected.iter().find(due).map(Rc::clone)
    }

    /// Chooses one of the usable hosts: by `hash`, if there is one, or by priority, health, locality and weight.
    fn choose(
        &self,
        members: &Membership,
        hash: Option<u64>,
        now: Moment,
        usable: &dyn Fn(&Rc<Host>) -> bool,
    ) -> Option<Rc<Host>> {
        let hosts = members.hosts();
        let usable = |host: usize| usable(&hosts[host]);
        if let Some(hash) = hash {
            return members.of_hash(hash, usable).map(|index| Rc::clone(&hosts[index]));
        }
        let random = || self.rng.borrow_mut().f64();
        let config = self.config.borrow();
        let part = config.slow_start.as_ref().map(|slow| move |host: usize| part(slow, &hosts[host], now));
        let picked = members.groups().pick(members.availability().by_group(), random, |group, at| {
            let Group { hosts: of_group, weight_sums, .. } = group;
            let candidates = Candidates {
                group: at,
                hosts: of_group,
                weight_sums: weight_sums.as_deref(),
                usable: &usable,
                part: part.as_ref().map(|part| part as &dyn Fn(usize) -> f64),
            };
            let (cost, load) = (|at: usize| hosts[at].cost(now.clock), |at: usize| &hosts[at].load);
            let rng = &mut *self.rng.borrow_mut();
            self.balancer.borrow().pick(cost, load, &candidates, now.clock, rng)
        });
        picked.map(|index| Rc::clone(&hosts[index]))
    }
}

/// Returns whether a host takes requests and is not ejected.
fn is_in_service(host: &Host) -> bool {
    host.takes_new && host.health.is_serving()
}
