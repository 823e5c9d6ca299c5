use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};

use super::super::cpu::ThreadUse;
use super::super::failure::Failure;
use super::super::recorder::{Second, Tally};
use super::super::schedule::Schedule;
use super::super::spec::{Expect, HttpRequest};
use super::*;

const LENGTH: Duration = Duration::from_secs(4);

fn spec(pace: Pace) -> Spec {
    let request = HttpRequest {
        method: Method::GET,
        authority: "shop".into(),
        path: "/".into(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        expect: Expect::default(),
    };
    Spec {
        address: ([127, 0, 0, 1], 80).into(),
        tls: None,
        protocol: Protocol::Http1(request),
        connections: 8,
        streams: 1,
        connection_per_request: false,
        pace,
        warm_up: Duration::from_millis(500),
        until: Until::Elapsed(LENGTH),
        timeout: Duration::from_secs(1),
        threads: 1,
        cores: Vec::new(),
    }
}

/// Four seconds with 100 to 400 answers, of 1 to 4 ms.
fn measured() -> Measurement {
    let mut tally = Tally::new();
    let mut seconds = Vec::new();
    for number in 1..=4 {
        let mut second = Second::new();
        second.answered = number * 100;
        second.latency.record_n(number * 1_000_000, 100 * number as u32).unwrap();
        tally.latency.record_n(number * 1_000_000, 100 * number).unwrap();
        tally.service.record_n(900_000, 100 * number).unwrap();
        tally.answered += number * 100;
        seconds.push(second);
    }
    tally.received = 8_000_000;
    tally.failures.insert(Failure::Status(503), 3);
    tally.unsent = 2;
    let used = ThreadUse { elapsed: LENGTH, cpu: Duration::from_secs(2), waited: Duration::ZERO };
    Measurement { tally, elapsed: LENGTH, seconds, connections: 8, threads: vec![used] }
}

fn report<'run>(spec: &'run Spec, measured: &'run Measurement) -> Report<'run> {
    Report { url: "http://shop/<items>".into(), spec, measured }
}

#[test]
fn the_text_has_counts_percentiles_and_warnings() {
    let (spec, measured) = (spec(Pace::Rate(Schedule::constant(250.0, LENGTH).unwrap())), measured());
    let text = text::text(&report(&spec, &measured));
    for expected in [
        "HTTP/1.1, 8 connections, 250 requests/s, 4s after 500ms of warm-up",
        "answered         1000   250.0 requests/s, 2.00 MB/s received",
        "           3   status 503",
        "not sent            2",
        "latency from intended start      3.00",
        "from actual start               0.900",
        "generator: 50 % of a core",
        "WARNING: 2 requests were due and never sent",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}

#[test]
fn a_closed_loop_has_no_intended_start() {
    let (spec, measured) = (spec(Pace::ClosedLoop), measured());
    let text = text::text(&report(&spec, &measured));
    assert!(
        text.contains("closed loop") && !text.contains("intended") && !text.contains("not sent"),
        "{text}"
    );
}

#[test]
fn steps_have_figures_of_their_own() {
    let (spec, measured) = (spec(Pace::Rate(Schedule::steps(100.0, 400.0, 4, LENGTH).unwrap())), measured());
    let stages = report(&spec, &measured).stages();
    let rows: Vec<_> = stages.iter().map(|stage| (stage.stage.from, stage.answered, stage.seconds)).collect();
    assert_eq!(rows, [(100.0, 100, 1), (200.0, 200, 1), (300.0, 300, 1), (400.0, 400, 1)]);
    assert_eq!(stages[2].latency.value_at_quantile(0.5) / 100_000, 30);
    assert!(text::text(&report(&spec, &measured)).contains("requests/s    answered/s"));
}

#[test]
fn the_json_has_the_same_figures() {
    let (spec, measured) = (spec(Pace::Rate(Schedule::ramp(100.0, 400.0, LENGTH).unwrap())), measured());
    let json = json::json(&report(&spec, &measured));
    assert_eq!(json["answered_per_second"], 250.0);
    assert_eq!((&json["failures"]["status 503"], &json["not_sent"]), (&3.into(), &2.into()));
    assert_eq!(json["per_second"].as_array().unwrap().len(), 4);
    let p50 = json["latency_ms"]["p50"].as_f64().unwrap();
    assert!((p50 - 3.0).abs() < 0.01, "{p50}");
    assert_eq!(json["generator"]["threads"][0]["core_share"], 0.5);
}

#[test]
fn the_plots_have_a_line_for_each_series() {
    let (spec, measured) = (spec(Pace::Rate(Schedule::ramp(100.0, 400.0, LENGTH).unwrap())), measured());
    let report = report(&spec, &measured);
    assert!((report.offered(2.0).unwrap() - 250.0).abs() < 1e-6 && report.offered(4.5).is_none());
    let svg = plot::plots(&report).unwrap();
    for name in ["answered", "failed", "offered", "p50", "p99", "max", "99.9%", "from actual start"] {
        assert!(svg.contains(name), "{name}");
    }
    assert!(svg.matches("<polyline").count() >= 9, "{svg}");
    let page = page::page(&report).unwrap();
    assert!(page.contains("http://shop/&lt;items>") && page.contains("<svg"));
}
