//! Tests of fault injection: who gets which fault.

use common_fault::fault_delay::{FaultDelaySecifier, HeaderDelay};
use common_fault::fault_rate_limit::{FixedLimit, HeaderLimit, LimitType};
use fault::fault_abort::{ErrorType, HeaderAbort};
use http::{HeaderMap, Method};
use outrigger_proto::xds::{protobuf, route};

use super::*;

fn all() -> Option<types::FractionalPercent> {
    Some(types::FractionalPercent { numerator: 100, denominator: 0 })
}

fn delay(of: FaultDelaySecifier) -> Option<common_fault::FaultDelay> {
    Some(common_fault::FaultDelay { percentage: all(), fault_delay_secifier: Some(of) })
}

fn abort(of: ErrorType) -> Option<fault::FaultAbort> {
    Some(fault::FaultAbort { percentage: all(), error_type: Some(of), ..Default::default() })
}

fn second() -> FaultDelaySecifier {
    FaultDelaySecifier::FixedDelay(protobuf::Duration { seconds: 1, nanos: 0 })
}

fn decide_with(
    wire: fault::HttpFault,
    fields: &[(HeaderName, &'static str)],
    random: fn() -> u32,
) -> Verdict {
    let headers: HeaderMap =
        fields.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
    let head = Head { method: &Method::GET, scheme: "http", authority: "cart", path: "/", headers: &headers };
    let request = FilterRequest { cluster: Some("cart"), random, ..FilterRequest::of(head) };
    Fault::decode(wire).unwrap().decide(&request, &mut ResponseChanges::default())
}

fn decide(wire: fault::HttpFault, fields: &[(HeaderName, &'static str)]) -> Verdict {
    decide_with(wire, fields, || 0)
}

fn refused(status: u16, grpc_status: Option<u8>) -> Verdict {
    let status = StatusCode::from_u16(status).unwrap();
    Verdict::Refuse(Refusal { reason: Reason::FaultInjected, status, grpc_status })
}

#[test]
fn a_delayed_request_may_be_aborted_afterwards() {
    let base = fault::HttpFault::default;
    assert_eq!(decide(base(), &[]), Verdict::Admit);
    let waits = |then| Verdict::Wait(Duration::from_secs(1), Box::new(then));
    let delayed = fault::HttpFault { delay: delay(second()), ..base() };
    assert_eq!(decide(delayed.clone(), &[]), waits(Verdict::Admit));
    let both = fault::HttpFault { abort: abort(ErrorType::HttpStatus(418)), ..delayed };
    assert_eq!(decide(both, &[]), waits(refused(418, None)));
    let grpc = fault::HttpFault { abort: abort(ErrorType::GrpcStatus(14)), ..base() };
    assert_eq!(decide(grpc, &[]), refused(503, Some(14)));
}

#[test]
fn only_requests_that_match_get_faults() {
    let aborted = |change: fn(&mut fault::HttpFault), fields: &[_]| {
        let mut wire = fault::HttpFault { abort: abort(ErrorType::HttpStatus(503)), ..Default::default() };
        change(&mut wire);
        decide(wire, fields) != Verdict::Admit
    };
    let of_header: fn(&mut fault::HttpFault) = |wire| {
        wire.headers = vec![route::HeaderMatcher { name: "x-test".into(), ..Default::default() }];
    };
    assert!(aborted(of_header, &[(HeaderName::from_static("x-test"), "1")]));
    assert!(!aborted(of_header, &[]));
    assert!(aborted(|wire| wire.upstream_cluster = "cart".into(), &[]));
    assert!(!aborted(|wire| wire.upstream_cluster = "stock".into(), &[]));
}

#[test]
fn a_share_of_the_requests_gets_faults() {
    let mut wire = fault::HttpFault { abort: abort(ErrorType::HttpStatus(503)), ..Default::default() };
    wire.abort.as_mut().unwrap().percentage =
        Some(types::FractionalPercent { numerator: 10, denominator: 0 });
    let aborted = |random, fields: &[_]| decide_with(wire.clone(), fields, random) != Verdict::Admit;
    assert!(aborted(|| u32::MAX / 11, &[]) && !aborted(|| u32::MAX / 9, &[]));
    // A request lowers its share.
    assert!(!aborted(|| u32::MAX / 11, &[(ABORT_SHARE, "5")]));
    assert!(!aborted(|| u32::MAX / 9, &[(ABORT_SHARE, "50")]));
    wire.abort.as_mut().unwrap().percentage = None;
    assert_eq!(decide(wire, &[]), Verdict::Admit);
}

#[test]
fn a_client_requests_faults_where_it_may() {
    let wire = fault::HttpFault {
        delay: delay(FaultDelaySecifier::HeaderDelay(HeaderDelay {})),
        abort: abort(ErrorType::HeaderAbort(HeaderAbort {})),
        ..Default::default()
    };
    let decide = |fields: &[_]| decide(wire.clone(), fields);
    assert_eq!(decide(&[]), Verdict::Admit);
    assert_eq!(decide(&[(DELAY, "20")]), Verdict::Wait(Duration::from_millis(20), Box::new(Verdict::Admit)));
    assert_eq!(decide(&[(ABORT, "429")]), refused(429, None));
    assert_eq!(decide(&[(ABORT_GRPC, "5")]), refused(404, Some(5)));
    for bad in ["99", "600", "soon", "-1", ""] {
        assert_eq!(decide(&[(ABORT, bad)]), Verdict::Admit, "{bad}");
    }
}

fn bandwidth(of: LimitType) -> fault::HttpFault {
    let limit = common_fault::FaultRateLimit { percentage: all(), limit_type: Some(of) };
    fault::HttpFault { response_rate_limit: Some(limit), ..Default::default() }
}

#[test]
fn the_body_of_a_response_passes_at_a_fixed_or_a_requested_rate() {
    let rate = |of: LimitType, fields: &[(HeaderName, &'static str)]| {
        let mut changes = ResponseChanges::default();
        let headers: HeaderMap =
            fields.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        let head =
            Head { method: &Method::GET, scheme: "http", authority: "a", path: "/", headers: &headers };
        let verdict = Fault::decode(bandwidth(of)).unwrap().decide(&FilterRequest::of(head), &mut changes);
        assert_eq!(verdict, Verdict::Admit);
        changes.rate().map(NonZeroU64::get)
    };
    assert_eq!(rate(LimitType::FixedLimit(FixedLimit { limit_kbps: 2 }), &[]), Some(2048));
    let requested = LimitType::HeaderLimit(HeaderLimit {});
    assert_eq!(rate(requested, &[(BANDWIDTH, "1")]), Some(1024));
    assert_eq!(rate(requested, &[(BANDWIDTH, "0")]), None);
    assert_eq!(rate(requested, &[(BANDWIDTH, "1"), (BANDWIDTH_SHARE, "0")]), None);
    assert_eq!(rate(requested, &[]), None);
}

#[test]
fn no_more_faults_are_active_than_may_be_and_each_until_its_response_is_complete() {
    let wire = fault::HttpFault {
        delay: delay(second()),
        abort: abort(ErrorType::HttpStatus(503)),
        max_active_faults: Some(protobuf::UInt32Value { value: 1 }),
        ..Default::default()
    };
    let (fault, headers) = (Fault::decode(wire).unwrap(), HeaderMap::new());
    let head = Head { method: &Method::GET, scheme: "http", authority: "a", path: "/", headers: &headers };
    let decide = |changes: &mut ResponseChanges| fault.decide(&FilterRequest::of(head), changes);
    let (mut first, mut second) = (ResponseChanges::default(), ResponseChanges::default());
    assert_ne!(decide(&mut first), Verdict::Admit);
    assert_eq!(decide(&mut second), Verdict::Admit);
    drop(first);
    assert_ne!(decide(&mut second), Verdict::Admit);
}

#[test]
fn bad_faults_are_refused_by_field() {
    let zero = FaultDelaySecifier::FixedDelay(protobuf::Duration::default());
    let base = fault::HttpFault::default;
    for (wire, field) in [
        (fault::HttpFault { delay: delay(zero), ..base() }, "delay.fixed_delay"),
        (fault::HttpFault { delay: Some(Default::default()), ..base() }, "delay.fault_delay_secifier"),
        (fault::HttpFault { abort: abort(ErrorType::HttpStatus(199)), ..base() }, "abort.http_status"),
        (fault::HttpFault { abort: abort(ErrorType::GrpcStatus(17)), ..base() }, "abort.grpc_status"),
        (fault::HttpFault { abort: Some(Default::default()), ..base() }, "abort.error_type"),
        (
            bandwidth(LimitType::FixedLimit(FixedLimit { limit_kbps: 0 })),
            "response_rate_limit.fixed_limit.limit_kbps",
        ),
        (
            fault::HttpFault { response_rate_limit: Some(Default::default()), ..base() },
            "response_rate_limit.limit_type",
        ),
        (fault::HttpFault { downstream_nodes: vec!["a".into()], ..base() }, "downstream_nodes"),
        (fault::HttpFault { headers: vec![Default::default()], ..base() }, "headers[0].name"),
    ] {
        assert_eq!(Fault::decode(wire).unwrap_err().field, field);
    }
}
