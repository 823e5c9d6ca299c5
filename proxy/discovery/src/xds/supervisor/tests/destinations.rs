//! On-demand subscriptions of the data path: found, absent, refused, removed, dropped.

use futures_util::FutureExt;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_request_for_a_destination_completes_when_everything_it_refers_to_has_arrived() {
    let mut world = World::new();
    let proxy = world.proxy().await;
    let mut server = world.stream().await;
    assert_eq!(server.call.caller.as_ref().unwrap().service_account(), "cart");
    let first = server.next_request().await;
    assert_eq!(
        (first.node.unwrap().id.as_str(), first.resource_names_subscribe),
        ("cart-1", vec!["*".into()])
    );
    let (answer, ()) = tokio::join!(ask(&proxy, "cart:80"), server.serve_cart());
    assert!(matches!(answer, Lookup::Found(_)), "{answer:?}");
    assert_eq!(endpoints(&proxy, "cart"), ["10.0.0.1:80"]);
    assert!(proxy.handle.status().stream.connected_since.is_some());
}

#[tokio::test(start_paused = true)]
async fn an_absent_destination_fails_requests_at_once_and_is_found_when_the_server_pushes_it() {
    let (_world, proxy, mut server) = connected().await;
    let deny = async {
        assert_eq!(server.next_subscription().await, (Kind::Listener, vec!["cart:80".into()], vec![]));
        server.respond(Kind::Listener, &[], &["cart:80"]);
    };
    let start = Instant::now();
    let (answer, ()) = tokio::join!(ask(&proxy, "cart:80"), deny);
    assert!(matches!(answer, Lookup::Absent) && start.elapsed() < Duration::from_millis(100));
    assert!(matches!(ask(&proxy, "cart:80").await, Lookup::Absent), "remembered");
    let pushed = Instant::now();
    server.push_cart().await;
    let answer = ask(&proxy, "cart:80").await;
    assert!(matches!(answer, Lookup::Found(_)), "{answer:?}");
    assert!(pushed.elapsed() < Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn an_absent_name_without_requests_is_unsubscribed() {
    let (_world, proxy, mut server) = connected().await;
    let deny = async {
        assert_eq!(server.next_subscription().await, (Kind::Listener, vec!["nobody:80".into()], vec![]));
        server.respond(Kind::Listener, &[], &["nobody:80"]);
    };
    tokio::join!(ask(&proxy, "nobody:80"), deny);
    let denied = Instant::now();
    assert_eq!(server.next_subscription().await, (Kind::Listener, vec![], vec!["nobody:80".into()]));
    assert!(denied.elapsed() < Duration::from_secs(8));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_unsubscribed_and_requested_at_once_is_found() {
    let (_world, proxy, mut server) = connected().await;
    let deny = async {
        server.next_subscription().await;
        server.respond(Kind::Listener, &[], &["cart:80"]);
    };
    tokio::join!(ask(&proxy, "cart:80"), deny);
    // Evicted, and requested again before discovery is notified.
    for n in 0..OnDemandLimits::default().max_unproven {
        assert!(ask(&proxy, &format!("invented-{n}:80")).now_or_never().is_none());
    }
    let answer = async {
        let next_names = async |server: &mut Server| server.next_subscription().await.1;
        while !next_names(&mut server).await.contains(&"cart:80".into()) {}
        server.respond(Kind::Listener, &[], &["cart:80"]);
    };
    let (answer, ()) = tokio::join!(ask(&proxy, "cart:80"), answer);
    assert!(matches!(answer, Lookup::Absent), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_destination_fails_requests_at_once() {
    let (_world, proxy, mut server) = connected().await;
    let refuse = async {
        assert_eq!(server.next_subscription().await, (Kind::Listener, vec!["cart:80".into()], vec![]));
        server.respond(Kind::Listener, &[("cart:80", "1", xds::broken(Kind::Listener))], &[]);
    };
    let start = Instant::now();
    let (answer, ()) = tokio::join!(ask(&proxy, "cart:80"), refuse);
    assert!(matches!(answer, Lookup::Refused), "{answer:?}");
    assert!(start.elapsed() < Duration::from_millis(100));
    assert!(server.next_ack().await.error_detail.is_some());
    server.respond(Kind::Listener, &[("cart:80", "2", xds::tcp_destination("cart:80", "cart"))], &[]);
    assert_eq!(server.next_ack().await.error_detail, None);
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_is_removed_while_in_use_is_absent_until_it_is_added_again() {
    let (_world, proxy, mut server) = serving().await;
    let in_use = proxy.published.load();
    server.respond(Kind::Listener, &[], &["cart:80"]);
    let dropped = server.next_dropped(3).await;
    assert!(!dropped.iter().any(|(kind, _)| *kind == Kind::Listener), "{dropped:?}");
    assert!(matches!(ask(&proxy, "cart:80").await, Lookup::Absent));
    assert!(proxy.published.load().clusters.is_empty());
    assert!(in_use.clusters["cart"].endpoints.load().list.len() == 1, "a request that has begun goes on");
    server.push_cart().await;
    let answer = ask(&proxy, "cart:80").await;
    assert!(matches!(answer, Lookup::Found(_)), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn an_unused_destination_is_dropped_with_everything_it_refers_to() {
    let (_world, proxy, mut server) = serving().await;
    server.expect_cart_dropped().await;
    let snapshot = proxy.published.load();
    assert!(snapshot.destinations.is_empty() && snapshot.clusters.is_empty() && snapshot.routes.is_empty());
    assert!(proxy.handle.reader().resources().is_empty());
}

/// A client that sends a request each minute, to a destination whose endpoints take longer than a request waits.
#[tokio::test(start_paused = true)]
async fn a_destination_that_warms_slowly_is_found_by_a_later_request() {
    let (_world, proxy, mut server) = connected().await;
    let slow = async {
        server.next_subscription().await;
        server.respond(Kind::Listener, &[("cart:80", "1", xds::destination("cart:80", "cart"))], &[]);
        server.next_subscription().await;
        server.respond(Kind::Route, &[("cart", "1", xds::route("cart", &["cart"]))], &[]);
        server.next_subscription().await;
        server.respond(Kind::Cluster, &[("cart", "1", xds::cluster("cart"))], &[]);
        server.next_subscription().await;
        tokio::time::sleep(Duration::from_secs(12)).await;
        server.respond(Kind::Endpoints, &[("cart", "1", xds::endpoints("cart", &["10.0.0.1:80"]))], &[]);
        tokio::time::sleep(Duration::from_secs(48)).await;
    };
    let (first, ()) = tokio::join!(ask(&proxy, "cart:80"), slow);
    assert!(matches!(first, Lookup::Unknown), "{first:?}");
    let start = Instant::now();
    assert!(matches!(ask(&proxy, "cart:80").await, Lookup::Found(_)));
    assert_eq!(start.elapsed(), Duration::ZERO, "warming starts again");
    assert_eq!(endpoints(&proxy, "cart"), ["10.0.0.1:80"]);
}
