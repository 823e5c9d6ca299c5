use outrigger_proto::xds::protobuf;

use super::*;

fn policy(retry_on: &str, num_retries: u32) -> RetryPolicy {
    RetryPolicy::decode(route::RetryPolicy {
        retry_on: retry_on.into(),
        num_retries: Some(protobuf::UInt32Value { value: num_retries }),
        retriable_status_codes: vec![418],
        ..Default::default()
    })
    .unwrap()
}

fn retried(retry_on: &str, method: &Method, outcome: Outcome<'_>) -> bool {
    let decision = policy(retry_on, 1).decide(&mut Retries::default(), method, outcome, 0);
    matches!(decision, Decision::Retry { .. })
}

fn answered(status: u16, headers: &HeaderMap) -> Outcome<'_> {
    let status = StatusCode::from_u16(status).unwrap();
    let facts = ResponseFacts::read(status, headers, || std::time::SystemTime::UNIX_EPOCH);
    Outcome::Answered { facts, headers }
}

fn failure(reason: Reason, reached: Reached) -> Failure {
    Failure::upstream(reason, reached, "test")
}

/// The default that the control plane writes on routes without a policy of their own.
const DEFAULT: &str = "connect-failure,refused-stream,reset-before-request,idempotent-failure";

#[test]
fn by_default_nothing_that_may_have_been_processed_is_sent_twice_unless_it_is_idempotent() {
    for (reason, reached, post, get) in [
        (Reason::UpstreamConnectionFailure, Reached::NotWritten, true, true),
        (Reason::UpstreamConnectionTermination, Reached::NotWritten, true, true),
        (Reason::UpstreamRemoteReset, Reached::NotProcessed, true, true),
        (Reason::ApplicationUnreachable, Reached::NotProcessed, true, true),
        (Reason::UpstreamRemoteReset, Reached::Maybe, false, true),
        (Reason::UpstreamConnectionTermination, Reached::Maybe, false, true),
        (Reason::UpstreamConnectionTermination, Reached::ResponseStarted, false, false),
        (Reason::DownstreamConnectionTermination, Reached::NotWritten, false, false),
        (Reason::NoHealthyUpstream, Reached::NotWritten, false, false),
        (Reason::UpstreamOverflow, Reached::NotWritten, false, false),
        (Reason::UpstreamOverflow, Reached::NotProcessed, true, true),
        (Reason::Overloaded, Reached::NotWritten, false, false),
        (Reason::Overloaded, Reached::NotProcessed, true, true),
        (Reason::UpstreamProtocolError, Reached::Maybe, false, false),
    ] {
        let failure = failure(reason, reached);
        let outcome = Outcome::Failed(&failure);
        assert_eq!(retried(DEFAULT, &Method::POST, outcome), post, "POST {failure:?}");
        assert_eq!(retried(DEFAULT, &Method::GET, outcome), get, "GET {failure:?}");
    }
}

#[test]
fn answers_are_retried_by_the_conditions_that_name_them() {
    for (retry_on, status, grpc, expected) in [
        ("5xx", 500, "", true),
        ("5xx", 499, "", false),
        ("gateway-error", 500, "", false),
        ("gateway-error", 504, "", true),
        ("retriable-4xx", 409, "", true),
        ("retriable-status-codes", 418, "", true),
        ("5xx", 418, "", false),
        ("idempotent-failure", 503, "", true),
        ("idempotent-failure", 500, "", false),
        ("unavailable,cancelled", 200, "14", true),
        ("cancelled", 200, "14", false),
        ("unavailable", 200, "4294967295", false),
        ("no-such-condition", 503, "", false),
    ] {
        let mut headers = HeaderMap::new();
        if !grpc.is_empty() {
            headers.insert("grpc-status", grpc.parse().unwrap());
        }
        let outcome = answered(status, &headers);
        assert_eq!(retried(retry_on, &Method::GET, outcome), expected, "{retry_on} {status} {grpc}");
    }
    let headers = HeaderMap::new();
    let outcome = answered(503, &headers);
    assert!(!retried("idempotent-failure", &Method::POST, outcome));
}

#[test]
fn retries_end_at_their_number_and_say_so() {
    let (policy, mut retries) = (policy("5xx", 2), Retries::default());
    let failure = failure(Reason::UpstreamRemoteReset, Reached::Maybe);
    let mut decide = || policy.decide(&mut retries, &Method::POST, Outcome::Failed(&failure), u32::MAX);
    assert!(matches!(decide(), Decision::Retry { charged: true, .. }));
    assert!(matches!(decide(), Decision::Retry { charged: true, .. }));
    assert_eq!(decide(), Decision::LimitReached);
}

#[test]
fn tries_that_never_reached_an_application_are_not_charged() {
    let failure = failure(Reason::UpstreamConnectionFailure, Reached::NotWritten);
    let decision =
        policy("reset", 1).decide(&mut Retries::default(), &Method::POST, Outcome::Failed(&failure), 0);
    assert_eq!(decision, Decision::Retry { after: Duration::ZERO, charged: false });
}

#[test]
fn a_refusal_for_overload_is_charged_though_nothing_was_processed() {
    let failure = failure(Reason::UpstreamOverflow, Reached::NotProcessed);
    let outcome = Outcome::Failed(&failure);
    let decision = policy(DEFAULT, 1).decide(&mut Retries::default(), &Method::POST, outcome, 0);
    assert_eq!(decision, Decision::Retry { after: Duration::ZERO, charged: true });
}

#[test]
fn retries_that_no_policy_decided_count_too() {
    let (policy, mut retries) = (policy("5xx", 2), Retries::default());
    retries.count();
    let failure = failure(Reason::UpstreamRemoteReset, Reached::Maybe);
    let mut decide = || policy.decide(&mut retries, &Method::GET, Outcome::Failed(&failure), 0);
    assert!(matches!(decide(), Decision::Retry { .. }));
    assert_eq!(decide(), Decision::LimitReached);
    assert_eq!(retries.made(), 2);
}

#[test]
fn what_a_later_proxy_refused_deterministically_is_not_retried() {
    for reason in Reason::ALL {
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static("x-outrigger-reason"),
            http::HeaderValue::from_static(reason.name()),
        )]);
        let outcome = answered(502, &headers);
        assert_eq!(retried("5xx", &Method::GET, outcome), !reason.is_deterministic(), "{reason:?}");
    }
}

#[test]
fn the_wait_doubles_up_to_its_bound() {
    let policy = policy("5xx", 9);
    let longest: Vec<_> = (0..6)
        .map(|retries| policy.back_off(retries, u32::MAX).as_secs_f64().mul_add(1e3, 0.5) as u64)
        .collect();
    assert_eq!(longest, [25, 50, 100, 200, 250, 250]);
    assert_eq!(policy.back_off(u32::MAX, 0), Duration::ZERO);
}

#[test]
fn what_cannot_be_done_is_refused_by_field() {
    let seconds = |seconds| Some(protobuf::Duration { seconds, nanos: 0 });
    let base = route::RetryPolicy::default;
    let back_off =
        |base_interval, max_interval| Some(route::retry_policy::RetryBackOff { base_interval, max_interval });
    for (wire, field) in [
        (route::RetryPolicy { refresh_cluster_on_retry: true, ..base() }, "refresh_cluster_on_retry"),
        (route::RetryPolicy { retriable_status_codes: vec![200, 7], ..base() }, "retriable_status_codes[1]"),
        (route::RetryPolicy { per_try_timeout: seconds(-1), ..base() }, "per_try_timeout"),
        (
            route::RetryPolicy { retry_back_off: back_off(None, None), ..base() },
            "retry_back_off.base_interval",
        ),
        (
            route::RetryPolicy { retry_back_off: back_off(seconds(2), seconds(1)), ..base() },
            "retry_back_off.max_interval",
        ),
        (
            route::RetryPolicy { rate_limited_retry_back_off: Some(Default::default()), ..base() },
            "rate_limited_retry_back_off",
        ),
    ] {
        let bad = RetryPolicy::decode(wire).unwrap_err();
        assert_eq!(bad.field.trim_end_matches('.'), field);
    }
}
