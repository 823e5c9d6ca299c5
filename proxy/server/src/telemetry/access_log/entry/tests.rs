use std::time::{Duration, SystemTime};

use outrigger_core::reason::Reason;
use outrigger_core::record::{Authorization, Protocol, Text, TlsSession, Upstream};
use outrigger_core::trace::TraceContext;

use super::*;

const MTLS: TlsSession = TlsSession { version: 0x0304, cipher: 0x1301, mutual: true };

fn cart() -> SpiffeId {
    SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap()
}

/// A request from `web` to `cart` whose second attempt succeeded.
pub(crate) fn record() -> RequestRecord {
    let attempt = |offset, status, reason| AttemptRecord {
        offset: Duration::from_millis(offset),
        duration: Duration::from_millis(4),
        cluster: "cart.shop.svc.cluster.local:80".into(),
        endpoint: Some(([10, 0, 0, 5], 9080).into()),
        instance: Some("cart-1".into()),
        resend_count: u32::from(offset > 0),
        peer: Some(cart()),
        tls: Some(MTLS),
        protocol: Some(Protocol::Http2),
        until_connected: Duration::from_micros(1500),
        until_first_byte: (status != 0).then_some(Duration::from_micros(3250)),
        status,
        grpc_status: None,
        reason,
        reached: None,
        span: SpanId::new(0x20 + offset),
    };
    RequestRecord {
        started: SystemTime::UNIX_EPOCH + Duration::from_millis(1_763_831_236_123),
        duration: Duration::from_micros(12_345),
        listener: "outbound".into(),
        direction: Direction::Outbound,
        protocol: Protocol::Http11,
        status: 200,
        grpc_status: None,
        reason: None,
        authorization: None,
        source: None,
        client: ([127, 0, 0, 1], 40000).into(),
        tls: None,
        destination: Some("cart.shop.svc.cluster.local:80".into()),
        route: Some("httproute/shop/cart/0/0".into()),
        route_template: Some("/items".into()),
        bytes_received: 3,
        bytes_sent: 1000,
        until_first_attempt: Duration::from_micros(250),
        upstream: Some(Upstream {
            connected: true,
            cluster: "cart.shop.svc.cluster.local:80".into(),
            peer: Some(cart()),
            tls: Some(MTLS),
        }),
        attempts: vec![attempt(0, 0, Some(Reason::UpstreamConnectionFailure)), attempt(5, 200, None)],
        trace: Some(TraceContext {
            trace: TraceId::new(0xabc).unwrap(),
            span: SpanId::new(0x10).unwrap(),
            parent: SpanId::new(0x1),
            sampled: true,
        }),
        text: Some(Box::new(Text {
            method: "GET".into(),
            authority: "cart.shop:80".into(),
            scheme: "http",
            path: "/items?q=1".into(),
            user_agent: "curl/8".into(),
            request_id: "r-1".into(),
            ..Text::default()
        })),
    }
}

fn text(record: &RequestRecord) -> String {
    let mut line = Vec::new();
    Entry::of(record).write_text(&mut line);
    String::from_utf8(line).unwrap()
}

fn json(record: &RequestRecord) -> serde_json::Value {
    let mut line = Vec::new();
    Entry::of(record).write_json(&mut line);
    assert!(!line.contains(&b'\n'));
    let value = serde_json::from_slice(&line).unwrap();
    let mut exported = serde_json::to_value(Entry::of(record)).unwrap();
    exported.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    assert_eq!(value, exported, "the line has what is exported by OTLP");
    value
}

#[test]
fn json_has_the_documented_fields() {
    let expected = serde_json::json!({
        "time": "2025-11-22T17:07:16.123Z", "direction": "outbound", "listener": "outbound",
        "protocol": "http/1.1", "method": "GET", "authority": "cart.shop:80", "path": "/items?q=1",
        "status": 200, "duration_ms": 12.345, "wait_ms": 0.25, "connect_ms": 1.5, "first_byte_ms": 3.25,
        "bytes_received": 3, "bytes_sent": 1000, "client": "127.0.0.1:40000",
        "destination": "cart.shop.svc.cluster.local:80", "route": "httproute/shop/cart/0/0", "attempts": 2,
        "cluster": "cart.shop.svc.cluster.local:80", "endpoint": "10.0.0.5:9080", "instance": "cart-1",
        "peer": "spiffe://cluster.local/ns/shop/sa/cart", "trace_id": "00000000000000000000000000000abc",
        "span_id": "0000000000000025", "request_id": "r-1", "user_agent": "curl/8",
    });
    assert_eq!(json(&record()), expected);
}

#[test]
fn text_is_one_line_of_the_same_facts() {
    assert_eq!(
        text(&record()),
        "2025-11-22T17:07:16.123Z outbound outbound \"GET cart.shop:80/items?q=1 http/1.1\" 200 grpc=- flag=- \
         12.345ms wait=0.250ms connect=1.500ms first_byte=3.250ms received=3 sent=1000 client=127.0.0.1:40000 \
         source=- destination=cart.shop.svc.cluster.local:80 route=httproute/shop/cart/0/0 attempts=2 \
         cluster=cart.shop.svc.cluster.local:80 endpoint=10.0.0.5:9080 instance=cart-1 \
         peer=spiffe://cluster.local/ns/shop/sa/cart trace=00000000000000000000000000000abc span=0000000000000025 \
         request_id=\"r-1\" agent=\"curl/8\" denied_by=- audit_denied_by=- detail=\"\""
    );
}

#[test]
fn a_failure_shows_its_flag_and_detail() {
    let mut failed = record();
    failed.reason = Some(Reason::UpstreamRetryLimitExceeded);
    failed.text.as_mut().unwrap().detail = "connect: refused".into();
    let value = json(&failed);
    assert_eq!(value["flag"], "URX");
    assert_eq!(value["reason"], "upstream_retry_limit_exceeded");
    assert_eq!(value["detail"], "connect: refused");
    assert!(text(&failed).contains(" flag=URX "));
}

#[test]
fn a_refusal_shows_its_policy() {
    let authorization =
        Authorization { denied_by: Some("owner".into()), audit_denied_by: Some("none".into()) };
    let denied = RequestRecord { authorization: Some(Box::new(authorization)), ..record() };
    let value = json(&denied);
    assert_eq!((&value["denied_by"], &value["audit_denied_by"]), (&"owner".into(), &"none".into()));
    assert!(text(&denied).contains(" denied_by=owner audit_denied_by=none "));
}

#[test]
fn credentials_in_the_url_are_redacted() {
    let mut signed = record();
    signed.text.as_mut().unwrap().path = "/items?q=1&X-Amz-Signature=secret".into();
    assert_eq!(json(&signed)["path"], "/items?q=1&X-Amz-Signature=REDACTED");
    assert!(!text(&signed).contains("secret"));
}

#[test]
fn the_span_is_the_server_span_or_that_of_the_last_attempt() {
    let mut request = record();
    let span = |request: &RequestRecord| json(request)["span_id"].clone();
    assert_eq!(span(&request), "0000000000000025");
    request.direction = Direction::Inbound;
    assert_eq!(span(&request), "0000000000000010");
    request.direction = Direction::Outbound;
    request.attempts.clear();
    assert_eq!(span(&request), "0000000000000010");
}

#[test]
fn a_request_cannot_forge_a_line() {
    let mut forged = record();
    forged.text.as_mut().unwrap().user_agent = "x\"\n2025-01-01 forged".into();
    let line = text(&forged);
    assert_eq!(line.lines().count(), 1);
    assert!(line.contains(r#"agent="x\"\n2025"#), "{line}");
    assert_eq!(json(&forged)["user_agent"], "x\"\n2025-01-01 forged");
}
