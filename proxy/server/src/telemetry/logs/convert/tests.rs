use std::collections::BTreeMap;
use std::time::Duration;

use outrigger_core::reason::Reason;

use super::*;
use crate::telemetry::access_log::entry::tests::record;

/// Returns the attributes as text.
fn attributes_of(record: &LogRecord) -> BTreeMap<String, String> {
    let text = |value: &AnyValue| match value.value.as_ref().unwrap() {
        any_value::Value::StringValue(text) => text.clone(),
        any_value::Value::IntValue(number) => number.to_string(),
        any_value::Value::DoubleValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    record.attributes.iter().map(|pair| (pair.key.clone(), text(pair.value.as_ref().unwrap()))).collect()
}

fn body(record: &LogRecord) -> &str {
    match record.body.as_ref().unwrap().value.as_ref().unwrap() {
        any_value::Value::StringValue(text) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_has_its_times_its_trace_and_a_readable_body() {
    let request = record();
    let now = request.started + Duration::from_secs(2);
    let log = log_record(&request, now);
    assert_eq!(log.time_unix_nano, 1_763_831_236_123_000_000);
    assert_eq!(log.observed_time_unix_nano, log.time_unix_nano + 2_000_000_000);
    assert_eq!(log.trace_id, 0xabc_u128.to_be_bytes());
    assert_eq!((log.span_id.len(), log.flags), (8, 1));
    assert_eq!((log.severity_number, log.severity_text.as_str()), (9, "INFO"));
    assert_eq!(log.event_name, "outrigger.access_log");
    assert_eq!(body(&log), "GET cart.shop:80/items?q=1 200");
}

#[test]
fn attributes_have_the_names_of_the_conventions() {
    let found = attributes_of(&log_record(&record(), SystemTime::now()));
    for (name, value) in [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("http.request.body.size", "3"),
        ("http.response.body.size", "1000"),
        ("server.address", "cart.shop"),
        ("server.port", "80"),
        ("url.path", "/items"),
        ("url.query", "q=1"),
        ("client.address", "127.0.0.1"),
        ("client.port", "40000"),
        ("network.protocol.name", "http"),
        ("network.protocol.version", "1.1"),
        ("user_agent.original", "curl/8"),
        ("outrigger.destination.service", "cart.shop.svc.cluster.local:80"),
        ("outrigger.destination.spiffe_id", "spiffe://cluster.local/ns/shop/sa/cart"),
        ("outrigger.duration_ms", "12.345"),
        ("outrigger.attempts", "2"),
    ] {
        assert_eq!(found.get(name).map(String::as_str), Some(value), "{name} in {found:?}");
    }
    let moved = ["outrigger.time", "outrigger.trace_id", "outrigger.span_id", "outrigger.path"];
    assert!(moved.iter().all(|name| !found.contains_key(*name)), "{found:?}");
}

#[test]
fn every_attribute_is_documented() {
    let page = include_str!("../../../../../../docs/access-logs.md");
    let mut failed = record();
    failed.grpc_status = Some(14);
    failed.reason = Some(Reason::UpstreamConnectionFailure);
    failed.source = failed.attempts[1].peer.clone();
    failed.protocol = Protocol::Grpc;
    failed.text.as_mut().unwrap().detail = "connect: refused".into();
    let mut opaque = record();
    opaque.protocol = Protocol::Tcp;
    for request in [failed, opaque] {
        for name in attributes_of(&log_record(&request, SystemTime::now())).keys() {
            assert!(page.contains(&format!("`{name}`")), "{name} is not in docs/access-logs.md");
        }
    }
}

#[test]
fn a_failure_is_an_error_with_its_flag() {
    let mut failed = record();
    failed.status = 503;
    failed.reason = Some(Reason::UpstreamConnectionFailure);
    let log = log_record(&failed, SystemTime::now());
    assert_eq!((log.severity_number, log.severity_text.as_str()), (17, "ERROR"));
    assert_eq!(body(&log), "GET cart.shop:80/items?q=1 503 UF");
    assert_eq!(attributes_of(&log)["error.type"], "upstream_connection_failure");
    let mut call = record();
    (call.protocol, call.grpc_status) = (Protocol::Grpc, Some(14));
    assert_eq!(log_record(&call, SystemTime::now()).severity_text, "ERROR");
    call.text.as_mut().unwrap().path = "/shop.Cart/Add".into();
    let found = attributes_of(&log_record(&call, SystemTime::now()));
    let rpc =
        ["rpc.system.name", "rpc.method", "rpc.status_code", "error.type"].map(|name| found[name].as_str());
    assert_eq!(rpc, ["grpc", "shop.Cart/Add", "UNAVAILABLE", "UNAVAILABLE"]);
    call.grpc_status = Some(5);
    assert_eq!(log_record(&call, SystemTime::now()).severity_text, "INFO", "not found is the caller's");
}

#[test]
fn a_connection_without_http_names_its_destination() {
    let mut opaque = record();
    (opaque.protocol, opaque.status, opaque.text) = (Protocol::Tcp, 0, None);
    let log = log_record(&opaque, SystemTime::now());
    assert_eq!(body(&log), "tcp cart.shop.svc.cluster.local:80");
    let found = attributes_of(&log);
    assert_eq!(found["network.transport"], "tcp");
    assert_eq!(found["outrigger.bytes_sent"], "1000");
}

#[test]
fn a_request_without_a_trace_has_none() {
    let mut untraced = record();
    untraced.trace = None;
    let log = log_record(&untraced, SystemTime::now());
    assert!(log.trace_id.is_empty() && log.span_id.is_empty() && log.flags == 0);
}

#[test]
fn credentials_are_in_no_part_of_a_record() {
    let mut signed = record();
    let text = signed.text.as_mut().unwrap();
    text.path = "/items?q=1&X-Amz-Signature=secret".into();
    text.authority = "me:secret@cart.shop:80".into();
    let log = log_record(&signed, SystemTime::now());
    assert!(!format!("{log:?}").contains("secret"), "{log:?}");
}
