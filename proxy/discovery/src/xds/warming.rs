//! Chooses the version of each resource that traffic uses: the newest one whose references are present, else the previous one.
//!
//! A cluster waits for its endpoints, a route for its clusters, a listener for its routes. Each missing name delays a version
//! by at most [`MAX_WAIT`], even if the server reported that it does not exist, because it may be created soon. A removed resource
//! stays for the same time while a published version, or a listener whose connections drain, refers to it. The decision is
//! pure: accepted resources and the time in, resources to publish out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::compiled::Compiled;
use outrigger_config::resources::Resources;
use outrigger_core::Name;
use outrigger_proto::kind::{Kind, PerKind};
use tokio::time::Instant;

/// Maximum wait for a name, and maximum time that a removed but used resource stays. Envoy's `initial_fetch_timeout` has the
/// same default.
const MAX_WAIT: Duration = Duration::from_secs(15);

/// In dependency order: referenced kinds first.
const KINDS: [Kind; 4] = [Kind::Endpoints, Kind::Cluster, Kind::Route, Kind::Listener];

/// The deadline of each name, by kind.
type Deadlines = PerKind<BTreeMap<Name, Instant>>;

/// The published resources, and the names they wait for.
#[derive(Debug, Default)]
pub(crate) struct Warming {
    published: Resources,
    /// Missing names that accepted resources refer to. An expired name stays here until it arrives or is no longer referenced, so
    /// that it does not delay a later version again.
    awaited: Deadlines,
    /// Removed names that a published or draining version still refers to.
    leaving: Deadlines,
    /// Former versions of listeners, and until when their connections may drain. Such a connection keeps the version that
    /// accepted it, and looks up the route and the cluster of each request in what is published.
    draining: Vec<(Arc<Compiled>, Instant)>,
    next_deadline: Option<Instant>,
}

impl Warming {
    /// Publishes everything as it is: saved resources were warm, and there may be no server to complete them. Returns what was
    /// published before.
    pub(crate) fn restore(&mut self, accepted: &Resources) -> Resources {
        std::mem::replace(&mut self.published, accepted.clone())
    }

    /// Returns the published resources.
    pub(crate) fn published(&self) -> &Resources {
        &self.published
    }

    /// Returns when to call [`Self::advance`] at the latest, because a deadline expires.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.next_deadline
    }

    /// Recomputes what is published. Returns what was published before.
    pub(crate) fn advance(&mut self, accepted: &Resources, now: Instant) -> Resources {
        let mut next = Resources::default();
        // Referenced kinds first, so that one pass settles a whole chain.
        for kind in KINDS {
            for (name, resource) in accepted.of(kind) {
                let before = self.published.get(kind, name);
                if before.is_some_and(|before| before.same_content(resource))
                    || await_names(&mut self.awaited, resource, &next, now)
                {
                    next.insert(kind, resource.clone());
                } else if let Some(before) = before {
                    next.insert(kind, before.clone());
                }
            }
        }
        self.drain_listeners(&next, now);
        self.keep_referenced(accepted, &mut next, now);
        self.drop_arrived(accepted, &next);
        let deadlines = [&self.awaited, &self.leaving].into_iter().flat_map(PerKind::iter);
        self.next_deadline =
            deadlines.flat_map(|(_, names)| names.values()).filter(|at| **at > now).min().copied();
        std::mem::replace(&mut self.published, next)
    }

    /// Starts to drain the listeners that `next` removes or replaces. A destination needs no draining: it has no socket, and its
    /// connections look it up by name for each request.
    fn drain_listeners(&mut self, next: &Resources, now: Instant) {
        self.draining.retain(|(_, until)| *until > now);
        for (name, listener) in self.published.of(Kind::Listener) {
            let stays = next.get(Kind::Listener, name).is_some_and(|newer| newer.same_content(listener));
            if !stays && !listener.is_destination() {
                self.draining.push((Arc::clone(listener), now + MAX_WAIT));
            }
        }
    }

    /// Keeps removed resources while a published version refers to them: for [`MAX_WAIT`], and for as long as the successor of that
    /// version waits. Keeps what a draining listener or another such resource refers to for as long as that one.
    fn keep_referenced(&mut self, accepted: &Resources, next: &mut Resources, now: Instant) {
        let before = std::mem::take(&mut self.leaving);
        // Referring kinds first: a cluster that stays keeps its endpoints.
        for kind in KINDS.into_iter().rev() {
            let mut stay = Vec::new();
            let published = next.of(kind).iter();
            let published =
                published.map(|(name, resource)| (resource, self.leaving[kind].get(name).copied()));
            let draining = self.draining.iter().filter(|_| kind == Kind::Listener);
            let draining = draining.map(|(listener, until)| (listener, Some(*until)));
            for (resource, until) in published.chain(draining) {
                let by = &resource.raw().name;
                let succeeded = accepted.get(kind, by).is_some_and(|newer| !newer.same_content(resource));
                for (of, named) in resource.references() {
                    if accepted.contains(of, named) || !self.published.contains(of, named) {
                        continue;
                    }
                    let at = until.or_else(|| before[of].get(named).copied()).unwrap_or(now + MAX_WAIT);
                    if at > now || succeeded {
                        stay.push((of, named.clone(), at));
                    } else {
                        tracing::warn!(kind = %of, name = %named, %by, "removed while another resource still refers to it");
                    }
                }
            }
            for (of, named, at) in stay {
                if let Some(resource) = self.published.get(of, &named) {
                    next.insert(of, resource.clone());
                }
                let until = self.leaving[of].entry(named).or_insert(at);
                *until = (*until).max(at);
            }
        }
    }

    /// Stops waiting for names that have arrived or are no longer referenced.
    fn drop_arrived(&mut self, accepted: &Resources, next: &Resources) {
        if self.awaited.iter().all(|(_, names)| names.is_empty()) {
            return;
        }
        let mut referred: PerKind<BTreeSet<&Name>> = PerKind::default();
        for resource in KINDS.into_iter().flat_map(|kind| accepted.of(kind).values()) {
            for (kind, name) in resource.references() {
                referred[kind].insert(name);
            }
        }
        for kind in KINDS {
            self.awaited[kind].retain(|name, _| referred[kind].contains(name) && !next.contains(kind, name));
        }
    }
}

/// Returns true if every name that a resource refers to is present or has expired.
fn await_names(awaited: &mut Deadlines, resource: &Compiled, next: &Resources, now: Instant) -> bool {
    let mut ready = true;
    for (kind, name) in resource.references() {
        if !next.contains(kind, name) {
            let until = awaited[kind].entry(name.clone()).or_insert(now + MAX_WAIT);
            ready &= *until <= now;
        }
    }
    ready
}

#[cfg(test)]
mod tests;
