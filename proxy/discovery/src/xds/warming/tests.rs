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
fn a_destination_is_published_when_its_endpoints_have_arrived() {
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
fn warming_takes_fifteen_seconds_at_most() {
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
fn a_missing_reference_delays_one_version_and_no_later_one() {
    let mut world = World::serving();
    world.insert(Kind::Route, "cart", xds::route("cart", &["v1", "typo"]));
    world.advance();
    world.now += MAX_WAIT;
    assert!(world.advance());
    assert_eq!(world.clusters_of_the_route(), ["typo", "v1"]);
    world.insert(Kind::Route, "cart", xds::route("cart", &["typo"]));
    assert!(world.advance(), "at once");
    assert_eq!(world.clusters_of_the_route(), ["typo"]);
}

#[test]
fn a_version_that_replaces_a_warming_one_waits_for_its_own_references() {
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
fn a_removed_cluster_is_dropped_with_the_last_reference_and_stays_if_it_is_added_again() {
    let mut world = World::serving();
    world.accepted.remove(Kind::Cluster, "v1");
    world.advance();
    world.insert(Kind::Cluster, "v1", xds::cluster("v1"));
    world.now += MAX_WAIT;
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
    let drained = world.now + MAX_WAIT;
    assert!(!world.serves(Kind::Listener, "inbound"));
    assert!(world.serves(Kind::Cluster, "application") && world.serves(Kind::Endpoints, "application"));
    assert_eq!(world.warming.next_deadline(), Some(drained));
    world.now = drained;
    assert!(world.advance());
    assert!(!world.serves(Kind::Cluster, "application") && !world.serves(Kind::Endpoints, "application"));
    assert_eq!(world.warming.next_deadline(), None);
}

#[test]
fn a_cluster_removed_after_its_listener_is_dropped_when_that_has_drained() {
    let mut world = inbound();
    world.accepted.remove(Kind::Listener, "inbound");
    assert!(world.advance());
    let drained = world.now + MAX_WAIT;
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
    world.now += MAX_WAIT;
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
    world.now += MAX_WAIT;
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
