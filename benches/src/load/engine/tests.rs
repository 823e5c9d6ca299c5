use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, Method};

use super::super::schedule::Schedule;
use super::super::spec::{Expect, HttpRequest, Pace, Protocol};
use super::*;
use crate::backend::{self, Service};

fn get(address: SocketAddr) -> HttpRequest {
    HttpRequest {
        method: Method::GET,
        authority: address.to_string(),
        path: "/".into(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        expect: Expect::default(),
    }
}

fn spec(address: SocketAddr, protocol: Protocol) -> Spec {
    Spec {
        address,
        tls: None,
        protocol,
        connections: 4,
        streams: 1,
        connection_per_request: false,
        pace: Pace::ClosedLoop,
        warm_up: Duration::ZERO,
        until: Until::Requests(100),
        timeout: Duration::from_secs(5),
        threads: 2,
        cores: Vec::new(),
    }
}

fn run(spec: Spec) -> Measurement {
    start(spec).unwrap().finish().unwrap()
}

#[test]
fn a_number_of_http1_requests_is_sent_and_counted_exactly() {
    let address = backend::start(Service::Http1 { size: 200 }).unwrap();
    let mut request = get(address);
    request.expect.length = Some(200);
    let measured = run(spec(address, Protocol::Http1(request)));
    assert_eq!((measured.tally.answered, measured.tally.failed(), measured.connections), (100, 0, 4));
    assert_eq!((measured.tally.received, measured.tally.latency.len()), (20_000, 100));
    assert_eq!(measured.seconds.iter().map(|second| second.answered).sum::<u64>(), 100);
}

#[test]
fn http2_has_many_streams_on_a_connection_and_verifies_trailers() {
    let address = backend::start(Service::Http2 { size: 10, trailers: true }).unwrap();
    let mut request = get(address);
    request.body = Bytes::from_static(&[b'x'; 100]);
    request.method = Method::POST;
    request.expect = Expect { status: None, length: Some(10), trailers: true };
    let mut spec = spec(address, Protocol::Http2(request.clone()));
    spec.streams = 10;
    let measured = run(spec.clone());
    assert_eq!((measured.tally.answered, measured.tally.failed(), measured.connections), (100, 0, 4));
    let without = backend::start(Service::Http2 { size: 10, trailers: false }).unwrap();
    spec.address = without;
    let failures: Vec<_> = run(spec).tally.failures.into_iter().collect();
    assert_eq!(failures, [(super::super::Failure::NoTrailers, 100)]);
}

#[test]
fn each_request_may_have_a_connection_of_its_own() {
    for (service, http2) in
        [(Service::Http1 { size: 5 }, false), (Service::Http2 { size: 5, trailers: false }, true)]
    {
        let address = backend::start(service).unwrap();
        let protocol = if http2 { Protocol::Http2(get(address)) } else { Protocol::Http1(get(address)) };
        let measured = run(Spec { connection_per_request: true, ..spec(address, protocol) });
        assert_eq!((measured.tally.answered, measured.connections), (100, 100));
    }
}

#[test]
fn a_constant_rate_sends_as_many_as_the_schedule_says() {
    let address = backend::start(Service::Http1 { size: 5 }).unwrap();
    let schedule = Schedule::constant(400.0, Duration::from_millis(500)).unwrap();
    let measured = run(Spec {
        pace: Pace::Rate(schedule),
        warm_up: Duration::from_millis(100),
        until: Until::Elapsed(Duration::from_millis(500)),
        ..spec(address, Protocol::Http1(get(address)))
    });
    assert_eq!(measured.tally.answered + measured.tally.unsent, 200);
    assert_eq!(measured.elapsed, Duration::from_millis(500));
}

/// The server accepts and never answers for the first 400 ms. A test that measures from the actual start sees one slow request
/// per connection; here every request that was due meanwhile is slow.
#[test]
fn a_stall_shows_in_the_percentiles_of_a_constant_rate() {
    let stall = Duration::from_millis(400);
    let address = backend::start(Service::Stalled { stall }).unwrap();
    let length = Duration::from_secs(1);
    let measured = run(Spec {
        connections: 2,
        pace: Pace::Rate(Schedule::constant(200.0, length).unwrap()),
        until: Until::Elapsed(length),
        ..spec(address, Protocol::Http1(get(address)))
    });
    let at = |quantile| Duration::from_nanos(measured.tally.latency.value_at_quantile(quantile));
    assert_eq!(measured.tally.answered + measured.tally.unsent, 200);
    // 80 of 200 requests were due in the stall, the last of them at its end.
    assert!(at(0.99) > stall * 9 / 10, "{:?}", at(0.99));
    assert!(at(0.70) > Duration::from_millis(50), "{:?}", at(0.70));
    let service = Duration::from_nanos(measured.tally.service.value_at_quantile(0.9));
    assert!(service < stall / 2, "{service:?}");
}

#[test]
fn a_server_that_does_not_answer_is_a_timeout_for_every_stream() {
    let address = backend::start(Service::Stalled { stall: Duration::from_secs(60) }).unwrap();
    let timeout = Duration::from_millis(100);
    let until = Until::Elapsed(Duration::from_millis(250));
    let measured = run(Spec { timeout, until, ..spec(address, Protocol::Http1(get(address))) });
    let failures: Vec<_> = measured.tally.failures.keys().cloned().collect();
    assert_eq!((measured.tally.answered, &failures[..]), (0, &[super::super::Failure::Timeout][..]));
    assert!(measured.tally.failed() >= 4 && measured.tally.failed() <= 12, "{}", measured.tally.failed());
    assert!(Duration::from_nanos(measured.tally.latency.min()) >= timeout * 99 / 100);
}

#[test]
fn a_test_that_is_stopped_says_what_it_has_measured() {
    let address = backend::start(Service::Http1 { size: 5 }).unwrap();
    let hour = Until::Elapsed(Duration::from_secs(3600));
    let running = start(Spec { until: hour, ..spec(address, Protocol::Http1(get(address))) }).unwrap();
    while running.ended() < 50 {
        std::thread::sleep(Duration::from_millis(5));
    }
    running.stop();
    let measured = running.finish().unwrap();
    assert!(measured.tally.answered >= 40 && measured.elapsed < Duration::from_secs(60));
}

#[test]
fn connections_can_stay_idle() {
    let address = backend::start(Service::Http1 { size: 5 }).unwrap();
    let until = Until::Elapsed(Duration::from_millis(300));
    let measured =
        run(Spec { pace: Pace::OnceThenIdle, until, ..spec(address, Protocol::Http1(get(address))) });
    assert_eq!((measured.tally.answered, measured.connections), (4, 4));
}

#[test]
fn what_cannot_run_is_refused_with_its_reason() {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let good = spec(address, Protocol::Http1(get(address)));
    let why = |spec: Spec| start(spec).unwrap_err();
    assert_eq!(why(good.clone()), "127.0.0.1:1: cannot connect: connection refused");
    assert!(why(Spec { streams: 2, ..good.clone() }).contains("only HTTP/2"));
    assert!(why(Spec { threads: 5, ..good.clone() }).contains("5 threads for 4 connections"));
    assert!(why(Spec { cores: vec![900], ..good.clone() }).contains("core 900"));
    assert!(why(Spec { until: Until::Requests(0), ..good }).contains("duration"));
}
