//! Chooses the version of each resource that traffic uses: the newest one whose references are present, else the previous one.
//!
//! A cluster waits for its endpoints, a route for its clusters, a listener for its routes. Each missing name delays a version
//! by at most [`LONGEST`], even if the server reported that it does not exist, because it may be created soon. A removed resource
//! stays for as long while a published version refers to it, or a listener whose connections drain. The decision is pure:
//! accepted resources and the time in, resources to publish out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::compiled::Compiled;
use outrigger_config::kind::{Kind, PerKind};
use outrigger_config::resources::Resources;
use outrigger_core::Name;
use tokio::time::Instant;

/// Maximum wait for a name, and maximum time that a removed but used resource stays. Envoy's `initial_fetch_timeout` has the
/// same default.
const LONGEST: Duration = Duration::from_secs(15);

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
        self.keep_what_is_used(accepted, &mut next, now);
        self.forget_what_came(accepted, &next);
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
                self.draining.push((Arc::clone(listener), now + LONGEST));
            }
        }
    }

    /// Keeps removed resources while a published version refers to them: for [`LONGEST`], and for as long as the successor of that
    /// version waits. Keeps what a draining listener or another such resource refers to for as long as that one.
    fn keep_what_is_used(&mut self, accepted: &Resources, next: &mut Resources, now: Instant) {
        let before = std::mem::take(&mut self.leaving);
        // Referring kinds first: a cluster that stays keeps its endpoints.
        for kind in KINDS.into_iter().rev() {
            let mut stay = Vec::new();
            let published = next.of(kind).iter();
            let published = published.map(|(name, resource)| (resource, self.leaving[kind].get(name).copied()));
            let draining = self.draining.iter().filter(|_| kind == Kind::Listener);
            let draining = draining.map(|(listener, until)| (listener, Some(*until)));
            for (resource, until) in published.chain(draining) {
                let by = &resource.raw().name;
                let succeeded = accepted.get(kind, by).is_some_and(|newer| !newer.same_content(resource));
                for (of, named) in resource.references() {
                    if accepted.contains(of, named) || !self.published.contains(of, named) {
                        continue;
                    }
                    let at = until.or_else(|| before[of].get(named).copied()).unwrap_or(now + LONGEST);
                    if at > now || succeeded {
                        stay.push((of, named.clone(), at));
                    } else {
                        tracing::warn!(kind = %of, name = %named, %by, "removed, though it is still referred to");
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
    fn forget_what_came(&mut self, accepted: &Resources, next: &Resources) {
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
            let until = awaited[kind].entry(name.clone()).or_insert(now + LONGEST);
            ready &= *until <= now;
        }
    }
    ready
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::xds;
    use outrigger_proto::xds::protobuf::Any;

    struct World {
        accepted: Resources,
        warming: Warming,
        now: Instant,
    }

    impl World {
        /// `cart:80` with a route to `v1`, all of it published.
        fn serving() -> Self {
            let accepted = xds::resources([
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
            xds::put(&mut self.accepted, kind, name, "2", body);
        }

        fn advance(&mut self) -> bool {
            let before = self.warming.advance(&self.accepted, self.now);
            !before.same_content(self.warming.published())
        }

        fn clusters_of_the_route(&self) -> Vec<String> {
            let route = &self.warming.published().of(Kind::Route)["cart"];
            route.references().map(|(_, name)| name.to_string()).collect()
        }

        fn serves(&self, kind: Kind, name: &str) -> bool {
            self.warming.published().of(kind).contains_key(name)
        }
    }

    #[test]
    fn a_destination_is_published_when_its_endpoints_have_come() {
        let mut world =
            World { accepted: Resources::default(), warming: Warming::default(), now: Instant::now() };
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
    fn a_name_that_never_comes_delays_one_version_and_no_later_one() {
        let mut world = World::serving();
        world.insert(Kind::Route, "cart", xds::route("cart", &["v1", "typo"]));
        world.advance();
        world.now += LONGEST;
        assert!(world.advance());
        assert_eq!(world.clusters_of_the_route(), ["typo", "v1"]);
        world.insert(Kind::Route, "cart", xds::route("cart", &["typo"]));
        assert!(world.advance(), "at once");
        assert_eq!(world.clusters_of_the_route(), ["typo"]);
    }

    #[test]
    fn a_version_that_follows_another_that_waits_waits_for_its_own_names() {
        let mut world = World::serving();
        world.insert(Kind::Route, "cart", xds::route("cart", &["v2"]));
        world.advance();
        world.now += Duration::from_secs(10);
        world.insert(Kind::Route, "cart", xds::route("cart", &["v3"]));
        world.advance();
        world.now += Duration::from_secs(10);
        assert!(!world.advance());
        assert_eq!(world.clusters_of_the_route(), ["v1"]);
        world.now += Duration::from_secs(5);
        assert!(world.advance());
        assert_eq!(world.clusters_of_the_route(), ["v3"]);
    }

    #[test]
    fn a_cluster_that_was_removed_stays_while_a_route_uses_it_at_most_fifteen_seconds() {
        let mut world = World::serving();
        world.accepted.remove(Kind::Cluster, "v1");
        world.accepted.remove(Kind::Endpoints, "v1");
        assert!(!world.advance());
        assert!(world.serves(Kind::Cluster, "v1") && world.serves(Kind::Endpoints, "v1"));
        world.now += Duration::from_secs(14);
        assert!(!world.advance());
        assert_eq!(world.warming.next_deadline(), Some(world.now + Duration::from_secs(1)));
        world.now += Duration::from_secs(1);
        assert!(world.advance());
        assert!(!world.serves(Kind::Cluster, "v1") && !world.serves(Kind::Endpoints, "v1"));
        assert!(world.serves(Kind::Route, "cart"));
        assert_eq!(world.warming.next_deadline(), None);
    }

    #[test]
    fn a_cluster_that_was_removed_goes_as_soon_as_its_route_lets_go_and_stays_if_it_comes_back() {
        let mut world = World::serving();
        world.accepted.remove(Kind::Cluster, "v1");
        world.advance();
        world.insert(Kind::Cluster, "v1", xds::cluster("v1"));
        world.now += LONGEST;
        world.advance();
        assert!(world.serves(Kind::Cluster, "v1"));
        world.accepted.remove(Kind::Cluster, "v1");
        world.insert(Kind::Cluster, "v2", xds::static_cluster("v2"));
        world.advance();
        world.insert(Kind::Route, "cart", xds::route("cart", &["v2"]));
        assert!(world.advance());
        assert!(!world.serves(Kind::Cluster, "v1") && world.serves(Kind::Cluster, "v2"));
    }

    /// `inbound` with its cluster `application`, published.
    fn inbound() -> World {
        let mut world = World::serving();
        world.insert(Kind::Listener, "inbound", xds::inbound("inbound", "application"));
        world.insert(Kind::Cluster, "application", xds::cluster("application"));
        world.insert(Kind::Endpoints, "application", xds::endpoints("application", &["127.0.0.1:80"]));
        assert!(world.advance());
        world
    }

    #[test]
    fn what_a_removed_listener_refers_to_stays_while_its_connections_drain() {
        let mut world = inbound();
        world.accepted.remove(Kind::Listener, "inbound");
        world.accepted.remove(Kind::Cluster, "application");
        world.accepted.remove(Kind::Endpoints, "application");
        assert!(world.advance());
        let drained = world.now + LONGEST;
        assert!(!world.serves(Kind::Listener, "inbound"));
        assert!(world.serves(Kind::Cluster, "application") && world.serves(Kind::Endpoints, "application"));
        assert_eq!(world.warming.next_deadline(), Some(drained));
        world.now = drained;
        assert!(world.advance());
        assert!(!world.serves(Kind::Cluster, "application") && !world.serves(Kind::Endpoints, "application"));
        assert_eq!(world.warming.next_deadline(), None);
    }

    #[test]
    fn a_cluster_removed_after_its_listener_goes_when_that_has_drained() {
        let mut world = inbound();
        world.accepted.remove(Kind::Listener, "inbound");
        assert!(world.advance());
        let drained = world.now + LONGEST;
        world.now += Duration::from_secs(10);
        world.accepted.remove(Kind::Cluster, "application");
        world.accepted.remove(Kind::Endpoints, "application");
        assert!(!world.advance());
        assert_eq!(world.warming.next_deadline(), Some(drained));
        world.now = drained;
        assert!(world.advance());
        assert!(!world.serves(Kind::Cluster, "application") && !world.serves(Kind::Endpoints, "application"));
    }

    #[test]
    fn what_a_replaced_listener_referred_to_stays_while_its_connections_drain() {
        let mut world = inbound();
        world.insert(Kind::Listener, "inbound", xds::inbound("inbound", "v1"));
        world.accepted.remove(Kind::Cluster, "application");
        assert!(world.advance());
        assert!(world.serves(Kind::Cluster, "application"));
        world.now += LONGEST;
        assert!(world.advance());
        assert!(!world.serves(Kind::Cluster, "application") && world.serves(Kind::Listener, "inbound"));
    }

    #[test]
    fn a_listener_that_comes_back_finds_what_it_refers_to() {
        let mut world = inbound();
        let all = world.accepted.clone();
        for (kind, name) in [(Kind::Listener, "inbound"), (Kind::Cluster, "application")] {
            world.accepted.remove(kind, name);
        }
        world.accepted.remove(Kind::Endpoints, "application");
        world.advance();
        world.accepted = all;
        assert!(world.advance());
        world.now += LONGEST;
        assert!(!world.advance());
        assert!(world.serves(Kind::Cluster, "application") && world.serves(Kind::Endpoints, "application"));
    }

    #[test]
    fn the_same_content_under_a_new_version_changes_nothing() {
        let mut world = World::serving();
        world.insert(Kind::Cluster, "v1", xds::cluster("v1"));
        world.insert(Kind::Route, "cart", xds::route("cart", &["v1"]));
        assert!(!world.advance());
        assert_eq!(world.warming.published().of(Kind::Route)["cart"].raw().version, "2");
    }

    #[test]
    fn what_was_saved_is_published_as_it_is() {
        let accepted = xds::resources([(Kind::Listener, "cart:80", xds::destination("cart:80", "cart"))]);
        let mut warming = Warming::default();
        warming.restore(&accepted);
        assert_eq!(warming.published().of(Kind::Listener).len(), 1);
        warming.advance(&accepted, Instant::now());
        assert!(warming.published().contains(Kind::Listener, "cart:80"), "nor does it wait later");
    }
}
