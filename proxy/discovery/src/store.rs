//! The accepted resources together with the builder that makes snapshots of them: what a blocking thread works on.
//!
//! The supervisor sends one piece of work at a time here; ten thousand clusters are decoded while probes are answered.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outrigger_config::build::{Builder, Raw};
use outrigger_config::snapshot::Snapshot;
use outrigger_core::Name;
use outrigger_proto::xds::discovery::{DeltaDiscoveryResponse, Resource};
use tokio::task::JoinError;
use tokio::time::Instant;

use crate::cache::Cache;
use crate::kind::{Kind, PerKind};
use crate::stream::{Changed, Refused, Update, WILDCARD};
use crate::subscriptions::{Mode, wanted};
use crate::warming::{Difference, Warming};

/// Names wanted, by kind.
pub(crate) type Wanted = PerKind<BTreeSet<String>>;

/// The store, for one thread at a time.
#[derive(Debug, Clone)]
pub(crate) struct SharedStore(Arc<Mutex<Store>>);

/// Resources and builder.
#[derive(Debug)]
pub(crate) struct Store {
    mode: Mode,
    builder: Builder,
    accepted: Cache,
    warming: Warming,
}

/// What a piece of work leads to.
#[derive(Debug)]
pub(crate) struct Step {
    /// To publish, if there is a difference.
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    pub(crate) wanted: Wanted,
    /// When to call [`Store::advance`] at the latest.
    pub(crate) warm_by: Option<Instant>,
    /// Resources held.
    pub(crate) held: PerKind<usize>,
    /// Whether what is published has changed, so that the saved file is behind.
    pub(crate) saved_is_behind: bool,
}

/// What came of a response.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) refused: Vec<Refused>,
    /// Names whose refusal is over: accepted now, or gone.
    pub(crate) settled: Vec<String>,
    pub(crate) removed: Vec<String>,
    pub(crate) step: Step,
}

/// What was read back.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) destinations: BTreeSet<Name>,
    pub(crate) step: Step,
}

impl SharedStore {
    pub(crate) fn new(builder: Builder, mode: Mode) -> Self {
        let (accepted, warming) = Default::default();
        Self(Arc::new(Mutex::new(Store { mode, builder, accepted, warming })))
    }

    /// Works on a blocking thread. Cancelled while it waits, the work is done all the same.
    pub(crate) async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let store = self.clone();
        tokio::task::spawn_blocking(move || work(&mut store.lock())).await
    }

    /// For who is on a blocking thread already.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Store> {
        // What a piece of work left half-done by a bug is still a set of accepted resources.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// What the server was told that we have.
    pub(crate) fn accepted(&self) -> &Cache {
        &self.accepted
    }

    /// What traffic uses, and what a restart is to find: all of it is warm.
    pub(crate) fn published(&self) -> &Cache {
        self.warming.published()
    }

    /// Takes a response in: decodes and compiles each resource, refuses by name what cannot be used, keeps its last good
    /// version.
    pub(crate) fn apply(&mut self, update: Update, demanded: &BTreeSet<Name>, now: Instant) -> Applied {
        let Update { kind, nonce: _, changed, removed, mut refused } = update;
        let mut settled = removed.clone();
        refused.extend(self.take_in(kind, changed, &removed, &mut settled));
        let step = self.advance(demanded, now);
        Applied { refused, settled, removed, step }
    }

    /// Reads back what was saved, through the same decode. Everything that is accepted counts as warm.
    pub(crate) fn restore(&mut self, responses: Vec<DeltaDiscoveryResponse>) -> Restored {
        for DeltaDiscoveryResponse { type_url, resources, .. } in responses {
            let Some(kind) = Kind::of_type_url(&type_url) else { continue };
            let changed = resources.into_iter().filter_map(|resource| {
                let Resource { name, aliases, version, resource, .. } = resource;
                Some(Changed { name, aliases, version, body: resource? })
            });
            for Refused { name, reason } in self.take_in(kind, changed.collect(), &[], &mut Vec::new()) {
                tracing::warn!(%kind, name, reason, "a saved resource is refused");
            }
        }
        let differences = self.warming.restore(&self.accepted);
        let destinations = match self.mode {
            Mode::OnDemand => {
                let listeners = self.accepted.of(Kind::Listener).iter();
                listeners.filter(|(_, l)| l.references.destination).map(|(name, _)| name.clone()).collect()
            }
            Mode::Wildcard => BTreeSet::new(),
        };
        let step = self.step(differences, &destinations, Instant::now());
        Restored { destinations, step }
    }

    /// Decides anew what is published and what is wanted.
    pub(crate) fn advance(&mut self, demanded: &BTreeSet<Name>, now: Instant) -> Step {
        let differences = self.warming.advance(&self.accepted, now);
        self.step(differences, demanded, now)
    }

    fn step(&mut self, mut differences: Vec<Difference>, demanded: &BTreeSet<Name>, now: Instant) -> Step {
        let wanted = wanted(self.mode, demanded, &self.accepted, self.warming.published());
        if self.forget_unwanted(&wanted, demanded) {
            differences.extend(self.warming.advance(&self.accepted, now));
        }
        Step {
            saved_is_behind: !differences.is_empty(),
            snapshot: self.build(differences),
            wanted,
            warm_by: self.warming.next_deadline(),
            held: PerKind::from_fn(|kind| self.accepted.of(kind).len()),
        }
    }

    /// Gives the differences to the builder. All of it is warm, or has waited long enough.
    fn build(&mut self, differences: Vec<Difference>) -> Option<Arc<Snapshot>> {
        for Difference { kind, changed, removed } in differences {
            let raw = changed.into_iter().map(|(name, held)| Raw {
                name,
                aliases: held.aliases.iter().map(|alias| alias.as_str().into()).collect(),
                version: held.version.as_str().into(),
                body: held.body.clone(),
            });
            for refusal in self.builder.apply(kind.type_url(), raw.collect(), &removed) {
                tracing::error!(%kind, name = %refusal.name, reason = %refusal.reason, "accepted, and yet refused");
            }
        }
        self.builder.build()
    }

    /// Drops what nothing leads to any more. A destination goes with its demand; under a wildcard, only the server says.
    fn forget_unwanted(&mut self, wanted: &Wanted, demanded: &BTreeSet<Name>) -> bool {
        let mode = self.mode;
        let mut forgotten = false;
        for kind in Kind::ALL {
            let every = wanted[kind].contains(WILDCARD);
            let unwanted = self.accepted.retain(kind, |name, held| match kind {
                Kind::Listener => {
                    mode == Mode::Wildcard
                        || held.is_none_or(|held| !held.references.destination)
                        || demanded.contains(name)
                }
                _ => every || wanted[kind].contains(name),
            });
            forgotten |= unwanted;
        }
        forgotten
    }

    fn take_in(
        &mut self,
        kind: Kind,
        changed: Vec<Changed>,
        removed: &[String],
        settled: &mut Vec<String>,
    ) -> Vec<Refused> {
        // Sent again as it is, after a reconnect or because its cluster changed: nothing to decode.
        let (changed, known): (Vec<_>, Vec<_>) = changed
            .into_iter()
            .partition(|changed| !self.accepted.holds(kind, &changed.name, &changed.version));
        settled.extend(known.into_iter().map(|known| known.name));
        let refused = refusals(kind, &changed);
        let names: BTreeSet<&str> = refused.iter().map(|refused| refused.name.as_str()).collect();
        for changed in changed {
            if !names.contains(changed.name.as_str()) {
                settled.push(changed.name.clone());
                self.accepted.insert(kind, changed);
            }
        }
        removed.iter().for_each(|name| self.accepted.remove(kind, name));
        refused
    }
}

/// What cannot be used of a response, each resource judged by itself. A builder of its own decides, because what is
/// accepted may yet have to wait, and the builder that serves must not know it before it is warm. A resource is decoded
/// twice for that.
fn refusals(kind: Kind, changed: &[Changed]) -> Vec<Refused> {
    let raw = changed.iter().map(|changed| Raw {
        name: changed.name.as_str().into(),
        aliases: changed.aliases.iter().map(|alias| alias.as_str().into()).collect(),
        version: changed.version.as_str().into(),
        body: changed.body.clone(),
    });
    let refusals = Builder::default().apply(kind.type_url(), raw.collect(), &[]);
    let refused =
        refusals.into_iter().map(|r| Refused { name: r.name.to_string(), reason: r.reason.to_string() });
    refused.collect()
}
