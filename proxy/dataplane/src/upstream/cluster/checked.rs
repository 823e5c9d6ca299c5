//! Active health checks of a cluster's hosts: which of them this worker makes, and which hosts they leave for picks.
//!
//! Checks start when the cluster is configured, and for new endpoints within a second. The workers share them by the addresses of the endpoints; what
//! a worker does not check, for example because it has ended, another one takes over.
//!
//! An endpoint gets no requests before its first check has passed. A request that finds a cluster without any checked endpoint waits for a first
//! check to pass, or for all of them to fail.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use outrigger_config::cluster::Cluster as Config;
use outrigger_config::endpoint::Endpoint;
use outrigger_config::endpoint::check::EndpointCheck;
use outrigger_config::snapshot::Snapshot;
use outrigger_policy::health_check::{Checked, HealthCheck};
use tokio::time::{Instant, timeout_at};

use super::availability::Allowed;
use super::{Cluster, Clusters};
use crate::socket::address::EndpointAddress;
use crate::upstream::bounds::Bounds;
use crate::upstream::checks::{Checking, Checks};
use crate::upstream::host::Host;
use crate::upstream::pool::{Pool, PoolSettings};
use crate::upstream::shared::Moment;

/// How long another worker may leave an endpoint unchecked before this one checks it.
const TAKEN_OVER: Duration = Duration::from_secs(2);

/// A host that this worker checks.
#[derive(Debug)]
pub(super) struct CheckedHost {
    /// The connections for requests to it.
    pool: Rc<Pool>,
    particular: EndpointCheck,
    _checks: Checks,
}

impl Clusters {
    /// Keeps the clusters of a snapshot that have active checks, and starts these. Called for each new snapshot.
    pub(crate) fn follow_checked(&self, snapshot: &Snapshot) {
        let now = Moment::at(Instant::now(), &self.shared);
        let checked = snapshot.clusters.values().filter(|config| config.health_check.is_some());
        let kept = checked.map(|config| {
            let cluster = self.cluster(config);
            cluster.follow_endpoints(now);
            cluster
        });
        let kept = kept.collect();
        self.kept.replace(kept);
    }
}

impl Cluster {
    /// Waits while no endpoint has passed a check and some have not been checked yet, at most for the timeout of a check: a cluster that was just
    /// configured is used when it is known what of it works.
    ///
    /// Costs a look at the first host if the cluster has checks, and nothing otherwise.
    pub(crate) async fn first_checks(&self) {
        if self.config.borrow().health_check.is_none() {
            return;
        }
        let now = Moment::at(Instant::now(), &self.shared);
        if let Some(longest) = self.awaited_checks(now) {
            let until = now.clock + longest;
            // Boxed, because it is rare and would make every request larger.
            let _ = Box::pin(timeout_at(until, async {
                loop {
                    let ended = self.state.first_check_ended.notified();
                    if self.awaited_checks(Moment::at(Instant::now(), &self.shared)).is_none() {
                        break;
                    }
                    ended.await;
                }
            }))
            .await;
        }
    }

    /// Returns the timeout of the checks if a request is to wait for the first of them.
    fn awaited_checks(&self, now: Moment) -> Option<Duration> {
        let longest = self.config.borrow().health_check.as_ref()?.timeout;
        self.follow_endpoints(now);
        let members = self.members.borrow();
        let mut pending = false;
        for host in members.hosts().iter().filter(|host| host.takes_new) {
            match &*host.checked.borrow() {
                Some(checked) if checked.is_pending() => pending = true,
                Some(checked) if !checked.is_healthy() => {}
                Some(_) | None => return None,
            }
        }
        pending.then_some(longest)
    }

    /// Records a pick in a cluster with checks.
    pub(super) fn note_pick(&self, allowed: Allowed) {
        if !self.state.used.load(Relaxed) {
            self.state.used.store(true, Relaxed);
        }
        if allowed != Allowed::Passing {
            self.series.panics.increment();
        }
    }

    /// Applies a changed configuration of checks. Hosts that were in use without checks stay in use until they fail.
    pub(super) fn follow_checks(&self, before: Option<&Arc<HealthCheck>>) {
        if before == self.config.borrow().health_check.as_ref() {
            return;
        }
        self.checks.borrow_mut().clear();
        for (endpoint, host) in self.members.borrow().pairs() {
            host.checked.replace(self.checked(endpoint));
            if before.is_none() {
                host.checked.borrow().iter().for_each(|checked| checked.assume_healthy());
            }
        }
        self.members.borrow_mut().forget_counts();
        self.run_checks();
    }

    /// Returns what checks have found of an endpoint, or `None` if it is not checked.
    pub(super) fn checked(&self, endpoint: &Endpoint) -> Option<Arc<Checked>> {
        let is_checked = self.config.borrow().health_check.is_some() && !endpoint.health_check.disabled;
        is_checked.then(|| self.state.checked(endpoint.address))
    }

    /// Starts checks of hosts that no worker checks, and ends those of hosts that have left.
    pub(super) fn run_checks(&self) {
        let config = self.config.borrow();
        let Some(check) = &config.health_check else { return };
        let mut running = self.checks.borrow_mut();
        let mut before = std::mem::take(&mut *running);
        let now = Instant::now();
        let is_own = |host: &Host| {
            self.shared.is_checked_by(self.worker, host.address)
                || now.duration_since(host.since) >= TAKEN_OVER
        };
        for (endpoint, host) in self.members.borrow().pairs() {
            if host.checked.borrow().is_some() == endpoint.health_check.disabled {
                host.checked.replace(self.checked(endpoint));
            }
            let checked = host.checked.borrow();
            let Some(checked) = &*checked else { continue };
            let same =
                |of: &CheckedHost| Rc::ptr_eq(&of.pool, &host.pool) && of.particular == endpoint.health_check;
            let start = |claim| CheckedHost {
                pool: Rc::clone(&host.pool),
                particular: endpoint.health_check.clone(),
                _checks: Checks::start(self.checking(check, &config, endpoint, host), claim),
            };
            let kept = before.remove(&host.address).filter(same);
            if let Some(checks) = kept.or_else(|| {
                Some(checked).filter(|checked| !checked.is_claimed() && is_own(host))?.claim().map(start)
            }) {
                running.insert(host.address, checks);
            }
        }
    }

    fn checking(
        &self,
        check: &Arc<HealthCheck>,
        config: &Config,
        endpoint: &Endpoint,
        host: &Host,
    ) -> Checking {
        let of = &endpoint.health_check;
        let mut address = of.address.unwrap_or(endpoint.address);
        // The port of the endpoint comes before that of the cluster, as in Envoy.
        if let Some(port) = of.port.or(check.port) {
            address.set_port(port);
        }
        let mut target = host.pool.target().clone();
        target.address = EndpointAddress(address);
        let (settings, series) = (PoolSettings::of(config), Arc::clone(&self.series));
        let (dialer, budget, limits) =
            (Rc::clone(&self.dialer), Arc::clone(&self.budget), config.breakers.clone());
        let pool = move || {
            let bounds = Bounds::new(&limits, Arc::default(), Arc::clone(&budget));
            let (settings, dialer) = (settings.clone(), Rc::clone(&dialer));
            // Counted nowhere: these are no connections for requests.
            let pool = Pool::new(
                target.clone(),
                settings,
                dialer,
                Rc::clone(&bounds),
                Rc::default(),
                Rc::default(),
                Arc::default(),
            );
            (pool, bounds)
        };
        Checking {
            cluster: self.name.clone(),
            endpoint: endpoint.address,
            hostname: of.hostname.clone(),
            check: Arc::clone(check),
            pool: Box::new(pool),
            used: Arc::clone(&self.state.used),
            series,
            is_late: host.is_late,
            clock: Arc::clone(&self.shared),
            first_ended: Arc::clone(&self.state.first_check_ended),
            is_mesh: host.pool.target().is_mesh(),
        }
    }
}
