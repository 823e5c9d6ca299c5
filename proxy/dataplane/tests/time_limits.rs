//! Time limits that a listener and a route's retries set, over real sockets; `src/http` tests their arithmetic.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use outrigger_config::http_manager::HttpSettings;
use outrigger_config::listener::Handler;
use outrigger_config::route::{Forward, RouteAction};
use outrigger_core::reason::Reason;
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::ok;
use support::{World, forward, manager, retries, to};
use tokio::io::AsyncReadExt;

#[tokio::test]
async fn a_client_has_so_long_for_its_request_until_the_answer_begins() {
    let application = Application::raw(|mut connection| async move {
        let Some(head) = connection.head().await else { return };
        if head.starts_with("POST /early") {
            connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").await.unwrap();
        }
        let mut body = [0; 4];
        if connection.stream.read_exact(&mut body).await.is_ok() {
            connection.send(&body).await.unwrap();
        }
    })
    .await;
    let mut slow = (*manager("app:80", forward("app"))).clone();
    slow.settings = Arc::new(HttpSettings {
        request_timeout: Some(Duration::from_millis(200)),
        ..HttpSettings::default()
    });
    let mut proxy = World::new()
        .proxy()
        .cluster("app", &[application.address])
        .destination("app:80", Handler::Http(Arc::new(slow)))
        .start();
    let mut client = Client::connect(proxy.address(0)).await;
    client.send("POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 4\r\n\r\nha").await;
    assert_eq!(client.response().await.status, 408);
    assert_eq!(proxy.record().await.reason, Some(Reason::DownstreamTimeout));
    let mut client = Client::connect(proxy.address(0)).await;
    client.send("POST /early HTTP/1.1\r\nHost: app\r\nContent-Length: 4\r\n\r\nha").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
    tokio::time::sleep(Duration::from_millis(400)).await;
    client.send("lf").await;
    let mut body = [0; 4];
    client.stream.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"half");
}

#[tokio::test]
async fn a_try_that_stands_still_is_made_again_and_a_response_that_does_is_cut_off() {
    let application = Application::raw(|mut connection| async move {
        connection.request().await;
        let answer = match connection.number {
            0 => String::new(),
            1 => ok("quick"),
            _ => "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".into(),
        };
        connection.send(answer).await.unwrap();
        let mut rest = Vec::new();
        let _ = connection.stream.read_to_end(&mut rest).await;
    })
    .await;
    let mut retry = retries(1);
    retry.per_try_idle_timeout = Some(Duration::from_millis(150));
    let proxy = World::new()
        .proxy()
        .cluster("app", &[application.address])
        .http("app:80", RouteAction::Forward(Box::new(Forward { retry: Some(retry), ..to("app") })))
        .start();
    let mut client = Client::connect(proxy.address(0)).await;
    let answer = client.get("app", "/").await;
    assert_eq!((answer.status, &*answer.body, application.connections()), (200, "quick", 2));
    let mut client = Client::connect(proxy.address(0)).await;
    while application.connections() < 3 {
        client.send("GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n").await;
        client.head().await;
    }
    let began = tokio::time::Instant::now();
    let mut rest = Vec::new();
    assert!(client.stream.read_to_end(&mut rest).await.is_err(), "it is reset, not ended");
    assert!(began.elapsed() < Duration::from_secs(2));
}
