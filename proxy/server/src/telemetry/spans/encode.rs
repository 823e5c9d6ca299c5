//! Encodes spans as OTLP's protobuf, one after the other, without building messages: a span has some twenty attributes, and
//! the messages of a library would allocate two or three times for each.
//!
//! The field numbers are those of `opentelemetry/proto/trace/v1/trace.proto` and `common/v1/common.proto`. The tests decode what
//! is written here with the messages of `opentelemetry-proto`.

use std::fmt::{Display, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, SpanFlags};
use outrigger_core::trace::{SpanId, TraceId};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use crate::telemetry::attributes::Attributes;
use crate::telemetry::otlp::batches::Gathered;
use crate::telemetry::otlp::resource::scope;

/// A batch of encoded spans.
#[derive(Debug, Default)]
pub(super) struct EncodedSpans {
    /// Each is a field `ScopeSpans.spans`.
    bytes: Vec<u8>,
    count: usize,
    /// The span that is being written, whose length precedes it.
    span: Vec<u8>,
    /// A value that is being formatted.
    text: String,
}

/// What a span has besides attributes and status.
#[derive(Debug)]
pub(super) struct SpanHead<'a> {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
    pub(super) parent: Option<SpanId>,
    /// Whether the parent is in another process.
    pub(super) is_remote: bool,
    pub(super) trace_state: &'a str,
    pub(super) name: &'a str,
    pub(super) kind: SpanKind,
    pub(super) start: SystemTime,
    pub(super) end: SystemTime,
}

/// A span that is being written.
pub(super) struct SpanWriter<'a>(&'a mut EncodedSpans);

impl Gathered for EncodedSpans {
    fn items(&self) -> usize {
        self.count
    }
}

impl EncodedSpans {
    /// Begins a span.
    pub(super) fn begin(&mut self, head: &SpanHead<'_>) -> SpanWriter<'_> {
        let to = &mut self.span;
        to.clear();
        put_bytes(to, 1, &head.trace.get().to_be_bytes());
        put_bytes(to, 2, &head.span.get().to_be_bytes());
        if !head.trace_state.is_empty() {
            put_bytes(to, 3, head.trace_state.as_bytes());
        }
        if let Some(parent) = head.parent {
            put_bytes(to, 4, &parent.get().to_be_bytes());
        }
        put_bytes(to, 5, head.name.as_bytes());
        put_number(to, 6, head.kind as u64);
        put_fixed64(to, 7, nanoseconds(head.start));
        put_fixed64(to, 8, nanoseconds(head.end));
        // Sampled (W3C Trace Context), and whether the parent is remote.
        let remote = if head.is_remote { SpanFlags::ContextIsRemoteMask as u32 } else { 0 };
        let flags = 1 | SpanFlags::ContextHasIsRemoteMask as u32 | remote;
        encode_key(16, WireType::ThirtyTwoBit, to);
        to.extend(flags.to_le_bytes());
        SpanWriter(self)
    }

    /// Returns an `ExportTraceServiceRequest` of all spans.
    pub(super) fn request(&self, resource: Resource) -> Bytes {
        let resource = ResourceSpans { resource: Some(resource), ..ResourceSpans::default() }.encode_to_vec();
        let scope = ScopeSpans { scope: Some(scope()), ..ScopeSpans::default() }.encode_to_vec();
        let of_scope = scope.len() + self.bytes.len();
        let of_resource = resource.len() + length_of_bytes(of_scope);
        let mut request = Vec::with_capacity(length_of_bytes(of_resource));
        put_length(&mut request, 1, of_resource);
        request.extend(resource);
        put_length(&mut request, 2, of_scope);
        request.extend(scope);
        request.extend(&self.bytes);
        request.into()
    }
}

impl SpanWriter<'_> {
    /// Ends the span. `error` is the description of its error, which may be empty, or None if it has none.
    pub(super) fn finish(self, error: Option<&str>) {
        let EncodedSpans { bytes, count, span, .. } = self.0;
        if let Some(description) = error {
            // The code takes two bytes.
            put_length(span, 15, 2 + length_of_bytes(description.len()));
            put_bytes(span, 2, description.as_bytes());
            put_number(span, 3, StatusCode::Error as u64);
        }
        put_bytes(bytes, 2, span);
        *count += 1;
    }

    /// Begins an attribute whose encoded value has this length.
    fn attribute(&mut self, key: &str, value: usize) -> &mut Vec<u8> {
        let to = &mut self.0.span;
        put_length(to, 9, length_of_bytes(key.len()) + length_of_bytes(value));
        put_bytes(to, 1, key.as_bytes());
        put_length(to, 2, value);
        to
    }
}

impl Attributes for SpanWriter<'_> {
    fn text(&mut self, key: &'static str, value: &str) {
        let to = self.attribute(key, length_of_bytes(value.len()));
        put_bytes(to, 1, value.as_bytes());
    }

    fn shown(&mut self, key: &'static str, value: &dyn Display) {
        let mut text = std::mem::take(&mut self.0.text);
        text.clear();
        // Writing to memory cannot fail.
        let _ = write!(text, "{value}");
        self.text(key, &text);
        self.0.text = text;
    }

    fn boolean(&mut self, key: &'static str, value: bool) {
        let to = self.attribute(key, 2);
        put_number(to, 2, value.into());
    }

    fn number(&mut self, key: &'static str, value: i64) {
        // Negative numbers have ten bytes (Protocol Buffers encoding, "Signed Integers").
        let value = value as u64;
        let to = self.attribute(key, 1 + encoded_len_varint(value));
        put_number(to, 3, value);
    }
}

/// Returns the length of a field with this many bytes, whose number is below 16.
fn length_of_bytes(length: usize) -> usize {
    1 + encoded_len_varint(length as u64) + length
}

fn put_length(to: &mut Vec<u8>, field: u32, length: usize) {
    encode_key(field, WireType::LengthDelimited, to);
    encode_varint(length as u64, to);
}

fn put_bytes(to: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    put_length(to, field, bytes.len());
    to.extend_from_slice(bytes);
}

fn put_number(to: &mut Vec<u8>, field: u32, value: u64) {
    encode_key(field, WireType::Varint, to);
    encode_varint(value, to);
}

fn put_fixed64(to: &mut Vec<u8>, field: u32, value: u64) {
    encode_key(field, WireType::SixtyFourBit, to);
    to.extend_from_slice(&value.to_le_bytes());
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
impl EncodedSpans {
    /// Returns them as messages.
    pub(super) fn decoded(&self) -> Vec<opentelemetry_proto::tonic::trace::v1::Span> {
        ScopeSpans::decode(&self.bytes[..]).unwrap().spans
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
    use opentelemetry_proto::tonic::trace::v1::{Span, Status};

    use super::*;

    fn head(name: &str) -> SpanHead<'_> {
        SpanHead {
            trace: TraceId::new(0xabc).unwrap(),
            span: SpanId::new(7).unwrap(),
            parent: None,
            is_remote: false,
            trace_state: "",
            name,
            kind: SpanKind::Client,
            start: UNIX_EPOCH + Duration::from_secs(1),
            end: UNIX_EPOCH + Duration::from_secs(2),
        }
    }

    #[test]
    fn every_field_and_kind_of_value_is_read_by_a_library() {
        let long = "x".repeat(300);
        let mut spans = EncodedSpans::default();
        spans.begin(&head("plain")).finish(None);
        let remote = SpanHead {
            parent: SpanId::new(8),
            is_remote: true,
            trace_state: "a=b",
            kind: SpanKind::Server,
            ..head(&long)
        };
        let mut span = spans.begin(&remote);
        span.text("empty", "");
        span.text("long", &long);
        span.shown("shown", &format_args!("{}-{}", 1, 2));
        span.number("zero", 0);
        span.number("negative", -1);
        span.number("large", i64::MAX);
        span.boolean("true", true);
        span.boolean("false", false);
        span.finish(Some("why"));
        spans.begin(&head("failed")).finish(Some(""));
        assert_eq!(spans.items(), 3);
        let resource = Resource { dropped_attributes_count: 3, ..Resource::default() };
        let request = ExportTraceServiceRequest::decode(spans.request(resource.clone())).unwrap();
        let [of_resource] = &request.resource_spans[..] else { panic!("{request:?}") };
        assert_eq!(of_resource.resource.as_ref(), Some(&resource));
        let [of_scope] = &of_resource.scope_spans[..] else { panic!("{request:?}") };
        assert_eq!(of_scope.scope.as_ref(), Some(&scope()));
        let value = |value| Some(AnyValue { value: Some(value) });
        let attribute =
            |key: &str, of: Value| KeyValue { key: key.into(), value: value(of), ..KeyValue::default() };
        let plain = Span {
            trace_id: 0xabc_u128.to_be_bytes().into(),
            span_id: 7_u64.to_be_bytes().into(),
            name: "plain".into(),
            kind: SpanKind::Client.into(),
            start_time_unix_nano: 1_000_000_000,
            end_time_unix_nano: 2_000_000_000,
            flags: 0x101,
            ..Span::default()
        };
        let full = Span {
            parent_span_id: 8_u64.to_be_bytes().into(),
            trace_state: "a=b".into(),
            name: long.clone(),
            kind: SpanKind::Server.into(),
            flags: 0x301,
            attributes: vec![
                attribute("empty", Value::StringValue(String::new())),
                attribute("long", Value::StringValue(long)),
                attribute("shown", Value::StringValue("1-2".into())),
                attribute("zero", Value::IntValue(0)),
                attribute("negative", Value::IntValue(-1)),
                attribute("large", Value::IntValue(i64::MAX)),
                attribute("true", Value::BoolValue(true)),
                attribute("false", Value::BoolValue(false)),
            ],
            status: Some(Status { message: "why".into(), code: StatusCode::Error.into() }),
            ..plain.clone()
        };
        let failed = Span {
            name: "failed".into(),
            status: Some(Status { message: String::new(), code: StatusCode::Error.into() }),
            ..plain.clone()
        };
        assert_eq!(of_scope.spans, [plain, full, failed]);
    }
}
