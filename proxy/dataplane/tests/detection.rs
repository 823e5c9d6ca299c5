//! Ports of unknown protocol: detection by the first bytes of a connection, or by a server that speaks first.

mod support;

use std::time::Duration;

use outrigger_config::listener::{DestinationBy, Handler, UnknownDestination};
use outrigger_core::reason::Reason;
use outrigger_core::record::Protocol;
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::ok;
use support::{World, forward, manager, tcp_proxy};
use tokio::io::AsyncReadExt;

/// A server that speaks first.
async fn greeter() -> Application {
    Application::raw(|mut connection| async move {
        let _ = connection.send("220 hello\r\n").await;
        let mut rest = Vec::new();
        let _ = connection.stream.read_to_end(&mut rest).await;
    })
    .await
}

fn either(name: &str, cluster: &str) -> Handler {
    Handler::Detect {
        http: manager(name, forward(cluster)),
        tcp: tcp_proxy(name, cluster),
        within: Duration::from_secs(5),
    }
}

#[tokio::test]
async fn an_unknown_protocol_is_known_by_its_first_bytes() {
    let echo = Application::echo("app").await;
    let repeater = Application::repeater().await;
    let proxy = World::new()
        .listen(DestinationBy::Name("echo:80".into()), UnknownDestination::Refuse)
        .listen(DestinationBy::Name("stock:9000".into()), UnknownDestination::Refuse)
        .cluster("echo", &[echo.address])
        .cluster("stock", &[repeater.address])
        .destination("echo:80", either("echo:80", "echo"))
        .destination("stock:9000", either("stock:9000", "stock"))
        .start();
    let answer = Client::connect(proxy.address(0)).await.get("echo", "/found").await;
    assert!(answer.body.contains("traceparent"), "it went through as HTTP: {}", answer.body);
    let mut client = Client::connect(proxy.address(1)).await;
    client.send("*1\r\n$4\r\nPING\r\n").await;
    client.finish().await;
    assert_eq!(client.rest().await, b"*1\r\n$4\r\nPING\r\n");
}

#[tokio::test]
async fn what_is_nearly_http_is_refused_and_other_text_passes_on_a_port_of_unknown_protocol() {
    let repeater = Application::repeater().await;
    let mut proxy = World::new()
        .listen(DestinationBy::Name("stock:9000".into()), UnknownDestination::Refuse)
        .cluster("stock", &[repeater.address])
        .destination("stock:9000", either("stock:9000", "stock"))
        .start();
    for bytes in ["GET / HTTP/9.9\r\n", "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", " GET / HTTP/1.1\r\n\r\n"] {
        let mut client = Client::connect(proxy.address(0)).await;
        client.send(bytes).await;
        let text = String::from_utf8(client.rest().await).unwrap();
        assert!(text.starts_with("HTTP/1.1 400 "), "{bytes:?}: {text}");
        assert_eq!(proxy.record().await.reason, Some(Reason::DownstreamProtocolError));
    }
    for bytes in ["GET k\r\n", "CONNECT {}\r\n", "OPTIONS sip:a SIP/2.0\r\n", "EHLO mail\r\n"] {
        let mut client = Client::connect(proxy.address(0)).await;
        client.send(bytes).await;
        let mut echoed = vec![0; bytes.len()];
        client.stream.read_exact(&mut echoed).await.unwrap();
        assert_eq!(echoed, bytes.as_bytes());
        drop(client);
        assert_eq!(proxy.record().await.protocol, Protocol::Tcp);
    }
}

#[tokio::test]
async fn a_client_that_says_nothing_and_closes_its_side_hears_the_server() {
    let application = Application::raw(|mut connection| async move {
        let mut said = Vec::new();
        connection.stream.read_to_end(&mut said).await.unwrap();
        connection.send(format!("{} bytes", said.len())).await.unwrap();
    })
    .await;
    let proxy = World::new()
        .listen(DestinationBy::Name("stock:9000".into()), UnknownDestination::Refuse)
        .cluster("stock", &[application.address])
        .destination("stock:9000", either("stock:9000", "stock"))
        .start();
    for pause in [0, 300] {
        let mut client = Client::connect(proxy.address(0)).await;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        client.finish().await;
        assert_eq!(client.rest().await, b"0 bytes");
    }
    let probes = application.connections();
    drop(Client::connect(proxy.address(0)).await);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(application.connections(), probes, "a probe of the port asks nobody");
}

#[tokio::test]
async fn a_server_that_speaks_first_is_detected_and_remembered() {
    let greeter = greeter().await;
    let proxy = World::new()
        .listen(DestinationBy::Name("mail:25".into()), UnknownDestination::Refuse)
        .cluster("mail", &[greeter.address])
        .destination("mail:25", either("mail:25", "mail"))
        .start();
    let mut waits = Vec::new();
    for _ in 0..2 {
        let began = tokio::time::Instant::now();
        let mut client = Client::connect(proxy.address(0)).await;
        let mut greeting = [0; 11];
        client.stream.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220 hello\r\n");
        waits.push(began.elapsed());
    }
    assert!(waits[0] >= Duration::from_millis(90) && waits[1] < Duration::from_millis(90), "{waits:?}");
}

#[tokio::test]
async fn a_silent_client_of_http_is_still_served_as_http() {
    let echo = Application::http(|asked| ok(&asked.head)).await;
    let proxy = World::new()
        .listen(DestinationBy::Name("echo:80".into()), UnknownDestination::Refuse)
        .cluster("echo", &[echo.address])
        .destination("echo:80", either("echo:80", "echo"))
        .start();
    let mut client = Client::connect(proxy.address(0)).await;
    while echo.connections() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(client.get("echo", "/late").await.body.contains("traceparent"));
}
