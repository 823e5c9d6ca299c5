//! A request's place in a trace: read from the client's headers, written to the headers of each attempt.
//!
//! [`Propagators`] are the formats that are read and written. The client's decision about sampling, if there is one, is an
//! input of [`Sampling`]. A malformed header is ignored.

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};
use outrigger_core::record::Direction;
#[cfg(doc)]
use outrigger_core::trace::Sampling;
use outrigger_core::trace::{B3, Propagators, SpanId, TraceContext, TraceId, Tracing};

use super::trace_parent::Incoming;
use crate::codec::field_value;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3_SINGLE: HeaderName = HeaderName::from_static("b3");
const B3_TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// A request's place in a trace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trace {
    pub(super) context: TraceContext,
    spans: Spans,
    propagators: Propagators,
    received: Received,
}

/// The spans that this proxy creates for a request if it is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spans {
    /// None: no spans are exported.
    Nothing,
    /// One SERVER span: the request goes to the application.
    Server,
    /// One CLIENT span for each attempt: the request comes from the application.
    Client,
    /// Both: the proxy is a gateway.
    ServerAndClient,
}

impl Spans {
    /// Returns the spans of requests of that direction. `exported` says whether spans are exported.
    pub(super) fn of(direction: Direction, exported: bool) -> Self {
        match direction {
            _ if !exported => Self::Nothing,
            Direction::Inbound => Self::Server,
            Direction::Outbound => Self::Client,
            Direction::Unspecified => Self::ServerAndClient,
        }
    }
}

/// The formats in which the client sent trace context.
#[derive(Debug, Clone, Copy, Default)]
struct Received {
    w3c: bool,
    b3_single: bool,
    b3_multi: bool,
}

impl Trace {
    /// Reads the client's context, or begins a trace.
    pub(super) fn begin(headers: &mut HeaderMap, tracing: Tracing, spans: Spans) -> Self {
        let Tracing { sampling, propagators } = tracing;
        let Incoming { w3c, has_state, b3_single, b3_multi } = Incoming::read(headers);
        let w3c = w3c.filter(|_| propagators.trace_context);
        let b3 = |parent: Option<_>| parent.filter(|_| propagators.b3 != B3::Off);
        let (b3_single, b3_multi) = (b3(b3_single), b3(b3_multi));
        if has_state && w3c.is_some() {
            join(headers, &TRACESTATE);
        } else if has_state && propagators.trace_context {
            // W3C Trace Context section 3.3: tracestate means nothing without its traceparent.
            headers.remove(TRACESTATE);
        }
        let received =
            Received { w3c: w3c.is_some(), b3_single: b3_single.is_some(), b3_multi: b3_multi.is_some() };
        let parent = w3c.or(b3_single).or(b3_multi).unwrap_or_default();
        let (trace, parent_span) = match parent.ids {
            Some((trace, span)) => (trace, Some(span)),
            None => (new_trace(), None),
        };
        let span = match parent_span {
            Some(parent) if spans == Spans::Nothing => parent,
            _ => new_span(),
        };
        let sampled = sampling.holds(trace, parent.sampled);
        let context = TraceContext { trace, span, parent: parent_span, sampled };
        Self { context, spans, propagators, received }
    }

    /// Returns the span ID that the upstream of an attempt receives. `before` is the number of attempts before it.
    pub(super) fn attempt_span(&self, before: u32) -> SpanId {
        let own = match self.spans {
            Spans::Nothing | Spans::Server => false,
            Spans::Client => before > 0,
            Spans::ServerAndClient => true,
        };
        // A span that is not sampled is not exported: its ID costs no random number.
        if own && self.context.sampled { new_span() } else { self.context.span }
    }

    /// Writes `span` as the parent of what the upstream does.
    pub(super) fn write(&self, headers: &mut HeaderMap, span: SpanId) {
        let TraceContext { trace, parent, sampled, .. } = self.context;
        if self.spans == Spans::Nothing && parent.is_some() {
            // A proxy that does not take part in a trace forwards its headers unchanged.
            return;
        }
        let (single, multi) = match self.propagators.b3 {
            B3::Off => (false, false),
            B3::AsReceived => (self.received.b3_single, self.received.b3_multi),
            B3::Always { single, multi } => (single, multi),
        };
        if self.propagators.trace_context {
            insert(headers, TRACEPARENT, hex_fields(trace, span, sampled, Form::W3c).as_bytes());
        }
        if single {
            insert(headers, B3_SINGLE, hex_fields(trace, span, sampled, Form::B3).as_bytes());
        } else if self.received.b3_single {
            headers.remove(B3_SINGLE);
        }
        if multi {
            insert(headers, B3_TRACE_ID, trace.to_string().as_bytes());
            insert(headers, B3_SPAN_ID, span.to_string().as_bytes());
            headers.insert(B3_SAMPLED, HeaderValue::from_static(if sampled { "1" } else { "0" }));
        } else if self.received.b3_multi {
            for name in [B3_TRACE_ID, B3_SPAN_ID, B3_SAMPLED] {
                headers.remove(name);
            }
        }
        if self.received.b3_multi {
            headers.remove(B3_PARENT_SPAN_ID);
            headers.remove(B3_FLAGS);
        }
    }

    /// Returns `tracestate` as the client sent it.
    pub(super) fn state<'a>(&self, headers: &'a HeaderMap) -> &'a str {
        let state = headers.get(TRACESTATE).filter(|_| self.received.w3c);
        state.and_then(|value| value.to_str().ok()).unwrap_or("")
    }
}

fn new_trace() -> TraceId {
    loop {
        if let Some(id) = TraceId::new(fastrand::u128(..)) {
            return id;
        }
    }
}

fn new_span() -> SpanId {
    loop {
        if let Some(id) = SpanId::new(fastrand::u64(..)) {
            return id;
        }
    }
}

/// Makes one field of several, which are one list (W3C Trace Context section 3.3.1.2).
fn join(headers: &mut HeaderMap, name: &HeaderName) {
    let mut values = headers.get_all(name).iter();
    let (Some(first), Some(second)) = (values.next(), values.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for value in std::iter::once(second).chain(values) {
        joined.push(b',');
        joined.extend_from_slice(value.as_bytes());
    }
    insert(headers, name.clone(), &joined);
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &[u8]) {
    if let Some(value) = field_value::copied(value) {
        headers.insert(name, value);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    W3c,
    B3,
}

/// The header's bytes: 55 for W3C, 51 for B3, without a heap allocation.
fn hex_fields(trace: TraceId, span: SpanId, sampled: bool, form: Form) -> Line {
    let mut line = Line { bytes: [0; 56], length: 0 };
    if form == Form::W3c {
        line.push(b"00-");
    }
    line.push_hex(&trace.get().to_be_bytes());
    line.push(b"-");
    line.push_hex(&span.get().to_be_bytes());
    line.push(match (form, sampled) {
        (Form::W3c, true) => b"-01",
        (Form::W3c, false) => b"-00",
        (Form::B3, true) => b"-1",
        (Form::B3, false) => b"-0",
    });
    line
}

/// A header value of at most 56 bytes, on the stack.
struct Line {
    bytes: [u8; 56],
    length: usize,
}

impl Line {
    fn push(&mut self, part: &[u8]) {
        self.bytes[self.length..self.length + part.len()].copy_from_slice(part);
        self.length += part.len();
    }

    fn push_hex(&mut self, number: &[u8]) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let places = self.bytes[self.length..][..2 * number.len()].chunks_exact_mut(2);
        for (place, byte) in places.zip(number) {
            place.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        self.length += 2 * number.len();
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests;
