//! What a pick needs to know about all hosts of a cluster, so that it does not have to visit them.
//!
//! All hosts are counted once a second, and soon after an ejection or a pushback. An update of the endpoints adjusts the
//! numbers by the hosts that it replaces. In between the numbers may be stale by up to a second, which makes the shares of
//! groups inexact. Whether a host is picked is always decided by its present state.

use std::rc::Rc;
use std::time::Duration;

use outrigger_config::cluster::Cluster as Config;
use outrigger_config::endpoint::groups::Groups;
use tokio::time::Instant;

use crate::upstream::host::Host;

/// The shortest time between two counts.
const COUNTED_EVERY: Duration = Duration::from_millis(100);

/// Which hosts may be picked, as far as active checks are concerned. If fewer pass than the panic threshold says, all are used, since
/// so many failures are more likely due to the checks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Allowed {
    /// Those that pass. All, if there are no checks.
    #[default]
    Passing,
    /// All but those that were never checked (`ignore_new_hosts_until_first_hc`), since too few pass.
    Checked,
    /// All, since too few pass.
    All,
}

impl Allowed {
    /// Returns whether a host is allowed.
    pub(super) fn allows(self, host: &Host) -> bool {
        match &*host.checked.borrow() {
            None => true,
            Some(checked) => match self {
                Self::Passing => checked.is_healthy(),
                Self::Checked => !checked.is_pending(),
                Self::All => true,
            },
        }
    }

    /// Returns what is allowed in a panic. `None` if the threshold is 0: then there is none.
    pub(super) fn in_panic(config: &Config) -> Option<Self> {
        let all = if config.panic.ignores_new { Self::Checked } else { Self::All };
        (config.panic.threshold > 0.0).then_some(all)
    }

    /// Returns what is allowed with these hosts.
    pub(super) fn now(config: &Config, hosts: &[Rc<Host>]) -> Self {
        let Some(panic) = Self::in_panic(config).filter(|_| config.health_check.is_some()) else {
            return Self::Passing;
        };
        let counted = hosts.iter().filter(|host| host.takes_new && panic.allows(host));
        let (all, passing) = counted.fold((0u32, 0u32), |(all, passing), host| {
            (all + 1, passing + u32::from(Self::Passing.allows(host)))
        });
        // Requests wait for the first round of checks (`Cluster::first_checks`).
        let is_pending = |host: &Rc<Host>| {
            host.takes_new && host.checked.borrow().as_ref().is_some_and(|checked| checked.is_pending())
        };
        if passing == 0 && hosts.iter().any(is_pending) {
            return Self::Passing;
        }
        if f64::from(passing) * 100.0 < f64::from(all) * config.panic.threshold {
            panic
        } else {
            Self::Passing
        }
    }
}

/// Numbers of available hosts, and which hosts are ejected.
#[derive(Debug, Default)]
pub(super) struct Availability {
    /// The number of available hosts of each group.
    by_group: Vec<usize>,
    ejected: Vec<Rc<Host>>,
    /// `Ejections::changes` when the hosts were last counted, and when that was. `None` if they must be counted.
    counted: Option<(u64, Instant)>,
    allowed: Allowed,
}

impl Availability {
    /// Returns the number of available hosts of each group.
    pub(super) fn by_group(&self) -> &[usize] {
        &self.by_group
    }

    /// Returns which hosts active checks allow, as counted last.
    pub(super) fn allowed(&self) -> Allowed {
        self.allowed
    }

    pub(super) fn set_allowed(&mut self, allowed: Allowed) {
        self.allowed = allowed;
    }

    /// Returns the hosts that are ejected.
    pub(super) fn ejected(&self) -> &[Rc<Host>] {
        &self.ejected
    }

    /// Returns whether the hosts were counted since the groups last changed.
    pub(super) fn is_counted(&self) -> bool {
        self.counted.is_some()
    }

    /// Returns whether the hosts are to be counted before a pick. `changes` is that of the cluster's ejections.
    pub(super) fn is_due(&self, changes: u64, now: Instant) -> bool {
        self.counted.is_none_or(|(counted, at)| {
            counted != changes && now.saturating_duration_since(at) >= COUNTED_EVERY
        })
    }

    /// Counts all hosts.
    pub(super) fn count(
        &mut self,
        groups: &Groups,
        hosts: &[Rc<Host>],
        changes: u64,
        now: Instant,
        is_available: impl Fn(&Host) -> bool,
    ) {
        self.by_group.clear();
        self.by_group.resize(groups.all().len(), 0);
        self.ejected.clear();
        for (at, host) in hosts.iter().enumerate() {
            self.add(groups.of(at), host, is_available(host));
        }
        self.counted = Some((changes, now));
    }

    /// Counts a host that was added to a group.
    pub(super) fn add(&mut self, group: usize, host: &Rc<Host>, is_available: bool) {
        self.by_group[group] += usize::from(is_available);
        if !host.health.is_serving() {
            self.ejected.push(Rc::clone(host));
        }
    }

    /// No longer counts a host that was removed from a group.
    pub(super) fn remove(&mut self, group: usize, host: &Rc<Host>, is_available: bool) {
        self.by_group[group] = self.by_group[group].saturating_sub(usize::from(is_available));
        self.ejected.retain(|ejected| !Rc::ptr_eq(ejected, host));
    }

    /// The groups have changed: the hosts must be counted.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}
