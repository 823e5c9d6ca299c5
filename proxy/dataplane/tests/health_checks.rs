//! Active health checks: what the endpoints of a cluster get, and what a client sees. Time is paused, except between workers.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use outrigger_config::cluster::{Cluster, PanicThreshold, UpstreamProtocol};
use outrigger_config::endpoint::check::EndpointCheck;
use outrigger_config::snapshot::Snapshot;
use outrigger_dataplane::metrics::ClusterTotals;
use outrigger_policy::health_check::HealthCheck;
use outrigger_proto::xds::core::health_check::{
    GrpcHealthCheck, HealthChecker, HttpHealthCheck, TcpHealthCheck,
};
use outrigger_proto::xds::{core, protobuf};
use outrigger_test_support::application::{Application, closed_port};
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::{Response as Answer, ok, status};
use support::{Proxy, World, cluster, endpoint, endpoints, forward};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;

const INTERVAL: Duration = Duration::from_secs(10);

/// Runs a test with paused time, which advances while bytes between sockets arrive.
async fn paused(test: impl Future<Output = ()>) {
    let clock = async {
        loop {
            tokio::time::advance(Duration::from_millis(50)).await;
            let arriving = || std::thread::sleep(Duration::from_micros(300));
            tokio::task::spawn_blocking(arriving).await.unwrap();
        }
    };
    LocalSet::new()
        .run_until(async {
            spawn_local(clock);
            test.await;
        })
        .await;
}

/// Checks every ten seconds: three failures in a row, or two successes, change something.
fn check(checker: HealthChecker) -> Option<Arc<HealthCheck>> {
    let number = |value| Some(protobuf::UInt32Value { value });
    let time = |of: Duration| {
        Some(protobuf::Duration { seconds: of.as_secs() as i64, nanos: of.subsec_nanos() as i32 })
    };
    let wire = core::HealthCheck {
        timeout: time(Duration::from_secs(1)),
        interval: time(INTERVAL),
        no_traffic_interval: time(INTERVAL),
        unhealthy_threshold: number(3),
        healthy_threshold: number(2),
        health_checker: Some(checker),
        ..Default::default()
    };
    HealthCheck::decode(vec![wire]).unwrap().map(Arc::new)
}

fn http_check() -> HealthChecker {
    HealthChecker::HttpHealthCheck(HttpHealthCheck { path: "/healthz".into(), ..Default::default() })
}

/// A cluster whose endpoints are checked. There is a panic only if `panics`.
fn checked(addresses: &[SocketAddr], checker: HealthChecker, panics: bool) -> Cluster {
    let threshold = if panics { 50.0 } else { 0.0 };
    let list = addresses.iter().map(|address| endpoint(*address));
    Cluster {
        health_check: check(checker),
        panic: PanicThreshold { threshold, ignores_new: false },
        ..cluster("app", list)
    }
}

fn start(cluster: Cluster) -> Proxy {
    World::new().proxy().cluster_of(cluster).http("app:80", forward("app")).start_here()
}

/// An application that answers checks with a status that can be changed, and requests with its name.
async fn application(name: &'static str) -> (Application, Arc<AtomicU16>) {
    let health = Arc::new(AtomicU16::new(200));
    let of_checks = Arc::clone(&health);
    let application = Application::http(move |request| {
        if request.path() == "/healthz" { status(of_checks.load(Ordering::SeqCst)) } else { ok(name) }
    });
    (application.await, health)
}

async fn get(proxy: &Proxy) -> Answer {
    Client::connect(proxy.address(0)).await.get("app", "/").await
}

/// The names of the applications that answer thirty requests.
async fn answering(proxy: &Proxy) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for _ in 0..30 {
        let answer = get(proxy).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        names.insert(answer.body);
    }
    names
}

fn totals(proxy: &Proxy) -> ClusterTotals {
    proxy.totals().clusters["app"].clone()
}

fn names<const N: usize>(of: [&str; N]) -> BTreeSet<String> {
    of.map(str::to_owned).into()
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_its_checks_gets_no_requests_until_it_passes_again() {
    paused(async {
        let ((one, _), (two, health)) = (application("one").await, application("two").await);
        let proxy = start(checked(&[one.address, two.address], http_check(), false));
        sleep(Duration::from_secs(1)).await;
        let before = totals(&proxy);
        assert_eq!((before.checks_passed, before.connections_total), (2, 0), "before any request");
        assert_eq!(answering(&proxy).await, names(["one", "two"]));
        health.store(500, Ordering::SeqCst);
        sleep(INTERVAL + INTERVAL / 5).await;
        assert_eq!(answering(&proxy).await, names(["one"]));
        assert_eq!((totals(&proxy).failing_checks, totals(&proxy).panics), (1, 0));
        health.store(200, Ordering::SeqCst);
        sleep(INTERVAL).await;
        assert_eq!(answering(&proxy).await, names(["one"]), "one success is not enough");
        sleep(INTERVAL).await;
        assert_eq!(answering(&proxy).await, names(["one", "two"]));
        assert_eq!(totals(&proxy).failing_checks, 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn if_too_few_pass_all_are_used_unless_the_threshold_is_zero() {
    for panics in [true, false] {
        paused(async {
            let ((one, first), (two, second)) = (application("one").await, application("two").await);
            first.store(503, Ordering::SeqCst);
            second.store(503, Ordering::SeqCst);
            let proxy = start(checked(&[one.address, two.address], http_check(), panics));
            sleep(Duration::from_secs(1)).await;
            if panics {
                assert_eq!(answering(&proxy).await, names(["one", "two"]));
                assert!(totals(&proxy).panics >= 30);
            } else {
                let answer = get(&proxy).await;
                assert_eq!((answer.status, answer.reason()), (503, "no_healthy_upstream"));
            }
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_is_not_used_before_its_first_check_has_passed() {
    paused(async {
        // Accepts, and never answers.
        let silent =
            Application::raw(|mut connection| async move { while connection.request().await.is_some() {} })
                .await;
        let (one, _) = application("one").await;
        let proxy = start(checked(&[one.address, silent.address], http_check(), false));
        sleep(Duration::from_millis(500)).await;
        assert_eq!(answering(&proxy).await, names(["one"]));
        sleep(3 * INTERVAL).await;
        assert_eq!(answering(&proxy).await, names(["one"]));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_first_request_waits_for_the_first_checks() {
    paused(async {
        let ((one, _), (two, failing)) = (application("one").await, application("two").await);
        failing.store(500, Ordering::SeqCst);
        let proxy = start(checked(&[one.address, two.address], http_check(), true));
        assert_eq!(get(&proxy).await.body, "one", "before any check has ended");
        assert_eq!(two.requests(), 1, "a check");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_check_is_waited_for_once_at_most() {
    paused(async {
        let silent =
            Application::raw(|mut connection| async move { while connection.request().await.is_some() {} })
                .await;
        let proxy = start(checked(&[silent.address], http_check(), false));
        let before = tokio::time::Instant::now();
        let answer = get(&proxy).await;
        assert_eq!((answer.status, answer.reason()), (503, "no_healthy_upstream"));
        assert!(before.elapsed() < Duration::from_secs(2));
        assert_eq!(silent.requests(), 1, "a check, and nothing else");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_may_be_checked_elsewhere_or_not_at_all() {
    paused(async {
        let ((one, _), (two, health), (three, _)) =
            (application("one").await, application("two").await, application("three").await);
        health.store(500, Ordering::SeqCst);
        let cluster = checked(&[one.address, two.address], http_check(), false);
        let changed = |change: fn(&mut EndpointCheck)| {
            let mut list = [endpoint(one.address), endpoint(two.address)];
            change(&mut list[1].health_check);
            endpoints(list)
        };
        let handle = cluster.endpoints.clone();
        let proxy = start(cluster);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(answering(&proxy).await, names(["one"]));
        handle.store(changed(|of| of.disabled = true));
        assert_eq!(answering(&proxy).await, names(["one", "two"]));
        let mut elsewhere = changed(|_| {});
        Arc::get_mut(&mut elsewhere.list[1]).unwrap().health_check.address = Some(three.address);
        handle.store(elsewhere);
        sleep(3 * INTERVAL).await;
        assert_eq!(answering(&proxy).await, names(["one", "two"]));
        assert!(three.requests() > 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_enough_for_a_check_over_tcp() {
    paused(async {
        let (one, _) = application("one").await;
        let tcp = HealthChecker::TcpHealthCheck(TcpHealthCheck::default());
        let proxy = start(checked(&[one.address, closed_port().await], tcp, false));
        sleep(Duration::from_secs(2)).await;
        let totals = totals(&proxy);
        assert_eq!((totals.checks_passed, totals.checks_failed, totals.failing_checks), (1, 1, 1));
        assert_eq!(answering(&proxy).await, names(["one"]));
    })
    .await;
}

/// An application that says whether it serves, by `grpc.health.v1`.
async fn grpc(serving: u8) -> Application {
    Application::http2(move |request, mut respond| async move {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut body = respond.send_response(response, false).unwrap();
        body.send_data(Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, serving]), false).unwrap();
        let status = ("grpc-status".parse().unwrap(), HeaderValue::from_static("0"));
        body.send_trailers(HeaderMap::from_iter([status])).unwrap();
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_grpc_service_is_asked_whether_it_serves() {
    paused(async {
        let (serves, does_not) = (grpc(1).await, grpc(2).await);
        let checker = HealthChecker::GrpcHealthCheck(GrpcHealthCheck::default());
        let cluster = checked(&[serves.address, does_not.address], checker, false);
        let proxy = start(Cluster { protocol: UpstreamProtocol::Http2, ..cluster });
        sleep(Duration::from_secs(2)).await;
        let totals = totals(&proxy);
        assert_eq!((totals.checks_passed, totals.checks_failed, totals.failing_checks), (1, 1, 1));
    })
    .await;
}

#[tokio::test]
async fn the_workers_of_a_process_share_the_checks() {
    let mut applications = Vec::new();
    for _ in 0..24 {
        applications.push(application("app").await.0);
    }
    let addresses: Vec<_> = applications.iter().map(|application| application.address).collect();
    // The first worker has nothing to check before it knows the second one.
    let first = World::new().proxy().start();
    let second = World::new().proxy().start_beside(&first);
    sleep(Duration::from_millis(200)).await;
    let cluster = Arc::new(checked(&addresses, http_check(), false));
    let snapshot =
        Snapshot { clusters: [("app".into(), cluster)].into_iter().collect(), ..Snapshot::default() };
    let snapshot = Arc::new(snapshot);
    first.published.publish(Arc::clone(&snapshot));
    second.published.publish(snapshot);
    let made = |proxy: &Proxy| proxy.totals().clusters.get("app").map_or(0, |of| of.checks_passed);
    tokio::time::timeout(Duration::from_secs(20), async {
        while made(&first) + made(&second) < 24 {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("all are checked");
    let by_each = applications.iter().map(Application::requests).collect::<Vec<_>>();
    assert_eq!(by_each, [1; 24], "each by one worker");
    assert!(made(&first) > 0 && made(&second) > 0, "{} and {}", made(&first), made(&second));
}

#[tokio::test]
async fn one_worker_of_the_process_checks_an_endpoint_and_another_one_when_that_has_ended() {
    let (one, _) = application("one").await;
    let every = |milliseconds: i32| {
        let wire = core::HealthCheck {
            timeout: Some(protobuf::Duration { seconds: 1, nanos: 0 }),
            interval: Some(protobuf::Duration { seconds: 0, nanos: milliseconds * 1_000_000 }),
            no_traffic_interval: Some(protobuf::Duration { seconds: 0, nanos: milliseconds * 1_000_000 }),
            unhealthy_threshold: Some(protobuf::UInt32Value { value: 3 }),
            healthy_threshold: Some(protobuf::UInt32Value { value: 2 }),
            health_checker: Some(http_check()),
            ..Default::default()
        };
        let health_check = HealthCheck::decode(vec![wire]).unwrap().map(Arc::new);
        Cluster { health_check, ..cluster("app", [endpoint(one.address)]) }
    };
    let world = || World::new().proxy().cluster_of(every(100)).http("app:80", forward("app"));
    let first = world().start();
    let second = world().start_beside(&first);
    sleep(Duration::from_secs(2)).await;
    let checks = one.requests();
    assert!((2..=21).contains(&checks), "{checks} checks in two seconds");
    let by_first = first.totals().clusters["app"].checks_passed;
    let by_second = second.totals().clusters.get("app").map_or(0, |of| of.checks_passed);
    assert!((by_first == 0) != (by_second == 0), "{by_first}, {by_second}");
    let (ending, staying) = if by_first > 0 { (first, second) } else { (second, first) };
    ending.drain(Duration::from_secs(1)).await;
    let taken_over = async {
        while staying.totals().clusters.get("app").is_none_or(|of| of.checks_passed == 0) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), taken_over).await.expect("the other worker checks");
}
