//! Upstream failures, and what the client receives.

mod support;

use std::time::Duration;

use outrigger_config::listener::{Handler, Listener, NetworkFilter};
use outrigger_core::reason::Reason;
use outrigger_core::record::Direction;
use outrigger_dataplane::ConnectionBudget;
use outrigger_test_support::application::{Application, closed_port};
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::ok;
use support::{World, forward};
use tokio::io::AsyncReadExt;

#[tokio::test]
async fn a_dead_endpoint_loses_no_request() {
    let alive = Application::echo("app").await;
    let dead = closed_port().await;
    let mut proxy =
        World::new().proxy().cluster("echo", &[dead, alive.address]).http("echo:80", forward("echo")).start();
    let mut client = Client::connect(proxy.address(0)).await;
    for _ in 0..20 {
        assert_eq!(client.post("echo", "/", "order").await.status, 200);
    }
    let mut retried = 0;
    for _ in 0..20 {
        let record = proxy.record().await;
        assert!(record.attempts.len() <= 2 && record.attempts.last().unwrap().reason.is_none());
        retried += record.attempts.len() - 1;
    }
    assert!(retried >= 1);
    assert_eq!(proxy.totals().clusters["echo"].retries, retried as u64);
}

#[tokio::test]
async fn a_post_meets_a_connection_that_was_just_closed_and_is_sent_again() {
    // Answers one request, and closes the connection when it has been idle for a moment.
    let application = Application::raw(|mut connection| async move {
        if connection.request().await.is_some() {
            connection.send(ok("once")).await.unwrap();
        }
    })
    .await;
    let proxy =
        World::new().proxy().cluster("app", &[application.address]).http("app:80", forward("app")).start();
    let mut client = Client::connect(proxy.address(0)).await;
    for _ in 0..10 {
        assert_eq!(client.post("app", "/", "order").await.status, 200);
    }
    assert_eq!(application.requests(), 10);
}

#[tokio::test]
async fn a_post_that_was_cut_off_in_flight_is_not_sent_again_and_a_get_is() {
    let application = Application::raw(|mut connection| async move {
        while connection.request().await.is_some() {
            // The POST and the first attempt of the GET.
            if connection.number < 2 {
                return;
            }
            connection.send(ok("late")).await.unwrap();
        }
    })
    .await;
    let mut proxy =
        World::new().proxy().cluster("app", &[application.address]).http("app:80", forward("app")).start();
    let mut client = Client::connect(proxy.address(0)).await;
    let answer = client.post("app", "/", "order").await;
    assert_eq!((answer.status, application.requests()), (503, 1));
    assert!(
        answer.head.contains("x-outrigger-reason: upstream_connection_termination\r\n"),
        "{}",
        answer.head
    );
    assert_eq!(proxy.record().await.reason, Some(Reason::UpstreamConnectionTermination));
    assert_eq!(client.get("app", "/").await.body, "late");
    assert_eq!(application.requests(), 1 + 2);
}

#[tokio::test]
async fn no_endpoint_and_no_cluster_say_so() {
    let proxy = World::new()
        .proxy()
        .cluster("empty", &[])
        .http("empty:80", forward("empty"))
        .http("none:80", forward("outrigger.invalid-backend"))
        .start();
    let mut client = Client::connect(proxy.address(0)).await;
    let answer = client.get("empty", "/").await;
    assert!(answer.status == 503 && answer.head.contains("no_healthy_upstream"), "{answer:?}");
    let answer = client.get("none", "/").await;
    assert!(answer.status == 500 && answer.head.contains("no_cluster_found"), "{answer:?}");
    let answer = client.request("GET", "empty", "/", "Content-Type: application/grpc\r\n").await;
    assert!(answer.status == 200 && answer.head.contains("grpc-status: 14\r\n"), "{answer:?}");
}

#[tokio::test]
async fn a_response_that_breaks_off_is_seen_to_break_off() {
    let (seen, wait) = tokio::sync::watch::channel(false);
    let application = Application::raw(move |mut connection| {
        let mut wait = wait.clone();
        async move {
            connection.request().await;
            connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await.unwrap();
            wait.wait_for(|seen| *seen).await.unwrap();
        }
    })
    .await;
    let mut proxy =
        World::new().proxy().cluster("app", &[application.address]).http("app:80", forward("app")).start();
    let mut client = Client::connect(proxy.address(0)).await;
    client.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("content-length: 100"));
    seen.send(true).unwrap();
    assert_eq!(client.rest().await, b"half");
    assert_eq!(proxy.record().await.reason, Some(Reason::UpstreamConnectionTermination));
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_request_upstream() {
    let (gone, mut noticed) = tokio::sync::mpsc::channel(1);
    let application = Application::raw(move |mut connection| {
        let gone = gone.clone();
        async move {
            connection.head().await;
            let mut rest = Vec::new();
            let _ = connection.stream.read_to_end(&mut rest).await;
            gone.send(()).await.unwrap();
        }
    })
    .await;
    let mut proxy =
        World::new().proxy().cluster("app", &[application.address]).http("app:80", forward("app")).start();
    let mut client = Client::connect(proxy.address(0)).await;
    client.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
    while application.requests() == 0 {
        tokio::task::yield_now().await;
    }
    drop(client);
    tokio::time::timeout(Duration::from_secs(5), noticed.recv())
        .await
        .expect("the application notices")
        .unwrap();
    let record = proxy.record().await;
    assert_eq!(record.reason, Some(Reason::DownstreamConnectionTermination));
    assert_eq!(record.attempts.len(), 1, "the attempt under way is part of the record");
    let totals = proxy.totals();
    assert_eq!((totals.process.in_flight, totals.clusters["app"].connections_active), (0, 0));
}

#[tokio::test]
async fn drain_finishes_running_requests_and_accepts_no_new_ones() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let application = Application::raw(move |mut connection| {
        let mut wait = wait.clone();
        async move {
            while connection.request().await.is_some() {
                wait.wait_for(|go| *go).await.unwrap();
                connection.send(ok("finished")).await.unwrap();
            }
        }
    })
    .await;
    let proxy =
        World::new().proxy().cluster("app", &[application.address]).http("app:80", forward("app")).start();
    let address = proxy.address(0);
    let (mut busy, mut idle) = (Client::connect(address).await, Client::connect(address).await);
    busy.send("POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 2\r\n\r\nhi").await;
    while application.requests() == 0 {
        tokio::task::yield_now().await;
    }
    let draining = tokio::spawn(proxy.drain(Duration::from_secs(10)));
    assert_eq!(idle.rest().await, b"", "idle connections are closed");
    go.send(true).unwrap();
    let answer = busy.response().await;
    assert!(
        answer.body == "finished" && answer.head.to_lowercase().contains("connection: close"),
        "{answer:?}"
    );
    assert_eq!(draining.await.unwrap(), outrigger_core::drain::Drained::Complete);
}

/// The application sends requests through its own sidecar while it answers; a drain must not prevent that.
#[tokio::test]
async fn while_inbound_requests_run_the_application_can_still_call_out() {
    let other = Application::http(|_| ok("stock")).await;
    let (tell, told) = tokio::sync::watch::channel(None);
    let application = Application::raw(move |mut connection| {
        let mut told = told.clone();
        async move {
            while connection.request().await.is_some() {
                let sidecar = told.wait_for(Option::is_some).await.unwrap().unwrap();
                let mut out = Client::connect(sidecar).await;
                let (first, second) = (out.get("stock", "/").await, out.get("stock", "/").await);
                let body = format!("{} {} {}", first.body, second.body, first.head.contains("close"));
                connection.send(ok(&body)).await.unwrap();
            }
        }
    })
    .await;
    let handle = NetworkFilter::Handle(Handler::Http(support::manager("cart", forward("app"))));
    let inbound = Listener { direction: Direction::Inbound, ..support::listener("inbound", handle) };
    let proxy = World::new()
        .own(inbound)
        .proxy()
        .cluster("app", &[application.address])
        .cluster("stock", &[other.address])
        .http("stock:80", forward("stock"))
        .start();
    let (inbound, outbound) = (proxy.address(0), proxy.address(1));
    let (mut busy, mut idle) = (Client::connect(inbound).await, Client::connect(inbound).await);
    let mut idle_outbound = Client::connect(outbound).await;
    busy.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n").await;
    while application.requests() == 0 {
        tokio::task::yield_now().await;
    }
    let draining = tokio::spawn(proxy.drain(Duration::from_secs(10)));
    assert_eq!(idle.rest().await, b"", "inbound drains");
    tell.send(Some(outbound)).unwrap();
    let answer = busy.response().await;
    assert_eq!(answer.body, "stock stock false", "both of its calls, on one connection that stays");
    assert!(answer.head.to_lowercase().contains("connection: close"), "{answer:?}");
    assert_eq!(idle_outbound.rest().await, b"", "then outbound drains");
    assert_eq!(draining.await.unwrap(), outrigger_core::drain::Drained::Complete);
}

#[tokio::test]
async fn a_client_that_waits_for_capacity_is_served_though_its_listener_is_removed() {
    let application = Application::http(|_| ok("served")).await;
    let mut world =
        World::new().proxy().cluster("app", &[application.address]).http("app:80", forward("app"));
    world.connections = ConnectionBudget::new(1, 40);
    let proxy = world.start();
    let mut first = Client::connect(proxy.address(0)).await;
    assert_eq!(first.get("app", "/").await.body, "served");
    let mut second = Client::connect(proxy.address(0)).await;
    while proxy.totals().process.downstream_connections_total < 2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    proxy.forget_listeners();
    tokio::time::sleep(Duration::from_millis(50)).await;
    // It gets the slot of the first connection, which is closed when it has been idle for a second.
    assert_eq!(second.get("app", "/").await.body, "served");
    assert_eq!(first.rest().await, b"");
}
