//! Converts a finished request to spans: one server span, and a client span per attempt.
//!
//! The parent of the server span is the span in the client's `traceparent`. The server span is the parent of the client spans,
//! and an attempt's client span is the parent that the upstream receives. Names and attributes follow OpenTelemetry's semantic
//! conventions for HTTP and RPC; `outrigger.*` attributes are specific to the mesh.

use std::borrow::Cow;
use std::str::FromStr as _;
use std::time::SystemTime;

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use opentelemetry_semantic_conventions::attribute as key;
use outrigger_core::identity::SpiffeId;
use outrigger_core::reason::Reason;
use outrigger_core::record::{AttemptRecord, Direction, Protocol, RequestRecord, Text};
use outrigger_core::trace::TraceContext;

use crate::telemetry::attributes;

/// Appends the spans of `record`. Appends nothing if its trace is not sampled.
pub(crate) fn spans_of(record: &RequestRecord, local: Option<&SpiffeId>, spans: &mut Vec<SpanData>) {
    let Some(trace) = record.trace.filter(|trace| trace.sampled) else { return };
    let empty = Text::default();
    let request = Request { record, trace, local, text: record.text.as_deref().unwrap_or(&empty) };
    spans.push(request.server_span());
    for (index, attempt) in record.attempts.iter().enumerate() {
        spans.extend(request.client_span(index, attempt));
    }
}

struct Request<'a> {
    record: &'a RequestRecord,
    trace: TraceContext,
    local: Option<&'a SpiffeId>,
    text: &'a Text,
}

impl Request<'_> {
    fn server_span(&self) -> SpanData {
        let Self { record, trace, text, .. } = *self;
        let mut attributes = Vec::with_capacity(24);
        self.add_request(&mut attributes);
        if record.protocol != Protocol::Tcp {
            let (path, query) = attributes::path_and_query(&text.path);
            attributes.push(KeyValue::new(key::URL_SCHEME, "http"));
            attributes.push(KeyValue::new(key::URL_PATH, path.to_owned()));
            if let Some(query) = query {
                attributes.push(KeyValue::new(key::URL_QUERY, query.into_owned()));
            }
            attributes.push(KeyValue::new(key::HTTP_REQUEST_BODY_SIZE, count(record.bytes_received)));
            attributes.push(KeyValue::new(key::HTTP_RESPONSE_BODY_SIZE, count(record.bytes_sent)));
            if !text.user_agent.is_empty() {
                attributes.push(KeyValue::new(key::USER_AGENT_ORIGINAL, text.user_agent.clone()));
            }
        }
        attributes.push(KeyValue::new(key::CLIENT_ADDRESS, record.client.ip().to_string()));
        attributes::peer(record.client, &mut attributes);
        if self.is_grpc() {
            attributes::grpc(&text.path, record.grpc_status, &mut attributes);
        }
        add_status(record.status, record.reason, &mut attributes);
        if !text.request_id.is_empty() {
            attributes.push(KeyValue::new("outrigger.request_id", text.request_id.clone()));
        }
        let last = record.attempts.last();
        self.add_mesh(last, &mut attributes);
        let status = self.status(SpanKind::Server, record.status, record.grpc_status, record.reason);
        let (start, end) = (record.started, record.started + record.duration);
        let parent = trace.parent.map_or(SpanId::INVALID, |parent| parent.get().into());
        self.span(trace.span.get().into(), parent, SpanKind::Server, (start, end), attributes, status)
    }

    /// Returns None if the attempt has no span, because it was not sampled.
    fn client_span(&self, index: usize, attempt: &AttemptRecord) -> Option<SpanData> {
        let Self { record, trace, text, .. } = *self;
        let mut attributes = Vec::with_capacity(16);
        self.add_request(&mut attributes);
        if record.protocol != Protocol::Tcp {
            let (path, query) = attributes::path_and_query(&text.path);
            let query = query.map_or(String::new(), |query| format!("?{query}"));
            let full = format!("http://{}{path}{query}", text.authority);
            attributes.push(KeyValue::new(key::URL_FULL, full));
        }
        if index > 0 {
            let again = i64::try_from(index).unwrap_or(i64::MAX);
            attributes.push(KeyValue::new(key::HTTP_REQUEST_RESEND_COUNT, again));
        }
        if let Some(endpoint) = attempt.endpoint {
            attributes::peer(endpoint, &mut attributes);
        }
        if self.is_grpc() {
            attributes::grpc(&text.path, attempt.grpc_status, &mut attributes);
        }
        add_status(attempt.status, attempt.reason, &mut attributes);
        attributes.push(KeyValue::new("outrigger.cluster", attempt.cluster.to_string()));
        self.add_mesh(Some(attempt), &mut attributes);
        let status = self.status(SpanKind::Client, attempt.status, attempt.grpc_status, attempt.reason);
        let start = record.started + attempt.offset;
        let times = (start, start + attempt.duration);
        let span = attempt.span?.get().into();
        Some(self.span(span, trace.span.get().into(), SpanKind::Client, times, attributes, status))
    }

    fn is_grpc(&self) -> bool {
        self.text.grpc || self.record.protocol == Protocol::Grpc
    }

    /// Adds the attributes of the request that both kinds of span have.
    fn add_request(&self, attributes: &mut Vec<KeyValue>) {
        let Self { record, text, .. } = *self;
        if !text.method.is_empty() {
            attributes::method(&text.method, attributes);
        }
        let server = match &record.destination {
            _ if !text.authority.is_empty() => text.authority.as_str(),
            Some(destination) => destination,
            None => "",
        };
        attributes::server(server, attributes);
        let version = match record.protocol {
            Protocol::Http10 => Some("1.0"),
            Protocol::Http11 => Some("1.1"),
            Protocol::Http2 | Protocol::Grpc => Some("2"),
            Protocol::Tcp => None,
        };
        match version {
            Some(version) => attributes.push(KeyValue::new(key::NETWORK_PROTOCOL_VERSION, version)),
            None => attributes.push(KeyValue::new(key::NETWORK_TRANSPORT, "tcp")),
        }
    }

    /// Adds peers, destination and route. `attempt` is the attempt that they are taken from.
    fn add_mesh(&self, attempt: Option<&AttemptRecord>, attributes: &mut Vec<KeyValue>) {
        let record = self.record;
        let peer = attempt.and_then(|attempt| attempt.peer.as_ref());
        let (source, destination) = match record.direction {
            Direction::Inbound => (record.source.as_ref(), self.local),
            Direction::Outbound => (record.source.as_ref().or(self.local), peer),
            Direction::Unspecified => (record.source.as_ref(), peer),
        };
        attributes.push(KeyValue::new("outrigger.direction", record.direction.as_str()));
        let mut add = |key: &'static str, value: Option<&str>| {
            attributes.extend(value.map(|value| KeyValue::new(key, value.to_owned())));
        };
        add("outrigger.source.spiffe_id", source.map(SpiffeId::as_str));
        add("outrigger.source.workload", source.map(SpiffeId::service_account));
        add("outrigger.source.namespace", source.map(SpiffeId::namespace));
        add("outrigger.destination.spiffe_id", destination.map(SpiffeId::as_str));
        add("outrigger.destination.workload", destination.map(SpiffeId::service_account));
        add("outrigger.destination.namespace", destination.map(SpiffeId::namespace));
        add("outrigger.destination.service", record.destination.as_deref());
        add("outrigger.instance", attempt.and_then(|attempt| attempt.instance.as_deref()));
        add("outrigger.route", record.route.as_deref());
    }

    /// Returns `{method} {destination}`, since the destination is a low-cardinality target. For gRPC, the method.
    fn name(&self) -> Cow<'static, str> {
        let text = self.text;
        if let Some((service, method)) = self.is_grpc().then(|| attributes::grpc_method(&text.path)).flatten()
        {
            return format!("{service}/{method}").into();
        }
        let verb = match self.record.protocol {
            Protocol::Tcp => "TCP",
            _ => attributes::known_method(&text.method).unwrap_or("HTTP"),
        };
        match &self.record.destination {
            Some(destination) => format!("{verb} {destination}").into(),
            None => verb.into(),
        }
    }

    /// Returns an error for 5xx on a server span, also for 4xx on a client span (HTTP conventions, "Status"). For gRPC: the codes
    /// that the RPC conventions list on a server span, every code but OK on a client span.
    fn status(&self, kind: SpanKind, status: u16, grpc: Option<u8>, reason: Option<Reason>) -> Status {
        let client = kind == SpanKind::Client;
        let failed = match grpc {
            Some(code) if client => code != 0,
            Some(code) => matches!(code, 2 | 4 | 12 | 13 | 14 | 15),
            None => status >= if client { 400 } else { 500 } || (status == 0 && reason.is_some()),
        };
        if !failed {
            return Status::Unset;
        }
        // "Don't set the description if the reason can be inferred from http.response.status_code."
        Status::error(reason.map_or("", Reason::name))
    }

    fn span(
        &self,
        span: SpanId,
        parent: SpanId,
        span_kind: SpanKind,
        (start_time, end_time): (SystemTime, SystemTime),
        attributes: Vec<KeyValue>,
        status: Status,
    ) -> SpanData {
        let state = TraceState::from_str(&self.text.trace_state).unwrap_or_default();
        let trace = TraceId::from(self.trace.trace.get());
        SpanData {
            span_context: SpanContext::new(trace, span, TraceFlags::SAMPLED, false, state),
            parent_span_id: parent,
            parent_span_is_remote: span_kind == SpanKind::Server && parent != SpanId::INVALID,
            span_kind,
            name: self.name(),
            start_time,
            end_time,
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status,
            instrumentation_scope: InstrumentationScope::builder("outrigger")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
        }
    }
}

/// Adds the status, the flag, and on failure `error.type`: the reason's name, else the status.
fn add_status(status: u16, reason: Option<Reason>, attributes: &mut Vec<KeyValue>) {
    if status != 0 {
        attributes.push(KeyValue::new(key::HTTP_RESPONSE_STATUS_CODE, i64::from(status)));
    }
    match reason {
        Some(reason) => {
            attributes.push(KeyValue::new("outrigger.flag", reason.flag()));
            if reason != Reason::DirectResponse {
                attributes.push(KeyValue::new(key::ERROR_TYPE, reason.name()));
            }
        }
        None if status >= 500 => attributes.push(KeyValue::new(key::ERROR_TYPE, status.to_string())),
        None => {}
    }
}

fn count(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
