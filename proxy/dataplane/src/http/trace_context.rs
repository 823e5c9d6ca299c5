//! A request's place in a trace: read from the client's headers, written into each attempt's.
//!
//! W3C Trace Context (`traceparent`, `tracestate`) and B3 (`b3` or `x-b3-*`) are read; `traceparent` is always written,
//! and B3 too in the form in which the client spoke it. What the client decided about sampling, if anything, goes to
//! [`Sampling`]. A malformed header is no parent.

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};
use outrigger_core::trace::{Sampling, SpanId, TraceContext, TraceId};

use super::trace_parent::Incoming;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// A request's trace, and in which forms its client spoke of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trace {
    /// The context whose span is this request's server span.
    pub(super) context: TraceContext,
    spoken: Spoken,
}

#[derive(Debug, Clone, Copy, Default)]
struct Spoken {
    b3_single: bool,
    b3_multi: bool,
}

impl Trace {
    /// Reads the client's context, or begins a trace.
    pub(super) fn begin(headers: &mut HeaderMap, sampling: Sampling) -> Self {
        let Incoming { w3c, has_state, b3_single, b3_multi } = Incoming::read(headers);
        if has_state && w3c.is_some() {
            join(headers, &TRACESTATE);
        } else if has_state {
            // W3C Trace Context section 3.3: tracestate means nothing without its traceparent.
            headers.remove(TRACESTATE);
        }
        let spoken = Spoken { b3_single: b3_single.is_some(), b3_multi: b3_multi.is_some() };
        let parent = w3c.or(b3_single).or(b3_multi).unwrap_or_default();
        let (trace, parent_span) = match parent.ids {
            Some((trace, span)) => (trace, Some(span)),
            None => (new_trace(), None),
        };
        let sampled = sampling.holds(trace, parent.sampled);
        Self { context: TraceContext { trace, span: new_span(), parent: parent_span, sampled }, spoken }
    }

    /// A client span of this request, for one attempt.
    pub(super) fn attempt_span(&self) -> SpanId {
        // Nobody will see a span that is not sampled: the attempt keeps the server span's id and costs no random number.
        if self.context.sampled { new_span() } else { self.context.span }
    }

    /// Names `span` as the parent of what the upstream does.
    pub(super) fn write(&self, headers: &mut HeaderMap, span: SpanId) {
        let TraceContext { trace, sampled, .. } = self.context;
        insert(headers, TRACEPARENT, hex_fields(trace, span, sampled, Form::W3c).as_bytes());
        if self.spoken.b3_single {
            insert(headers, B3, hex_fields(trace, span, sampled, Form::B3).as_bytes());
        }
        if self.spoken.b3_multi {
            insert(headers, B3_TRACE_ID, trace.to_string().as_bytes());
            insert(headers, B3_SPAN_ID, span.to_string().as_bytes());
            headers.remove(B3_PARENT_SPAN_ID);
            headers.remove(B3_FLAGS);
            headers.insert(B3_SAMPLED, HeaderValue::from_static(if sampled { "1" } else { "0" }));
        }
    }
}

/// `tracestate` as the client sent it, for the spans.
pub(super) fn trace_state(headers: &HeaderMap) -> &str {
    headers.get(TRACESTATE).and_then(|value| value.to_str().ok()).unwrap_or("")
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
    if let Ok(value) = HeaderValue::from_bytes(value) {
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
    line.push_hex(trace.get(), 32);
    line.push(b"-");
    line.push_hex(u128::from(span.get()), 16);
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

    fn push_hex(&mut self, value: u128, digits: usize) {
        for digit in (0..digits).rev() {
            self.push(&[b"0123456789abcdef"[(value >> (digit * 4)) as usize & 15]]);
        }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use outrigger_core::percentage::Percentage;

    use super::*;

    const NONE: Sampling = Sampling { ratio: Percentage::ZERO, parent_based: true };

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_traceparent_is_continued_with_the_parents_decision() {
        let mut headers =
            headers(&[("traceparent", &format!("00-{TRACE}-{SPAN}-01")), ("tracestate", "a=b")]);
        let trace = Trace::begin(&mut headers, NONE);
        assert_eq!(trace.context.trace.to_string(), TRACE);
        assert_eq!(trace.context.parent.unwrap().to_string(), SPAN);
        assert!(trace.context.sampled);
        let span = trace.attempt_span();
        trace.write(&mut headers, span);
        assert_eq!(headers[TRACEPARENT], format!("00-{TRACE}-{span}-01"));
        assert_eq!(headers[TRACESTATE], "a=b");
        assert!(!headers.contains_key(B3), "b3 is written only to those who spoke it");
    }

    #[test]
    fn a_malformed_traceparent_begins_a_new_trace_without_its_tracestate() {
        for bad in [
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-01-x"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{SPAN}"),
            String::new(),
        ] {
            let mut headers = headers(&[("traceparent", &bad), ("tracestate", "a=b")]);
            let trace = Trace::begin(&mut headers, Sampling::ALL);
            assert_ne!(trace.context.trace.to_string(), TRACE, "{bad}");
            assert_eq!(trace.context.parent, None);
            assert!(trace.context.sampled && !headers.contains_key(TRACESTATE));
        }
    }

    #[test]
    fn two_parents_are_none_and_several_tracestates_are_one_list() {
        let (one, other) = (format!("00-{TRACE}-{SPAN}-01"), format!("00-{TRACE}-{}-00", "1".repeat(16)));
        for (name, first, second) in [
            ("traceparent", one.as_str(), other.as_str()),
            ("traceparent", one.as_str(), one.as_str()),
            ("b3", "0", "1"),
        ] {
            let mut twice = headers(&[("tracestate", "a=b")]);
            twice.append(name, first.parse().unwrap());
            twice.append(name, second.parse().unwrap());
            let trace = Trace::begin(&mut twice, Sampling::ALL);
            assert!(trace.context.trace.to_string() != TRACE && trace.context.parent.is_none());
            assert!(trace.context.sampled && !twice.contains_key(TRACESTATE), "{name}");
            trace.write(&mut twice, trace.attempt_span());
            assert_eq!(twice.get_all(TRACEPARENT).iter().count(), 1);
        }
        let mut lists = headers(&[("traceparent", &one), ("tracestate", "a=b")]);
        lists.append(TRACESTATE, HeaderValue::from_static("c=d"));
        Trace::begin(&mut lists, NONE);
        assert_eq!(lists.get_all(TRACESTATE).iter().collect::<Vec<_>>(), ["a=b,c=d"]);
        assert_eq!(trace_state(&lists), "a=b,c=d");
    }

    #[test]
    fn a_later_version_is_read_by_its_first_fields() {
        let mut headers = headers(&[("traceparent", &format!("01-{TRACE}-{SPAN}-01-more"))]);
        assert_eq!(Trace::begin(&mut headers, NONE).context.trace.to_string(), TRACE);
    }

    #[test]
    fn b3_is_read_and_written_in_the_form_it_came_in() {
        let mut single = headers(&[("b3", &format!("{TRACE}-{SPAN}-1-{SPAN}"))]);
        let trace = Trace::begin(&mut single, NONE);
        let span = trace.attempt_span();
        trace.write(&mut single, span);
        assert_eq!(single[B3], format!("{TRACE}-{span}-1"));

        let mut multi = headers(&[
            ("x-b3-traceid", "a3ce929d0e0e4736"),
            ("x-b3-spanid", SPAN),
            ("x-b3-sampled", "0"),
            ("x-b3-parentspanid", SPAN),
        ]);
        let trace = Trace::begin(&mut multi, Sampling::ALL);
        assert!(!trace.context.sampled);
        trace.write(&mut multi, trace.attempt_span());
        assert_eq!(multi[B3_TRACE_ID], "0000000000000000a3ce929d0e0e4736");
        assert_eq!((multi[B3_SAMPLED].to_str().unwrap(), multi.get(B3_PARENT_SPAN_ID)), ("0", None));
    }

    #[test]
    fn a_denial_without_ids_is_honoured() {
        let mut denied = headers(&[("b3", "0")]);
        assert!(!Trace::begin(&mut denied, Sampling::ALL).context.sampled);
    }

    #[test]
    fn traces_without_a_parent_are_sampled_by_ratio() {
        let half = Sampling { ratio: Percentage::from_millionths(500_000).unwrap(), ..Sampling::ALL };
        let sampled = (0..2000).filter(|_| Trace::begin(&mut HeaderMap::new(), half).context.sampled).count();
        assert!((800..1200).contains(&sampled), "{sampled} of 2000");
    }
}
