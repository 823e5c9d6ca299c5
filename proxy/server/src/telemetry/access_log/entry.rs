//! One access log line, as JSON or text, with the fields of docs/access-logs.md.
//!
//! Values that a client chooses (path, authority, user agent, request ID) are escaped, so that no request can forge a line.

use std::borrow::Cow;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use outrigger_core::identity::SpiffeId;
use outrigger_core::record::{AttemptRecord, Direction, RequestRecord};
use outrigger_core::trace::SpanId;
use serde::{Serialize, Serializer};

use crate::telemetry::redaction;

/// The fields of a finished request. JSON omits empty fields.
#[derive(Debug, Serialize)]
pub(crate) struct Entry<'a> {
    /// When the first byte was read; RFC 3339, UTC, milliseconds.
    #[serde(serialize_with = "as_text")]
    time: Option<Timestamp>,
    direction: &'static str,
    listener: &'a str,
    protocol: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    method: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    authority: Cow<'a, str>,
    /// With credentials in the query redacted.
    #[serde(skip_serializing_if = "str::is_empty")]
    path: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<u8>,
    /// The response flag; see the table of reasons.
    #[serde(skip_serializing_if = "Option::is_none")]
    flag: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'a str,
    duration_ms: f64,
    /// Time before the first attempt: waiting for configuration, queueing.
    wait_ms: f64,
    /// Time to obtain a connection, in the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_ms: Option<f64>,
    /// Time from the start of the last attempt to the head of the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_byte_ms: Option<f64>,
    bytes_received: u64,
    bytes_sent: u64,
    client: SocketAddr,
    /// The client's verified identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    attempts: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'a str>,
    /// The endpoint's verified identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    span_id: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    request_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: &'a str,
}

impl<'a> Entry<'a> {
    /// Returns the line for `record`.
    pub(crate) fn of(record: &'a RequestRecord) -> Self {
        let text = record.text.as_deref();
        let part =
            |choose: fn(&outrigger_core::record::Text) -> &String| text.map_or("", |text| choose(text));
        let last = record.attempts.last();
        Self {
            time: Timestamp::try_from(record.started).ok(),
            direction: record.direction.as_str(),
            listener: &record.listener,
            protocol: record.protocol.as_str(),
            method: part(|text| &text.method),
            authority: redaction::authority(part(|text| &text.authority)),
            path: redaction::target(part(|text| &text.path)),
            status: (record.status != 0).then_some(record.status),
            grpc_status: record.grpc_status,
            flag: record.reason.map(|reason| reason.flag()),
            reason: record.reason.map(|reason| reason.name()),
            detail: part(|text| &text.detail),
            duration_ms: milliseconds(record.duration),
            wait_ms: milliseconds(record.until_first_attempt),
            connect_ms: last.map(|last| milliseconds(last.until_connected)),
            first_byte_ms: last.and_then(|last| last.until_first_byte).map(milliseconds),
            bytes_received: record.bytes_received,
            bytes_sent: record.bytes_sent,
            client: record.client,
            source: record.source.as_ref().map(SpiffeId::as_str),
            destination: record.destination.as_deref(),
            route: record.route.as_deref(),
            attempts: record.attempts.len(),
            cluster: last.map(|last| &*last.cluster),
            endpoint: last.and_then(|last| last.endpoint),
            instance: last.and_then(|last| last.instance.as_deref()),
            peer: last.and_then(peer),
            trace_id: record.trace.map(|trace| trace.trace.to_string()),
            span_id: span(record).map(|span| span.to_string()),
            request_id: part(|text| &text.request_id),
            user_agent: part(|text| &text.user_agent),
        }
    }

    /// Appends one JSON object without a line break.
    pub(crate) fn write_json(&self, line: &mut Vec<u8>) {
        // Writing numbers and strings to memory cannot fail.
        let _ = serde_json::to_writer(line, self);
    }

    /// Appends one line of text without a line break. Unknown values are `-`.
    pub(crate) fn write_text(&self, line: &mut Vec<u8>) {
        let time = self.time.map_or_else(String::new, |time| format!("{time:.3}"));
        let dash = |value: Option<&'a str>| value.unwrap_or("-").escape_debug();
        let milliseconds = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.3}ms"));
        let number = |value: Option<u16>| value.map_or("-".into(), |value| value.to_string());
        // Writing to memory cannot fail.
        let _ = write!(
            line,
            "{time} {direction} {listener} \"{method} {authority}{path} {protocol}\" {status} grpc={grpc} flag={flag} \
             {duration:.3}ms wait={wait:.3}ms connect={connect} first_byte={first_byte} received={received} sent={sent} \
             client={client} source={source} destination={destination} route={route} attempts={attempts} cluster={cluster} \
             endpoint={endpoint} instance={instance} peer={peer} trace={trace} span={span} request_id=\"{request_id}\" \
             agent=\"{agent}\" detail=\"{detail}\"",
            direction = self.direction,
            listener = self.listener.escape_debug(),
            method = self.method.escape_debug(),
            authority = self.authority.escape_debug(),
            path = self.path.escape_debug(),
            protocol = self.protocol,
            status = number(self.status),
            grpc = number(self.grpc_status.map(u16::from)),
            flag = self.flag.unwrap_or("-"),
            duration = self.duration_ms,
            wait = self.wait_ms,
            connect = milliseconds(self.connect_ms),
            first_byte = milliseconds(self.first_byte_ms),
            received = self.bytes_received,
            sent = self.bytes_sent,
            client = self.client,
            source = dash(self.source),
            destination = dash(self.destination),
            route = dash(self.route),
            attempts = self.attempts,
            cluster = dash(self.cluster),
            endpoint = self.endpoint.map_or("-".into(), |endpoint| endpoint.to_string()),
            instance = dash(self.instance),
            peer = dash(self.peer),
            trace = self.trace_id.as_deref().unwrap_or("-"),
            span = self.span_id.as_deref().unwrap_or("-"),
            request_id = self.request_id.escape_debug(),
            agent = self.user_agent.escape_debug(),
            detail = self.detail.escape_debug(),
        );
    }
}

/// Returns the span that stands for the request: the SERVER span, or on the outbound side the CLIENT span of the last attempt.
fn span(record: &RequestRecord) -> Option<SpanId> {
    let trace = record.trace?;
    let of_attempt = record.attempts.last().filter(|_| record.direction == Direction::Outbound);
    Some(of_attempt.and_then(|last| last.span).unwrap_or(trace.span))
}

fn peer(attempt: &AttemptRecord) -> Option<&str> {
    attempt.peer.as_ref().map(SpiffeId::as_str)
}

/// Returns the duration in milliseconds, rounded to microseconds.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

fn as_text<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(&format_args!("{time:.3}")),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::SystemTime;

    use outrigger_core::reason::Reason;
    use outrigger_core::record::{Protocol, Text, TlsSession, Upstream};
    use outrigger_core::trace::{TraceContext, TraceId};

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
        serde_json::from_slice(&line).unwrap()
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
             request_id=\"r-1\" agent=\"curl/8\" detail=\"\""
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
}
