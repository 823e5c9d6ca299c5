//! The accepted resources together with the builder that makes snapshots of them: what a blocking thread works on.
//!
//! The supervisor sends one piece of work at a time here; ten thousand clusters are decoded while probes are answered.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outrigger_config::build::{Builder, Raw, guarded};
use outrigger_config::snapshot::Snapshot;
use outrigger_core::Name;
use outrigger_proto::xds::discovery::{DeltaDiscoveryResponse, Resource};
use tokio::time::Instant;

use crate::cache::Cache;
use crate::kind::{Kind, PerKind};
use crate::references::References;
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
    judge: Judge,
}

/// Says whether a resource can be used. A field so that a test can put a faulty one in its place.
pub(crate) type Judge = fn(Kind, &Changed) -> Result<(), String>;

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

/// A response whose resources were judged, each by itself. Nothing is accepted yet.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) kind: Kind,
    /// What can be used, in the order of the response.
    pub(crate) good: Vec<(Changed, References)>,
    /// Names of resources that are held as they came.
    pub(crate) settled: Vec<String>,
    pub(crate) removed: Vec<String>,
    pub(crate) refused: Vec<Refused>,
}

impl Judged {
    /// A response that says nothing.
    pub(crate) fn nothing(kind: Kind) -> Self {
        let (good, settled, removed, refused) = Default::default();
        Self { kind, good, settled, removed, refused }
    }

    /// Refuses a resource after all.
    pub(crate) fn refuse(&mut self, name: &str, reason: String) {
        self.good.retain(|(changed, _)| changed.name != name);
        self.refused.push(Refused { name: name.into(), reason });
    }
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
        Self(Arc::new(Mutex::new(Store { mode, builder, accepted, warming, judge: decodes })))
    }

    /// Works on a blocking thread. Cancelled while it waits, the work is done all the same. Fails with the text of a panic.
    pub(crate) async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> T + Send + 'static,
    ) -> Result<T, String> {
        let store = self.clone();
        let done = tokio::task::spawn_blocking(move || guarded(|| work(&mut store.lock()))).await;
        done.unwrap_or_else(|cancelled| Err(cancelled.to_string()))
    }

    /// For who is on a blocking thread already.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Store> {
        // What a bug left half-done is still a set of accepted resources.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    #[cfg(test)]
    pub(crate) fn judge_by(&mut self, judge: Judge) {
        self.judge = judge;
    }

    /// What the server was told that we have.
    pub(crate) fn accepted(&self) -> &Cache {
        &self.accepted
    }

    /// What traffic uses, and what a restart is to find: all of it is warm.
    pub(crate) fn published(&self) -> &Cache {
        self.warming.published()
    }

    /// Decodes and compiles each resource of a response; what cannot be used is refused by name.
    pub(crate) fn judge(&self, update: Update) -> Judged {
        let Update { kind, nonce: _, changed, removed, mut refused } = update;
        // Sent again as it is, after a reconnect or because its cluster changed: nothing to decode.
        let (known, changed): (Vec<_>, Vec<_>) =
            changed.into_iter().partition(|changed| self.accepted.holds(kind, changed));
        let settled = known.into_iter().map(|known| known.name).collect();
        let mut good = Vec::with_capacity(changed.len());
        for changed in changed {
            // What is accepted may yet have to wait, and the builder that serves must not know it before it is warm: it is
            // decoded twice for that.
            let judged = guarded(|| {
                (self.judge)(kind, &changed)?;
                Ok(References::of(kind, &changed.body))
            });
            match judged.unwrap_or_else(Err) {
                Ok(references) => good.push((changed, references)),
                Err(reason) => refused.push(Refused { name: changed.name, reason }),
            }
        }
        Judged { kind, good, settled, removed, refused }
    }

    /// Takes in what can be used of a response; of what is refused the last good version stays.
    pub(crate) fn accept(&mut self, judged: Judged, demanded: &BTreeSet<Name>, now: Instant) -> Applied {
        let Judged { kind, good, mut settled, removed, refused } = judged;
        settled.extend(removed.iter().cloned());
        settled.extend(self.take_in(kind, good, &removed));
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
            let changed = changed.collect();
            let update = Update { kind, nonce: String::new(), changed, removed: vec![], refused: vec![] };
            let judged = self.judge(update);
            for Refused { name, reason } in &judged.refused {
                tracing::warn!(%kind, name, reason, "a saved resource is refused");
            }
            self.take_in(kind, judged.good, &[]);
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
                    mode == Mode::Wildcard || !held.references.destination || demanded.contains(name)
                }
                _ => every || wanted[kind].contains(name),
            });
            forgotten |= unwanted;
        }
        forgotten
    }

    /// Returns the names that were taken in.
    fn take_in(&mut self, kind: Kind, good: Vec<(Changed, References)>, removed: &[String]) -> Vec<String> {
        let names = good.iter().map(|(changed, _)| changed.name.clone()).collect();
        for (changed, references) in good {
            self.accepted.insert(kind, changed, references);
        }
        if !removed.is_empty() {
            let used = self.used_by_others(kind);
            for name in removed.iter().filter(|name| !used.contains(name.as_str())) {
                self.accepted.remove(kind, name);
            }
        }
        names
    }

    /// Names that the server cannot take back: the routes of a listener and the endpoints of a cluster stay until that lets
    /// go of them, as in Envoy.
    fn used_by_others(&self, kind: Kind) -> BTreeSet<Name> {
        let by = match kind {
            Kind::Route => Kind::Listener,
            Kind::Endpoints => Kind::Cluster,
            Kind::Listener | Kind::Cluster => return BTreeSet::new(),
        };
        let users = self.accepted.of(by).values().chain(self.published().of(by).values());
        let named = users.flat_map(|held| held.references.names());
        named.filter(|(of, _)| *of == kind).map(|(_, name)| name.clone()).collect()
    }
}

/// Judges a resource by itself, with a builder of its own.
fn decodes(kind: Kind, changed: &Changed) -> Result<(), String> {
    let raw = Raw {
        name: changed.name.as_str().into(),
        aliases: changed.aliases.iter().map(|alias| alias.as_str().into()).collect(),
        version: changed.version.as_str().into(),
        body: changed.body.clone(),
    };
    let refusal = Builder::default().apply(kind.type_url(), vec![raw], &[]).pop();
    refusal.map_or(Ok(()), |refusal| Err(refusal.reason.to_string()))
}

#[cfg(test)]
mod tests {
    use outrigger_proto::xds::protobuf;

    use super::*;
    use crate::testing::xds;

    fn store() -> Store {
        let (accepted, warming) = Default::default();
        Store { mode: Mode::Wildcard, builder: Builder::default(), accepted, warming, judge: decodes }
    }

    fn say(store: &mut Store, kind: Kind, changed: &[(&str, protobuf::Any)], removed: &[&str]) -> Applied {
        let changed = changed.iter().map(|(name, body)| Changed {
            name: (*name).into(),
            aliases: vec![],
            version: "1".into(),
            body: body.clone(),
        });
        let removed = removed.iter().map(|name| (*name).into()).collect();
        let update =
            Update { kind, nonce: String::new(), changed: changed.collect(), removed, refused: vec![] };
        let judged = store.judge(update);
        store.accept(judged, &BTreeSet::new(), Instant::now())
    }

    fn serving() -> Store {
        let mut store = store();
        say(&mut store, Kind::Cluster, &[("cart", xds::cluster("cart"))], &[]);
        say(&mut store, Kind::Endpoints, &[("cart", xds::endpoints("cart", &["10.0.0.1:80"]))], &[]);
        say(&mut store, Kind::Listener, &[("cart:80", xds::destination("cart:80", "cart"))], &[]);
        say(&mut store, Kind::Route, &[("cart", xds::route("cart", &["cart"]))], &[]);
        store
    }

    #[tokio::test]
    async fn a_bug_in_a_piece_of_work_comes_back_as_its_text_and_the_next_piece_is_done() {
        let shared = SharedStore(Arc::new(Mutex::new(store())));
        let failed = shared.with(|_| -> u32 { panic!("out of cheese") }).await;
        assert!(failed.unwrap_err().contains("out of cheese"));
        assert_eq!(shared.with(|_| 7).await, Ok(7));
    }

    #[tokio::test(start_paused = true)]
    async fn the_routes_of_a_listener_and_the_endpoints_of_a_cluster_cannot_be_taken_away() {
        let mut store = serving();
        for kind in [Kind::Route, Kind::Endpoints] {
            let applied = say(&mut store, kind, &[], &["cart"]);
            assert!(applied.step.snapshot.is_none() && applied.refused.is_empty());
            assert!(store.accepted().contains(kind, "cart") && store.published().contains(kind, "cart"));
        }
        say(&mut store, Kind::Listener, &[], &["cart:80"]);
        let applied = say(&mut store, Kind::Route, &[], &["cart"]);
        assert!(!store.accepted().contains(Kind::Route, "cart"), "{applied:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn new_content_under_an_old_version_is_published() {
        let mut store = serving();
        let same = say(&mut store, Kind::Route, &[("cart", xds::route("cart", &["cart"]))], &[]);
        assert!(same.step.snapshot.is_none());
        let changed = say(&mut store, Kind::Route, &[("cart", xds::route("cart", &["cart", "cart"]))], &[]);
        assert!(changed.step.snapshot.is_some());
    }
}
