//! What the server says: accepted, refused by name, waited for.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_bad_resource_is_refused_by_name_and_its_last_version_serves_on() {
    let (_world, proxy, mut server) = serving().await;
    server.say(Kind::Route, &[("cart", "2", xds::broken(Kind::Route))], &[]);
    let nack = server.heard_answer().await;
    assert!(nack.error_detail.unwrap().message.contains("route \"cart\""));
    assert!(proxy.handle.status().kinds[&Kind::Route].refusals.contains_key("cart"));
    assert!(proxy.published.load().routes.contains_key("cart"));
    server.say(Kind::Route, &[("cart", "3", xds::route("cart", &["cart"]))], &[]);
    assert_eq!(server.heard_answer().await.error_detail, None);
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
    server.say(Kind::Cluster, &three("1", xds::static_cluster("b")), &[]);
    assert_eq!(server.heard_answer().await.error_detail, None);
    server.say(Kind::Cluster, &three("2", xds::broken(Kind::Cluster)), &[]);
    let detail = server.heard_answer().await.error_detail.unwrap().message;
    assert!(detail.starts_with("cluster \"b\": ") && !detail.contains("\"a\""), "{detail}");
    let held = proxy.handle.reader().resources().await;
    let held: Vec<_> = held.iter().map(|held| (&*held.name, held.version.as_str())).collect();
    assert_eq!(held, [("a", "2"), ("b", "1"), ("c", "2")]);
    assert!(proxy.published.load().clusters.contains_key("b"), "the last good version serves on");
    drop(server);
    let versions = world.stream().await.heard().await.initial_resource_versions;
    assert_eq!((versions["a"].as_str(), versions["b"].as_str(), versions["c"].as_str()), ("2", "1", "2"));
}

#[tokio::test(start_paused = true)]
async fn endpoints_change_without_a_new_snapshot() {
    let (_world, proxy, mut server) = serving().await;
    let generation = proxy.published.load().generation;
    server.say(Kind::Endpoints, &[("cart", "2", xds::endpoints("cart", &["10.0.0.2:80"]))], &[]);
    server.heard_answer().await;
    tokio::task::yield_now().await;
    assert_eq!(endpoints(&proxy, "cart"), ["10.0.0.2:80"]);
    assert_eq!(proxy.published.load().generation, generation);
}

#[tokio::test(start_paused = true)]
async fn a_route_waits_for_its_new_cluster_at_most_fifteen_seconds() {
    let (_world, proxy, mut server) = serving().await;
    server.heard_answer().await;
    let generation = proxy.published.load().generation;
    server.say(Kind::Route, &[("cart", "2", xds::route("cart", &["v2"]))], &[]);
    assert_eq!(server.heard_answer().await.error_detail, None, "acknowledged before it is warm");
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
    assert_eq!(server.heard_names().await, (Kind::Cluster, vec!["*".into()], vec![]));
    assert_eq!(server.heard_names().await, (Kind::Listener, vec!["*".into()], vec![]));
    server.say(Kind::Listener, &[("cart:80", "1", xds::destination("cart:80", "cart"))], &[]);
    assert_eq!(server.heard_names().await, (Kind::Route, vec!["cart".into()], vec![]));
    server.say(Kind::Cluster, &[("cart", "1", xds::cluster("cart")), ("b", "1", xds::cluster("b"))], &[]);
    assert_eq!(server.heard_names().await, (Kind::Endpoints, vec!["b".into(), "cart".into()], vec![]));
    server.say(Kind::Route, &[("cart", "1", xds::route("cart", &["cart"]))], &[]);
    let mut published = proxy.published.subscribe();
    server.say(Kind::Endpoints, &[("cart", "1", xds::endpoints("cart", &["10.0.0.1:80"]))], &[]);
    published.changed().await.unwrap();
    assert!(proxy.published.load().destination("cart:80").is_some(), "b's endpoints keep nobody waiting");
    server.say(Kind::Listener, &[], &["cart:80"]);
    published.changed().await.unwrap();
    assert!(proxy.published.load().destination("cart:80").is_none());
}
