//! Streams that break or move, and restarts: what is sent again and what stays.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_draining_proxy_keeps_its_own_listeners_across_a_reconnect() {
    let mut world = World::new();
    world.ports.push(port());
    let proxy = world.proxy().await;
    let mut server = world.stream().await;
    server.next_request().await;
    server.respond(Kind::Listener, &[("inbound|a", "1", xds::inbound("inbound|a", "app"))], &[]);
    assert_eq!(server.next_subscription().await, (Kind::Cluster, vec!["app".into()], vec![]));
    server.respond(Kind::Cluster, &[("app", "1", xds::static_cluster("app"))], &[]);
    server.next_ack().await;
    let registration = world.fake.registrations.recv().await.unwrap();
    let confirm = async {
        let outcome = Some(Outcome::Drained(Default::default()));
        registration.responses.send(Ok(RegisterResponse { outcome })).unwrap();
    };
    let (left, ()) = tokio::join!(proxy.handle.drain_registration(), confirm);
    assert_eq!(left, Deregistration::Confirmed);
    drop(server);
    let mut server = world.stream().await;
    assert_eq!(server.next_request().await.initial_resource_versions["app"], "1");
    let listeners = server.next_request().await;
    assert_eq!(
        (listeners.resource_names_subscribe, listeners.initial_resource_versions["inbound|a"].as_str()),
        (vec!["*".into()], "1")
    );
    assert!(proxy.published.load().listeners.contains_key("inbound|a"));
}

#[tokio::test(start_paused = true)]
async fn a_reconnect_comes_soon_and_says_what_is_held() {
    let (mut world, proxy, mut server) = serving().await;
    server.next_ack().await;
    drop(server);
    let broken = Instant::now();
    let mut server = world.stream().await;
    assert!(broken.elapsed() <= Duration::from_millis(500));
    for (kind, name) in [
        (Kind::Cluster, "cart"),
        (Kind::Endpoints, "cart"),
        (Kind::Listener, "cart:80"),
        (Kind::Route, "cart"),
    ] {
        let request = server.next_request().await;
        assert_eq!(request.type_url, kind.type_url());
        assert_eq!(request.initial_resource_versions[name], "1");
        assert!(request.resource_names_subscribe.contains(&name.to_owned()));
    }
    assert!(matches!(ask(&proxy, "cart:80").await, Lookup::Found(_)));
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_refuses_is_tried_again_and_a_quiet_stream_counts_as_success() {
    let mut world = World::new();
    let proxy = world.proxy().await;
    for _ in 0..6 {
        let server = world.stream().await;
        server.call.responses.send(Err(tonic::Status::unavailable("starting"))).unwrap();
    }
    let server = world.stream().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(proxy.handle.status().stream.connected_since.is_some());
    drop(server);
    let broken = Instant::now();
    let _server = world.stream().await;
    assert!(broken.elapsed() <= Duration::from_millis(500));
    assert_eq!(proxy.handle.status().stream.failures, 7);
}

#[tokio::test(start_paused = true)]
async fn a_renewed_certificate_moves_the_stream_to_a_new_connection_and_nothing_is_lost() {
    let mut world = World::new();
    world.fake.issuance.lock().unwrap().lifetime = Duration::from_secs(30);
    let proxy = world.proxy().await;
    let mut server = world.stream().await;
    server.next_request().await;
    let _ = tokio::join!(ask(&proxy, "cart:80"), server.serve_cart());
    server.next_ack().await;
    let generation = proxy.published.load().generation;
    let expiry = proxy.handle.status().identity.certificate.unwrap().not_after;
    let mut next = world.stream().await;
    assert!(world.clock.now() < expiry, "before the old one has expired");
    assert_eq!(proxy.handle.status().identity.issued, 2);
    assert_eq!(next.next_request().await.initial_resource_versions["cart"], "1");
    while let Ok(Some(_)) = server.call.requests.message().await {}
    while proxy.handle.status().stream.connections < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(proxy.handle.status().stream.failures, 0);
    assert_eq!(proxy.published.load().generation, generation);
    assert!(matches!(ask(&proxy, "cart:80").await, Lookup::Found(_)));
}

#[tokio::test(start_paused = true)]
async fn a_restart_without_a_control_plane_serves_what_was_saved() {
    let (mut world, proxy, mut server) = serving().await;
    server.next_ack().await;
    proxy.handle.shutdown().await;
    drop(server);

    let proxy = world.proxy().await;
    assert!(proxy.published.load().destination("cart:80").is_some(), "published before start returns");
    assert_eq!(endpoints(&proxy, "cart"), ["10.0.0.1:80"]);
    assert!(matches!(ask(&proxy, "cart:80").await, Lookup::Found(_)));
    let mut server = world.stream().await;
    assert_eq!(server.next_request().await.initial_resource_versions["cart"], "1");
}

#[tokio::test(start_paused = true)]
async fn with_a_corrupt_cache_the_proxy_waits_for_the_control_plane() {
    let mut world = World::new();
    StateDir::open(&world.ca.dir().join("state")).unwrap().write(cache::FILE, b"outrigger-xds").unwrap();
    let proxy = world.proxy().await;
    let mut server = world.stream().await;
    server.next_request().await;
    let (answer, ()) = tokio::join!(ask(&proxy, "cart:80"), server.serve_cart());
    assert!(matches!(answer, Lookup::Found(_)));
}

#[tokio::test(start_paused = true)]
async fn a_proxy_without_a_usable_cache_has_no_configuration_until_a_control_plane_responds() {
    for (saved, reason) in [
        (Some(&b"outrigger-xds"[..]), Some("not a cache of this version")),
        (Some(b""), Some("not a cache of this version")),
        (None, None),
    ] {
        let mut world = World::new();
        let state = StateDir::open(&world.ca.dir().join("state")).unwrap();
        saved.iter().for_each(|bytes| state.write(cache::FILE, bytes).unwrap());
        let proxy = world.proxy().await;
        // A request arrives, and the static listeners are published.
        assert!(matches!(ask(&proxy, "cart:80").await, Lookup::Unknown));
        let status = proxy.handle.status();
        assert_eq!(status.published, None);
        let aside = status.saved_not_used;
        assert_eq!(aside.is_some(), reason.is_some());
        assert!(aside.is_none_or(|aside| aside.contains(reason.unwrap()) && aside.contains("xds-cache")));
        let mut server = world.stream().await;
        server.next_request().await;
        server.respond(Kind::Listener, &[], &["cart:80"]);
        server.next_ack().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_permanent_start_error_names_its_cause() {
    let world = World::new();
    std::fs::write(world.ca.dir().join("state"), "a file").unwrap();
    let error = world.start(Mode::OnDemand).await.err().unwrap().to_string();
    assert!(error.contains("state directory") && error.contains("/state"), "{error}");
    std::fs::remove_file(world.ca.dir().join("state")).unwrap();
    std::fs::remove_file(world.ca.dir().join("token")).unwrap();
    let error = world.start(Mode::OnDemand).await.err().unwrap().to_string();
    assert!(error.contains("token"), "{error}");
}
