//! What clients observe when instances die, drain, fail or restart, and when the control plane is down: as little as possible.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::{ok, status};
use outrigger_test_support::wait::eventually;
use outrigger_tests::grpc::{self, GrpcClient};
use outrigger_tests::load::Load;
use outrigger_tests::mesh::{Mesh, service};
use tokio::net::TcpStream;

#[tokio::test]
async fn when_an_instance_is_killed_at_most_the_posts_in_flight_are_lost() {
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    let (one, two) = (Application::echo("one").await, Application::echo("two").await);
    let first =
        mesh.sidecar("app").instance("app-1").serves_behind_relay("app", one.address).await.start().await;
    let second =
        mesh.sidecar("app").instance("app-2").serves_behind_relay("app", two.address).await.start().await;
    let web = mesh.sidecar("web").start().await;
    let load = Load::start(web.outbound(), "app");
    load.wait_for(200).await;
    first.relay().close();
    load.wait_for(400).await;
    let result = load.finish().await;
    assert!(result.lost_gets.is_empty(), "{result:?}");
    assert!(result.lost_posts.len() <= Load::POSTS_AT_A_TIME, "{result:?}");
    drop(second);
}

#[tokio::test]
async fn an_instance_that_drains_loses_nothing() {
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    let (one, two) = (Application::echo("one").await, Application::echo("two").await);
    let mut first = mesh.sidecar("app").instance("app-1").serves("app", one.address).start().await;
    let second = mesh.sidecar("app").instance("app-2").serves("app", two.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let load = Load::start(web.outbound(), "app");
    load.wait_for(200).await;
    first.stop().await;
    load.wait_for(100).await;
    let before = one.requests();
    first.restart().await;
    eventually("the restarted instance's share", async || (one.requests() > before).then_some(())).await;
    load.finish().await.assert_nothing_lost();
    drop(second);
}

/// SIGTERM often reaches an application and its sidecar at once; the application makes its last calls after its own requests.
#[tokio::test]
async fn an_application_makes_its_last_calls_after_its_sidecar_got_sigterm() {
    let https = ["web", "app", "late"].map(|name| service(name, 80, "http")).concat();
    let mesh = Mesh::start(&[https, service("broker", 9000, "tcp")].concat()).await;
    let (app, late, broker) =
        (Application::echo("app").await, Application::echo("late").await, Application::repeater().await);
    let served = mesh.sidecar("app").serves("app", app.address).serves("late", late.address);
    let served = served.serves_with("broker:9000", broker.address, ",protocol=tcp").start().await;
    let own = Application::echo("web").await;
    let web = mesh.sidecar("web").serves("web", own.address).binds("broker:9000");
    let mut web = web.flag("--drain-minimum", "1500ms").flag("--drain-quiet", "300ms").start().await;
    let (outbound, bound) = (web.outbound(), web.bound());
    let mut session = Client::connect(bound).await;
    session.send("hello").await;
    assert_eq!(session.bytes(5).await, b"hello");

    web.begin_shutdown();
    eventually("inbound that has drained", async || TcpStream::connect(web.inbound()).await.err()).await;
    assert_eq!(web.get("app", "/flush").await.by(), (200, "app"));
    assert_eq!(web.get("late", "/first-used-now").await.by(), (200, "late"));
    let mut connection = Client::connect(bound).await;
    connection.send("new").await;
    assert_eq!(connection.bytes(3).await, b"new");
    let mut tunnel = web.client().await;
    tunnel.send("CONNECT broker.shop:9000 HTTP/1.1\r\nHost: broker.shop:9000\r\n\r\n").await;
    assert!(tunnel.head().await.starts_with("HTTP/1.1 200 "));
    session.send("goodbye").await;
    session.finish().await;
    assert_eq!(session.rest().await, b"goodbye");
    drop((connection, tunnel));

    web.stop().await;
    for gone in [outbound, bound] {
        assert_eq!(TcpStream::connect(gone).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
    drop(served);
}

#[tokio::test]
async fn an_instance_whose_application_is_away_is_passed_over_by_posts_too() {
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    let (one, two) = (Application::echo("one").await, Application::echo("two").await);
    let first = mesh.sidecar("app").instance("app-1").serves("app", one.address).start().await;
    let second = mesh.sidecar("app").instance("app-2").serves("app", two.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let gone = one.address;
    drop(one);
    eventually("a free port", async || std::net::TcpListener::bind(gone).ok()).await;
    let mut client = web.client().await;
    for _ in 0..40 {
        assert_eq!(client.post("app", "/", "order").await.by(), (200, "two"));
    }
    drop((first, second));
}

#[tokio::test]
async fn a_restart_of_the_control_plane_disturbs_no_request() {
    let mut mesh = Mesh::start(&[service("app", 80, "http"), service("late", 80, "http")].concat()).await;
    let app = Application::echo("app").await;
    let served = mesh.sidecar("app").serves("app", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let load = Load::start(web.outbound(), "app");
    load.wait_for(100).await;
    mesh.stop_control_plane().await;
    load.wait_for(200).await;
    mesh.start_control_plane().await;
    let late = mesh.sidecar("late").serves("late", app.address).start().await;
    web.get_until("late", "/", |answer| answer.by() == (200, "app")).await;
    load.finish().await.assert_nothing_lost();
    drop((served, late));
}

#[tokio::test]
async fn sidecars_restart_and_serve_while_the_control_plane_is_away() {
    let mut mesh = Mesh::start(&service("app", 80, "http")).await;
    let app = Application::echo("app").await;
    let served = mesh.sidecar("app").serves("app", app.address).start().await;
    let mut web = mesh.sidecar("web").start().await;
    assert_eq!(web.get("app", "/").await.by(), (200, "app"));
    mesh.stop_control_plane().await;
    web.stop().await;
    web.restart().await;
    assert_eq!(web.get("app", "/").await.by(), (200, "app"));
    drop(served);
}

#[tokio::test]
async fn an_instance_that_keeps_failing_is_ejected() {
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    let (bad, good) = (Application::http(|_| status(500)).await, Application::echo("good").await);
    let first = mesh.sidecar("app").instance("app-1").serves("app", bad.address).start().await;
    let second = mesh.sidecar("app").instance("app-2").serves("app", good.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let mut client = web.client().await;
    eventually("an ejection", async || {
        client.get("app", "/").await;
        (web.metric("outrigger_upstream_ejections_total", "app").await >= 1.0).then_some(())
    })
    .await;
    assert!(bad.requests() >= 5, "ejected after {}", bad.requests());
    for _ in 0..20 {
        assert_eq!(client.get("app", "/").await.by(), (200, "good"));
    }
    drop((first, second));
}

#[tokio::test]
async fn retries_do_not_multiply_an_outage() {
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    let app = Application::http(|_| status(503)).await;
    let served = mesh.sidecar("app").serves("app", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let mut client = web.client().await;
    const SENT: usize = 300;
    for sent in 1..=SENT {
        assert_eq!(client.get("app", "/").await.status, 503);
        // The retry budget is a fifth of the requests, and at least three. The sidecar of the application retries nothing.
        let retries = app.requests() - sent;
        assert!(retries <= 3.max(sent / 5), "{retries} retries of {sent} requests");
    }
    assert!(app.requests() > SENT);
    assert!(web.metric("outrigger_upstream_retry_budget_exhausted_total", "app").await >= 1.0);
    drop(served);
}

/// Of the two sidecars, the caller's retries and the application's does not.
#[tokio::test]
async fn a_get_that_the_application_reads_and_cuts_is_executed_three_times_at_most() {
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    let cuts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&cuts);
    let app = Application::raw(move |mut connection| {
        let cuts = Arc::clone(&counted);
        async move {
            while let Some(asked) = connection.request().await {
                if asked.head.starts_with("GET /cut") {
                    cuts.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                connection.send(ok("fine")).await.unwrap();
            }
        }
    })
    .await;
    let served = mesh.sidecar("app").serves("app", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    // Idle connections to the application, each of which has carried a request.
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(web.client().await);
    }
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
    }
    for client in &mut clients {
        assert_eq!(client.response().await.status, 200);
    }
    assert_eq!(clients[0].get("app", "/cut").await.status, 503);
    assert_eq!(cuts.load(Ordering::SeqCst), 3);
    drop(served);
}

/// The application refuses every stream. Its sidecar reports to the caller's sidecar that nothing was processed.
#[tokio::test]
async fn a_post_that_is_refused_for_overload_goes_to_another_instance() {
    let mesh = Mesh::start(&service("app", 80, "grpc")).await;
    let (full, free) = (grpc::refusing().await, grpc::echo("free").await);
    let first = mesh.sidecar("app").instance("app-1").serves("app", full.address).start().await;
    let second = mesh.sidecar("app").instance("app-2").serves("app", free.address).start().await;
    let web = mesh.sidecar("web").binds("app:80").start().await;
    let client = GrpcClient::connect(web.bound()).await;
    for _ in 0..6 {
        let (head, ..) = client.unary("app", "/app.App/Do", &[]).await;
        assert_eq!((head.status().as_u16(), head.headers().get("grpc-status")), (200, None));
    }
    drop((first, second));
}

#[tokio::test]
async fn a_post_that_was_cut_off_is_counted_and_never_sent_twice() {
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    let dying = Arc::new(AtomicBool::new(true));
    let dies = Arc::clone(&dying);
    let app = Application::raw(move |mut connection| {
        let dies = Arc::clone(&dies);
        async move {
            while connection.request().await.is_some() {
                if dies.swap(false, Ordering::SeqCst) || connection.send(ok("alive")).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let served = mesh.sidecar("app").serves("app", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let answer = web.client().await.post("app", "/", "order").await;
    assert_eq!((answer.status, app.requests()), (503, 1), "{}", answer.head);
    assert_eq!(answer.reason(), "upstream_connection_termination");
    assert!(served.metric("outrigger_requests_total", "flag=\"UC\"").await >= 1.0);
    dying.store(true, Ordering::SeqCst);
    assert_eq!(web.get("app", "/").await.body, "alive", "a GET is sent again");
    assert_eq!(app.requests(), 3);
}
