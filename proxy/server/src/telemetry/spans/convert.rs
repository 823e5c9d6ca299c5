//! Converts a finished request to spans: one SERVER span where the proxy serves the application, one CLIENT span for each attempt
//! where it calls for the application, both at a gateway.
//!
//! The parent of a SERVER span is the caller's span. So is that of the CLIENT spans of the outbound side, which are siblings; at
//! a gateway their parent is its SERVER span. If no attempt was made, one CLIENT span says why. An upstream receives the ID of
//! its attempt's CLIENT span, the application that of the SERVER span. Names and attributes follow OpenTelemetry's semantic
//! conventions for HTTP and RPC; `outrigger.*` attributes are specific to the mesh.

use std::borrow::Cow;
use std::str::FromStr as _;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use opentelemetry_semantic_conventions::attribute as key;
use outrigger_core::identity::SpiffeId;
use outrigger_core::reason::Reason;
use outrigger_core::record::{AttemptRecord, Direction, Protocol, RequestRecord, Text};
use outrigger_core::trace::TraceContext;

use crate::telemetry::outcome::{Outcome, Side, is_grpc};
use crate::telemetry::{attributes, redaction};

/// Appends the spans of `record`. Appends nothing if its trace is not sampled.
pub(crate) fn spans_of(record: &RequestRecord, local: Option<&SpiffeId>, spans: &mut Vec<SpanData>) {
    let Some(trace) = record.trace.filter(|trace| trace.sampled) else { return };
    let empty = Text::default();
    let request = Request { record, trace, local, text: record.text.as_deref().unwrap_or(&empty) };
    match record.direction {
        Direction::Inbound => spans.push(request.server_span()),
        Direction::Outbound if record.attempts.is_empty() => spans.push(request.client_span(None)),
        Direction::Outbound => spans.extend(request.attempts()),
        Direction::Unspecified => {
            spans.push(request.server_span());
            spans.extend(request.attempts());
        }
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
        let outcome = Outcome::of_request(record);
        let mut attributes = Vec::with_capacity(32);
        self.add_request(outcome, &mut attributes);
        attributes::server(&text.authority, &mut attributes);
        let (path, query) = attributes::path_and_query(&text.path);
        attributes.push(KeyValue::new(key::URL_SCHEME, text.scheme));
        attributes.push(KeyValue::new(key::URL_PATH, path.to_owned()));
        attributes.extend(query.map(|query| KeyValue::new(key::URL_QUERY, query.into_owned())));
        attributes.extend(version(record.protocol));
        attributes.push(KeyValue::new(key::CLIENT_ADDRESS, record.client.ip().to_string()));
        attributes::peer(record.client, &mut attributes);
        if let Some(session) = record.tls {
            attributes::tls(session, &mut attributes);
        }
        self.add_sizes(&mut attributes);
        self.add_mesh(record.attempts.last(), &mut attributes);
        add_flag(record.reason, &mut attributes);
        let parent = trace.parent.map_or(SpanId::INVALID, |parent| parent.get().into());
        let times = (record.started, record.duration);
        let status = add_error(outcome, Side::Server, &mut attributes);
        self.span(SpanKind::Server, (trace.span.get().into(), parent), times, attributes, status)
    }

    fn attempts(&self) -> impl Iterator<Item = SpanData> {
        self.record.attempts.iter().map(|attempt| self.client_span(Some(attempt)))
    }

    /// Returns the span of `attempt`, or of the request if no attempt was made.
    fn client_span(&self, attempt: Option<&AttemptRecord>) -> SpanData {
        let Self { record, trace, text, .. } = *self;
        let outcome = match attempt {
            Some(attempt) => Outcome::of_attempt(record, attempt),
            None => Outcome::of_request(record),
        };
        let mut attributes = Vec::with_capacity(32);
        self.add_request(outcome, &mut attributes);
        let authority = self.called();
        let port = if text.scheme == "https" { 443 } else { 80 };
        attributes::server_with_default_port(&authority, Some(port), &mut attributes);
        let (path, query) = attributes::path_and_query(&text.path);
        let path = if path == "*" { "" } else { path };
        let query = query.map_or(String::new(), |query| format!("?{query}"));
        let authority = redaction::authority(&authority);
        attributes.push(KeyValue::new(key::URL_FULL, format!("{}://{authority}{path}{query}", text.scheme)));
        attributes.push(KeyValue::new(key::URL_SCHEME, text.scheme));
        if let Some(attempt) = attempt {
            self.add_attempt(attempt, &mut attributes);
        }
        let is_last =
            attempt.is_none_or(|attempt| attempt.span == record.attempts.last().and_then(|last| last.span));
        if is_last {
            self.add_sizes(&mut attributes);
        }
        self.add_mesh(attempt, &mut attributes);
        // The last attempt shows why there was no other.
        add_flag(outcome.reason.or(record.reason.filter(|_| is_last)), &mut attributes);
        let span = attempt.and_then(|attempt| attempt.span).unwrap_or(trace.span);
        let parent = match record.direction {
            Direction::Unspecified => Some(trace.span),
            Direction::Inbound | Direction::Outbound => trace.parent,
        };
        let parent = parent.map_or(SpanId::INVALID, |parent| parent.get().into());
        let times = attempt.map_or((record.started, record.duration), |attempt| {
            (record.started + attempt.offset, attempt.duration)
        });
        let status = add_error(outcome, Side::Client, &mut attributes);
        self.span(SpanKind::Client, (span.get().into(), parent), times, attributes, status)
    }

    /// Returns the authority of the destination as it was called, else its name, else its endpoint.
    fn called(&self) -> Cow<'_, str> {
        let endpoint = || self.record.attempts.first().and_then(|attempt| attempt.endpoint);
        match &self.record.destination {
            _ if !self.text.authority.is_empty() => Cow::Borrowed(&self.text.authority),
            Some(destination) => Cow::Borrowed(destination),
            None => endpoint().map_or(Cow::Borrowed(""), |endpoint| Cow::Owned(endpoint.to_string())),
        }
    }

    /// Adds what both kinds of span have.
    fn add_request(&self, outcome: Outcome, attributes: &mut Vec<KeyValue>) {
        let Self { record, text, .. } = *self;
        attributes::method(&text.method, attributes);
        if let Some(template) = &record.route_template {
            attributes.push(KeyValue::new(key::HTTP_ROUTE, template.to_string()));
        }
        if outcome.status != 0 {
            attributes.push(KeyValue::new(key::HTTP_RESPONSE_STATUS_CODE, i64::from(outcome.status)));
        }
        if is_grpc(record) {
            attributes::grpc(&text.path, outcome.grpc, attributes);
        }
        if !text.request_id.is_empty() {
            attributes.push(KeyValue::new("outrigger.request_id", text.request_id.clone()));
        }
    }

    fn add_attempt(&self, attempt: &AttemptRecord, attributes: &mut Vec<KeyValue>) {
        attributes.extend(attempt.protocol.and_then(version));
        if attempt.resend_count > 0 {
            attributes.push(KeyValue::new(key::HTTP_REQUEST_RESEND_COUNT, i64::from(attempt.resend_count)));
        }
        if let Some(endpoint) = attempt.endpoint {
            attributes::peer(endpoint, attributes);
        }
        match attempt.tls {
            Some(session) => attributes::tls(session, attributes),
            None if attempt.reason == Some(Reason::UpstreamTlsFailure) => {
                attributes.push(KeyValue::new(key::TLS_ESTABLISHED, false));
            }
            None => {}
        }
        attributes.push(KeyValue::new("outrigger.cluster", attempt.cluster.to_string()));
    }

    /// Adds what concerns a request as a whole: an outbound request shows it on its last span.
    fn add_sizes(&self, attributes: &mut Vec<KeyValue>) {
        let Self { record, text, .. } = *self;
        attributes.push(KeyValue::new(key::HTTP_REQUEST_BODY_SIZE, count(record.bytes_received)));
        attributes.push(KeyValue::new(key::HTTP_RESPONSE_BODY_SIZE, count(record.bytes_sent)));
        if !text.user_agent.is_empty() {
            attributes.push(KeyValue::new(key::USER_AGENT_ORIGINAL, text.user_agent.clone()));
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

    /// Returns `{method} {http.route}`, or `{method}` without a template. For gRPC, the fully qualified method.
    fn name(&self) -> Cow<'static, str> {
        let text = self.text;
        if is_grpc(self.record) {
            return attributes::grpc_method(&text.path)
                .map_or("grpc".into(), |method| method.to_owned().into());
        }
        let method = attributes::known_method(&text.method).unwrap_or("HTTP");
        match &self.record.route_template {
            Some(template) => format!("{method} {template}").into(),
            None => method.into(),
        }
    }

    fn span(
        &self,
        span_kind: SpanKind,
        (span, parent): (SpanId, SpanId),
        (start_time, duration): (SystemTime, Duration),
        attributes: Vec<KeyValue>,
        status: Status,
    ) -> SpanData {
        let state = TraceState::from_str(&self.text.trace_state).unwrap_or_default();
        let trace = TraceId::from(self.trace.trace.get());
        let of_the_caller = self.trace.parent.is_some_and(|caller| SpanId::from(caller.get()) == parent);
        SpanData {
            span_context: SpanContext::new(trace, span, TraceFlags::SAMPLED, false, state),
            parent_span_id: parent,
            parent_span_is_remote: of_the_caller,
            span_kind,
            name: self.name(),
            start_time,
            end_time: start_time + duration,
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

fn version(protocol: Protocol) -> Option<KeyValue> {
    let version = match protocol {
        Protocol::Http10 => "1.0",
        Protocol::Http11 => "1.1",
        Protocol::Http2 | Protocol::Grpc => "2",
        Protocol::Tcp => return None,
    };
    Some(KeyValue::new(key::NETWORK_PROTOCOL_VERSION, version))
}

fn add_flag(reason: Option<Reason>, attributes: &mut Vec<KeyValue>) {
    attributes.extend(reason.map(|reason| KeyValue::new("outrigger.response_flag", reason.flag())));
}

/// Adds `error.type` if the outcome is a failure. Returns the status of the span.
fn add_error(outcome: Outcome, side: Side, attributes: &mut Vec<KeyValue>) -> Status {
    let Some(error) = outcome.error_type(side) else { return Status::Unset };
    attributes.push(KeyValue::new(key::ERROR_TYPE, error));
    // "Don't set the description if the reason can be inferred from http.response.status_code."
    Status::error(outcome.reason.filter(|reason| *reason != Reason::DirectResponse).map_or("", Reason::name))
}

fn count(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
