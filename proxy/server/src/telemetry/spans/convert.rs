//! Converts a finished request to spans: one SERVER span where the proxy serves the application, one CLIENT span for each attempt
//! where it calls for the application, both at a gateway.
//!
//! The parent of a SERVER span is the caller's span. So is that of the CLIENT spans of the outbound side, which are siblings; at
//! a gateway their parent is its SERVER span. If no attempt was made, one CLIENT span says why. An upstream receives the ID of
//! its attempt's CLIENT span, the application that of the SERVER span. Names and attributes follow OpenTelemetry's semantic
//! conventions for HTTP and RPC; `outrigger.*` attributes are specific to the mesh.

use std::borrow::Cow;
use std::str::FromStr as _;

use opentelemetry::trace::TraceState;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_semantic_conventions::attribute as key;
use outrigger_core::identity::SpiffeId;
use outrigger_core::reason::Reason;
use outrigger_core::record::{AttemptRecord, Direction, Protocol, RequestRecord, Text};
use outrigger_core::trace::TraceContext;

use super::encode::{EncodedSpans, SpanHead};
use crate::telemetry::attributes::{self, Attributes};
use crate::telemetry::outcome::{Outcome, Side, is_grpc};
use crate::telemetry::redaction;

/// Appends the spans of `record`. Appends nothing if its trace is not sampled.
pub(super) fn spans_of(record: &RequestRecord, local: Option<&SpiffeId>, spans: &mut EncodedSpans) {
    let Some(trace) = record.trace.filter(|trace| trace.sampled) else { return };
    let empty = Text::default();
    let text = record.text.as_deref().unwrap_or(&empty);
    // An invalid one is not passed on (W3C Trace Context, section 3.3).
    let trace_state = match text.trace_state.as_str() {
        "" => String::new(),
        state => TraceState::from_str(state).unwrap_or_default().header(),
    };
    let request = Request { record, trace, trace_state, local, text };
    match record.direction {
        Direction::Inbound => request.server_span(spans),
        Direction::Outbound if record.attempts.is_empty() => request.client_span(None, spans),
        Direction::Outbound => request.attempts(spans),
        Direction::Unspecified => {
            request.server_span(spans);
            request.attempts(spans);
        }
    }
}

struct Request<'a> {
    record: &'a RequestRecord,
    trace: TraceContext,
    trace_state: String,
    local: Option<&'a SpiffeId>,
    text: &'a Text,
}

impl Request<'_> {
    fn server_span(&self, spans: &mut EncodedSpans) {
        let Self { record, trace, text, .. } = self;
        let outcome = Outcome::of_request(record);
        let mut span = spans.begin(&SpanHead {
            trace: trace.trace,
            span: trace.span,
            parent: trace.parent,
            is_remote: trace.parent.is_some(),
            trace_state: &self.trace_state,
            name: &self.name(),
            kind: SpanKind::Server,
            start: record.started,
            end: record.started + record.duration,
        });
        self.add_request(outcome, &mut span);
        attributes::server(&text.authority, &mut span);
        let (path, query) = attributes::path_and_query(&text.path);
        span.text(key::URL_SCHEME, text.scheme);
        span.text(key::URL_PATH, path);
        add(key::URL_QUERY, query.as_deref(), &mut span);
        add(key::NETWORK_PROTOCOL_VERSION, version(record.protocol), &mut span);
        span.shown(key::CLIENT_ADDRESS, &record.client.ip());
        attributes::peer(record.client, &mut span);
        if let Some(session) = record.tls {
            attributes::tls(session, &mut span);
        }
        self.add_sizes(&mut span);
        self.add_mesh(record.attempts.last(), &mut span);
        add_flag(record.reason, &mut span);
        let error = add_error(outcome, Side::Server, &mut span);
        span.finish(error);
    }

    fn attempts(&self, spans: &mut EncodedSpans) {
        self.record.attempts.iter().for_each(|attempt| self.client_span(Some(attempt), spans));
    }

    /// Appends the span of `attempt`, or of the request if no attempt was made.
    fn client_span(&self, attempt: Option<&AttemptRecord>, spans: &mut EncodedSpans) {
        let Self { record, trace, text, .. } = self;
        let outcome = match attempt {
            Some(attempt) => Outcome::of_attempt(record, attempt),
            None => Outcome::of_request(record),
        };
        let (start, duration) = attempt.map_or((record.started, record.duration), |attempt| {
            (record.started + attempt.offset, attempt.duration)
        });
        let (parent, is_remote) = match record.direction {
            Direction::Unspecified => (Some(trace.span), false),
            Direction::Inbound | Direction::Outbound => (trace.parent, trace.parent.is_some()),
        };
        let mut span = spans.begin(&SpanHead {
            trace: trace.trace,
            span: attempt.and_then(|attempt| attempt.span).unwrap_or(trace.span),
            parent,
            is_remote,
            trace_state: &self.trace_state,
            name: &self.name(),
            kind: SpanKind::Client,
            start,
            end: start + duration,
        });
        self.add_request(outcome, &mut span);
        let authority = self.called();
        let port = if text.scheme == "https" { 443 } else { 80 };
        attributes::server_with_default_port(&authority, Some(port), &mut span);
        let (path, query) = attributes::path_and_query(&text.path);
        let path = if path == "*" { "" } else { path };
        let (mark, query) = query.as_deref().map_or(("", ""), |query| ("?", query));
        let authority = redaction::authority(&authority);
        span.shown(key::URL_FULL, &format_args!("{}://{authority}{path}{mark}{query}", text.scheme));
        span.text(key::URL_SCHEME, text.scheme);
        if let Some(attempt) = attempt {
            add_attempt(attempt, &mut span);
        }
        let is_last =
            attempt.is_none_or(|attempt| attempt.span == record.attempts.last().and_then(|last| last.span));
        if is_last {
            self.add_sizes(&mut span);
        }
        self.add_mesh(attempt, &mut span);
        // The last attempt shows why there was no other.
        add_flag(outcome.reason.or(record.reason.filter(|_| is_last)), &mut span);
        let error = add_error(outcome, Side::Client, &mut span);
        span.finish(error);
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
    fn add_request(&self, outcome: Outcome, span: &mut impl Attributes) {
        let Self { record, text, .. } = self;
        attributes::method(&text.method, span);
        add(key::HTTP_ROUTE, record.route_template.as_deref(), span);
        if outcome.status != 0 {
            span.number(key::HTTP_RESPONSE_STATUS_CODE, outcome.status.into());
        }
        if is_grpc(record) {
            attributes::grpc(&text.path, outcome.grpc, span);
        }
        if !text.request_id.is_empty() {
            span.text("outrigger.request_id", &text.request_id);
        }
    }

    /// Adds what concerns a request as a whole: an outbound request shows it on its last span.
    fn add_sizes(&self, span: &mut impl Attributes) {
        let Self { record, text, .. } = self;
        span.number(key::HTTP_REQUEST_BODY_SIZE, count(record.bytes_received));
        span.number(key::HTTP_RESPONSE_BODY_SIZE, count(record.bytes_sent));
        if !text.user_agent.is_empty() {
            span.text(key::USER_AGENT_ORIGINAL, &text.user_agent);
        }
    }

    /// Adds peers, destination and route. `attempt` is the attempt that they are taken from.
    fn add_mesh(&self, attempt: Option<&AttemptRecord>, span: &mut impl Attributes) {
        let record = self.record;
        let peer = attempt.and_then(|attempt| attempt.peer.as_ref());
        let (source, destination) = match record.direction {
            Direction::Inbound => (record.source.as_ref(), self.local),
            Direction::Outbound => (record.source.as_ref().or(self.local), peer),
            Direction::Unspecified => (record.source.as_ref(), peer),
        };
        span.text("outrigger.direction", record.direction.as_str());
        add("outrigger.source.spiffe_id", source.map(SpiffeId::as_str), span);
        add("outrigger.source.workload", source.map(SpiffeId::service_account), span);
        add("outrigger.source.namespace", source.map(SpiffeId::namespace), span);
        add("outrigger.destination.spiffe_id", destination.map(SpiffeId::as_str), span);
        add("outrigger.destination.workload", destination.map(SpiffeId::service_account), span);
        add("outrigger.destination.namespace", destination.map(SpiffeId::namespace), span);
        add("outrigger.destination.service", record.destination.as_deref(), span);
        add("outrigger.instance", attempt.and_then(|attempt| attempt.instance.as_deref()), span);
        add("outrigger.route", record.route.as_deref(), span);
    }

    /// Returns `{method} {http.route}`, or `{method}` without a template. For gRPC, the fully qualified method.
    fn name(&self) -> Cow<'_, str> {
        let text = self.text;
        if is_grpc(self.record) {
            return attributes::grpc_method(&text.path).unwrap_or("grpc").into();
        }
        let method = attributes::known_method(&text.method).unwrap_or("HTTP");
        match &self.record.route_template {
            Some(template) => format!("{method} {template}").into(),
            None => method.into(),
        }
    }
}

fn add_attempt(attempt: &AttemptRecord, span: &mut impl Attributes) {
    add(key::NETWORK_PROTOCOL_VERSION, attempt.protocol.and_then(version), span);
    if attempt.resend_count > 0 {
        span.number(key::HTTP_REQUEST_RESEND_COUNT, attempt.resend_count.into());
    }
    if let Some(endpoint) = attempt.endpoint {
        attributes::peer(endpoint, span);
    }
    match attempt.tls {
        Some(session) => attributes::tls(session, span),
        None if attempt.reason == Some(Reason::UpstreamTlsFailure) => {
            span.boolean(key::TLS_ESTABLISHED, false)
        }
        None => {}
    }
    span.text("outrigger.cluster", &attempt.cluster);
}

fn add(key: &'static str, value: Option<&str>, span: &mut impl Attributes) {
    if let Some(value) = value {
        span.text(key, value);
    }
}

fn version(protocol: Protocol) -> Option<&'static str> {
    match protocol {
        Protocol::Http10 => Some("1.0"),
        Protocol::Http11 => Some("1.1"),
        Protocol::Http2 | Protocol::Grpc => Some("2"),
        Protocol::Tcp => None,
    }
}

fn add_flag(reason: Option<Reason>, span: &mut impl Attributes) {
    add("outrigger.response_flag", reason.map(Reason::flag), span);
}

/// Adds `error.type` if the outcome is a failure. Returns the description of the error, which may be empty.
fn add_error(outcome: Outcome, side: Side, span: &mut impl Attributes) -> Option<&'static str> {
    span.text(key::ERROR_TYPE, &outcome.error_type(side)?);
    // "Don't set the description if the reason can be inferred from http.response.status_code."
    Some(outcome.reason.filter(|reason| *reason != Reason::DirectResponse).map_or("", Reason::name))
}

fn count(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
