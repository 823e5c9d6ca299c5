use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use outrigger_proto::xds::core::health_check::HealthChecker;
use outrigger_proto::xds::{protobuf, types};

use super::*;
use crate::question::ServiceReply;

fn seconds(seconds: i64) -> Option<protobuf::Duration> {
    Some(protobuf::Duration { seconds, nanos: 0 })
}

fn wire(checker: HealthChecker) -> core::HealthCheck {
    let threshold = |value| Some(protobuf::UInt32Value { value });
    core::HealthCheck {
        timeout: seconds(1),
        interval: seconds(10),
        unhealthy_threshold: threshold(3),
        healthy_threshold: threshold(2),
        health_checker: Some(checker),
        ..Default::default()
    }
}

fn http(change: impl FnOnce(&mut core::health_check::HttpHealthCheck)) -> core::HealthCheck {
    let mut check = core::health_check::HttpHealthCheck { path: "/healthz".into(), ..Default::default() };
    change(&mut check);
    wire(HealthChecker::HttpHealthCheck(check))
}

fn decode(wire: core::HealthCheck) -> Result<HealthCheck, Unusable> {
    HealthCheck::decode(vec![wire]).map(Option::unwrap)
}

fn reply(status: u16) -> ServiceReply {
    let (fields, trailers) = (HeaderMap::new(), HeaderMap::new());
    ServiceReply { status: StatusCode::from_u16(status).unwrap(), fields, body: Default::default(), trailers }
}

/// The health after each of these outcomes: `+` passed, `-` failed, `!` refused.
fn healths(check: &HealthCheck, outcomes: &str) -> String {
    let (mut progress, checked) = (Progress::default(), Checked::new(Arc::default()));
    let outcome = |mark| match mark {
        '+' => CheckOutcome::Passed,
        '-' => CheckOutcome::Failed,
        _ => CheckOutcome::Refused,
    };
    let health = |mark| {
        check.record(&mut progress, &checked, outcome(mark));
        if checked.is_healthy() { 'h' } else { 'u' }
    };
    outcomes.chars().map(health).collect()
}

#[test]
fn thresholds_count_checks_in_a_row_and_the_first_check_decides_alone() {
    let check = decode(http(|_| {})).unwrap();
    for (outcomes, expected) in [
        ("+", "h"),
        ("-", "u"),
        ("+--+---", "hhhhhhu"),
        ("+!", "hu"),
        ("-+-++", "uuuuh"),
        ("!+-!++", "uuuuuh"),
    ] {
        assert_eq!(healths(&check, outcomes), expected, "{outcomes}");
    }
}

#[test]
fn a_change_is_reported_once_and_counted() {
    let check = decode(http(|_| {})).unwrap();
    let ejections = Arc::<crate::outlier::Ejections>::default();
    let (mut progress, checked) = (Progress::default(), Checked::new(Arc::clone(&ejections)));
    let mut record = |outcome| check.record(&mut progress, &checked, outcome);
    assert_eq!(record(CheckOutcome::Refused), Some(Transition::Unhealthy));
    assert_eq!(record(CheckOutcome::Refused), None);
    assert_eq!(record(CheckOutcome::Passed), None);
    assert_eq!(record(CheckOutcome::Passed), Some(Transition::Healthy));
    assert_eq!(ejections.changes(), 2);
}

#[test]
fn one_task_checks_an_endpoint_and_another_one_after_it() {
    let checked = Arc::new(Checked::new(Arc::default()));
    let claim = checked.claim().unwrap();
    assert!(checked.claim().is_none());
    drop(claim);
    assert!(checked.claim().is_some());
    checked.assume_healthy();
    assert!(checked.is_healthy() && !checked.is_pending());
}

#[test]
fn the_interval_depends_on_health_and_traffic() {
    let plain = decode(http(|_| {})).unwrap();
    let pause =
        |check: &HealthCheck, healthy, changed, used| check.pause(healthy, changed, used, [0, 0]).as_secs();
    assert_eq!(pause(&plain, true, false, true), 10);
    assert_eq!(pause(&plain, false, true, true), 10);
    assert_eq!((pause(&plain, true, false, false), pause(&plain, false, false, false)), (60, 60));
    let each = decode(core::HealthCheck {
        unhealthy_interval: seconds(11),
        healthy_edge_interval: seconds(12),
        unhealthy_edge_interval: seconds(13),
        no_traffic_interval: seconds(14),
        no_traffic_healthy_interval: seconds(15),
        ..http(|_| {})
    })
    .unwrap();
    let all = [
        (true, false, true, 10),
        (false, false, true, 11),
        (true, true, true, 12),
        (false, true, true, 13),
        (false, true, false, 14),
        (true, true, false, 15),
    ];
    for (healthy, changed, used, expected) in all {
        assert_eq!(pause(&each, healthy, changed, used), expected);
    }
    let jitter = decode(core::HealthCheck {
        initial_jitter: seconds(4),
        interval_jitter: seconds(2),
        interval_jitter_percent: 50,
        ..http(|_| {})
    })
    .unwrap();
    let half = u32::MAX / 2 + 1;
    assert_eq!(jitter.first_pause(half), Duration::from_secs(2));
    assert_eq!(jitter.pause(true, false, true, [half, half]), Duration::from_millis(13_500));
    assert_eq!(plain.first_pause(u32::MAX), Duration::ZERO);
}

#[test]
fn the_status_of_a_response_decides() {
    let range = |start, end| types::Int64Range { start, end };
    let check = decode(http(|check| {
        check.expected_statuses = vec![range(200, 300), range(404, 405)];
        check.retriable_statuses = vec![range(503, 504)];
        check.method = core::RequestMethod::Head.into();
        check.host = "cart.example".into();
    }))
    .unwrap();
    for (status, outcome) in [
        (204, CheckOutcome::Passed),
        (404, CheckOutcome::Passed),
        (503, CheckOutcome::Failed),
        (300, CheckOutcome::Refused),
    ] {
        assert_eq!(check.checker.judge(&reply(status)), outcome, "{status}");
    }
    let default = decode(http(|_| {})).unwrap();
    assert_eq!(default.checker.judge(&reply(204)), CheckOutcome::Refused, "only 200 is expected");
    let request = check.checker.request(&"cart".into(), None).unwrap();
    assert_eq!((request.method.as_str(), request.path.as_str()), ("HEAD", "/healthz"));
    assert_eq!(request.authority, "cart.example");
    assert_eq!(default.checker.request(&"outbound|80".into(), None).unwrap().authority, "outbound-80");
    let named = "pod-1".parse().unwrap();
    assert_eq!(check.checker.request(&"cart".into(), Some(&named)).unwrap().authority, "pod-1");
}

#[test]
fn a_grpc_service_must_say_that_it_serves() {
    let service =
        core::health_check::GrpcHealthCheck { service_name: "shop.Cart".into(), ..Default::default() };
    let check = decode(wire(HealthChecker::GrpcHealthCheck(service))).unwrap();
    let request = check.checker.request(&"cart".into(), None).unwrap();
    assert_eq!(request.path, "/grpc.health.v1.Health/Check");
    assert_eq!(&request.body[..], b"\0\0\0\0\x0b\x0a\x09shop.Cart");
    let answer = |status: u8, grpc_status: &'static str| {
        let trailers = [("grpc-status".parse().unwrap(), grpc_status.parse().unwrap())];
        let body = vec![0, 0, 0, 0, 2, 8, status].into();
        check.checker.judge(&ServiceReply { body, trailers: HeaderMap::from_iter(trailers), ..reply(200) })
    };
    assert_eq!(answer(1, "0"), CheckOutcome::Passed);
    assert_eq!(answer(2, "0"), CheckOutcome::Refused);
    assert_eq!(answer(1, "12"), CheckOutcome::Refused);
}

#[test]
fn what_is_received_must_contain_the_parts_in_their_order() {
    let text = |text: &str| core::health_check::Payload {
        payload: Some(core::health_check::payload::Payload::Text(text.into())),
    };
    let tcp = |send: Option<&str>, receive: &[&str]| {
        let receive = receive.iter().map(|part| text(part)).collect();
        let check =
            core::health_check::TcpHealthCheck { send: send.map(text), receive, ..Default::default() };
        decode(wire(HealthChecker::TcpHealthCheck(check)))
    };
    let Checker::Tcp(check) = tcp(Some("50494e47"), &["504f", "4E47"]).unwrap().checker else { panic!() };
    assert_eq!(check.send.as_deref(), Some(&b"PING"[..]));
    assert!(check.is_satisfied(b"+PONG\r\n") && check.is_satisfied(b"PO--NG"));
    assert!(!check.is_satisfied(b"NGPO") && !check.is_satisfied(b"PO"));
    for (send, receive, field) in [
        (Some("5"), &[][..], "send.text"),
        (Some("+5"), &[], "send.text"),
        (Some("50"), &["xy"], "receive[0].text"),
        (None, &["50"], "receive"),
    ] {
        let refused = tcp(send, receive).unwrap_err().field;
        assert_eq!(refused, format!("health_checks[0].tcp_health_check.{field}"));
    }
}

#[test]
fn what_cannot_be_checked_is_refused_by_field() {
    let range = |start, end| vec![types::Int64Range { start, end }];
    for (wire, field) in [
        (core::HealthCheck { timeout: None, ..http(|_| {}) }, "timeout"),
        (core::HealthCheck { interval: seconds(0), ..http(|_| {}) }, "interval"),
        (core::HealthCheck { unhealthy_threshold: None, ..http(|_| {}) }, "unhealthy_threshold"),
        (core::HealthCheck { healthy_threshold: None, ..http(|_| {}) }, "healthy_threshold"),
        (core::HealthCheck { health_checker: None, ..http(|_| {}) }, "health_checker"),
        (
            core::HealthCheck { alt_port: Some(protobuf::UInt32Value { value: 70_000 }), ..http(|_| {}) },
            "alt_port",
        ),
        (core::HealthCheck { tls_options: Some(Default::default()), ..http(|_| {}) }, "tls_options"),
        (http(|check| check.path = "healthz".into()), "http_health_check.path"),
        (http(|check| check.host = "a b".into()), "http_health_check.host"),
        (http(|check| check.method = 6), "http_health_check.method"),
        (http(|check| check.codec_client_type = 2), "http_health_check.codec_client_type"),
        (http(|check| check.expected_statuses = range(9, 10)), "http_health_check.expected_statuses[0]"),
        (http(|check| check.retriable_statuses = range(503, 503)), "http_health_check.retriable_statuses[0]"),
        (http(|check| check.receive = vec![Default::default()]), "http_health_check.receive"),
        (wire(HealthChecker::CustomHealthCheck(Default::default())), "custom_health_check"),
    ] {
        assert_eq!(decode(wire).unwrap_err().field, format!("health_checks[0].{field}"));
    }
    assert_eq!(HealthCheck::decode(vec![http(|_| {}), http(|_| {})]).unwrap_err().field, "health_checks");
    assert_eq!(HealthCheck::decode(vec![]), Ok(None));
}
