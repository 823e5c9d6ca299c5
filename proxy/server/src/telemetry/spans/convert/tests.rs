use std::time::{Duration, UNIX_EPOCH};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::*;
use crate::telemetry::access_log::entry::tests::record;
use crate::telemetry::otlp::batches::Gathered as _;

fn local() -> SpiffeId {
    SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap()
}

fn spans(record: &RequestRecord) -> Vec<SpanData> {
    let mut spans = EncodedSpans::default();
    spans_of(record, Some(&local()), &mut spans);
    let read: Vec<_> = spans.decoded().into_iter().map(read).collect();
    assert_eq!(read.len(), spans.items());
    read
}

/// What a collector reads.
fn read(span: Span) -> SpanData {
    let id = |bytes: &[u8]| bytes.try_into().map_or(SpanId::INVALID, SpanId::from_bytes);
    let time = |nanoseconds| UNIX_EPOCH + Duration::from_nanos(nanoseconds);
    let attributes = span.attributes.into_iter().map(|attribute| {
        let value = match attribute.value.unwrap().value.unwrap() {
            any_value::Value::StringValue(text) => Value::from(text),
            any_value::Value::IntValue(number) => number.into(),
            any_value::Value::BoolValue(boolean) => boolean.into(),
            other => panic!("{other:?}"),
        };
        KeyValue::new(attribute.key, value)
    });
    let (trace, flags) = (TraceId::from_bytes(span.trace_id.try_into().unwrap()), TraceFlags::SAMPLED);
    SpanData {
        span_context: SpanContext::new(trace, id(&span.span_id), flags, false, TraceState::NONE),
        parent_span_id: id(&span.parent_span_id),
        parent_span_is_remote: span.flags & 0x200 != 0,
        span_kind: if span.kind == 2 { SpanKind::Server } else { SpanKind::Client },
        name: span.name.into(),
        start_time: time(span.start_time_unix_nano),
        end_time: time(span.end_time_unix_nano),
        attributes: attributes.collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: span.status.map_or(Status::Unset, |status| Status::error(status.message)),
        instrumentation_scope: InstrumentationScope::default(),
    }
}

/// The request of [`record`] as the inbound side of `cart` has it.
fn inbound() -> RequestRecord {
    let mut inbound = record();
    inbound.direction = Direction::Inbound;
    inbound.source = Some(SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/front").unwrap());
    inbound.tls = inbound.attempts[0].tls;
    inbound.route_template = None;
    inbound.attempts.truncate(1);
    inbound
}

/// A failed gRPC call.
fn call(status: u8) -> RequestRecord {
    let mut call = record();
    call.protocol = Protocol::Grpc;
    call.grpc_status = Some(status);
    call.attempts[1].grpc_status = Some(status);
    let text = call.text.as_mut().unwrap();
    (text.grpc, text.path) = (true, "/shop.Payments/Charge".into());
    call
}

fn attribute(span: &SpanData, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == key)?;
    Some(found.value.as_str().into_owned())
}

fn has(span: &SpanData, expected: &[(&str, &str)]) {
    for (key, value) in expected {
        assert_eq!(attribute(span, key).as_deref(), Some(*value), "{key}");
    }
}

#[test]
fn outbound_each_attempt_is_a_child_of_the_applications_span() {
    let spans = spans(&record());
    let [first, second] = &spans[..] else { panic!("{spans:?}") };
    for (attempt, id, resent) in [(first, 0x20, None), (second, 0x25, Some("1"))] {
        assert_eq!(attempt.span_kind, SpanKind::Client);
        assert_eq!(attempt.span_context.span_id(), SpanId::from(id));
        assert_eq!((attempt.parent_span_id, attempt.parent_span_is_remote), (SpanId::from(0x1), true));
        assert_eq!(attempt.span_context.trace_id(), TraceId::from(0xabc));
        assert_eq!(attribute(attempt, "http.request.resend_count").as_deref(), resent);
    }
}

#[test]
fn inbound_there_is_one_server_span_however_many_attempts_were_made() {
    let mut inbound = inbound();
    inbound.attempts.extend(record().attempts);
    let spans = spans(&inbound);
    let [server] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!(
        (server.span_kind.clone(), server.span_context.span_id()),
        (SpanKind::Server, SpanId::from(0x10))
    );
    assert_eq!((server.parent_span_id, server.parent_span_is_remote), (SpanId::from(0x1), true));
}

#[test]
fn a_gateway_has_a_server_span_with_a_child_for_each_attempt() {
    let mut gateway = record();
    gateway.direction = Direction::Unspecified;
    let spans = spans(&gateway);
    let [server, first, second] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((server.span_kind.clone(), server.parent_span_id), (SpanKind::Server, SpanId::from(0x1)));
    for attempt in [first, second] {
        assert_eq!(attempt.span_kind, SpanKind::Client);
        assert_eq!((attempt.parent_span_id, attempt.parent_span_is_remote), (SpanId::from(0x10), false));
    }
}

#[test]
fn attempts_of_an_untraced_client_are_roots_of_one_trace() {
    let mut untraced = record();
    untraced.trace.as_mut().unwrap().parent = None;
    let spans = spans(&untraced);
    assert_eq!(spans.len(), 2);
    for span in &spans {
        assert_eq!((span.parent_span_id, span.parent_span_is_remote), (SpanId::INVALID, false));
        assert_eq!(span.span_context.trace_id(), TraceId::from(0xabc));
    }
}

#[test]
fn a_request_without_an_attempt_has_one_client_span_with_the_reason() {
    let mut refused = record();
    refused.attempts.clear();
    (refused.status, refused.reason) = (404, Some(Reason::NoRouteFound));
    (refused.route, refused.route_template) = (None, None);
    let spans = spans(&refused);
    let [span] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((span.span_kind.clone(), span.span_context.span_id()), (SpanKind::Client, SpanId::from(0x10)));
    assert_eq!((span.parent_span_id, span.name.as_ref()), (SpanId::from(0x1), "GET"));
    assert_eq!(span.status, Status::error("no_route_found"));
    has(
        span,
        &[
            ("error.type", "no_route_found"),
            ("http.response.status_code", "404"),
            ("outrigger.response_flag", "NR"),
            ("server.address", "cart.shop"),
        ],
    );
    assert_eq!(attribute(span, "network.peer.address"), None);
}

#[test]
fn client_spans_follow_the_http_conventions() {
    let spans = spans(&record());
    assert_eq!(spans[1].name, "GET /items");
    has(
        &spans[1],
        &[
            ("http.request.method", "GET"),
            ("http.response.status_code", "200"),
            ("http.route", "/items"),
            ("url.full", "http://cart.shop:80/items?q=1"),
            ("url.scheme", "http"),
            ("server.address", "cart.shop"),
            ("server.port", "80"),
            ("network.peer.address", "10.0.0.5"),
            ("network.peer.port", "9080"),
            ("network.protocol.version", "2"),
            ("tls.established", "true"),
            ("tls.protocol.name", "tls"),
            ("tls.protocol.version", "1.3"),
            ("tls.cipher", "TLS_AES_128_GCM_SHA256"),
            ("user_agent.original", "curl/8"),
            ("http.response.body.size", "1000"),
            ("outrigger.source.spiffe_id", "spiffe://cluster.local/ns/shop/sa/web"),
            ("outrigger.destination.spiffe_id", "spiffe://cluster.local/ns/shop/sa/cart"),
            ("outrigger.instance", "cart-1"),
            ("outrigger.cluster", "cart.shop.svc.cluster.local:80"),
            ("outrigger.route", "httproute/shop/cart/0/0"),
        ],
    );
    assert_eq!(attribute(&spans[1], "error.type"), None);
    assert_eq!(attribute(&spans[0], "http.response.body.size"), None, "sizes are those of the request");
}

#[test]
fn server_spans_follow_the_http_conventions() {
    let server = &spans(&inbound())[0];
    assert_eq!(server.name, "GET", "the catch-all route is no target");
    has(
        server,
        &[
            ("http.request.method", "GET"),
            ("http.response.status_code", "200"),
            ("url.path", "/items"),
            ("url.query", "q=1"),
            ("url.scheme", "http"),
            ("server.address", "cart.shop"),
            ("server.port", "80"),
            ("network.protocol.version", "1.1"),
            ("client.address", "127.0.0.1"),
            ("network.peer.port", "40000"),
            ("tls.protocol.version", "1.3"),
            ("outrigger.source.spiffe_id", "spiffe://cluster.local/ns/shop/sa/front"),
            ("outrigger.destination.spiffe_id", "spiffe://cluster.local/ns/shop/sa/web"),
        ],
    );
    assert_eq!(attribute(server, "http.route"), None);
}

#[test]
fn a_client_span_has_a_server_address_and_port_in_any_case() {
    let mut portless = record();
    portless.text.as_mut().unwrap().authority = "cart.shop".into();
    has(&spans(&portless)[0], &[("server.address", "cart.shop"), ("server.port", "80")]);
    portless.text.as_mut().unwrap().scheme = "https";
    has(&spans(&portless)[0], &[("server.port", "443"), ("url.full", "https://cart.shop/items?q=1")]);
    portless.text.as_mut().unwrap().authority.clear();
    has(&spans(&portless)[0], &[("server.address", "cart.shop.svc.cluster.local"), ("server.port", "80")]);
    portless.destination = None;
    has(&spans(&portless)[0], &[("server.address", "10.0.0.5"), ("server.port", "9080")]);
}

#[test]
fn a_failed_attempt_is_an_error_and_the_one_that_succeeds_is_not() {
    let spans = spans(&record());
    assert_eq!(spans[0].status, Status::error("upstream_connection_failure"));
    has(&spans[0], &[("outrigger.response_flag", "UF"), ("error.type", "upstream_connection_failure")]);
    assert_eq!(spans[1].status, Status::Unset);
    assert_eq!(attribute(&spans[1], "outrigger.response_flag"), None);
}

#[test]
fn the_last_attempt_shows_why_there_was_no_other() {
    let mut exhausted = record();
    exhausted.attempts[1].status = 503;
    (exhausted.status, exhausted.reason) = (503, Some(Reason::RetryBudgetExceeded));
    let spans = spans(&exhausted);
    has(&spans[1], &[("error.type", "503"), ("outrigger.response_flag", "RBX")]);
    has(&spans[0], &[("outrigger.response_flag", "UF")]);
}

#[test]
fn a_4xx_is_an_error_of_the_client_span_only() {
    let mut missing = record();
    (missing.status, missing.attempts[1].status) = (404, 404);
    let client = &spans(&missing)[1];
    assert_eq!(
        (client.status.clone(), attribute(client, "error.type").as_deref()),
        (Status::error(""), Some("404"))
    );
    let mut missing = inbound();
    missing.status = 404;
    let server = &spans(&missing)[0];
    assert_eq!((server.status.clone(), attribute(server, "error.type")), (Status::Unset, None));
}

#[test]
fn a_tls_handshake_that_failed_is_not_established() {
    let mut failed = record();
    failed.attempts[0].tls = None;
    failed.attempts[0].reason = Some(Reason::UpstreamTlsFailure);
    has(&spans(&failed)[0], &[("tls.established", "false"), ("error.type", "upstream_tls_failure")]);
}

#[test]
fn grpc_follows_the_rpc_conventions() {
    let call = call(5);
    let client = &spans(&call)[1];
    assert_eq!(client.name, "shop.Payments/Charge");
    has(
        client,
        &[
            ("rpc.system.name", "grpc"),
            ("rpc.method", "shop.Payments/Charge"),
            ("rpc.status_code", "NOT_FOUND"),
            ("error.type", "NOT_FOUND"),
        ],
    );
    for old in ["rpc.system", "rpc.service", "rpc.grpc.status_code", "rpc.response.status_code"] {
        assert_eq!(attribute(client, old), None, "{old}");
    }
    assert_eq!(client.status, Status::error(""));
    let mut served = call.clone();
    served.direction = Direction::Inbound;
    let server = &spans(&served)[0];
    assert_eq!(server.status, Status::Unset, "NOT_FOUND is no error of the server");
    assert_eq!(attribute(server, "error.type"), None);
}

#[test]
fn a_grpc_call_that_failed_without_a_status_has_the_one_that_its_client_derives() {
    let spans = spans(&call(13));
    has(&spans[0], &[("rpc.status_code", "UNAVAILABLE"), ("error.type", "upstream_connection_failure")]);
    has(&spans[1], &[("rpc.status_code", "INTERNAL"), ("error.type", "INTERNAL")]);
}

#[test]
fn credentials_in_the_url_are_redacted() {
    for direction in [Direction::Inbound, Direction::Outbound] {
        let mut signed = record();
        signed.direction = direction;
        signed.text.as_mut().unwrap().path = "/items?X-Amz-Signature=secret&s%69g=secret".into();
        for span in spans(&signed) {
            let text = format!("{span:?}");
            assert!(text.contains("X-Amz-Signature=REDACTED") && !text.contains("secret"), "{text}");
        }
    }
}

#[test]
fn an_unknown_method_is_other() {
    let mut odd = record();
    odd.text.as_mut().unwrap().method = "BREW".into();
    let client = &spans(&odd)[0];
    has(client, &[("http.request.method", "_OTHER"), ("http.request.method_original", "BREW")]);
    assert_eq!(client.name, "HTTP /items");
}

#[test]
fn what_is_not_sampled_makes_no_span() {
    let mut unsampled = record();
    unsampled.trace.as_mut().unwrap().sampled = false;
    assert!(spans(&unsampled).is_empty());
    unsampled.trace = None;
    assert!(spans(&unsampled).is_empty());
}
