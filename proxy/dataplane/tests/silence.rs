//! Endpoints that do not respond: what they are sent meanwhile, what happens to their requests, and which endpoints only look
//! silent.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use outrigger_config::cluster::Cluster;
use outrigger_policy::outlier::OutlierDetection;
use outrigger_proto::xds::{cluster as wire, protobuf};
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::ok;
use support::{Proxy, World, cluster, endpoint, forward};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// Longer than a moved or covered request takes on a busy machine, and much shorter than a frozen endpoint.
const SOON: Duration = Duration::from_millis(1500);

/// An application that can be stopped: it then accepts requests and answers none until it is resumed. `/slow` takes 2 s and
/// `/poll` is never answered.
struct Stoppable {
    application: Application,
    stopped: watch::Sender<bool>,
}

impl Stoppable {
    async fn start() -> Self {
        let (stopped, watched) = watch::channel(false);
        let application = Application::raw(move |mut connection| {
            let mut stopped = watched.clone();
            async move {
                while let Some(asked) = connection.request().await {
                    if stopped.wait_for(|stopped| !*stopped).await.is_err() {
                        return;
                    }
                    if asked.head.contains(" /slow ") {
                        sleep(Duration::from_secs(2)).await;
                    } else if asked.head.contains(" /poll ") {
                        sleep(Duration::from_secs(600)).await;
                    }
                    if connection.send(ok("fine")).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        Self { application, stopped }
    }

    async fn several(count: usize) -> Vec<Self> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(Self::start().await);
        }
        all
    }

    fn stop(&self) {
        self.stopped.send_replace(true);
    }

    fn go_on(&self) {
        self.stopped.send_replace(false);
    }

    fn requests(&self) -> usize {
        self.application.requests()
    }
}

fn ejecting(addresses: impl IntoIterator<Item = SocketAddr>) -> Cluster {
    let number = |value| Some(protobuf::UInt32Value { value });
    let outlier = OutlierDetection::decode(Some(wire::OutlierDetection {
        max_ejection_percent: number(50),
        enforcing_success_rate: number(0),
        split_external_local_origin_errors: true,
        ..Default::default()
    }));
    Cluster { outlier: outlier.unwrap(), ..cluster("app", addresses.into_iter().map(endpoint)) }
}

fn proxy_to(applications: &[Stoppable]) -> Proxy {
    let addresses = applications.iter().map(|one| one.application.address);
    World::new().proxy().cluster_of(ejecting(addresses)).http("app:80", forward("app")).start()
}

/// Sends requests one after another on each of `clients` connections until `end`. Returns how long each took.
async fn load(to: SocketAddr, clients: usize, method: &'static str, end: Instant) -> Vec<Duration> {
    let client = || async move {
        let (mut client, mut took) = (Client::connect(to).await, Vec::new());
        while Instant::now() < end {
            let began = Instant::now();
            client.send(format!("{method} / HTTP/1.1\r\nHost: app\r\nContent-Length: 0\r\n\r\n")).await;
            let answer = timeout(Duration::from_secs(30), client.response()).await.expect("an answer");
            assert_eq!(answer.status, 200, "{answer:?}");
            took.push(began.elapsed());
            sleep(Duration::from_millis(10)).await;
        }
        took
    };
    let tasks: Vec<_> = (0..clients).map(|_| tokio::spawn(client())).collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    all
}

fn after(millis: u64) -> Instant {
    Instant::now() + Duration::from_millis(millis)
}

/// Sends a request whose response is not awaited. Returns its connection, which must be kept.
async fn begin(to: SocketAddr, method: &str, path: &str) -> Client {
    let mut client = Client::connect(to).await;
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: app\r\nContent-Length: 0\r\n\r\n")).await;
    client
}

#[tokio::test]
async fn a_frozen_endpoint_costs_no_get_is_ejected_after_seconds_and_comes_back_by_a_covered_request() {
    let applications = Stoppable::several(3).await;
    let proxy = proxy_to(&applications);
    load(proxy.address(0), 6, "GET", after(200)).await;
    applications[0].stop();
    let took = load(proxy.address(0), 6, "GET", after(2000)).await;
    assert!(took.iter().all(|took| *took < SOON), "{:?}", took.iter().max());
    assert_eq!(proxy.shared.ejected(), [], "two seconds may be a pause");
    let took = load(proxy.address(0), 6, "GET", after(5000)).await;
    assert!(took.iter().all(|took| *took < SOON / 2), "{:?}", took.iter().max());
    assert_eq!(proxy.shared.ejected(), [("app".into(), applications[0].application.address)]);
    assert_eq!(proxy.totals().ejections[&("app".into(), "silence")], 1);
    let asked = applications[0].requests();
    load(proxy.address(0), 6, "GET", after(2500)).await;
    assert!((1..=4).contains(&(applications[0].requests() - asked)), "about one a second");
    applications[0].go_on();
    load(proxy.address(0), 6, "GET", after(2500)).await;
    assert_eq!(proxy.shared.ejected(), []);
    assert!(applications[0].requests() > asked + 20, "it has its share again");
}

#[tokio::test]
async fn the_record_of_a_paired_attempt_has_its_connection() {
    let applications = Stoppable::several(3).await;
    let mut proxy = proxy_to(&applications);
    load(proxy.address(0), 6, "GET", after(200)).await;
    applications[0].stop();
    load(proxy.address(0), 6, "GET", after(2000)).await;
    applications[0].go_on();
    load(proxy.address(0), 6, "GET", after(2500)).await;
    let mut pairs = 0;
    while let Ok(record) = proxy.records.try_recv() {
        let mut answered = record.attempts.iter().filter(|attempt| attempt.status != 0).peekable();
        pairs += usize::from(record.attempts.len() > 1 && answered.peek().is_some());
        assert!(answered.all(|attempt| attempt.protocol.is_some()), "{record:?}");
    }
    assert!(pairs > 0, "no request had two attempts");
}

#[tokio::test]
async fn a_pause_of_three_seconds_loses_no_post_and_ejects_no_endpoint() {
    let applications = Stoppable::several(3).await;
    let proxy = proxy_to(&applications);
    let address = proxy.address(0);
    load(address, 4, "POST", after(200)).await;
    applications[1].stop();
    let before: usize = applications.iter().map(Stoppable::requests).sum();
    let posts = tokio::spawn(load(address, 4, "POST", after(4000)));
    let gets = tokio::spawn(load(address, 4, "GET", after(3000)));
    sleep(Duration::from_secs(3)).await;
    assert_eq!(proxy.shared.ejected(), []);
    applications[1].go_on();
    let posts = posts.await.unwrap();
    let gets = gets.await.unwrap();
    assert!(gets.iter().all(|took| *took < SOON), "{:?}", gets.iter().max());
    assert!(posts.iter().filter(|took| **took > SOON).count() <= 4, "what was in flight, which waits");
    let after: usize = applications.iter().map(Stoppable::requests).sum();
    let sent_twice = after - before - posts.len() - gets.len();
    assert!(sent_twice <= 20, "moved or covered: {sent_twice}");
    assert_eq!(proxy.shared.ejected(), []);
}

#[tokio::test]
async fn posts_alone_leave_a_frozen_endpoint_and_come_back_to_it() {
    let applications = Stoppable::several(2).await;
    let proxy = proxy_to(&applications);
    let address = proxy.address(0);
    load(address, 4, "POST", after(200)).await;
    applications[0].stop();
    let frozen = applications[0].requests();
    let posts = tokio::spawn(load(address, 24, "POST", after(2500)));
    sleep(Duration::from_millis(2500)).await;
    applications[0].go_on();
    let took = posts.await.unwrap();
    let lost = applications[0].requests() - frozen;
    // All 24 clients, if it stayed in use.
    assert!(lost < 20, "those of the first moments, and probes at growing intervals: {lost}");
    assert!(took.iter().filter(|took| **took > SOON).count() <= lost);
    load(address, 4, "POST", after(3000)).await;
    assert!(applications[0].requests() > frozen + lost + 10, "it has its share again");
}

#[tokio::test]
async fn clients_that_give_up_leave_a_frozen_endpoint_as_dear_as_it_was() {
    let applications = Stoppable::several(2).await;
    let proxy = proxy_to(&applications);
    let address = proxy.address(0);
    load(address, 4, "GET", after(200)).await;
    applications[0].stop();
    let frozen = applications[0].requests();
    for _ in 0..40 {
        let mut client = begin(address, "POST", "/").await;
        let _ = timeout(Duration::from_millis(30), client.stream.get_mut().readable()).await;
    }
    let lost = applications[0].requests() - frozen;
    assert!(lost <= 6, "{lost} of 40");
}

#[tokio::test]
async fn long_polls_without_an_answer_cost_a_healthy_endpoint_nothing() {
    let applications = Stoppable::several(2).await;
    let proxy = proxy_to(&applications);
    let address = proxy.address(0);
    load(address, 4, "GET", after(200)).await;
    let asked: Vec<_> = applications.iter().map(Stoppable::requests).collect();
    let mut polls = Vec::new();
    for round in 0..6 {
        for _ in 0..4 {
            polls.push(begin(address, if round % 2 == 0 { "GET" } else { "POST" }, "/poll").await);
        }
        let took = load(address, 2, "GET", after(1000)).await;
        assert!(took.iter().all(|took| *took < SOON / 2), "{:?}", took.iter().max());
    }
    assert_eq!(proxy.shared.ejected(), []);
    let got = applications.iter().zip(asked).map(|(one, before)| one.requests() - before);
    let got: Vec<_> = got.collect();
    assert!(got.iter().all(|got| *got > 100), "each has its share: {got:?}");
}

#[tokio::test]
async fn slow_reports_among_quick_requests_eject_no_endpoint_and_rarely_run_twice() {
    let applications = Stoppable::several(2).await;
    let proxy = proxy_to(&applications);
    let address = proxy.address(0);
    load(address, 4, "GET", after(200)).await;
    let before: usize = applications.iter().map(Stoppable::requests).sum();
    let mut reports = Vec::new();
    let mut quick = 0;
    // Five requests a second, half of them slow.
    for _ in 0..25 {
        reports.push(begin(address, "GET", "/slow").await);
        sleep(Duration::from_millis(200)).await;
        quick += load(address, 1, "GET", after(1)).await.len();
        sleep(Duration::from_millis(190)).await;
    }
    let sent = reports.len() + quick;
    for mut report in reports {
        assert_eq!(report.response().await.status, 200);
    }
    assert_eq!(proxy.shared.ejected(), []);
    let twice = applications.iter().map(Stoppable::requests).sum::<usize>() - before - sent;
    assert!(twice <= 12, "no more than one a second: {twice}");
}

#[tokio::test]
async fn where_all_endpoints_are_silent_everybody_waits() {
    let applications = Stoppable::several(2).await;
    let proxy = proxy_to(&applications);
    let address = proxy.address(0);
    load(address, 4, "GET", after(200)).await;
    applications.iter().for_each(Stoppable::stop);
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(begin(address, "GET", "/").await);
        sleep(Duration::from_millis(50)).await;
    }
    let asked: usize = applications.iter().map(Stoppable::requests).sum();
    sleep(Duration::from_millis(500)).await;
    assert_eq!(asked, applications.iter().map(Stoppable::requests).sum::<usize>(), "nothing is sent again");
    applications.iter().for_each(Stoppable::go_on);
    for mut client in waiting {
        assert_eq!(client.response().await.status, 200);
    }
    assert_eq!(proxy.shared.ejected(), []);
}

/// A listening socket whose queue is full drops every SYN.
struct BlackHole {
    address: SocketAddr,
    _socket: socket2::Socket,
    _queued: Vec<std::net::TcpStream>,
}

fn black_hole() -> BlackHole {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let connect = |_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok();
    let queued = (0..4).map_while(connect).collect();
    BlackHole { address, _socket: socket, _queued: queued }
}

#[tokio::test]
async fn a_black_hole_delays_a_post_by_a_quarter_of_a_second_and_loses_none() {
    let (alive, hole) = (Application::echo("app").await, black_hole());
    let proxy = World::new()
        .proxy()
        .cluster_of(ejecting([hole.address, alive.address]))
        .http("app:80", forward("app"))
        .start();
    let took = load(proxy.address(0), 6, "POST", after(4000)).await;
    assert!(took.iter().all(|took| *took < Duration::from_millis(900)), "{:?}", took.iter().max());
    let slow = took.iter().filter(|took| **took > Duration::from_millis(200)).count();
    assert!((1..=30).contains(&slow), "those that found it: {slow} of {}", took.len());
    assert_eq!(proxy.totals().responses.len(), 1, "200 and nothing else");
}

#[tokio::test]
async fn opaque_bytes_do_not_wait_for_a_black_hole() {
    let (alive, hole) = (Application::echo("app").await, black_hole());
    let proxy =
        World::new().proxy().cluster_of(ejecting([hole.address, alive.address])).tcp("app:80", "app").start();
    for _ in 0..10 {
        let began = Instant::now();
        let mut client = Client::connect(proxy.address(0)).await;
        client.send("CONNECT app:80 HTTP/1.1\r\nHost: app:80\r\n\r\n").await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 "));
        assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
        assert_eq!(client.get("app", "/").await.status, 200);
    }
}
