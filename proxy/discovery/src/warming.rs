//! Which version of each resource traffic may use: the newest whose references are there, else the one before.
//!
//! A cluster waits for its endpoints, a route for its clusters, a listener for its routes; none for longer than
//! [`LONGEST`], after which it is published as it is. A name that the server says does not exist is not waited for. The
//! decision is pure: what was accepted and the time go in, what is to be published comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use outrigger_core::Name;
use tokio::time::Instant;

use crate::cache::{Cache, Held};
use crate::kind::{Kind, PerKind};

/// The longest wait of one version. Envoy's `initial_fetch_timeout` has the same default.
const LONGEST: Duration = Duration::from_secs(15);

/// What is referred to before what refers.
const KINDS: [Kind; 4] = [Kind::Endpoints, Kind::Cluster, Kind::Route, Kind::Listener];

/// What changed in one kind.
#[derive(Debug)]
pub(crate) struct Difference {
    pub(crate) kind: Kind,
    /// New, or in another version than before.
    pub(crate) changed: Vec<(Name, Arc<Held>)>,
    pub(crate) removed: Vec<Name>,
}

impl Difference {
    fn of(kind: Kind, before: &Cache, after: &Cache) -> Option<Self> {
        let (before, after) = (before.of(kind), after.of(kind));
        let same = |(name, held): &(&Name, &Arc<Held>)| {
            before.get(*name).is_some_and(|before| Arc::ptr_eq(before, held))
        };
        let changed: Vec<_> =
            after.iter().filter(|entry| !same(entry)).map(|(n, h)| (n.clone(), h.clone())).collect();
        let removed: Vec<_> = before.keys().filter(|name| !after.contains_key(*name)).cloned().collect();
        (!changed.is_empty() || !removed.is_empty()).then_some(Self { kind, changed, removed })
    }
}

/// What is published, and since when newer versions wait.
#[derive(Debug, Default)]
pub(crate) struct Warming {
    published: Cache,
    deadlines: PerKind<BTreeMap<Name, Deadline>>,
}

/// One waiting version.
#[derive(Debug)]
struct Deadline {
    version: Arc<Held>,
    at: Instant,
}

impl Warming {
    /// Takes everything as it is: what was saved had been warm, and no server may be there to complete it.
    pub(crate) fn restore(&mut self, accepted: &Cache) -> Vec<Difference> {
        let before = std::mem::replace(&mut self.published, accepted.clone());
        KINDS.into_iter().filter_map(|kind| Difference::of(kind, &before, accepted)).collect()
    }

    /// What traffic uses.
    pub(crate) fn published(&self) -> &Cache {
        &self.published
    }

    /// When something that waits is to be published anyway.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.iter().flat_map(|(_, waiting)| waiting.values()).map(|deadline| deadline.at).min()
    }

    /// Decides anew. Gives what has changed in what is published, in the order in which it is to be applied.
    pub(crate) fn advance(&mut self, accepted: &Cache, now: Instant) -> Vec<Difference> {
        let mut next = Cache::default();
        // From what is referred to up to what refers, so that one pass settles a whole chain.
        for kind in KINDS {
            let mut waiting = std::mem::take(&mut self.deadlines[kind]);
            for (name, held) in accepted.of(kind) {
                let before = self.published.of(kind).get(name);
                let current = before.is_some_and(|before| Arc::ptr_eq(before, held));
                if current || is_warm(kind, held, accepted, &next) {
                    next.share(kind, name, held);
                    continue;
                }
                let at = match waiting.remove(name) {
                    Some(deadline) if Arc::ptr_eq(&deadline.version, held) => deadline.at,
                    _ => now + LONGEST,
                };
                if at <= now {
                    tracing::warn!(%kind, %name, "published before all that it refers to has come");
                    next.share(kind, name, held);
                    continue;
                }
                self.deadlines[kind].insert(name.clone(), Deadline { version: Arc::clone(held), at });
                if let Some(before) = before {
                    next.share(kind, name, before);
                }
            }
        }
        self.keep_what_old_versions_need(accepted, &mut next);
        let before = std::mem::replace(&mut self.published, next);
        KINDS.into_iter().filter_map(|kind| Difference::of(kind, &before, &self.published)).collect()
    }

    /// A cluster that was removed because a newer route does without it stays, with its endpoints, for as long as that
    /// route waits.
    fn keep_what_old_versions_need(&self, accepted: &Cache, next: &mut Cache) {
        let old =
            |kind| self.deadlines[kind].keys().filter_map(move |name| self.published.of(kind).get(name));
        let routes: BTreeSet<&Name> = old(Kind::Listener).flat_map(|held| &held.references.routes).collect();
        for name in routes.into_iter().filter(|name| !accepted.of(Kind::Route).contains_key(*name)) {
            keep(&self.published, next, Kind::Route, name);
        }
        let mut clusters = BTreeSet::new();
        for kind in [Kind::Listener, Kind::Route] {
            clusters.extend(old(kind).flat_map(|held| &held.references.clusters));
        }
        for name in clusters {
            if !accepted.of(Kind::Cluster).contains_key(name) {
                keep(&self.published, next, Kind::Cluster, name);
            }
            let endpoints = next.of(Kind::Cluster).get(name).and_then(|c| c.references.endpoints.clone());
            if let Some(endpoints) = endpoints.filter(|name| !next.of(Kind::Endpoints).contains_key(name)) {
                keep(&self.published, next, Kind::Endpoints, &endpoints);
            }
        }
    }
}

fn keep(published: &Cache, next: &mut Cache, kind: Kind, name: &Name) {
    if let Some(held) = published.of(kind).get(name) {
        next.share(kind, name, held);
    }
}

fn is_warm(kind: Kind, held: &Held, accepted: &Cache, next: &Cache) -> bool {
    let there = |kind, name: &Name| next.of(kind).contains_key(name) || accepted.is_absent(kind, name);
    let references = &held.references;
    match kind {
        Kind::Endpoints => true,
        Kind::Cluster => references.endpoints.iter().all(|name| there(Kind::Endpoints, name)),
        Kind::Route | Kind::Listener => {
            references.clusters.iter().all(|name| there(Kind::Cluster, name))
                && references.routes.iter().all(|name| there(Kind::Route, name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Changed;
    use crate::testing::xds;
    use outrigger_proto::xds::protobuf::Any;

    struct World {
        accepted: Cache,
        warming: Warming,
        now: Instant,
    }

    impl World {
        /// `cart:80` with a route to `v1`, all of it published.
        fn serving() -> Self {
            let accepted = xds::cache([
                (Kind::Listener, "cart:80", xds::destination("cart:80", "cart")),
                (Kind::Route, "cart", xds::route("cart", &["v1"])),
                (Kind::Cluster, "v1", xds::cluster("v1")),
                (Kind::Endpoints, "v1", xds::endpoints("v1", &["10.0.0.1:80"])),
            ]);
            let mut world = Self { accepted, warming: Warming::default(), now: Instant::now() };
            assert!(world.advance());
            world
        }

        fn insert(&mut self, kind: Kind, name: &str, body: Any) {
            self.accepted
                .insert(kind, Changed { name: name.into(), aliases: vec![], version: "2".into(), body });
        }

        fn advance(&mut self) -> bool {
            !self.warming.advance(&self.accepted, self.now).is_empty()
        }

        fn clusters_of_the_route(&self) -> Vec<String> {
            let route = &self.warming.published().of(Kind::Route)["cart"];
            route.references.clusters.iter().map(Name::to_string).collect()
        }

        fn serves(&self, kind: Kind, name: &str) -> bool {
            self.warming.published().of(kind).contains_key(name)
        }
    }

    #[test]
    fn a_destination_is_published_when_its_endpoints_have_come() {
        let mut world =
            World { accepted: Cache::default(), warming: Warming::default(), now: Instant::now() };
        world.insert(Kind::Listener, "cart:80", xds::destination("cart:80", "cart"));
        world.insert(Kind::Route, "cart", xds::route("cart", &["v1"]));
        world.insert(Kind::Cluster, "v1", xds::cluster("v1"));
        assert!(!world.advance());
        world.insert(Kind::Endpoints, "v1", xds::endpoints("v1", &[]));
        assert!(world.advance());
        assert!(world.serves(Kind::Listener, "cart:80") && world.serves(Kind::Cluster, "v1"));
        assert_eq!(world.warming.next_deadline(), None);
        assert!(!world.advance(), "nothing new");
    }

    #[test]
    fn a_route_waits_for_its_new_cluster_and_the_old_serves_on() {
        let mut world = World::serving();
        world.insert(Kind::Route, "cart", xds::route("cart", &["v2"]));
        assert!(!world.advance());
        assert_eq!(world.clusters_of_the_route(), ["v1"]);
        world.insert(Kind::Cluster, "v2", xds::cluster("v2"));
        world.insert(Kind::Endpoints, "v2", xds::endpoints("v2", &["10.0.0.2:80"]));
        assert!(world.advance());
        assert_eq!(world.clusters_of_the_route(), ["v2"]);
    }

    #[test]
    fn a_cluster_removed_meanwhile_stays_for_the_old_route() {
        let mut world = World::serving();
        world.insert(Kind::Route, "cart", xds::route("cart", &["v2"]));
        world.accepted.remove(Kind::Cluster, "v1");
        world.accepted.remove(Kind::Endpoints, "v1");
        world.advance();
        assert!(world.serves(Kind::Cluster, "v1") && world.serves(Kind::Endpoints, "v1"));
        world.insert(Kind::Cluster, "v2", xds::static_cluster("v2"));
        assert!(world.advance());
        assert!(!world.serves(Kind::Cluster, "v1"));
    }

    #[test]
    fn nothing_waits_for_longer_than_fifteen_seconds() {
        let mut world = World::serving();
        world.insert(Kind::Route, "cart", xds::route("cart", &["v2"]));
        world.advance();
        world.now += Duration::from_secs(10);
        assert!(!world.advance());
        assert_eq!(world.warming.next_deadline(), Some(world.now + Duration::from_secs(5)));
        world.now += Duration::from_secs(5);
        assert!(world.advance());
        assert_eq!(world.clusters_of_the_route(), ["v2"]);
        assert_eq!(world.warming.next_deadline(), None);
    }

    #[test]
    fn what_does_not_exist_is_not_waited_for() {
        let mut world = World::serving();
        world.insert(Kind::Route, "cart", xds::route("cart", &["v1", "typo"]));
        world.advance();
        world.accepted.remove(Kind::Cluster, "typo");
        assert!(world.advance());
        assert_eq!(world.clusters_of_the_route(), ["typo", "v1"]);
    }

    #[test]
    fn what_was_saved_is_published_as_it_is() {
        let accepted = xds::cache([(Kind::Listener, "cart:80", xds::destination("cart:80", "cart"))]);
        let mut warming = Warming::default();
        assert_eq!(warming.restore(&accepted)[0].changed.len(), 1);
        assert_eq!(warming.published().of(Kind::Listener).len(), 1);
        assert!(warming.advance(&accepted, Instant::now()).is_empty());
    }
}
