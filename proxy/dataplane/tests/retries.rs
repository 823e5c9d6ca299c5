//! Which requests are retried and which are not, how much of a body is buffered for that, and who is notified of it.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use outrigger_config::listener::{DestinationBy, UnknownDestination};
use outrigger_config::route::{Attempts, Forward, RouteAction};
use outrigger_core::reason::Reason;
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::ok;
use support::{World, forward, retries_on, to};

#[tokio::test]
async fn a_get_survives_a_connection_that_closes_when_it_comes_where_the_policy_says_so() {
    let application = Application::closes_on_second_request().await;
    let without = RouteAction::Forward(Box::new(Forward { retry: None, ..to("app") }));
    let proxy = World::new()
        .proxy()
        .cluster("app", &[application.address])
        .http("app:80", forward("app"))
        .http("inbound:80", without)
        .start();
    let mut client = Client::connect(proxy.address(0)).await;
    for _ in 0..5 {
        assert_eq!(client.get("app", "/").await.status, 200);
    }
    assert_eq!(client.post("app", "/", "order").await.status, 503, "it may have been processed");
    // Without a retry policy, as in front of an application, the caller may retry it.
    assert_eq!(client.get("inbound", "/").await.status, 200);
    let before = application.requests();
    assert_eq!(client.get("inbound", "/").await.status, 503);
    assert_eq!(application.requests(), before + 1);
}

/// A request to a host outside the mesh has no policy, and no other proxy could retry it.
#[tokio::test]
async fn a_get_to_a_host_outside_the_mesh_survives_a_connection_that_closes_when_it_comes() {
    let application = Application::closes_on_second_request().await;
    let proxy = World::new().listen(DestinationBy::Authority, UnknownDestination::PassThrough).start();
    let mut client = Client::connect(proxy.address(0)).await;
    let host = application.address.to_string();
    for _ in 0..3 {
        assert_eq!(client.get(&host, "/").await.status, 200);
    }
    assert_eq!(application.requests(), 5);
}

/// On new connections and on ones that were idle: three attempts are three executions.
#[tokio::test]
async fn a_get_that_the_application_reads_and_cuts_is_executed_once_for_each_attempt() {
    let application = Application::raw(|mut connection| async move {
        while let Some(asked) = connection.request().await {
            if asked.path() == "/cut" {
                return;
            }
            connection.send(ok("fine")).await.unwrap();
        }
    })
    .await;
    let mut proxy =
        World::new().proxy().cluster("app", &[application.address]).http("app:80", forward("app")).start();
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Client::connect(proxy.address(0)).await);
    }
    for client in &mut clients {
        client.send("GET /fine HTTP/1.1\r\nHost: app\r\n\r\n").await;
    }
    for client in &mut clients {
        assert_eq!(client.response().await.status, 200);
        proxy.record().await;
    }
    let answer = clients[0].get("app", "/cut").await;
    assert_eq!((answer.status, application.requests()), (503, clients.len() + 3));
    let record = proxy.record().await;
    assert_eq!((record.attempts.len(), record.reason), (3, Some(Reason::UpstreamConnectionTermination)));
}

#[tokio::test]
async fn a_malformed_response_is_not_retried() {
    for response in ["HTTP/1.1 200 OK\r\nno colon\r\n\r\n".to_owned(), huge()] {
        let application = Application::http(move |_| response.clone()).await;
        let action = Forward { retry: Some(retries_on("5xx,reset", 1)), ..to("app") };
        let proxy = World::new()
            .proxy()
            .cluster("app", &[application.address])
            .http("app:80", RouteAction::Forward(Box::new(action)))
            .start();
        let mut client = Client::connect(proxy.address(0)).await;
        assert_eq!(client.get("app", "/").await.status, 502);
        assert_eq!(application.requests(), 1);
    }
}

fn huge() -> String {
    format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "x".repeat(100_000))
}

/// A proxy behind this one has found the response malformed; its response is equally final.
#[tokio::test]
async fn what_a_later_proxy_found_malformed_is_not_retried() {
    let answer = |reason: &str| {
        format!("HTTP/1.1 502 Bad Gateway\r\nx-outrigger-reason: {reason}\r\ncontent-length: 0\r\n\r\n")
    };
    for (reason, requests) in [("upstream_protocol_error", 1), ("upstream_connection_failure", 2)] {
        let text = answer(reason);
        let application = Application::http(move |_| text.clone()).await;
        let action = Forward { retry: Some(retries_on("5xx,reset", 1)), ..to("app") };
        let proxy = World::new()
            .proxy()
            .cluster("app", &[application.address])
            .http("app:80", RouteAction::Forward(Box::new(action)))
            .start();
        let mut client = Client::connect(proxy.address(0)).await;
        assert_eq!((client.get("app", "/").await.status, application.requests()), (502, requests));
    }
}

#[tokio::test]
async fn a_post_of_200_kilobytes_is_sent_again_and_one_beyond_the_routes_bound_is_not() {
    let refused = Arc::new(AtomicUsize::new(0));
    let refusals = Arc::clone(&refused);
    let application = Application::http(move |asked| {
        if refusals.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
            return "HTTP/1.1 500 Try Again\r\ncontent-length: 0\r\n\r\n".into();
        }
        ok(&asked.body.len().to_string())
    })
    .await;
    let route = |kept_bytes| {
        let attempts = Attempts { kept_bytes, ..Attempts::default() };
        RouteAction::Forward(Box::new(Forward {
            retry: Some(retries_on("5xx,reset", 1)),
            attempts,
            ..to("app")
        }))
    };
    let proxy = World::new()
        .proxy()
        .cluster("app", &[application.address])
        .http("app:80", route(Attempts::default().kept_bytes))
        .http("small:80", route(100_000))
        .start();
    let mut client = Client::connect(proxy.address(0)).await;
    let body = "x".repeat(200_000);
    let answer = client.post("app", "/", &body).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "200000"));
    assert_eq!(client.post("small", "/", &body).await.status, 500);
    assert_eq!(proxy.totals().process.bodies_beyond_limit, 1);
}

#[tokio::test]
async fn the_application_and_the_client_get_the_number_of_attempts() {
    let application = Application::http(|asked| {
        let lines = asked.head.to_lowercase();
        let count = lines.lines().find_map(|line| line.strip_prefix("x-envoy-attempt-count: "));
        match count {
            Some("3") => ok("third"),
            _ => "HTTP/1.1 503 Not Yet\r\ncontent-length: 0\r\n\r\n".into(),
        }
    })
    .await;
    let attempts = Attempts { count_in_request: true, count_in_response: true, ..Attempts::default() };
    let action = RouteAction::Forward(Box::new(Forward { attempts, ..to("app") }));
    let proxy = World::new().proxy().cluster("app", &[application.address]).http("app:80", action).start();
    let mut client = Client::connect(proxy.address(0)).await;
    let answer = client.request("GET", "app", "/", "X-Envoy-Attempt-Count: 3\r\n").await;
    assert_eq!((answer.body.as_str(), application.requests()), ("third", 3));
    assert!(answer.head.contains("x-envoy-attempt-count: 3\r\n"), "{}", answer.head);
}
