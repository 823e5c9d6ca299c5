//! What idle connections hold: alone in its file, since the allocator counts for the whole process.

#[path = "support/counting.rs"]
mod counting;
mod support;

use std::time::Duration;

use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::ok;
use support::sidecar::inbound_listener;
use support::tls::{Authority, Peer, get};
use support::{World, forward};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const CONNECTIONS: i64 = 200;

/// Returns how many bytes each of [`CONNECTIONS`] connections adds, which `open` opens and uses, and then leaves idle.
async fn held_by_each<T>(open: impl AsyncFn() -> T) -> i64 {
    let mut idle = Vec::new();
    let mut before = 0;
    for at in 0..2 * CONNECTIONS {
        if at == CONNECTIONS {
            // What all connections share is there by now.
            tokio::time::sleep(Duration::from_millis(100)).await;
            before = counting::live();
        }
        idle.push(open().await);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    (counting::live() - before) / CONNECTIONS
}

#[tokio::test]
async fn idle_connections_hold_little() {
    counting::exclude_this_thread();
    let (authority, application) = (Authority::new(), Application::http(|_| ok("served")).await);
    let world = World::new().unlogged().proxy().own(inbound_listener());
    let world = world.cluster("app", &[application.address]).http("app:80", forward("app"));
    world.secrets.publish(authority.secrets("cart"));
    let proxy = world.start();

    let fresh = held_by_each(async || Client::connect(proxy.address(0)).await).await;
    let http1 = held_by_each(async || {
        let mut client = Client::connect(proxy.address(0)).await;
        assert_eq!(client.get("app", "/").await.body, "served");
        client
    });
    let http1 = http1.await;
    let peer = Peer::new(&authority, "web", "http/1.1");
    let mtls = held_by_each(async || {
        let mut stream = peer.connect(proxy.address(1)).await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: app\r\n\r\n").await.unwrap();
        let mut response = Vec::new();
        while !response.ends_with(b"served") {
            stream.read_buf(&mut response).await.unwrap();
        }
        stream
    });
    let mtls = mtls.await;
    let peer = Peer::new(&authority, "web", "h2");
    let http2 = held_by_each(async || {
        let sender = peer.http2(proxy.address(1)).await;
        assert_eq!(get(&sender, "/").await, 200);
        sender
    });
    let http2 = http2.await;
    println!("an idle connection holds: before its first request {fresh} bytes, HTTP/1 {http1}, mTLS {mtls}");
    println!("HTTP/2 over mTLS: {http2}");
    assert!(fresh <= 4096 && http1 <= 4096, "{fresh}, {http1}");
    assert!(mtls <= 16 * 1024 && http2 <= 20 * 1024, "{mtls}, {http2}");
}
