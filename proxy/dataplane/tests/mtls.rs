//! Two sidecars with mutual TLS between them.

#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use outrigger_config::cluster::UpstreamProtocol;
use outrigger_core::reason::Reason;
use outrigger_core::record::Protocol;
use outrigger_test_support::application::{Application, closed_port};
use outrigger_test_support::client::Client;
use outrigger_test_support::http2;
use support::sidecar::{self, inbound, inbound_listener, outbound};
use support::tls::{Authority, spiffe};
use support::{World, cluster, endpoint};
use tokio::io::AsyncReadExt;

#[tokio::test]
async fn both_sides_know_the_peers_identity() {
    let (authority, echo) = (Authority::new(), Application::echo("app").await);
    let mut server = inbound(&authority, "cart", echo.address);
    let mut client = outbound(&authority, vec![sidecar::endpoint(server.address(0), &["cart"])]);
    let mut user = Client::connect(client.address(0)).await;
    for _ in 0..3 {
        let answer = user.post("app", "/order", "body").await;
        assert!(answer.status == 200 && answer.body.ends_with("\r\n\r\nbody"), "{answer:?}");
        let (out, inside) = (client.record().await, server.record().await);
        assert_eq!(out.attempts[0].peer.as_ref().unwrap(), &spiffe("cart"));
        assert_eq!((inside.source.as_ref().unwrap(), inside.protocol), (&spiffe("web"), Protocol::Http2));
        assert_eq!(out.trace.unwrap().trace, inside.trace.unwrap().trace);
        assert_eq!(
            out.attempts[0].span,
            inside.trace.unwrap().parent,
            "the attempt is the parent of the next hop"
        );
    }
    assert_eq!(client.totals().clusters["app"].tls_ok, 1, "one connection carries all requests");
}

#[tokio::test]
async fn odd_but_legal_targets_and_hosts_cross_both_sidecars() {
    let (authority, echo) = (Authority::new(), Application::echo("app").await);
    let server = inbound(&authority, "cart", echo.address);
    let client = outbound(&authority, vec![sidecar::endpoint(server.address(0), &["cart"])]);
    let mut user = Client::connect(client.address(0)).await;
    for (asked, seen) in [
        ("OPTIONS * HTTP/1.1\r\nHost: app", "OPTIONS * HTTP/1.1\r\nhost: app\r\n"),
        ("OPTIONS http://app HTTP/1.1\r\nHost: app", "OPTIONS * HTTP/1.1\r\nhost: app\r\n"),
        ("GET /a HTTP/1.1\r\nHost: app:", "GET /a HTTP/1.1\r\nhost: app\r\n"),
        ("GET http://app:/a HTTP/1.1\r\nHost: app:80", "GET /a HTTP/1.1\r\nhost: app\r\n"),
    ] {
        user.send(format!("{asked}\r\n\r\n")).await;
        let answer = user.response().await;
        assert!(answer.status == 200 && answer.body.starts_with(seen), "{asked}: {answer:?}");
    }
}

#[tokio::test]
async fn an_endpoint_of_another_identity_gets_nothing() {
    let (authority, echo) = (Authority::new(), Application::echo("app").await);
    let server = inbound(&authority, "impostor", echo.address);
    let mut client = outbound(&authority, vec![sidecar::endpoint(server.address(0), &["cart"])]);
    let answer = Client::connect(client.address(0)).await.get("app", "/").await;
    assert!(answer.status == 503 && answer.head.contains("upstream_tls_failure"), "{answer:?}");
    assert_eq!(client.record().await.reason, Some(Reason::UpstreamTlsFailure));
    assert_eq!(echo.requests(), 0);
}

#[tokio::test]
async fn a_client_in_the_clear_or_of_another_authority_is_refused() {
    let (authority, echo) = (Authority::new(), Application::echo("app").await);
    let mut server = inbound(&authority, "cart", echo.address);
    let mut plain = Client::connect(server.address(0)).await;
    plain.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
    let rest = plain.rest().await;
    assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
    assert_eq!(server.record().await.reason, Some(Reason::DownstreamTlsFailure));
    let stranger = outbound(&Authority::new(), vec![sidecar::endpoint(server.address(0), &["cart"])]);
    assert_eq!(Client::connect(stranger.address(0)).await.get("app", "/").await.status, 503);
    assert_eq!((echo.requests(), server.totals().process.downstream_tls_ok), (0, 0));
    assert!(server.totals().process.downstream_tls_failed >= 2);
}

#[tokio::test]
async fn a_post_whose_application_is_unreachable_goes_to_another_instance() {
    let (authority, echo) = (Authority::new(), Application::echo("app").await);
    let without = inbound(&authority, "cart", closed_port().await);
    let with = inbound(&authority, "cart", echo.address);
    let endpoints =
        [without.address(0), with.address(0)].map(|address| sidecar::endpoint(address, &["cart"]));
    let mut client = outbound(&authority, endpoints.into());
    let mut user = Client::connect(client.address(0)).await;
    let mut refused = 0;
    for _ in 0..20 {
        assert_eq!(user.post("app", "/", "order").await.status, 200);
        refused += client.record().await.attempts.len() - 1;
    }
    assert!(refused > 0);
    assert_eq!(echo.requests(), 20);
}

#[tokio::test]
async fn opaque_bytes_and_upgrades_cross_both_sidecars() {
    let authority = Authority::new();
    let application = Application::raw(|mut connection| async move {
        let head = connection.head().await.unwrap();
        if head.starts_with("GET") {
            let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
            connection.send(switch).await.unwrap();
        }
        let mut word = [0; 4];
        connection.stream.read_exact(&mut word).await.unwrap();
        connection.send(&word).await.unwrap();
    })
    .await;
    let mut server = inbound(&authority, "cart", application.address);
    let client = outbound(&authority, vec![sidecar::endpoint(server.address(0), &["cart"])]);
    let mut user = Client::connect(client.address(0)).await;
    user.send("GET / HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nping").await;
    assert!(user.head().await.starts_with("HTTP/1.1 101 "));
    assert_eq!(user.rest().await, b"ping");
    drop(user);
    assert_eq!(server.record().await.status, 101);
    let mut user = Client::connect(client.address(1)).await;
    user.send("\r\npong").await;
    assert_eq!(user.rest().await, b"pong");
    drop(user);
    let record = server.record().await;
    assert_eq!((record.protocol, record.source.as_ref().unwrap()), (Protocol::Tcp, &spiffe("web")));
}

#[tokio::test]
async fn a_declined_upgrade_leaves_the_connection_between_sidecars_reusable() {
    let (authority, echo) = (Authority::new(), Application::echo("app").await);
    let server = inbound(&authority, "cart", echo.address);
    let client = outbound(&authority, vec![sidecar::endpoint(server.address(0), &["cart"])]);
    let mut user = Client::connect(client.address(0)).await;
    for (protocol, connections) in [("TLS/1.2", 1), ("websocket", 2), ("other", 2)] {
        for _ in 0..20 {
            let fields = format!("Connection: Upgrade\r\nUpgrade: {protocol}\r\n");
            assert_eq!(user.request("GET", "app", "/", &fields).await.status, 200);
        }
        assert_eq!(client.totals().clusters["app"].tls_ok, connections, "{protocol}");
    }
    assert_eq!((echo.requests(), echo.connections()), (60, 1));
}

/// Returns `count` fields whose size, counted with 32 bytes each, is `bytes` in total.
fn fields(count: usize, bytes: usize) -> String {
    let each = bytes / count;
    let field = |at: usize| {
        let size = if at == 0 { each + bytes % count } else { each };
        let name = format!("x-{at}");
        format!("{name}: {}\r\n", "v".repeat(size - 32 - name.len()))
    };
    (0..count).map(field).collect()
}

#[tokio::test]
async fn the_largest_heads_that_the_first_hop_accepts_pass_both_sidecars_in_both_directions() {
    const BYTES: usize = 60 * 1024;
    let authority = Authority::new();
    let application = Application::http(|asked| {
        // 100 fields, of which `content-length: 2` is one.
        let of_answer = fields(99, BYTES - 47);
        let whole = asked.head.lines().filter(|line| line.ends_with("vvv")).count() == 99;
        format!("HTTP/1.1 200 OK\r\n{of_answer}content-length: 2\r\n\r\n{}", if whole { "ok" } else { "no" })
    })
    .await;
    let server = inbound(&authority, "cart", application.address);
    let mut client = outbound(&authority, vec![sidecar::endpoint(server.address(0), &["cart"])]);
    let mut user = Client::connect(client.address(0)).await;
    // `host: app` costs 39 and is one of the 100.
    let answer = user.request("GET", "app", "/", &fields(99, BYTES - 39)).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok"), "{answer:?}");
    assert_eq!(answer.head.lines().filter(|line| line.ends_with("vvv")).count(), 99);
    assert_eq!(client.record().await.reason, None);
    for too_much in [fields(99, BYTES - 38), fields(100, BYTES / 2)] {
        let mut user = Client::connect(client.address(0)).await;
        assert_eq!(user.request("GET", "app", "/", &too_much).await.status, 431);
        assert_eq!(client.record().await.reason, Some(Reason::HeadersTooLarge));
    }
}

#[tokio::test]
async fn grpc_streams_both_ways_with_trailers() {
    let authority = Authority::new();
    let application = Application::http2(|request, mut respond| async move {
        assert_eq!(request.headers()["content-type"], "application/grpc");
        let mut body = request.into_body();
        let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut send = respond.send_response(head, false).unwrap();
        while let Some(Ok(data)) = body.data().await {
            body.flow_control().release_capacity(data.len()).unwrap();
            send.send_data(data, false).unwrap();
        }
        let trailers = [("grpc-status".parse().unwrap(), "5".parse().unwrap())].into_iter().collect();
        send.send_trailers(trailers).unwrap();
    })
    .await;
    let mut app = cluster("app", [endpoint(application.address)]);
    app.protocol = UpstreamProtocol::Http2;
    let world = World::new().own(inbound_listener()).cluster_of(app);
    world.secrets.publish(authority.secrets("cart"));
    let mut server = world.start();
    let mut client = outbound(&authority, vec![sidecar::endpoint(server.address(0), &["cart"])]);

    let mut sender = http2::connect(client.address(0)).await;
    let request = http::Request::post("http://app/shop.Cart/Watch")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (response, mut send) = sender.send_request(request, false).unwrap();
    send.send_data("one".into(), false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "one");
    send.send_data("two".into(), true).unwrap();
    assert_eq!(body.data().await.unwrap().unwrap(), "two");
    assert!(body.data().await.is_none());
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "5");
    for record in [client.record().await, server.record().await] {
        assert_eq!((record.protocol, record.status, record.grpc_status), (Protocol::Grpc, 200, Some(5)));
        assert_eq!((record.bytes_received, record.bytes_sent), (6, 6));
    }
}
