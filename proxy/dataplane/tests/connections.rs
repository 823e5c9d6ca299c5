//! How long connections to an application are kept: as its cluster says, and never at the cost of a request.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use outrigger_config::cluster::{Cluster, ConnectionSettings, UpstreamProtocol};
use support::application::Application;
use support::client::Client;
use support::{Proxy, World, cluster, endpoint, forward};
use tokio::net::TcpListener;

fn limited(to: SocketAddr, protocol: UpstreamProtocol, limit: impl Fn(&mut ConnectionSettings)) -> Proxy {
    let mut cluster = Cluster { protocol, ..cluster("app", [endpoint(to)]) };
    limit(&mut cluster.connections);
    World::new().proxy().cluster_of(cluster).http("app:80", forward("app")).start()
}

/// An application that speaks HTTP/2 with prior knowledge, answers every request when `after` has passed, and counts
/// its connections.
async fn http2(after: Duration) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        tokio::time::sleep(after).await;
                        let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                        body.send_data(Bytes::from_static(b"two"), true).unwrap();
                    });
                }
            });
        }
    });
    (address, connections)
}

#[tokio::test]
async fn a_connection_is_closed_after_so_many_requests() {
    let echo = Application::echo().await;
    let (two, connections) = http2(Duration::ZERO).await;
    for (address, protocol) in [(echo.address, UpstreamProtocol::Http1), (two, UpstreamProtocol::Http2)] {
        let proxy = limited(address, protocol, |settings| settings.max_requests = Some(2));
        let mut client = Client::connect(proxy.address(0)).await;
        for _ in 0..5 {
            assert_eq!(client.post("app", "/", "order").await.status, 200);
        }
    }
    assert_eq!((echo.connections(), connections.load(Ordering::SeqCst)), (3, 3));
}

#[tokio::test]
async fn a_connection_is_closed_after_so_long() {
    let echo = Application::echo().await;
    let (two, connections) = http2(Duration::ZERO).await;
    for (address, protocol) in [(echo.address, UpstreamProtocol::Http1), (two, UpstreamProtocol::Http2)] {
        let life = Duration::from_millis(400);
        let proxy = limited(address, protocol, |settings| settings.max_duration = Some(life));
        let mut client = Client::connect(proxy.address(0)).await;
        for pause in [Duration::ZERO, Duration::ZERO, life] {
            tokio::time::sleep(pause).await;
            assert_eq!(client.get("app", "/", "").await.status, 200);
        }
    }
    assert_eq!((echo.connections(), connections.load(Ordering::SeqCst)), (2, 2));
}

#[tokio::test]
async fn a_connection_without_requests_is_closed_when_its_cluster_says() {
    let echo = Application::echo().await;
    let (two, connections) = http2(Duration::ZERO).await;
    for (address, protocol) in [(echo.address, UpstreamProtocol::Http1), (two, UpstreamProtocol::Http2)] {
        let idle = Some(Duration::from_millis(10));
        let proxy = limited(address, protocol, |settings| settings.idle_timeout = idle);
        let mut client = Client::connect(proxy.address(0)).await;
        assert_eq!(client.get("app", "/", "").await.status, 200);
        let mut left = proxy.totals().clusters["app"].connections_active;
        while left > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            left = proxy.totals().clusters["app"].connections_active;
        }
        assert_eq!(client.get("app", "/", "").await.status, 200);
    }
    assert_eq!((echo.connections(), connections.load(Ordering::SeqCst)), (2, 2));
}

#[tokio::test]
async fn a_connection_has_no_more_streams_than_its_cluster_says() {
    let (two, connections) = http2(Duration::from_millis(300)).await;
    let proxy = limited(two, UpstreamProtocol::Http2, |settings| settings.max_concurrent_streams = 2);
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let mut client = Client::connect(proxy.address(0)).await;
        asked.spawn(async move { client.get("app", "/", "").await.status });
    }
    assert_eq!(asked.join_all().await, [200; 6]);
    assert_eq!(connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn where_every_connection_closes_at_once_a_request_fails_soon() {
    let application = Application::raw(|stream, _, _| async move { drop(stream) }).await;
    let proxy = limited(application.address, UpstreamProtocol::Http2, |_| {});
    let mut client = Client::connect(proxy.address(0)).await;
    for _ in 0..20 {
        assert_eq!(client.get("app", "/", "").await.status, 503);
    }
    // Three tries each, and two more where the connection had just been closed.
    assert!(application.connections() <= 20 * 5, "{}", application.connections());
}

#[tokio::test]
async fn a_connection_that_is_old_at_once_carries_a_request_all_the_same() {
    let (two, _) = http2(Duration::ZERO).await;
    let moment = Some(Duration::from_nanos(1));
    let proxy = limited(two, UpstreamProtocol::Http2, |settings| settings.max_duration = moment);
    let mut client = Client::connect(proxy.address(0)).await;
    for _ in 0..3 {
        assert_eq!(client.get("app", "/", "").await.status, 200);
    }
}
