//! Parses the trace context of a request, in the formats of W3C Trace Context and B3.

use http::{HeaderMap, HeaderValue};
use outrigger_core::trace::{SpanId, TraceId};

/// The span that called, and the decision about sampling that came with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) ids: Option<(TraceId, SpanId)>,
    pub(super) sampled: Option<bool>,
}

/// The trace context in a head. A malformed field is ignored.
#[derive(Debug)]
pub(super) struct Incoming {
    /// `traceparent`.
    pub(super) w3c: Option<Parent>,
    /// Whether there is a `tracestate`, or several.
    pub(super) has_state: bool,
    /// `b3`.
    pub(super) b3_single: Option<Parent>,
    /// `x-b3-*`.
    pub(super) b3_multi: Option<Parent>,
}

impl Incoming {
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let fields = Fields::read(headers);
        Self {
            w3c: fields.traceparent.text().and_then(parse_traceparent),
            has_state: !matches!(fields.tracestate, Field::Absent),
            b3_single: fields.b3.text().and_then(parse_b3_single),
            b3_multi: parse_b3_multi(&fields),
        }
    }
}

/// The fields of a head that carry trace context, found in one pass.
#[derive(Default)]
struct Fields<'a> {
    traceparent: Field<'a>,
    tracestate: Field<'a>,
    b3: Field<'a>,
    b3_trace_id: Field<'a>,
    b3_span_id: Field<'a>,
    b3_sampled: Field<'a>,
    b3_flags: Field<'a>,
}

/// A field that may occur once. If it occurs twice, other services may follow either value, so neither is used
/// (W3C Trace Context section 3.2; B3 has no lists either).
#[derive(Default)]
enum Field<'a> {
    #[default]
    Absent,
    Once(&'a HeaderValue),
    Several,
}

impl<'a> Fields<'a> {
    fn read(headers: &'a HeaderMap) -> Self {
        let mut fields = Self::default();
        for (name, value) in headers {
            let field = match name.as_str() {
                "traceparent" => &mut fields.traceparent,
                "tracestate" => &mut fields.tracestate,
                "b3" => &mut fields.b3,
                "x-b3-traceid" => &mut fields.b3_trace_id,
                "x-b3-spanid" => &mut fields.b3_span_id,
                "x-b3-sampled" => &mut fields.b3_sampled,
                "x-b3-flags" => &mut fields.b3_flags,
                _ => continue,
            };
            *field = match field {
                Field::Absent => Field::Once(value),
                Field::Once(_) | Field::Several => Field::Several,
            };
        }
        fields
    }
}

impl<'a> Field<'a> {
    /// The value of a field that is there once.
    fn text(&self) -> Option<&'a str> {
        match self {
            Self::Once(value) => value.to_str().ok(),
            Self::Absent | Self::Several => None,
        }
    }
}

/// `00-<trace>-<span>-<flags>` (W3C Trace Context section 3.2). A higher version is read by its first four fields
/// (section 3.2.4, "Versioning of traceparent"); version ff is invalid.
fn parse_traceparent(value: &str) -> Option<Parent> {
    let mut fields = value.trim().split('-');
    let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let version = lower_hex(version, 2)?;
    if version == 0xff || (version == 0 && fields.next().is_some()) {
        return None;
    }
    let ids = (TraceId::new(lower_hex(trace, 32)?)?, SpanId::new(lower_hex(span, 16)? as u64)?);
    Some(Parent { ids: Some(ids), sampled: Some(lower_hex(flags, 2)? & 1 == 1) })
}

/// `<trace>-<span>[-<state>[-<parent>]]`, or a state alone. <https://github.com/openzipkin/b3-propagation>
fn parse_b3_single(value: &str) -> Option<Parent> {
    if let Some(sampled) = b3_state(value) {
        return Some(Parent { ids: None, sampled: Some(sampled) });
    }
    let mut fields = value.split('-');
    let ids = b3_ids(fields.next()?, fields.next()?)?;
    let sampled = match fields.next() {
        Some(state) => Some(b3_state(state)?),
        None => None,
    };
    Some(Parent { ids: Some(ids), sampled })
}

fn parse_b3_multi(fields: &Fields<'_>) -> Option<Parent> {
    let sampled = match (fields.b3_flags.text(), fields.b3_sampled.text()) {
        (Some("1"), _) => Some(true),
        (_, Some(state)) => b3_state(state),
        _ => None,
    };
    let ids =
        fields.b3_trace_id.text().zip(fields.b3_span_id.text()).and_then(|(trace, span)| b3_ids(trace, span));
    (ids.is_some() || sampled.is_some()).then_some(Parent { ids, sampled })
}

/// Trace IDs of B3 have 64 or 128 bits.
fn b3_ids(trace: &str, span: &str) -> Option<(TraceId, SpanId)> {
    let trace = if trace.len() == 16 { lower_hex(trace, 16) } else { lower_hex(trace, 32) }?;
    Some((TraceId::new(trace)?, SpanId::new(lower_hex(span, 16)? as u64)?))
}

/// `d` (debug) implies sampling; `true` and `false` are from before the specification.
fn b3_state(value: &str) -> Option<bool> {
    match value {
        "1" | "d" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

fn lower_hex(field: &str, digits: usize) -> Option<u128> {
    if field.len() != digits {
        return None;
    }
    field.bytes().try_fold(0, |value: u128, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}
