//! One access log line, as JSON or text, with the fields of docs/access-logs.md.
//!
//! Values that a client chooses (path, authority, user agent, request ID) are escaped, so that no request can forge a line.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::io::Write as _;
use std::net::SocketAddr;

use jiff::Timestamp;
use outrigger_core::identity::SpiffeId;
use outrigger_core::record::{AttemptRecord, Direction, RequestRecord};
use outrigger_core::trace::{SpanId, TraceId};
use serde::{Serialize, Serializer};

use super::json::Object;
use super::milliseconds::Milliseconds;
use crate::telemetry::redaction;

/// The fields of a finished request. JSON omits empty fields.
#[derive(Debug, Serialize)]
pub(crate) struct Entry<'a> {
    /// When the first byte was read; RFC 3339, UTC, milliseconds.
    #[serde(serialize_with = "as_text")]
    time: Option<Time>,
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
    /// The authorization policy that refused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    denied_by: Option<&'a str>,
    /// The authorization policy that would have refused it if it were enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    audit_denied_by: Option<&'a str>,
    duration_ms: Milliseconds,
    /// Time before the first attempt: waiting for configuration, queueing.
    wait_ms: Milliseconds,
    /// Time to obtain a connection, in the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_ms: Option<Milliseconds>,
    /// Time from the start of the last attempt to the head of the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_byte_ms: Option<Milliseconds>,
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
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    trace_id: Option<TraceId>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    span_id: Option<SpanId>,
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
        let authorization = record.authorization.as_deref();
        Self {
            time: Timestamp::try_from(record.started).ok().map(Time),
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
            denied_by: authorization.and_then(|of| of.denied_by.as_deref()),
            audit_denied_by: authorization.and_then(|of| of.audit_denied_by.as_deref()),
            duration_ms: record.duration.into(),
            wait_ms: record.until_first_attempt.into(),
            connect_ms: last.map(|last| last.until_connected.into()),
            first_byte_ms: last.and_then(|last| last.until_first_byte).map(Milliseconds::from),
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
            trace_id: record.trace.map(|trace| trace.trace),
            span_id: span(record),
            request_id: part(|text| &text.request_id),
            user_agent: part(|text| &text.user_agent),
        }
    }

    /// Appends one JSON object without a line break.
    pub(crate) fn write_json(&self, line: &mut Vec<u8>) {
        let mut object = Object::begin(line);
        if let Some(time) = self.time {
            object.plain("time", time);
        }
        object.text("direction", self.direction);
        object.text("listener", self.listener);
        object.text("protocol", self.protocol);
        object.text("method", self.method);
        object.text("authority", &self.authority);
        object.text("path", &self.path);
        if let Some(status) = self.status {
            object.number("status", status.into());
        }
        if let Some(status) = self.grpc_status {
            object.number("grpc_status", status.into());
        }
        object.text("flag", self.flag.unwrap_or_default());
        object.text("reason", self.reason.unwrap_or_default());
        object.text("detail", self.detail);
        object.text("denied_by", self.denied_by.unwrap_or_default());
        object.text("audit_denied_by", self.audit_denied_by.unwrap_or_default());
        object.milliseconds("duration_ms", self.duration_ms);
        object.milliseconds("wait_ms", self.wait_ms);
        if let Some(connect) = self.connect_ms {
            object.milliseconds("connect_ms", connect);
        }
        if let Some(first_byte) = self.first_byte_ms {
            object.milliseconds("first_byte_ms", first_byte);
        }
        object.number("bytes_received", self.bytes_received);
        object.number("bytes_sent", self.bytes_sent);
        object.address("client", self.client);
        object.text("source", self.source.unwrap_or_default());
        object.text("destination", self.destination.unwrap_or_default());
        object.text("route", self.route.unwrap_or_default());
        object.number("attempts", self.attempts as u64);
        object.text("cluster", self.cluster.unwrap_or_default());
        if let Some(endpoint) = self.endpoint {
            object.address("endpoint", endpoint);
        }
        object.text("instance", self.instance.unwrap_or_default());
        object.text("peer", self.peer.unwrap_or_default());
        if let Some(trace) = self.trace_id {
            object.hexadecimal("trace_id", &trace.get().to_be_bytes());
        }
        if let Some(span) = self.span_id {
            object.hexadecimal("span_id", &span.get().to_be_bytes());
        }
        object.text("request_id", self.request_id);
        object.text("user_agent", self.user_agent);
        object.end();
    }

    /// Appends one line of text without a line break. Unknown values are `-`.
    pub(crate) fn write_text(&self, line: &mut Vec<u8>) {
        let time = self.time.map(|time| time.to_string()).unwrap_or_default();
        let dash = |value: Option<&'a str>| value.unwrap_or("-").escape_debug();
        let milliseconds =
            |value: Option<Milliseconds>| value.map_or("-".into(), |value| format!("{value}ms"));
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let number = |value: Option<u16>| value.map_or("-".into(), |value| value.to_string());
        // Writing to memory cannot fail.
        let _ = write!(
            line,
            "{time} {direction} {listener} \"{method} {authority}{path} {protocol}\" {status} grpc={grpc} flag={flag} \
             {duration}ms wait={wait}ms connect={connect} first_byte={first_byte} received={received} sent={sent} \
             client={client} source={source} destination={destination} route={route} attempts={attempts} cluster={cluster} \
             endpoint={endpoint} instance={instance} peer={peer} trace={trace} span={span} request_id=\"{request_id}\" \
             agent=\"{agent}\" denied_by={denied_by} audit_denied_by={audit_denied_by} detail=\"{detail}\"",
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
            trace = or_dash(self.trace_id.map(|trace| trace.to_string())),
            span = or_dash(self.span_id.map(|span| span.to_string())),
            request_id = self.request_id.escape_debug(),
            agent = self.user_agent.escape_debug(),
            denied_by = dash(self.denied_by),
            audit_denied_by = dash(self.audit_denied_by),
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

fn as_text<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

/// A time in RFC 3339, UTC, with milliseconds.
#[derive(Debug, Clone, Copy)]
struct Time(Timestamp);

impl Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

#[cfg(test)]
pub(crate) mod tests;
