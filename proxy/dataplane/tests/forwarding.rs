//! HTTP/1 through a real worker: the client's request reaches the application, and the response is returned.

mod support;

use std::sync::Arc;

use outrigger_config::http_manager::{HttpConnectionManager, HttpSettings};
use outrigger_config::listener::{DestinationBy, Handler, UnknownDestination};
use outrigger_config::on_demand::SubscriptionChange;
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::ok;
use support::{World, forward, manager};
use tokio::io::AsyncReadExt;

#[tokio::test]
async fn requests_of_one_connection_are_answered_one_after_another() {
    let echo = Application::echo("app").await;
    let mut proxy =
        World::new().proxy().cluster("echo", &[echo.address]).http("echo:80", forward("echo")).start();
    let mut client = Client::connect(proxy.address(0)).await;
    for path in ["/one", "/two"] {
        let answer = client.request("GET", "echo", path, "X-Mine: yes\r\n").await;
        assert_eq!(answer.status, 200);
        assert!(answer.body.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{}", answer.body);
        assert!(
            answer.body.contains("x-mine: yes\r\n") && answer.body.contains("host: echo\r\n"),
            "{}",
            answer.body
        );
        assert!(answer.body.contains("traceparent: 00-") && answer.body.contains("x-request-id: "));
        let record = proxy.record().await;
        assert_eq!((record.status, record.attempts.len()), (200, 1));
        assert_eq!(record.destination.as_deref(), Some("echo:80"));
        assert_eq!(record.bytes_sent, answer.body.len() as u64);
    }
    assert_eq!((echo.requests(), echo.connections()), (2, 1), "the connection is used again");
}

#[tokio::test]
async fn a_body_reaches_the_application_as_it_was_sent() {
    let echo = Application::echo("app").await;
    let proxy =
        World::new().proxy().cluster("echo", &[echo.address]).http("echo:80", forward("echo")).start();
    let mut client = Client::connect(proxy.address(0)).await;
    assert!(client.post("echo", "/", "hello").await.body.ends_with("\r\n\r\nhello"));
    client
        .send("POST / HTTP/1.1\r\nHost: echo\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n")
        .await;
    let answer = client.response().await;
    assert!(answer.body.ends_with("abcx-sum: 6\r\n"), "{}", answer.body);
}

#[tokio::test]
async fn a_host_that_the_mesh_does_not_have_is_refused_or_passed_on() {
    let echo = Application::echo("app").await;
    let proxy =
        World::new().proxy().listen(DestinationBy::Authority, UnknownDestination::PassThrough).start();
    let mut client = Client::connect(proxy.address(0)).await;
    let answer = client.get("nowhere", "/").await;
    assert_eq!(answer.status, 502);
    assert!(answer.head.contains("x-outrigger-reason: no_destination\r\n"), "{}", answer.head);
    // Once a request is answered, the one before it on the connection has been counted.
    client.get("nowhere", "/").await;
    let sent: u64 = proxy.totals().requests.values().map(|requests| requests.bytes_sent).sum();
    assert!(
        sent >= answer.body.len() as u64,
        "bytes of the proxy's own answers are counted, not only {sent}"
    );
    let host = format!("localhost:{}", echo.address.port());
    let answer = Client::connect(proxy.address(1)).await.get(&host, "/out").await;
    assert!(answer.status == 200 && answer.body.starts_with("GET /out "), "{answer:?}");
}

#[tokio::test]
async fn a_call_that_fails_in_its_trailers_is_counted_as_failed() {
    let application = Application::http(|_| {
        "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n\
         0\r\ngrpc-status: 14\r\n\r\n"
            .into()
    })
    .await;
    let proxy =
        World::new().proxy().cluster("app", &[application.address]).http("app:80", forward("app")).start();
    let mut client = Client::connect(proxy.address(0)).await;
    // Once a request is answered, the one before it on the connection has been counted.
    for _ in 0..2 {
        let fields = "content-type: application/grpc\r\ncontent-length: 0\r\n";
        assert_eq!(client.request("POST", "app", "/a.B/C", fields).await.status, 200);
    }
    let totals = proxy.totals();
    let (labels, _) = totals.responses.first_key_value().unwrap();
    assert_eq!((labels.status, labels.grpc_status, labels.request.class), (200, Some(14), Some(5)));
    assert_eq!((labels.request.backend.as_deref(), labels.upstream_mutual_tls), (Some("app"), Some(false)));
}

#[tokio::test]
async fn a_bound_port_goes_to_its_destination_whatever_the_host_says() {
    let echo = Application::http(|_| ok("bound")).await;
    let mut served = HttpConnectionManager::clone(&manager("echo:80", forward("echo")));
    served.settings = Arc::new(HttpSettings {
        accept_http_10: true,
        default_host_for_http_10: Some("echo:80".parse().unwrap()),
        ..HttpSettings::default()
    });
    let proxy = World::new()
        .listen(DestinationBy::Name("echo:80".into()), UnknownDestination::Refuse)
        .cluster("echo", &[echo.address])
        .destination("echo:80", Handler::Http(Arc::new(served)))
        .start();
    let answer = Client::connect(proxy.address(0)).await.get("something.else", "/").await;
    assert_eq!(answer.body, "bound");
    let mut old = Client::connect(proxy.address(0)).await;
    old.send("GET / HTTP/1.0\r\n\r\n").await;
    assert!(old.rest().await.ends_with(b"bound"), "HTTP/1.0 needs no host where the port says it");
}

#[tokio::test]
async fn a_destination_is_requested_once_and_an_unknown_one_is_refused() {
    let echo = Application::echo("app").await;
    let full = World::new().cluster("echo", &[echo.address]).http("echo:80", forward("echo")).snapshot;
    let mut world = World::new().proxy();
    world.wildcard = false;
    let proxy = world.start();
    let address = proxy.address(0);
    let ask =
        |host: &'static str| tokio::spawn(async move { Client::connect(address).await.get(host, "/").await });
    let asking = [ask("echo"), ask("echo:80"), ask("ECHO.")];
    let mut demanded = Vec::new();
    while demanded.is_empty() {
        demanded = proxy.feed.next().await;
    }
    assert_eq!(demanded, [SubscriptionChange::Subscribe("echo:80".into())]);
    proxy.published.publish(Arc::new(full));
    proxy.feed.mark_published();
    for asking in asking {
        assert_eq!(asking.await.unwrap().status, 200);
    }
    let missing = ask("missing");
    assert_eq!(proxy.feed.next().await, [SubscriptionChange::Subscribe("missing:80".into())]);
    proxy.feed.mark_absent(["missing:80"]);
    let answer = missing.await.unwrap();
    assert!(answer.status == 502 && answer.head.contains("no_destination"), "{answer:?}");
}

#[tokio::test]
async fn a_proxy_does_not_call_itself() {
    let proxy = World::new().listen(DestinationBy::Authority, UnknownDestination::PassThrough).start();
    let own = proxy.address(0);
    let answer = Client::connect(own).await.get(&own.to_string(), "/").await;
    assert!(answer.status == 502 && answer.head.contains("no_destination"), "{answer:?}");
}

#[tokio::test]
async fn an_http_request_to_a_tcp_service_is_refused_with_the_ways_to_connect() {
    let proxy = World::new().proxy().cluster("stock", &[]).tcp("stock:9000", "stock").start();
    let answer = Client::connect(proxy.address(0)).await.get("stock:9000", "/").await;
    assert!(
        answer.status == 502 && answer.head.contains("x-outrigger-reason: destination_not_http"),
        "{answer:?}"
    );
    assert!(
        answer.body.starts_with("stock:9000 is a TCP service ") && answer.body.contains("--bind"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn interim_answers_are_relayed() {
    let application = Application::raw(|mut connection| async move {
        let head = connection.head().await.unwrap();
        assert!(head.contains("expect: 100-continue"));
        connection
            .send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
            .await
            .unwrap();
        let mut body = [0; 2];
        connection.stream.read_exact(&mut body).await.unwrap();
        connection.send(ok("done")).await.unwrap();
    })
    .await;
    let proxy =
        World::new().proxy().cluster("app", &[application.address]).http("app:80", forward("app")).start();
    let mut client = Client::connect(proxy.address(0)).await;
    client.send("POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 100 "));
    let hints = client.head().await;
    assert!(hints.starts_with("HTTP/1.1 103 ") && hints.contains("link: </a>"), "{hints}");
    client.send("hi").await;
    assert_eq!(client.response().await.body, "done");
}

#[tokio::test]
async fn a_request_body_and_its_answer_flow_at_the_same_time() {
    let application = Application::raw(|mut connection| async move {
        connection.head().await.unwrap();
        connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        for _ in 0..3 {
            let mut chunk = [0; 6];
            connection.stream.read_exact(&mut chunk).await.unwrap();
            connection.send(&chunk).await.unwrap();
        }
        connection.send(b"0\r\n\r\n").await.unwrap();
    })
    .await;
    let proxy =
        World::new().proxy().cluster("app", &[application.address]).http("app:80", forward("app")).start();
    let mut client = Client::connect(proxy.address(0)).await;
    client.send("POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.send("1\r\na\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
    for letter in ["a", "b", "c"] {
        let mut chunk = [0; 6];
        client.stream.read_exact(&mut chunk).await.unwrap();
        assert_eq!(chunk, *format!("1\r\n{letter}\r\n").as_bytes());
        let next = if letter == "a" { "b" } else { "c" };
        if letter != "c" {
            client.send(format!("1\r\n{next}\r\n")).await;
        }
    }
    client.send("0\r\n\r\n").await;
}

#[tokio::test]
async fn head_and_204_have_no_body_and_the_connection_stays() {
    let application = Application::raw(|mut connection| async move {
        while let Some(asked) = connection.request().await {
            let answer: &[u8] = if asked.head.starts_with("HEAD") {
                b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n"
            } else {
                b"HTTP/1.1 204 No Content\r\n\r\n"
            };
            connection.send(answer).await.unwrap();
        }
    })
    .await;
    let proxy =
        World::new().proxy().cluster("app", &[application.address]).http("app:80", forward("app")).start();
    let mut client = Client::connect(proxy.address(0)).await;
    client.send("HEAD / HTTP/1.1\r\nHost: app\r\n\r\n").await;
    assert!(client.head().await.contains("content-length: 10"));
    client.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 204 ") && !head.contains("content-length"), "{head}");
    assert_eq!(application.connections(), 1);
}
