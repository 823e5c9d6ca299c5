//! Waits on clients that have a time limit, and idle streams that have none. Time is paused, and advanced by [`run_clock`]: the
//! worker runs on the test's own thread.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use outrigger_config::cluster::{Cluster, UpstreamProtocol};
use outrigger_config::listener::Handler;
use outrigger_config::route::{Forward, RouteAction};
use outrigger_config::tls::ClientCertificate;
use outrigger_core::reason::Reason;
use outrigger_policy::outlier::OutlierDetection;
use outrigger_policy::timeout::Timeouts;
use outrigger_proto::xds::{cluster as wire, protobuf};
use outrigger_test_support::application::{Application, Connection};
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::ok;
use outrigger_test_support::http2;
use support::tls::Authority;
use support::{Proxy, World, cluster, endpoint, forward, manager, to};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

/// Advances paused time by `step` at a time. Bytes between sockets arrive meanwhile: a clock that jumps whenever all tasks are
/// idle, as tokio's does, would race with the kernel.
fn run_clock(step: Duration) {
    spawn_local(async move {
        loop {
            tokio::time::advance(step).await;
            let arriving = || std::thread::sleep(Duration::from_micros(300));
            tokio::task::spawn_blocking(arriving).await.unwrap();
        }
    });
}

const STEP: Duration = Duration::from_millis(100);

/// Returns whether about that much time has passed, allowing for what a busy machine takes for a few packets.
fn is_about(elapsed: Duration, seconds: u64) -> bool {
    (seconds..seconds + 5 + seconds / 100).contains(&(elapsed + 5 * STEP).as_secs())
}

fn before(application: &Application) -> Proxy {
    start(ejecting([application.address], UpstreamProtocol::Http1))
}

/// A proxy to that cluster, without time limits on the route, as our control plane writes it.
fn start(cluster: Cluster) -> Proxy {
    let none = || Some(protobuf::Duration { seconds: 0, nanos: 0 });
    let timeouts = Timeouts::decode(none(), none(), None).unwrap();
    let forward = RouteAction::Forward(Box::new(Forward { timeouts, ..to("app") }));
    World::new().proxy().cluster_of(cluster).http("app:80", forward).start_here()
}

/// A cluster of these endpoints, some of which may be ejected.
fn ejecting(addresses: impl IntoIterator<Item = SocketAddr>, protocol: UpstreamProtocol) -> Cluster {
    let number = |value| Some(protobuf::UInt32Value { value });
    let outlier = OutlierDetection::decode(Some(wire::OutlierDetection {
        max_ejection_percent: number(50),
        enforcing_success_rate: number(0),
        split_external_local_origin_errors: true,
        ..Default::default()
    }));
    let endpoints = addresses.into_iter().map(endpoint);
    Cluster { outlier: outlier.unwrap(), protocol, ..cluster("app", endpoints) }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_tls_handshake_has_five_seconds_in_all() {
    run_clock(STEP);
    let (authority, application) = (Authority::new(), Application::echo("app").await);
    let handler = Handler::Http(manager("app", forward("app")));
    let listener = support::tls::listener(&["h2"], ClientCertificate::Required, handler);
    let world = World::new().own(listener).cluster("app", &[application.address]);
    world.secrets.publish(authority.secrets("app"));
    let proxy = world.start_here();
    // Nothing, a part of a hello, and a part that grows.
    for (hello, drips) in
        [(&b""[..], false), (&[0x16, 3, 1, 1, 0, 1, 0][..], false), (&[0x16, 3, 1, 1, 0, 1, 0], true)]
    {
        let (mut reading, mut writing) = TcpStream::connect(proxy.address(0)).await.unwrap().into_split();
        writing.write_all(hello).await.unwrap();
        let began = Instant::now();
        let writing = spawn_local(async move {
            while drips && writing.write_all(&[0]).await.is_ok() {
                sleep(Duration::from_millis(700)).await;
            }
            // Kept open for longer than the limit.
            sleep(Duration::from_secs(60)).await;
        });
        let mut all = Vec::new();
        let _ = reading.read_to_end(&mut all).await;
        assert!(is_about(began.elapsed(), 5), "{hello:?} {drips}: {:?}", began.elapsed());
        writing.abort();
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_head_of_an_http_1_request_has_ten_seconds_in_all() {
    run_clock(STEP);
    let application = Application::echo("app").await;
    let mut proxy = before(&application);
    for next in [false, true] {
        let mut client = Client::connect(proxy.address(0)).await;
        if next {
            assert_eq!(client.get("app", "/").await.status, 200);
            proxy.record().await;
        }
        client.send("GET / HTTP/1.1\r\n").await;
        let began = Instant::now();
        let (reading, mut writing) = client.stream.into_inner().into_split();
        let dripping = spawn_local(async move {
            while writing.write_all(b"a: b\r\n").await.is_ok() {
                sleep(Duration::from_secs(3)).await;
            }
        });
        let mut reading = BufReader::new(reading);
        let mut status = String::new();
        reading.read_line(&mut status).await.unwrap();
        assert_eq!(status, "HTTP/1.1 408 Request Timeout\r\n");
        assert!(is_about(began.elapsed(), 10), "{:?}", began.elapsed());
        let record = proxy.record().await;
        assert_eq!((record.status, record.reason), (408, Some(Reason::DownstreamTimeout)));
        dripping.abort();
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_connection_without_requests_is_closed_after_an_hour() {
    run_clock(5 * STEP);
    let application = Application::echo("app").await;
    let proxy = before(&application);
    let mut client = Client::connect(proxy.address(0)).await;
    assert_eq!(client.get("app", "/").await.status, 200);
    sleep(Duration::from_secs(1000)).await;
    assert_eq!(client.get("app", "/").await.status, 200);

    let began = Instant::now();
    let stream = TcpStream::connect(proxy.address(0)).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = spawn_local(async move {
        let outcome = connection.await;
        (began.elapsed(), outcome)
    });
    let mut send = send.ready().await.unwrap();
    let request = Request::get("http://app/").body(()).unwrap();
    assert_eq!(send.send_request(request, true).unwrap().0.await.unwrap().status(), 200);

    let mut all = Vec::new();
    let ended = client.stream.read_to_end(&mut all).await;
    assert!(ended.is_ok() && all.is_empty() && is_about(began.elapsed(), 3600), "{:?}", began.elapsed());
    let (elapsed, outcome) = connection.await.unwrap();
    assert!(outcome.is_ok() && is_about(elapsed, 3600), "{elapsed:?} {outcome:?}: not by a GOAWAY");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn event_streams_without_events_live_on_and_cost_their_endpoint_nothing() {
    run_clock(5 * STEP);
    let serve = |mut connection: Connection| async move {
        while let Some(head) = connection.head().await {
            if !head.starts_with("GET /events") {
                connection.send(ok("ok")).await.unwrap();
                continue;
            }
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            connection.send(head).await.unwrap();
            sleep(Duration::from_secs(600)).await;
            connection.send("b\r\ndata: new\n\n\r\n0\r\n\r\n").await.unwrap();
        }
    };
    let applications = [Application::raw(serve).await, Application::raw(serve).await];
    let cluster = ejecting(applications.iter().map(|one| one.address), UpstreamProtocol::Http1);
    let mut proxy = start(cluster);
    let mut streams = Vec::new();
    for _ in 0..10 {
        let mut stream = Client::connect(proxy.address(0)).await;
        stream.send("GET /events HTTP/1.1\r\nHost: app\r\n\r\n").await;
        assert!(stream.head().await.starts_with("HTTP/1.1 200"));
        streams.push(stream);
    }
    // Other requests are answered meanwhile.
    let began = Instant::now();
    let mut other = Client::connect(proxy.address(0)).await;
    while began.elapsed() < Duration::from_secs(590) {
        assert_eq!(other.get("app", "/").await.body, "ok");
        assert_eq!(proxy.record().await.reason, None);
        sleep(Duration::from_secs(1)).await;
    }
    assert!(proxy.totals().ejections.is_empty());
    for stream in &mut streams {
        let mut event = [0; 21];
        stream.stream.read_exact(&mut event).await.unwrap();
        assert_eq!(&event[..], b"b\r\ndata: new\n\n\r\n0\r\n\r\n");
        let record = proxy.record().await;
        assert_eq!((record.status, record.reason), (200, None));
    }
}

/// An application that speaks HTTP/2: `/large` is a large body; every other response is a message, and another ten minutes
/// later.
async fn watched() -> Application {
    Application::http2(|request, mut respond| async move {
        let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut body = respond.send_response(head, false).unwrap();
        if request.uri().path() == "/large" {
            body.send_data(Bytes::from(vec![b'x'; 1024 * 1024]), true).unwrap();
            return;
        }
        body.send_data(Bytes::from_static(b"\0\0\0\0\x05first"), false).unwrap();
        sleep(Duration::from_secs(600)).await;
        body.send_data(Bytes::from_static(b"\0\0\0\0\x06second"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        body.send_trailers(trailers).unwrap();
    })
    .await
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_quiet_watch_survives_beside_a_download_that_is_not_read() {
    run_clock(STEP / 100);
    let application = watched().await;
    let mut proxy = start(ejecting([application.address], UpstreamProtocol::Http2));
    let mut watching = http2::connect(proxy.address(0)).await;
    let mut loading = http2::connect(proxy.address(0)).await;
    let call = || {
        let call = Request::post("http://app/shop.Stock/Watch").header("content-type", "application/grpc");
        call.header("te", "trailers").body(()).unwrap()
    };
    let mut watch = watching.send_request(call(), true).unwrap().0.await.unwrap().into_body();
    assert!(watch.data().await.unwrap().unwrap().ends_with(b"first"));
    let began = Instant::now();
    // It exhausts the window of the connection to the application.
    let large = Request::get("http://app/large").body(()).unwrap();
    let unread = loading.send_request(large, true).unwrap().0.await.unwrap();
    // What the sockets hold of it arrives in real time, which a fast clock would count as minutes.
    sleep(2 * STEP).await;
    run_clock(5 * STEP);
    assert!(watch.data().await.unwrap().unwrap().ends_with(b"second"));
    assert!(is_about(began.elapsed(), 600), "{:?}", began.elapsed());
    assert_eq!(watch.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    // Its client read nothing for five minutes.
    let record = proxy.record().await;
    assert_eq!(record.reason, Some(Reason::DownstreamConnectionTermination));
    assert!(is_about(record.duration, 300), "{:?}", record.duration);
    assert_eq!(proxy.record().await.reason, None);
    assert_eq!(proxy.totals().clusters["app"].connections_total, 1);
    drop(unread);
}
