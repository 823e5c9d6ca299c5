//! How long connections to an application are kept: as its cluster configures, and never at the cost of a request.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use outrigger_config::cluster::{Cluster, ConnectionSettings, UpstreamProtocol};
use outrigger_dataplane::metrics::ClusterTotals;
use outrigger_policy::circuit_breaker::CircuitBreakers;
use outrigger_proto::xds::{cluster as wire, protobuf};
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::ok;
use support::{Proxy, World, cluster, endpoint, forward};

fn limited(to: SocketAddr, protocol: UpstreamProtocol, limit: impl Fn(&mut ConnectionSettings)) -> Proxy {
    let mut cluster = Cluster { protocol, ..cluster("app", [endpoint(to)]) };
    limit(&mut cluster.connections);
    World::new().proxy().cluster_of(cluster).http("app:80", forward("app")).start()
}

/// An application that speaks HTTP/2 and answers every request after `after`.
async fn http2(after: Duration) -> Application {
    Application::http2(move |_, mut respond| async move {
        tokio::time::sleep(after).await;
        let mut body = respond.send_response(http::Response::new(()), false).unwrap();
        body.send_data(Bytes::from_static(b"two"), true).unwrap();
    })
    .await
}

#[tokio::test]
async fn a_connection_is_closed_after_so_many_requests() {
    let echo = Application::echo("app").await;
    let two = http2(Duration::ZERO).await;
    for (address, protocol) in
        [(echo.address, UpstreamProtocol::Http1), (two.address, UpstreamProtocol::Http2)]
    {
        let proxy = limited(address, protocol, |settings| settings.max_requests = Some(2));
        let mut client = Client::connect(proxy.address(0)).await;
        for _ in 0..5 {
            assert_eq!(client.post("app", "/", "order").await.status, 200);
        }
    }
    assert_eq!((echo.connections(), two.connections()), (3, 3));
}

#[tokio::test]
async fn a_connection_is_closed_after_so_long() {
    let echo = Application::echo("app").await;
    let two = http2(Duration::ZERO).await;
    for (address, protocol) in
        [(echo.address, UpstreamProtocol::Http1), (two.address, UpstreamProtocol::Http2)]
    {
        let life = Duration::from_millis(400);
        let proxy = limited(address, protocol, |settings| settings.max_duration = Some(life));
        let mut client = Client::connect(proxy.address(0)).await;
        for pause in [Duration::ZERO, Duration::ZERO, life] {
            tokio::time::sleep(pause).await;
            assert_eq!(client.get("app", "/").await.status, 200);
        }
    }
    assert_eq!((echo.connections(), two.connections()), (2, 2));
}

#[tokio::test]
async fn a_connection_without_requests_is_closed_when_its_cluster_says() {
    let echo = Application::echo("app").await;
    let two = http2(Duration::ZERO).await;
    for (address, protocol) in
        [(echo.address, UpstreamProtocol::Http1), (two.address, UpstreamProtocol::Http2)]
    {
        let idle = Some(Duration::from_millis(10));
        let proxy = limited(address, protocol, |settings| settings.idle_timeout = idle);
        let mut client = Client::connect(proxy.address(0)).await;
        assert_eq!(client.get("app", "/").await.status, 200);
        let mut left = proxy.totals().clusters["app"].connections_open;
        while left > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            left = proxy.totals().clusters["app"].connections_open;
        }
        assert_eq!(client.get("app", "/").await.status, 200);
    }
    assert_eq!((echo.connections(), two.connections()), (2, 2));
}

#[tokio::test]
async fn a_connection_has_no_more_streams_than_its_cluster_says() {
    let two = http2(Duration::from_millis(300)).await;
    let proxy = limited(two.address, UpstreamProtocol::Http2, |settings| settings.max_concurrent_streams = 2);
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let mut client = Client::connect(proxy.address(0)).await;
        asked.spawn(async move { client.get("app", "/").await.status });
    }
    assert_eq!(asked.join_all().await, [200; 6]);
    assert_eq!(two.connections(), 3);
}

#[tokio::test]
async fn where_every_connection_closes_at_once_a_request_fails_soon() {
    let application = Application::raw(|connection| async move { drop(connection) }).await;
    let proxy = limited(application.address, UpstreamProtocol::Http2, |_| {});
    let mut client = Client::connect(proxy.address(0)).await;
    for _ in 0..20 {
        assert_eq!(client.get("app", "/").await.status, 503);
    }
    // Three attempts each, and two more if the connection had just been closed.
    assert!(application.connections() <= 20 * 5, "{}", application.connections());
}

#[tokio::test]
async fn a_connection_that_is_old_at_once_carries_a_request_all_the_same() {
    let two = http2(Duration::ZERO).await;
    let moment = Some(Duration::from_nanos(1));
    let proxy = limited(two.address, UpstreamProtocol::Http2, |settings| settings.max_duration = moment);
    let mut client = Client::connect(proxy.address(0)).await;
    for _ in 0..3 {
        assert_eq!(client.get("app", "/").await.status, 200);
    }
}

/// An application that handles one request at a time on a connection, each of which takes a while.
async fn slow(protocol: UpstreamProtocol) -> Application {
    let pause = || tokio::time::sleep(Duration::from_millis(300));
    if protocol == UpstreamProtocol::Http1 {
        return Application::raw(move |mut connection| async move {
            while connection.request().await.is_some() {
                pause().await;
                if connection.send(ok("one")).await.is_err() {
                    return;
                }
            }
        })
        .await;
    }
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1);
    Application::http2_with(builder, move |_, mut respond| async move {
        pause().await;
        // Fails if the request was cancelled.
        let _ = respond.send_response(http::Response::new(()), true);
    })
    .await
}

/// Waits until the gauges have these values: open, active and idle connections, and pending requests.
async fn gauges(proxy: &Proxy, wanted: [u64; 4]) {
    let now = || {
        let seen = proxy.totals().clusters.get("app").cloned().unwrap_or_default();
        let ClusterTotals { connections_open, connections_active, connections_idle, pending, .. } = seen;
        [connections_open, connections_active, connections_idle, pending]
    };
    for _ in 0..1000 {
        if now() == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(now(), wanted);
}

#[tokio::test]
async fn gauges_say_what_connections_do_and_how_many_requests_wait_for_one() {
    for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
        let application = slow(protocol).await;
        let max_connections = Some(protobuf::UInt32Value { value: 1 });
        let thresholds = vec![wire::circuit_breakers::Thresholds { max_connections, ..Default::default() }];
        let breakers =
            CircuitBreakers::decode(Some(wire::CircuitBreakers { thresholds, ..Default::default() }))
                .unwrap();
        let cluster = Cluster { protocol, breakers, ..cluster("app", [endpoint(application.address)]) };
        let proxy = World::new().proxy().cluster_of(cluster).http("app:80", forward("app")).start();
        // The peer's SETTINGS arrive with the first response at the latest.
        let mut client = Client::connect(proxy.address(0)).await;
        assert_eq!(client.get("app", "/").await.status, 200);
        gauges(&proxy, [1, 0, 1, 0]).await;
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = Client::connect(proxy.address(0)).await;
            client.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
            clients.push(client);
        }
        gauges(&proxy, [1, 1, 0, 2]).await;
        // One waiting request is cancelled, the others are answered in order.
        let mut last = clients.remove(0);
        clients.remove(1);
        gauges(&proxy, [1, 1, 0, 1]).await;
        for client in [&mut last, &mut clients[0]] {
            assert_eq!(client.response().await.status, 200);
        }
        gauges(&proxy, [1, 0, 1, 0]).await;
    }
}

#[tokio::test]
async fn a_tunnel_is_an_active_connection_for_as_long_as_it_stands() {
    let application = Application::raw(|mut connection| async move {
        connection.head().await.unwrap();
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        connection.send(switch).await.unwrap();
        let (mut read, mut write) = tokio::io::split(connection.stream);
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let proxy = limited(application.address, UpstreamProtocol::Http1, |_| {});
    let mut client = Client::connect(proxy.address(0)).await;
    client.send("GET / HTTP/1.1\r\nHost: app\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    gauges(&proxy, [1, 1, 0, 0]).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    gauges(&proxy, [1, 1, 0, 0]).await;
    drop(client);
    gauges(&proxy, [0, 0, 0, 0]).await;
}
