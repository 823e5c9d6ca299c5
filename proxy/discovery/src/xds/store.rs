//! The accepted resources and the snapshot builder, used on a blocking thread.
//!
//! The supervisor submits one operation at a time, so that admin requests are served while ten thousand clusters are decoded.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use outrigger_config::build::Builder;
use outrigger_config::compiled::{Compiled, Raw, Unusable};
use outrigger_config::resources::Resources;
use outrigger_config::snapshot::Snapshot;
use outrigger_core::Name;
use outrigger_proto::kind::{Kind, PerKind};
use outrigger_proto::xds::discovery::{DeltaDiscoveryResponse, Resource};
use tokio::time::Instant;

use crate::status::Refused;
use crate::xds::stream::{Update, WILDCARD};
use crate::xds::subscriptions::{Mode, wanted};
use crate::xds::warming::Warming;

/// Wanted names, by kind.
pub(crate) type Wanted = PerKind<BTreeSet<String>>;

/// The shared store; one thread uses it at a time.
#[derive(Debug, Clone)]
pub(crate) struct SharedStore(Arc<Mutex<Store>>);

/// Resources and builder.
#[derive(Debug)]
pub(crate) struct Store {
    mode: Mode,
    builder: Builder,
    accepted: Resources,
    warming: Warming,
    compile: Compile,
}

/// [`Compiled::new`]; a field so that a test can replace it by a faulty one.
pub(crate) type Compile = fn(Kind, Raw, Option<&Compiled>) -> Result<Compiled, Unusable>;

/// The result of an operation.
#[derive(Debug)]
pub(crate) struct Step {
    /// The snapshot to publish, if anything changed.
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    pub(crate) wanted: Wanted,
    /// When to call [`Store::advance`] at the latest.
    pub(crate) warm_by: Option<Instant>,
    /// Number of accepted resources.
    pub(crate) held: PerKind<usize>,
    /// Whether the published resources have changed, so that the saved file is outdated.
    pub(crate) saved_is_behind: bool,
}

/// A response whose resources were validated one by one. None is accepted yet.
#[derive(Debug)]
pub(crate) struct Validated {
    pub(crate) kind: Kind,
    /// The valid resources, in the order of the response.
    pub(crate) good: Vec<Arc<Compiled>>,
    pub(crate) removed: Vec<String>,
    pub(crate) refused: Vec<Refused>,
}

impl Validated {
    /// Refuses some of the valid resources after all, by name.
    pub(crate) fn refuse(&mut self, reasons: &BTreeMap<Name, String>) {
        self.good.retain(|resource| !reasons.contains_key(&resource.raw().name));
        let refused = reasons.iter().map(|(name, reason)| (name.to_string(), reason.clone()));
        self.refused.extend(refused.map(|(name, reason)| Refused { name, reason }));
    }
}

/// The result of a response.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) refused: Vec<Refused>,
    /// Names that are no longer refused: accepted now, or removed.
    pub(crate) recovered: Vec<String>,
    pub(crate) removed: Vec<String>,
    pub(crate) step: Step,
}

/// The result of restoring the saved resources.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) destinations: BTreeSet<Name>,
    pub(crate) step: Step,
}

impl SharedStore {
    pub(crate) fn new(builder: Builder, mode: Mode) -> Self {
        let (accepted, warming) = Default::default();
        Self(Arc::new(Mutex::new(Store { mode, builder, accepted, warming, compile: Compiled::new })))
    }

    /// Runs `work` on a blocking thread. It completes even if the future is dropped. Returns the text of a panic as an error.
    pub(crate) async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> T + Send + 'static,
    ) -> Result<T, String> {
        let store = self.clone();
        let done = tokio::task::spawn_blocking(move || guarded(|| work(&mut store.lock()))).await;
        done.unwrap_or_else(|cancelled| Err(cancelled.to_string()))
    }

    /// Locks the store. For callers that are on a blocking thread already.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Store> {
        // After a panic the content is still a consistent set of accepted resources.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    #[cfg(test)]
    pub(crate) fn compile_by(&mut self, compile: Compile) {
        self.compile = compile;
    }

    /// Returns what was acknowledged to the server.
    pub(crate) fn accepted(&self) -> &Resources {
        &self.accepted
    }

    /// Returns what traffic uses and a restart restores. All of it is warm.
    pub(crate) fn published(&self) -> &Resources {
        self.warming.published()
    }

    /// Returns the versions to send on a reconnect, so that the server sends only differences.
    pub(crate) fn versions(&self, kind: Kind) -> HashMap<String, String> {
        let accepted = self.accepted.of(kind).iter();
        accepted.map(|(name, resource)| (name.to_string(), resource.raw().version.clone())).collect()
    }

    /// Compiles each resource of a response; invalid ones are refused by name.
    pub(crate) fn validate(&self, update: Update) -> Validated {
        let now = SystemTime::now();
        self.compiled(update, |resource| resource.received_at(now))
    }

    fn compiled(&self, update: Update, received: impl Fn(Compiled) -> Compiled) -> Validated {
        let Update { kind, nonce: _, changed, removed, mut refused } = update;
        let mut good = Vec::with_capacity(changed.len());
        for raw in changed {
            let name = raw.name.clone();
            let before = self.accepted.get(kind, &name).or_else(|| self.published().get(kind, &name));
            let compiled = guarded(|| (self.compile)(kind, raw, before.map(Arc::as_ref)));
            match compiled.and_then(|compiled| compiled.map_err(|unusable| unusable.to_string())) {
                Ok(compiled) => good.push(Arc::new(received(compiled))),
                Err(reason) => refused.push(Refused { name: name.to_string(), reason }),
            }
        }
        Validated { kind, good, removed, refused }
    }

    /// Accepts the valid resources of a response. For refused ones the last good version stays.
    pub(crate) fn accept(
        &mut self,
        validated: Validated,
        destinations: &BTreeSet<Name>,
        now: Instant,
    ) -> Applied {
        let Validated { kind, good, removed, refused } = validated;
        let names = good.iter().map(|resource| resource.raw().name.to_string());
        let recovered = names.chain(removed.iter().cloned()).collect();
        self.apply(kind, good, &removed);
        let step = self.advance(destinations, now);
        Applied { refused, recovered, removed, step }
    }

    /// Restores the saved resources through the same decoding. Everything accepted counts as warm.
    pub(crate) fn restore(&mut self, responses: Vec<DeltaDiscoveryResponse>) -> Restored {
        for DeltaDiscoveryResponse { type_url, resources, .. } in responses {
            let Some(kind) = Kind::from_type_url(&type_url) else { continue };
            let changed = resources.into_iter().filter_map(|resource| {
                let Resource { name, aliases, version, resource, .. } = resource;
                let aliases = aliases.into_iter().map(Into::into).collect();
                Some(Raw { name: name.into(), aliases, version, body: resource? })
            });
            let changed = changed.collect();
            let update = Update { kind, nonce: String::new(), changed, removed: vec![], refused: vec![] };
            let validated = self.compiled(update, |resource| resource);
            for Refused { name, reason } in &validated.refused {
                tracing::warn!(%kind, name, reason, "a saved resource is refused");
            }
            self.apply(kind, validated.good, &[]);
        }
        let before = self.warming.restore(&self.accepted);
        let destinations = match self.mode {
            Mode::OnDemand => {
                let listeners = self.accepted.of(Kind::Listener).iter();
                listeners.filter(|(_, of)| of.is_destination()).map(|(name, _)| name.clone()).collect()
            }
            Mode::Wildcard => {
                let listeners = self.accepted.of(Kind::Listener).iter();
                listeners.filter(|(_, of)| of.is_host()).map(|(name, _)| name.clone()).collect()
            }
        };
        let step = self.step(before, &destinations, Instant::now());
        Restored { destinations, step }
    }

    /// Recomputes what is published and what is wanted.
    pub(crate) fn advance(&mut self, destinations: &BTreeSet<Name>, now: Instant) -> Step {
        let before = self.warming.advance(&self.accepted, now);
        self.step(before, destinations, now)
    }

    fn step(&mut self, before: Resources, destinations: &BTreeSet<Name>, now: Instant) -> Step {
        let wanted = wanted(self.mode, destinations, &self.accepted, self.warming.published());
        if self.forget_unwanted(&wanted, destinations) {
            self.warming.advance(&self.accepted, now);
        }
        let published = self.warming.published();
        Step {
            saved_is_behind: !before.same_content(published),
            snapshot: self.builder.build(&before, published),
            wanted,
            warm_by: self.warming.next_deadline(),
            held: PerKind::from_fn(|kind| self.accepted.of(kind).len()),
        }
    }

    /// Drops resources that nothing needs any more. A destination is dropped with its demand; in wildcard mode only by the server.
    fn forget_unwanted(&mut self, wanted: &Wanted, destinations: &BTreeSet<Name>) -> bool {
        let mode = self.mode;
        let mut forgotten = false;
        for kind in Kind::ALL {
            let every = wanted[kind].contains(WILDCARD);
            let unwanted = self.accepted.retain(kind, |name, resource| match kind {
                Kind::Listener => {
                    let pushed = mode == Mode::Wildcard && !resource.is_host();
                    pushed || !resource.is_destination() || destinations.contains(name)
                }
                _ => every || wanted[kind].contains(&**name),
            });
            forgotten |= unwanted;
        }
        forgotten
    }

    fn apply(&mut self, kind: Kind, good: Vec<Arc<Compiled>>, removed: &[String]) {
        for resource in good {
            self.accepted.insert(kind, resource);
        }
        if !removed.is_empty() {
            let used = self.used_by_others(kind);
            for name in removed.iter().filter(|name| !used.contains(name.as_str())) {
                self.accepted.remove(kind, name);
            }
        }
    }

    /// Returns the names that the server cannot remove: as in Envoy, routes stay while a listener uses them, and endpoints while
    /// their cluster does.
    fn used_by_others(&self, kind: Kind) -> BTreeSet<Name> {
        let by = match kind {
            Kind::Route => Kind::Listener,
            Kind::Endpoints => Kind::Cluster,
            Kind::Listener | Kind::Cluster => return BTreeSet::new(),
        };
        let users = self.accepted.of(by).values().chain(self.published().of(by).values());
        let named = users.flat_map(|resource| resource.references());
        named.filter(|(of, _)| *of == kind).map(|(_, name)| name.clone()).collect()
    }
}

/// Runs `work` and returns a panic as text, so that a bug does not leave the control plane without a response.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // State is replaced as a whole, last: a panic leaves the last good version.
    std::panic::catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().copied().map(String::from);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        format!("a bug of this proxy: reading it panicked: {text}")
    })
}

#[cfg(test)]
mod tests {
    use outrigger_proto::xds::protobuf;

    use super::*;
    use crate::testing::xds;

    fn store() -> Store {
        let (accepted, warming) = Default::default();
        Store { mode: Mode::Wildcard, builder: Builder::default(), accepted, warming, compile: Compiled::new }
    }

    fn respond(
        store: &mut Store,
        kind: Kind,
        changed: &[(&str, protobuf::Any)],
        removed: &[&str],
    ) -> Applied {
        let changed = changed.iter().map(|(name, body)| Raw {
            name: (*name).into(),
            aliases: vec![],
            version: "1".into(),
            body: body.clone(),
        });
        let removed = removed.iter().map(|name| (*name).into()).collect();
        let update =
            Update { kind, nonce: String::new(), changed: changed.collect(), removed, refused: vec![] };
        let validated = store.validate(update);
        store.accept(validated, &BTreeSet::new(), Instant::now())
    }

    fn serving() -> Store {
        let mut store = store();
        respond(&mut store, Kind::Cluster, &[("cart", xds::cluster("cart"))], &[]);
        respond(&mut store, Kind::Endpoints, &[("cart", xds::endpoints("cart", &["10.0.0.1:80"]))], &[]);
        respond(&mut store, Kind::Listener, &[("cart:80", xds::destination("cart:80", "cart"))], &[]);
        respond(&mut store, Kind::Route, &[("cart", xds::route("cart", &["cart"]))], &[]);
        store
    }

    #[tokio::test]
    async fn a_panic_is_returned_as_text_and_the_next_operation_runs() {
        let shared = SharedStore(Arc::new(Mutex::new(store())));
        let failed = shared.with(|_| -> u32 { panic!("out of cheese") }).await;
        assert!(failed.unwrap_err().contains("out of cheese"));
        assert_eq!(shared.with(|_| 7).await, Ok(7));
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_content_under_a_new_version_is_neither_decoded_nor_published_again() {
        let mut store = serving();
        store.compile_by(|kind, raw, before| {
            assert!(before.is_some_and(|before| before.raw().body == raw.body), "decoded: {}", raw.name);
            Compiled::new(kind, raw, before)
        });
        let raw = |name: &str, body| Raw { name: name.into(), aliases: vec![], version: "2".into(), body };
        for (kind, raw) in [
            (Kind::Cluster, raw("cart", xds::cluster("cart"))),
            (Kind::Listener, raw("cart:80", xds::destination("cart:80", "cart"))),
        ] {
            let update =
                Update { kind, nonce: String::new(), changed: vec![raw], removed: vec![], refused: vec![] };
            let validated = store.validate(update);
            let applied = store.accept(validated, &BTreeSet::new(), Instant::now());
            assert!(applied.refused.is_empty() && applied.step.snapshot.is_none());
            assert!(store.published().of(kind).values().all(|resource| resource.raw().version == "2"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_routes_of_a_listener_and_the_endpoints_of_a_cluster_cannot_be_removed() {
        let mut store = serving();
        for kind in [Kind::Route, Kind::Endpoints] {
            let applied = respond(&mut store, kind, &[], &["cart"]);
            assert!(applied.step.snapshot.is_none() && applied.refused.is_empty());
            assert!(store.accepted().contains(kind, "cart") && store.published().contains(kind, "cart"));
        }
        respond(&mut store, Kind::Listener, &[], &["cart:80"]);
        let applied = respond(&mut store, Kind::Route, &[], &["cart"]);
        assert!(!store.accepted().contains(Kind::Route, "cart"), "{applied:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn new_content_under_an_old_version_is_published() {
        let mut store = serving();
        let same = respond(&mut store, Kind::Route, &[("cart", xds::route("cart", &["cart"]))], &[]);
        assert!(same.step.snapshot.is_none());
        let changed =
            respond(&mut store, Kind::Route, &[("cart", xds::route("cart", &["cart", "cart"]))], &[]);
        assert!(changed.step.snapshot.is_some());
    }
}
