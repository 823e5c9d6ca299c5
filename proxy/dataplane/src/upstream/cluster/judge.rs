//! Judges hosts by the outcomes of attempts: failures, silence and pushback may take a host out of service.
//!
//! Called when an attempt has ended. All workers share the result (`outrigger_policy::outlier`). Without outlier detection in
//! the configuration of the cluster, no host is ejected.

use std::rc::Rc;
use std::time::Duration;

use outrigger_core::error::Failure;
use outrigger_policy::blame::{self, Blame, Freshness};
use outrigger_policy::outlier::{Ejected, Health, Outcome, OutlierDetection};
use tokio::time::Instant;

use super::Cluster;
use crate::upstream::host::{Host, HostAttempt};

impl Cluster {
    /// Counts a failed attempt against its host if the host is responsible for it.
    pub(crate) fn blame(&self, asking: &HostAttempt, failure: &Failure, connection: Freshness) {
        let Blame { alive, outcome } = blame::failed(failure, connection);
        asking.ended(failure, alive);
        self.record(asking, outcome);
    }

    /// Records the outcome of an attempt for its host, if it has one.
    pub(crate) fn record(&self, asking: &HostAttempt, outcome: Option<Outcome>) {
        let Some(outcome) = outcome else { return };
        if outcome == Outcome::Success {
            asking.answered();
        } else {
            asking.failed();
        }
        self.observe(asking.host(), outcome);
    }

    /// Counts the outcome of an attempt, for which its host may be ejected.
    pub(crate) fn observe(&self, host: &Host, outcome: Outcome) {
        if outcome == Outcome::Success {
            self.state.ledger.succeeded();
        }
        self.judge(host, |outlier, hosts, now, sample| {
            outlier.observe(&host.health, outcome, healths(hosts), now, sample)
        });
    }

    /// Counts the failure of an attempt that was counted as a success when its response head was received.
    pub(crate) fn observe_late(&self, host: &Host, outcome: Outcome) {
        self.judge(host, |outlier, hosts, now, sample| {
            outlier.observe_late(&host.health, outcome, healths(hosts), now, sample)
        });
    }

    fn judge(
        &self,
        host: &Host,
        judged: impl FnOnce(&OutlierDetection, &[Rc<Host>], Duration, u32) -> Option<Ejected>,
    ) {
        let config = self.config.borrow();
        let Some(outlier) = &config.outlier else { return };
        let members = self.members.borrow();
        let hosts = members.hosts();
        if let Some(ejected) = judged(outlier, hosts, self.shared.now(), fastrand::u32(..)) {
            self.tell(host, ejected);
        }
    }

    /// Compares the success rates of all hosts, if enabled and due.
    pub(super) fn compare(&self) {
        let config = self.config.borrow();
        let Some(outlier) = &config.outlier else { return };
        let members = self.members.borrow();
        let hosts = members.hosts();
        outlier.compare(
            &self.state.ejections,
            healths(hosts),
            self.shared.now(),
            || fastrand::u32(..),
            |at, ejected| self.tell(&hosts[at], ejected),
        );
    }

    fn tell(&self, host: &Host, ejected: Ejected) {
        let Ejected { kind, span } = ejected;
        let kind = kind.name();
        self.metrics.ejected(&self.name, kind);
        tracing::info!(cluster = %self.name, endpoint = %host.address, kind, ?span, "endpoint ejected");
    }

    /// Records that a pair has failed: another host answered the request that `host` leaves unanswered. Wakes the requests
    /// that wait for `host`, and ejects it if this continues.
    pub(crate) fn found_silent(&self, host: &Host) {
        host.silence.pair_failed();
        tracing::debug!(cluster = %self.name, endpoint = %host.address, "endpoint is silent while another answers");
        self.weigh_silence(host);
    }

    /// Ejects a host that has been silent for long enough, with enough evidence.
    pub(crate) fn weigh_silence(&self, host: &Host) {
        let members = self.members.borrow();
        let hosts = members.hosts();
        let waiting = hosts.iter().map(|host| host.load.in_flight()).fold(0, u32::saturating_add);
        let others = waiting.saturating_sub(host.load.in_flight());
        if !host.is_proven_silent(Instant::now(), others) {
            return;
        }
        let config = self.config.borrow();
        let Some(outlier) = &config.outlier else { return };
        if outlier.eject_silent(&host.health, hosts.len()) {
            self.metrics.ejected(&self.name, "silence");
            tracing::info!(
                cluster = %self.name,
                endpoint = %host.address,
                kind = "silence",
                "endpoint ejected: it answers nothing while others do"
            );
        }
    }

    /// Records the pushback of an endpoint.
    pub(crate) fn push_back(&self, host: &Host, pushback: Duration) {
        host.health.push_back(pushback, self.shared.now());
        tracing::debug!(cluster = %self.name, endpoint = %host.address, ?pushback, "endpoint pushes back");
    }
}

/// Returns the shared health of the hosts.
fn healths(hosts: &[Rc<Host>]) -> impl Iterator<Item = &Health> + Clone {
    hosts.iter().map(|host| &*host.health)
}
