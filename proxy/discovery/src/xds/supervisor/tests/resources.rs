//! Resources from the server: accepted, refused by name, waited for.

use super::*;
use crate::discovery::AcceptedResource;

/// Returns the version that traffic uses.
fn version(of: &AcceptedResource) -> &str {
    &of.active.as_ref().unwrap().version
}

#[tokio::test(start_paused = true)]
async fn a_bad_resource_is_refused_by_name_and_its_last_version_serves_on() {
    let (_world, proxy, mut server) = serving().await;
    server.respond(Kind::Route, &[("cart", "2", xds::broken(Kind::Route))], &[]);
    let nack = server.next_ack().await;
    assert!(nack.error_detail.unwrap().message.contains("route \"cart\""));
    assert!(proxy.handle.status().kinds[&Kind::Route].refusals.contains_key("cart"));
    assert!(proxy.published.load().routes.contains_key("cart"));
    server.respond(Kind::Route, &[("cart", "3", xds::route("cart", &["cart"]))], &[]);
    assert_eq!(server.next_ack().await.error_detail, None);
    assert!(proxy.handle.status().kinds[&Kind::Route].refusals.is_empty());
}

#[tokio::test(start_paused = true)]
async fn of_three_resources_the_bad_one_is_refused_and_a_reconnect_names_its_last_good_version() {
    let mut world = World::new();
    let proxy = world.start(Mode::Wildcard).await.unwrap();
    let mut server = world.stream().await;
    let three = |version, of_b| {
        [
            ("a", version, xds::static_cluster("a")),
            ("b", version, of_b),
            ("c", version, xds::static_cluster("c")),
        ]
    };
    server.respond(Kind::Cluster, &three("1", xds::static_cluster("b")), &[]);
    assert_eq!(server.next_ack().await.error_detail, None);
    server.respond(Kind::Cluster, &three("2", xds::broken(Kind::Cluster)), &[]);
    let detail = server.next_ack().await.error_detail.unwrap().message;
    assert!(detail.starts_with("cluster \"b\": ") && !detail.contains("\"a\""), "{detail}");
    let held = proxy.handle.reader().resources();
    let active = held[0].active.as_ref().unwrap();
    assert_eq!(
        (&active.json["name"], active.received.is_some(), &held[0].warming),
        (&"a".into(), true, &None)
    );
    let held: Vec<_> = held.iter().map(|held| (&*held.name, version(held))).collect();
    assert_eq!(held, [("a", "2"), ("b", "1"), ("c", "2")]);
    assert!(proxy.published.load().clusters.contains_key("b"), "the last good version serves on");
    drop(server);
    let versions = world.stream().await.next_request().await.initial_resource_versions;
    assert_eq!((versions["a"].as_str(), versions["b"].as_str(), versions["c"].as_str()), ("2", "1", "2"));
}

#[tokio::test(start_paused = true)]
async fn endpoints_change_without_a_new_snapshot() {
    let (_world, proxy, mut server) = serving().await;
    let generation = proxy.published.load().generation;
    server.respond(Kind::Endpoints, &[("cart", "2", xds::endpoints("cart", &["10.0.0.2:80"]))], &[]);
    server.next_ack().await;
    tokio::task::yield_now().await;
    assert_eq!(endpoints(&proxy, "cart"), ["10.0.0.2:80"]);
    assert_eq!(proxy.published.load().generation, generation);
}

#[tokio::test(start_paused = true)]
async fn a_route_waits_for_its_new_cluster_at_most_fifteen_seconds() {
    let (_world, proxy, mut server) = serving().await;
    server.next_ack().await;
    let generation = proxy.published.load().generation;
    server.respond(Kind::Route, &[("cart", "2", xds::route("cart", &["v2"]))], &[]);
    assert_eq!(server.next_ack().await.error_detail, None, "acknowledged before it is warm");
    let mut published = proxy.published.subscribe();
    let waited = Instant::now();
    assert_eq!(proxy.published.load().generation, generation);
    published.changed().await.unwrap();
    assert!((14..=15).contains(&waited.elapsed().as_secs()), "{:?}", waited.elapsed());
    assert!(proxy.published.load().routes.contains_key("cart"));
}

#[tokio::test(start_paused = true)]
async fn in_wildcard_mode_the_server_chooses() {
    let mut world = World::new();
    let proxy = world.start(Mode::Wildcard).await.unwrap();
    let mut server = world.stream().await;
    assert_eq!(server.next_subscription().await, (Kind::Cluster, vec!["*".into()], vec![]));
    assert_eq!(server.next_subscription().await, (Kind::Listener, vec!["*".into()], vec![]));
    server.respond(Kind::Listener, &[("cart:80", "1", xds::destination("cart:80", "cart"))], &[]);
    assert_eq!(server.next_subscription().await, (Kind::Route, vec!["cart".into()], vec![]));
    server.respond(Kind::Cluster, &[("cart", "1", xds::cluster("cart")), ("b", "1", xds::cluster("b"))], &[]);
    assert_eq!(server.next_subscription().await, (Kind::Endpoints, vec!["b".into(), "cart".into()], vec![]));
    server.respond(Kind::Route, &[("cart", "1", xds::route("cart", &["cart"]))], &[]);
    let mut published = proxy.published.subscribe();
    server.respond(Kind::Endpoints, &[("cart", "1", xds::endpoints("cart", &["10.0.0.1:80"]))], &[]);
    published.changed().await.unwrap();
    assert!(proxy.published.load().destination("cart:80").is_some(), "b's endpoints keep nobody waiting");
    server.respond(Kind::Listener, &[], &["cart:80"]);
    published.changed().await.unwrap();
    assert!(proxy.published.load().destination("cart:80").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_resource_whose_decode_panics_is_refused_by_name_and_the_stream_continues() {
    let (_world, proxy, mut server) = serving().await;
    proxy.handle.store().lock().compile_by(|kind, raw, before| match raw.version.as_str() {
        "2" => panic!("out of cheese"),
        _ => Compiled::new(kind, raw, before),
    });
    server.respond(Kind::Route, &[("cart", "2", xds::route("cart", &["cart", "cart"]))], &[]);
    let detail = server.next_ack().await.error_detail.unwrap().message;
    assert!(detail.starts_with("route \"cart\": ") && detail.contains("out of cheese"), "{detail}");
    assert!(proxy.published.load().routes.contains_key("cart"), "the last good version serves on");
    server.respond(Kind::Route, &[("cart", "3", xds::route("cart", &["cart", "cart"]))], &[]);
    assert_eq!(server.next_ack().await.error_detail, None);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_does_not_exist_yet_is_waited_for() {
    let (_world, proxy, mut server) = connected().await;
    let requested = async {
        let answer = ask(&proxy, "cart:80").await;
        assert!(matches!(answer, Lookup::Found(_)), "{answer:?}");
        assert!(proxy.published.load().clusters.contains_key("cart"));
    };
    let server = async {
        server.next_subscription().await;
        server.respond(Kind::Listener, &[("cart:80", "1", xds::destination("cart:80", "cart"))], &[]);
        server.next_subscription().await;
        server.respond(Kind::Route, &[("cart", "1", xds::route("cart", &["cart"]))], &[]);
        server.next_subscription().await;
        server.respond(Kind::Cluster, &[], &["cart"]);
        tokio::time::sleep(Duration::from_secs(3)).await;
        server.respond(Kind::Cluster, &[("cart", "1", xds::cluster("cart"))], &[]);
        server.next_subscription().await;
        server.respond(Kind::Endpoints, &[], &["cart"]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.respond(Kind::Endpoints, &[("cart", "1", xds::endpoints("cart", &["10.0.0.1:80"]))], &[]);
    };
    tokio::join!(requested, server);
}

#[tokio::test(start_paused = true)]
async fn a_route_table_in_use_cannot_be_removed() {
    let (_world, proxy, mut server) = serving().await;
    server.respond(Kind::Route, &[], &["cart"]);
    assert_eq!(server.next_ack().await.error_detail, None);
    assert!(proxy.published.load().routes.contains_key("cart"));
}

#[tokio::test(start_paused = true)]
async fn a_listener_is_acknowledged_when_its_socket_is_bound_and_refused_when_it_cannot_be() {
    let (mut world, proxy, mut server) = connected().await;
    let at = |name: &str, address: &str| xds::listener_at(name, address, "inbound|app");
    let app = xds::static_cluster("inbound|app");
    server.respond(
        Kind::Listener,
        &[("a", "1", at("a", "127.0.0.1:1")), ("b", "1", at("b", "127.0.0.1:2"))],
        &[],
    );
    let request = world.binds.next().await;
    let both = [("a", "127.0.0.1:1"), ("b", "127.0.0.1:2")];
    assert_eq!(request.wanted, both.map(|(name, address)| (name.into(), address.parse().unwrap())));
    request.reply(vec![Unbound { name: "b".into(), reason: "is taken".into() }]);
    let request = world.binds.next().await;
    assert_eq!(request.wanted.len(), 1, "without what was refused");
    request.reply(vec![]);
    let detail = server.next_ack().await.error_detail.unwrap().message;
    assert_eq!(detail, "listener \"b\": address: is taken");
    server.respond(Kind::Cluster, &[("inbound|app", "1", app)], &[]);
    server.respond(Kind::Listener, &[("c", "1", at("c", "127.0.0.1:1"))], &[]);
    let detail = server.next_ack().await.error_detail.unwrap().message;
    assert!(detail.contains("127.0.0.1:1 is that of listener \"a\""), "{detail}");
    let listeners = proxy.published.load().listeners.keys().map(|name| name.to_string()).collect::<Vec<_>>();
    assert_eq!(listeners, ["a"]);
    server.respond(Kind::Listener, &[], &["a"]);
    let request = world.binds.next().await;
    assert_eq!(request.wanted, [], "so that its socket can go");
    request.reply(vec![]);
    assert_eq!(server.next_ack().await.error_detail, None);
}

#[tokio::test(start_paused = true)]
async fn a_move_that_cannot_be_bound_is_refused_by_name_and_the_listener_stays_where_it_was() {
    let (mut world, proxy, mut server) = connected().await;
    let at = |port: u16| xds::listener_at("a", &format!("127.0.0.1:{port}"), "inbound|app");
    server.respond(Kind::Listener, &[("a", "1", at(1))], &[]);
    world.binds.next().await.reply(vec![]);
    assert_eq!(server.next_ack().await.error_detail, None);
    server.respond(Kind::Cluster, &[("inbound|app", "1", xds::static_cluster("inbound|app"))], &[]);
    assert_eq!(server.next_ack().await.error_detail, None);
    server.respond(Kind::Listener, &[("a", "2", at(2))], &[]);
    let moved = world.binds.next().await;
    assert_eq!(moved.wanted, [("a".into(), "127.0.0.1:2".parse().unwrap())]);
    moved.reply(vec![Unbound { name: "a".into(), reason: "is taken".into() }]);
    let back = world.binds.next().await;
    assert_eq!(back.wanted, [("a".into(), "127.0.0.1:1".parse().unwrap())], "its socket is released");
    back.reply(vec![]);
    let detail = server.next_ack().await.error_detail.unwrap().message;
    assert_eq!(detail, "listener \"a\": address: is taken");
    assert_eq!(proxy.published.load().listeners["a"].address, "127.0.0.1:1".parse().unwrap());
    let held = proxy.handle.reader().resources();
    let version = held.iter().find(|of| &*of.name == "a").map(version);
    assert_eq!(version, Some("1"), "a reconnect says which one is held");
}

/// As go-control-plane sends a renamed cluster: one response removes the old one and adds the new one, then the route changes.
#[tokio::test(start_paused = true)]
async fn a_renamed_cluster_serves_until_the_route_names_its_successor() {
    let mut world = World::new();
    let proxy = world.start(Mode::Wildcard).await.unwrap();
    let mut server = world.stream().await;
    server.respond(Kind::Listener, &[("cart:80", "1", xds::destination("cart:80", "cart"))], &[]);
    server.respond(Kind::Cluster, &[("cart", "1", xds::cluster("cart"))], &[]);
    server.respond(Kind::Endpoints, &[("cart", "1", xds::endpoints("cart", &["10.0.0.1:80"]))], &[]);
    server.respond(Kind::Route, &[("cart", "1", xds::route("cart", &["cart"]))], &[]);
    assert_eq!(server.next_ack().await.error_detail, None);
    let mut publications = proxy.published.subscribe();
    publications.wait_for(|_| proxy.published.load().destination("cart:80").is_some()).await.unwrap();
    let traffic = Traffic::start(&proxy);
    let mut old = "cart".to_owned();
    for turn in 0..20 {
        let new = format!("cart-{turn}");
        server.respond(Kind::Cluster, &[(&new, "1", xds::cluster(&new))], &[&old]);
        assert_eq!(server.next_ack().await.error_detail, None);
        assert!(serves_cart(&proxy.published.load()), "after the removal of {old}");
        server.respond(Kind::Route, &[("cart", &new, xds::route("cart", &[&new]))], &[]);
        assert_eq!(server.next_ack().await.error_detail, None);
        assert!(serves_cart(&proxy.published.load()), "while {new} has no endpoints");
        server.respond(Kind::Endpoints, &[(&new, "1", xds::endpoints(&new, &["10.0.0.2:80"]))], &[&old]);
        assert_eq!(server.next_ack().await.error_detail, None);
        tokio::time::advance(Duration::from_millis(10)).await;
        assert!(serves_cart(&proxy.published.load()), "with {new}");
        let clusters: Vec<_> = proxy.published.load().clusters.keys().map(|name| name.to_string()).collect();
        assert_eq!(clusters.join(","), new);
        old = new;
    }
    let (sent, lost) = traffic.stop().await;
    assert!(sent > 1000 && lost == 0, "{lost} of {sent} requests are lost");
}

/// Requests that look for an endpoint as the data path does, without a pause.
struct Traffic {
    stop: oneshot::Sender<()>,
    client: tokio::task::JoinHandle<(u32, u32)>,
}

impl Traffic {
    fn start(proxy: &Proxy) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let published = proxy.published.clone();
        let client = tokio::spawn(async move {
            let view = published.view();
            let (mut sent, mut lost) = (0, 0);
            while stopped.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
                sent += 1;
                lost += u32::from(!serves_cart(&view.snapshot()));
                tokio::task::yield_now().await;
            }
            (sent, lost)
        });
        Self { stop, client }
    }

    /// Returns how many requests were sent, and how many found no endpoint.
    async fn stop(self) -> (u32, u32) {
        self.stop.send(()).unwrap();
        self.client.await.unwrap()
    }
}

/// Returns true if the route's cluster exists and has its endpoint.
fn serves_cart(snapshot: &Snapshot) -> bool {
    let route = &snapshot.routes["cart"].hosts[0].routes[0];
    let outrigger_config::route::RouteAction::Forward(forward) = &route.action else { return false };
    let cluster = snapshot.cluster(&forward.clusters.pick(0).cluster);
    cluster.is_some_and(|cluster| cluster.endpoints.load().list.len() == 1)
}
