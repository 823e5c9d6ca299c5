//! Endpoints that fail while others do not: what they receive, when they are ejected, and which failures do not count against
//! them.
#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use outrigger_config::cluster::{Balancing, Cluster};
use outrigger_config::endpoint::{Endpoint, HealthStatus};
use outrigger_policy::outlier::OutlierDetection;
use outrigger_proto::xds::{cluster as wire, protobuf};
use outrigger_test_support::application::{Application, closed_port};
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::{Request, ok};
use support::{Proxy, World, cluster, endpoint, endpoints, forward};

fn number(value: u32) -> Option<protobuf::UInt32Value> {
    Some(protobuf::UInt32Value { value })
}

/// A cluster with the outlier detection that the control plane writes (`control-plane/src/translate/defaults.rs`).
fn detected(endpoints: &[SocketAddr]) -> Cluster {
    let mut app = cluster("app", endpoints.iter().map(|address| endpoint(*address)));
    let wire = wire::OutlierDetection {
        failure_percentage_threshold: number(50),
        failure_percentage_minimum_hosts: number(2),
        failure_percentage_request_volume: number(20),
        enforcing_failure_percentage: number(100),
        enforcing_failure_percentage_local_origin: number(100),
        enforcing_consecutive_5xx: number(0),
        split_external_local_origin_errors: true,
        enforcing_success_rate: number(0),
        enforcing_local_origin_success_rate: number(0),
        base_ejection_time: Some(protobuf::Duration { seconds: 2, nanos: 0 }),
        max_ejection_time: Some(protobuf::Duration { seconds: 60, nanos: 0 }),
        max_ejection_percent: number(50),
        ..Default::default()
    };
    app.outlier = OutlierDetection::decode(Some(wire)).unwrap();
    app
}

fn start(app: Cluster) -> Proxy {
    World::new().proxy().cluster_of(app).http("app:80", forward("app")).start()
}

fn failed() -> String {
    "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n".into()
}

/// An application that answers with 200 after `after`.
async fn slow(after: Duration) -> Application {
    Application::raw(move |mut connection| async move {
        while connection.request().await.is_some() {
            tokio::time::sleep(after).await;
            if connection.send(ok("slow")).await.is_err() {
                break;
            }
        }
    })
    .await
}

/// An application that answers at once: 200 to every fifth request, 500 to the others.
async fn fails_four_times_of_five() -> Application {
    let count = AtomicUsize::new(0);
    Application::http(move |_| match count.fetch_add(1, Ordering::SeqCst) % 5 {
        4 => ok("at last"),
        _ => failed(),
    })
    .await
}

#[tokio::test]
async fn what_fails_at_once_gets_no_more_than_its_share_and_then_only_probes() {
    for others in [1, 2] {
        let bad = fails_four_times_of_five().await;
        let mut good = Vec::new();
        for _ in 0..others {
            good.push(slow(Duration::from_millis(40)).await);
        }
        let addresses: Vec<_> = good.iter().chain([&bad]).map(|of| of.address).collect();
        let proxy = start(detected(&addresses));
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let to = proxy.address(0);
            clients.spawn(async move {
                let mut client = Client::connect(to).await;
                for _ in 0..25 {
                    client.get("app", "/").await;
                }
            });
        }
        clients.join_all().await;
        let (got, all) = (bad.requests(), 20 * 25);
        assert!(got <= all / (others + 1), "{got} of {all} beside {others}");
        assert_eq!(proxy.shared.ejected(), [(Arc::from("app"), bad.address)]);
        let kinds: Vec<_> = proxy.totals().ejections.into_keys().map(|(_, kind)| kind).collect();
        assert!(kinds.contains(&"failure_percentage"), "{kinds:?}");
        let mut client = Client::connect(proxy.address(0)).await;
        for _ in 0..20 {
            client.get("app", "/").await;
        }
        assert!(bad.requests() <= got + 3, "probes alone");
    }
}

#[tokio::test]
async fn where_all_fail_alike_none_is_ejected_and_each_gets_its_share() {
    let applications = [Application::http(|_| failed()).await, Application::http(|_| failed()).await, {
        Application::http(|_| failed()).await
    }];
    let proxy = start(detected(&applications.each_ref().map(|of| of.address)));
    let mut client = Client::connect(proxy.address(0)).await;
    for _ in 0..300 {
        assert_eq!(client.get("app", "/").await.status, 500);
    }
    assert_eq!(proxy.shared.ejected(), []);
    let shares = applications.each_ref().map(Application::requests);
    assert!(shares.iter().all(|share| (40..200).contains(share)), "{shares:?}");
}

#[tokio::test]
async fn a_path_that_always_fails_ejects_no_endpoint() {
    let answer = |asked: &Request| match asked.path() {
        "/poison" => failed(),
        _ => ok("well"),
    };
    for often in [2, 5, 10] {
        let applications = [Application::http(answer).await, Application::http(answer).await];
        let proxy = start(detected(&applications.each_ref().map(|of| of.address)));
        let mut client = Client::connect(proxy.address(0)).await;
        for at in 0..300 {
            let path = if at % often == 0 { "/" } else { "/poison" };
            assert_eq!(client.get("app", path).await.status, if path == "/" { 200 } else { 500 });
        }
        assert_eq!(proxy.shared.ejected(), [], "all but one of {often}");
    }
}

#[tokio::test]
async fn two_workers_count_an_endpoints_failures_together() {
    let (good, bad) = (Application::http(|_| ok("good")).await, Application::http(|_| failed()).await);
    let app = || {
        let mut app = detected(&[good.address, bad.address]);
        app.balancing = Balancing::RoundRobin;
        app
    };
    let one = start(app());
    let other = World::new().proxy().cluster_of(app()).http("app:80", forward("app")).start_beside(&one);
    let (mut here, mut there) =
        (Client::connect(one.address(0)).await, Client::connect(other.address(0)).await);
    for _ in 0..150 {
        here.get("app", "/").await;
        there.get("app", "/").await;
    }
    assert_eq!(bad.requests(), 20, "twenty of both");
    assert_eq!(one.shared.ejected(), [(Arc::from("app"), bad.address)]);
}

#[tokio::test]
async fn a_dead_endpoint_is_soon_avoided_and_loses_no_request() {
    let (good, dead) = (Application::echo("app").await, closed_port().await);
    let proxy = start(detected(&[dead, good.address]));
    let mut client = Client::connect(proxy.address(0)).await;
    for _ in 0..300 {
        assert_eq!(client.post("app", "/", "order").await.status, 200);
    }
    assert_eq!(proxy.shared.ejected(), [(Arc::from("app"), dead)]);
    assert_eq!(proxy.totals().ejections[&("app".into(), "consecutive_local_origin_failure")], 1);
}

/// Returns the ejected endpoints. Only one of the two endpoints behaves like `odd`, so that it alone is ejected if this counts
/// against it.
async fn blamed(odd: &Application, times: usize, request: &str) -> Vec<(outrigger_core::Name, SocketAddr)> {
    let good = Application::echo("app").await;
    let mut app = detected(&[odd.address, good.address]);
    app.balancing = Balancing::Random;
    let proxy = start(app);
    for _ in 0..times {
        let mut client = Client::connect(proxy.address(0)).await;
        client.send(format!("{request}\r\nConnection: close\r\n\r\n")).await;
        client.rest().await;
    }
    proxy.shared.ejected()
}

#[tokio::test]
async fn an_endpoint_is_not_blamed_for_a_head_over_our_limit() {
    let large = Application::http(|_| {
        format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-large: {}\r\n\r\n", "x".repeat(100_000))
    })
    .await;
    let request = "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 0";
    assert_eq!(blamed(&large, 80, request).await, []);
    assert!(large.requests() >= 20, "{}", large.requests());
}

#[tokio::test]
async fn an_endpoint_is_not_blamed_for_closing_an_idle_connection() {
    let closing = Application::closes_on_second_request().await;
    assert_eq!(blamed(&closing, 120, "GET / HTTP/1.1\r\nHost: app").await, []);
    assert!(closing.requests() >= 20, "{}", closing.requests());
}

#[tokio::test]
async fn an_endpoint_whose_answers_break_off_is_ejected() {
    let breaking = Application::raw(|mut connection| async move {
        if connection.request().await.is_some() {
            let _ = connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
        }
    })
    .await;
    let ejected = blamed(&breaking, 120, "GET / HTTP/1.1\r\nHost: app").await;
    assert_eq!(ejected, [(Arc::from("app"), breaking.address)]);
}

#[tokio::test]
async fn a_grpc_status_in_trailers_counts_as_one_in_the_head() {
    for fields in ["", "grpc-status: 14\r\n"] {
        let bad = Application::http(move |_| match fields {
            "" => "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n\
                   0\r\ngrpc-status: 14\r\n\r\n"
                .into(),
            fields => format!("HTTP/1.1 200 OK\r\n{fields}content-length: 0\r\n\r\n"),
        })
        .await;
        let request =
            "POST /a.B/C HTTP/1.1\r\nHost: app\r\nContent-Type: application/grpc\r\nContent-Length: 0";
        assert_eq!(blamed(&bad, 400, request).await, [(Arc::from("app"), bad.address)], "{fields:?}");
    }
}

#[tokio::test]
async fn an_endpoint_that_pushes_back_is_left_alone_while_there_is_another() {
    for answer in [
        "HTTP/1.1 429 Too Many Requests\r\nretry-after: 30\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 30\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ngrpc-status: 8\r\ngrpc-retry-pushback-ms: 30000\r\ncontent-length: 0\r\n\r\n",
    ] {
        let (busy, good) = (Application::http(|_| answer.into()).await, Application::echo("app").await);
        let mut app = detected(&[busy.address, good.address]);
        app.balancing = Balancing::RoundRobin;
        let (handle, proxy) = (app.endpoints.clone(), start(app));
        let mut client = Client::connect(proxy.address(0)).await;
        for _ in 0..20 {
            client.post("app", "/", "").await;
        }
        assert_eq!((busy.requests(), good.requests()), (1, 19), "{answer}");
        assert_eq!(proxy.shared.ejected(), [], "that is no ejection");
        handle.store(endpoints([endpoint(busy.address)]));
        for _ in 0..5 {
            client.post("app", "/", "").await;
        }
        assert_eq!(busy.requests(), 6, "nobody else is left");
    }
}

#[tokio::test]
async fn a_degraded_endpoint_gets_requests_when_too_few_healthy_ones_are_left() {
    let (first, second, degraded) =
        (Application::echo("app").await, Application::echo("app").await, Application::echo("app").await);
    let degraded_endpoint = || Endpoint { health: HealthStatus::Degraded, ..endpoint(degraded.address) };
    let mut app = detected(&[]);
    app.outlier = None;
    let handle = app.endpoints.clone();
    handle.store(endpoints([
        endpoint(first.address),
        endpoint(second.address),
        endpoint(closed_port().await),
        degraded_endpoint(),
    ]));
    let proxy = start(app);
    let mut client = Client::connect(proxy.address(0)).await;
    for _ in 0..60 {
        assert_eq!(client.get("app", "/").await.status, 200);
    }
    assert_eq!(degraded.requests(), 0, "three of four are healthy, and a retry goes to one like it");
    handle.store(endpoints([endpoint(first.address), degraded_endpoint()]));
    for _ in 0..200 {
        client.get("app", "/").await;
    }
    // One healthy endpoint of two receives 70 %.
    assert!((30..90).contains(&degraded.requests()), "{} of 200", degraded.requests());
}

#[tokio::test]
async fn a_retry_to_the_endpoint_that_pushed_back_waits_for_as_long_or_is_not_made() {
    let answer =
        |field: &str| format!("HTTP/1.1 503 Service Unavailable\r\n{field}\r\ncontent-length: 0\r\n\r\n");
    for (field, attempts, status) in [
        ("x-nothing: 1", 2, 200),
        ("retry-after: 1", 2, 200),
        ("retry-after: 30", 1, 503),
        ("grpc-retry-pushback-ms: -1", 1, 503),
    ] {
        let first = AtomicUsize::new(0);
        let application = Application::http(move |_| match first.fetch_add(1, Ordering::SeqCst) {
            0 => answer(field),
            _ => ok("at last"),
        })
        .await;
        let proxy = start(detected(&[application.address]));
        let began = tokio::time::Instant::now();
        let answered = Client::connect(proxy.address(0)).await.get("app", "/").await;
        assert_eq!((application.requests(), answered.status), (attempts, status), "{field}");
        assert!(field != "retry-after: 1" || began.elapsed() >= Duration::from_secs(1), "{field}");
    }
}
