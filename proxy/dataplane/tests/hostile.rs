//! Clients and applications that mean no good, as raw bytes over loopback sockets, against a real worker.

mod support;

use std::time::{Duration, Instant};

use outrigger_core::reason::Reason;
use socket2::SockRef;
use support::application::Application;
use support::client::Client;
use support::{Proxy, World, forward};
use tokio::io::AsyncWriteExt;

/// A proxy before `application`, which is `app:80`.
fn before(application: &Application) -> Proxy {
    World::new().proxy().cluster("app", &[application.address]).http("app:80", forward("app")).start()
}

/// An application that accepts and reads nothing.
async fn deaf() -> Application {
    Application::raw(|stream, _, _| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await
}

#[tokio::test]
async fn a_client_that_leaves_while_nobody_takes_its_body_is_noticed() {
    let application = deaf().await;
    let mut proxy = before(&application);
    let mut client = Client::connect(proxy.address(0)).await;
    client.send("POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 1000000000\r\n\r\n").await;
    // As much as the buffers between here and there hold.
    let piece = vec![b'x'; 256 * 1024];
    let stuck = Duration::from_millis(300);
    while tokio::time::timeout(stuck, client.stream.get_mut().write_all(&piece)).await.is_ok() {}
    // A killed client resets; an orderly end would stand behind the bytes that do not fit.
    SockRef::from(client.stream.get_ref()).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    let record = proxy.record().await;
    assert_eq!(record.reason, Some(Reason::DownstreamConnectionTermination));
}

#[tokio::test]
async fn a_client_that_leaves_while_its_destination_is_looked_for_is_noticed() {
    for body in [3, 100_000] {
        let mut world = World::new().proxy();
        world.wildcard = false;
        let mut proxy = world.start();
        let mut client = Client::connect(proxy.address(0)).await;
        client.send(format!("POST / HTTP/1.1\r\nHost: app\r\nContent-Length: {}\r\n\r\n", body + 1)).await;
        client.send(vec![b'x'; body]).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let left = Instant::now();
        drop(client);
        let record = proxy.record().await;
        assert_eq!(record.reason, Some(Reason::DownstreamConnectionTermination));
        assert!(left.elapsed() < Duration::from_secs(2));
    }
}
