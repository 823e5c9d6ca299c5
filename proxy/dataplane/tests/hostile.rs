//! Hostile clients and applications, as raw bytes over loopback sockets, against a real worker.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use outrigger_core::reason::Reason;
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::ok;
use socket2::SockRef;
use support::{Proxy, World, forward};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

/// A proxy in front of `application`, which is `app:80`.
fn before(application: &Application) -> Proxy {
    World::new().proxy().cluster("app", &[application.address]).http("app:80", forward("app")).start()
}

/// An application that accepts and reads nothing.
async fn deaf() -> Application {
    Application::raw(|connection| async move {
        std::future::pending::<()>().await;
        drop(connection);
    })
    .await
}

#[tokio::test]
async fn a_client_that_disconnects_while_its_body_is_not_read_is_detected() {
    let application = deaf().await;
    let mut proxy = before(&application);
    let mut client = Client::connect(proxy.address(0)).await;
    client.send("POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 1000000000\r\n\r\n").await;
    // As much as the buffers between client and application hold.
    let piece = vec![b'x'; 256 * 1024];
    let stuck = Duration::from_millis(300);
    while tokio::time::timeout(stuck, client.stream.get_mut().write_all(&piece)).await.is_ok() {}
    // A killed client resets; an orderly end would be queued after the bytes that do not fit.
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

#[tokio::test]
async fn a_client_that_has_closed_its_side_is_answered_and_one_that_has_closed_is_noticed() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let application = Application::raw(move |mut connection| {
        let mut wait = wait.clone();
        async move {
            while connection.request().await.is_some() {
                wait.wait_for(|go| *go).await.unwrap();
                connection.send(ok("late")).await.unwrap();
            }
        }
    })
    .await;
    let mut proxy = before(&application);
    let mut stays = Client::connect(proxy.address(0)).await;
    stays.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
    stays.finish().await;
    let mut leaves = Client::connect(proxy.address(0)).await;
    leaves.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
    while application.requests() < 2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    drop(leaves);
    assert_eq!(proxy.record().await.reason, Some(Reason::DownstreamConnectionTermination));
    go.send(true).unwrap();
    assert_eq!(stays.response().await.body, "late");
    let record = proxy.record().await;
    assert_eq!((record.status, record.reason), (200, None));
}

/// Returns what a client that sends `bytes` receives until the end of its connection.
async fn said(proxy: &Proxy, bytes: &str) -> String {
    let mut client = Client::connect(proxy.address(0)).await;
    client.send(bytes).await;
    String::from_utf8_lossy(&client.rest().await).into_owned()
}

#[tokio::test]
async fn a_request_with_two_meanings_never_reaches_an_application() {
    let application = Application::echo("app").await;
    let proxy = before(&application);
    let smuggled = "GET /admin HTTP/1.1\r\nHost: app\r\n\r\n";
    for head in [
        "Host: app\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Host: app\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "Host: app\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "Host: app\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "Host: app\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n",
        "Host: app\r\nContent-Length: +0\r\n\r\n",
        "Host: app\r\nX: a\r\n Content-Length: 44\r\n\r\n",
        "Host: app\r\nX: a\nContent-Length: 44\r\n\r\n",
        "Host: app\r\nHost: evil\r\n\r\n",
        "Host: app\r\nConnection: content-length\r\nContent-Length: 44\r\n\r\n",
        "\r\n",
    ] {
        let text = said(&proxy, &format!("POST / HTTP/1.1\r\n{head}{smuggled}")).await;
        assert!(
            text.starts_with("HTTP/1.1 400 ") && text.matches("HTTP/1.1 ").count() == 1,
            "{head}: {text}"
        );
    }
    assert_eq!((application.requests(), application.connections()), (0, 0));
}

#[tokio::test]
async fn a_body_that_a_client_ends_early_is_no_whole_request() {
    for (head, part) in [("Content-Length: 9", "abc"), ("Transfer-Encoding: chunked", "3\r\nabc\r\n")] {
        let (seen, mut heard) = tokio::sync::mpsc::channel(8);
        let application = Application::raw(move |mut connection| {
            let seen = seen.clone();
            async move {
                let mut bytes = Vec::new();
                let end = connection.stream.read_to_end(&mut bytes).await;
                seen.send((String::from_utf8(bytes).unwrap(), end.is_ok())).await.unwrap();
            }
        })
        .await;
        let proxy = before(&application);
        let mut client = Client::connect(proxy.address(0)).await;
        client.send(format!("POST / HTTP/1.1\r\nHost: app\r\n{head}\r\n\r\n{part}")).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(client);
        let (text, _) = tokio::time::timeout(Duration::from_secs(5), heard.recv()).await.unwrap().unwrap();
        assert!(text.contains("abc") && !text.contains("\r\n0\r\n"), "{text}");
        assert!(heard.try_recv().is_err(), "it was not sent again");
    }
}

#[tokio::test]
async fn what_an_application_may_not_say_becomes_a_502() {
    let endless = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000);
    let bomb = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(10_000));
    for bytes in [
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "SSH-2.0-OpenSSH_9.9\r\n",
        endless.as_str(),
        bomb.as_str(),
    ] {
        let bytes: Arc<str> = bytes.into();
        let say = bytes.clone();
        let application = Application::raw(move |mut connection| {
            let say = say.clone();
            async move {
                if connection.request().await.is_some() {
                    // Fails if the proxy has closed the connection in the middle.
                    let _ = connection.send(say.as_bytes()).await;
                    tokio::time::sleep(Duration::from_secs(5)).await;
                }
            }
        })
        .await;
        let proxy = before(&application);
        let mut client = Client::connect(proxy.address(0)).await;
        client.send("POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 0\r\n\r\n").await;
        let mut hints = 0;
        let head = loop {
            let head = client.head().await;
            if !head.starts_with("HTTP/1.1 103") {
                break head;
            }
            hints += 1;
        };
        let shown = &bytes[..bytes.len().min(90)];
        assert!(head.starts_with("HTTP/1.1 502 ") && hints <= 16, "{shown}: {hints} hints, then {head}");
    }
}

#[tokio::test]
async fn bytes_after_a_response_answer_no_other_request() {
    let application = Application::http(|asked| {
        let path = asked.head.split(' ').nth(1).unwrap().to_owned();
        format!("{}{}", ok(&path), ok("POISON"))
    })
    .await;
    let proxy = before(&application);
    let mut client = Client::connect(proxy.address(0)).await;
    for path in ["/1", "/2", "/3"] {
        assert_eq!(client.get("app", path).await.body, path);
    }
    assert_eq!(application.connections(), 3, "a connection that said too much is not used again");
}

#[tokio::test]
async fn an_upgrade_that_is_refused_leaves_the_connection_http() {
    let application = Application::echo("app").await;
    let proxy = before(&application);
    let mut client = Client::connect(proxy.address(0)).await;
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    client
        .send(format!("GET /ws HTTP/1.1\r\nHost: app\r\n{upgrade}\r\nGET /b HTTP/1.1\r\nHost: evil\r\n\r\n"))
        .await;
    assert!(client.response().await.body.starts_with("GET /ws "));
    let next = client.response().await;
    assert!(
        next.status == 502 && next.head.contains("no_destination"),
        "it is routed like any other: {next:?}"
    );
}

#[tokio::test]
async fn a_path_is_matched_and_passed_on_in_one_form() {
    let application = Application::echo("app").await;
    let proxy = before(&application);
    let mut client = Client::connect(proxy.address(0)).await;
    for (asked, passed_on) in [
        ("/a/../admin", "/admin"),
        ("/a/%2e%2E/%61dmin?x=/../%2e", "/admin?x=/../%2e"),
        ("http://app/a/../admin", "/admin"),
        ("http://app?x", "/?x"),
        ("/a%2f..%2fadmin", "/a%2f..%2fadmin"),
        ("//a//b", "//a//b"),
    ] {
        let body = client.get("app", asked).await.body;
        assert!(body.starts_with(&format!("GET {passed_on} HTTP/1.1\r\n")), "{asked}: {body}");
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_costs_a_bounded_amount() {
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    let application = Application::raw(move |mut connection| {
        let count = count.clone();
        async move {
            connection.request().await;
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await.unwrap();
            while connection.send(&[b'x'; 65_536]).await.is_ok() {
                count.fetch_add(65_536, Ordering::SeqCst);
            }
        }
    })
    .await;
    let proxy = before(&application);
    let mut client = Client::connect(proxy.address(0)).await;
    SockRef::from(client.stream.get_ref()).set_recv_buffer_size(64 * 1024).unwrap();
    client.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
    client.head().await;
    let mut before = usize::MAX;
    while before != written.load(Ordering::SeqCst) {
        before = written.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // The kernel's buffers of two connections, and a few pieces of the proxy's.
    assert!(before < 32 * 1024 * 1024, "{before} bytes");
}
