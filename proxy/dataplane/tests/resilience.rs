//! What goes wrong upstream, and what the client sees of it.

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use outrigger_config::listener::{Handler, Listener, NetworkFilter};
use outrigger_core::reason::Reason;
use outrigger_core::record::Direction;
use outrigger_dataplane::ConnectionBudget;
use support::application::{Application, dead, ok, read_head, read_request};
use support::client::Client;
use support::{World, forward};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};

#[tokio::test]
async fn a_dead_endpoint_costs_nobody_a_request() {
    let alive = Application::echo().await;
    let dead = dead().await;
    let mut proxy =
        World::new().proxy().cluster("echo", &[dead, alive.address]).http("echo:80", forward("echo")).start();
    let mut client = Client::connect(proxy.address(0)).await;
    for _ in 0..20 {
        assert_eq!(client.post("echo", "/", "order").await.status, 200);
    }
    let mut retried = 0;
    for _ in 0..20 {
        let record = proxy.record().await;
        assert!(record.tries.len() <= 2 && record.tries.last().unwrap().reason.is_none());
        retried += record.tries.len() - 1;
    }
    assert!(retried >= 1);
    assert_eq!(proxy.totals().clusters["echo"].retries, retried as u64);
}

#[tokio::test]
async fn a_post_meets_a_connection_that_was_just_closed_and_is_sent_again() {
    // Answers one request, and closes the connection when it has been idle for a moment.
    let application = Application::raw(|stream, _, requests| async move {
        let mut stream = BufReader::new(stream);
        if read_request(&mut stream).await.is_some() {
            requests.fetch_add(1, Ordering::SeqCst);
            stream.get_mut().write_all(ok("once").as_bytes()).await.unwrap();
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
    let application = Application::raw(|stream, _, requests| async move {
        let mut stream = BufReader::new(stream);
        while read_request(&mut stream).await.is_some() {
            if requests.fetch_add(1, Ordering::SeqCst) % 2 == 0 {
                return;
            }
            stream.get_mut().write_all(ok("late").as_bytes()).await.unwrap();
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
    application.requests.store(0, Ordering::SeqCst);
    assert_eq!(client.get("app", "/", "").await.body, "late");
    assert_eq!(application.requests(), 2);
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
    let answer = client.get("empty", "/", "").await;
    assert!(answer.status == 503 && answer.head.contains("no_healthy_upstream"), "{answer:?}");
    let answer = client.get("none", "/", "").await;
    assert!(answer.status == 500 && answer.head.contains("no_cluster_found"), "{answer:?}");
    let answer = client.get("empty", "/", "Content-Type: application/grpc\r\n").await;
    assert!(answer.status == 200 && answer.head.contains("grpc-status: 14\r\n"), "{answer:?}");
}

#[tokio::test]
async fn a_response_that_breaks_off_is_seen_to_break_off() {
    let (seen, wait) = tokio::sync::watch::channel(false);
    let application = Application::raw(move |stream, _, _| {
        let mut wait = wait.clone();
        async move {
            let mut stream = BufReader::new(stream);
            read_request(&mut stream).await;
            stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await.unwrap();
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
    let application = Application::raw(move |stream, _, requests| {
        let gone = gone.clone();
        async move {
            let mut stream = BufReader::new(stream);
            read_head(&mut stream).await;
            requests.fetch_add(1, Ordering::SeqCst);
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
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
    assert_eq!(record.tries.len(), 1, "the try under way is part of the record");
    let totals = proxy.totals();
    assert_eq!((totals.process.in_flight, totals.clusters["app"].connections_active), (0, 0));
}

#[tokio::test]
async fn drain_finishes_what_runs_and_takes_nothing_new() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let application = Application::raw(move |stream, _, requests| {
        let mut wait = wait.clone();
        async move {
            let mut stream = BufReader::new(stream);
            while read_request(&mut stream).await.is_some() {
                requests.fetch_add(1, Ordering::SeqCst);
                wait.wait_for(|go| *go).await.unwrap();
                stream.get_mut().write_all(ok("finished").as_bytes()).await.unwrap();
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

/// The application calls others through its own sidecar while it answers; a drain must not take that away from it.
#[tokio::test]
async fn while_inbound_requests_run_the_application_can_still_call_out() {
    let other = Application::http(|_| ok("stock")).await;
    let (tell, told) = tokio::sync::watch::channel(None);
    let application = Application::raw(move |stream, _, requests| {
        let mut told = told.clone();
        async move {
            let mut stream = BufReader::new(stream);
            while read_request(&mut stream).await.is_some() {
                requests.fetch_add(1, Ordering::SeqCst);
                let sidecar = told.wait_for(Option::is_some).await.unwrap().unwrap();
                let mut out = Client::connect(sidecar).await;
                let (first, second) = (out.get("stock", "/", "").await, out.get("stock", "/", "").await);
                let body = format!("{} {} {}", first.body, second.body, first.head.contains("close"));
                stream.get_mut().write_all(ok(&body).as_bytes()).await.unwrap();
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
async fn a_client_that_waits_for_a_place_is_served_though_its_listener_goes() {
    let application = Application::http(|_| ok("served")).await;
    let mut world =
        World::new().proxy().cluster("app", &[application.address]).http("app:80", forward("app"));
    world.connections = ConnectionBudget::new(1, 40);
    let proxy = world.start();
    let mut first = Client::connect(proxy.address(0)).await;
    assert_eq!(first.get("app", "/", "").await.body, "served");
    let mut second = Client::connect(proxy.address(0)).await;
    while proxy.totals().process.downstream_connections_total < 2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    proxy.forget_listeners();
    tokio::time::sleep(Duration::from_millis(50)).await;
    // Its place is that of the first, which is closed when it has been idle for a second.
    assert_eq!(second.get("app", "/", "").await.body, "served");
    assert_eq!(first.rest().await, b"");
}
