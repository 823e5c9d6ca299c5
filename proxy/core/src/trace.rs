//! Trace context: the trace that a request belongs to, its parent span, and whether it is sampled.
//!
//! These are the values of W3C Trace Context (traceparent, section 3.2). The data path reads and writes the headers.

use std::fmt;

use crate::percentage::Percentage;

/// A trace ID: 16 bytes, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(u128);

/// A span ID: 8 bytes, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(u64);

impl TraceId {
    /// Returns `None` for zero, which is invalid (W3C Trace Context section 3.2.2.3).
    pub fn new(value: u128) -> Option<Self> {
        (value != 0).then_some(Self(value))
    }

    /// The number.
    pub fn get(self) -> u128 {
        self.0
    }
}

impl SpanId {
    /// Returns `None` for zero, which is invalid (W3C Trace Context section 3.2.2.4).
    pub fn new(value: u64) -> Option<Self> {
        (value != 0).then_some(Self(value))
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// How it is decided whether a trace is sampled (OpenTelemetry SDK, "Built-in samplers").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    /// The share of traces that are sampled if the caller has not decided, or if its decision is ignored.
    pub ratio: Percentage,
    /// Whether the caller's decision is followed (`ParentBased`). If not, traces may be incomplete.
    pub parent_based: bool,
}

impl Sampling {
    /// Samples every trace, except those that the caller decided not to sample.
    pub const ALL: Self = Self { ratio: Percentage::ALL, parent_based: true };

    /// Returns whether `trace` is sampled. `parent` is the caller's decision. Every proxy with the same settings makes the same
    /// decision about one trace.
    pub fn holds(self, trace: TraceId, parent: Option<bool>) -> bool {
        match parent {
            Some(sampled) if self.parent_based => sampled,
            _ => self.ratio.holds(trace.get() as u32),
        }
    }
}

/// The formats of trace context that are read from requests and written to the requests of attempts (`OTEL_PROPAGATORS`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Propagators {
    /// W3C Trace Context: `traceparent` and `tracestate`. It precedes B3.
    pub trace_context: bool,
    /// B3: `b3`, or `x-b3-traceid` and others.
    pub b3: B3,
}

impl Propagators {
    /// Reads both formats, writes W3C Trace Context, and B3 to the upstreams of clients that use it.
    pub const DEFAULT: Self = Self { trace_context: true, b3: B3::AsReceived };
}

/// Whether B3 is used. If it is, both of its forms are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum B3 {
    /// It is neither read nor written.
    Off,
    /// It is written in the form in which it was received, if it was received.
    AsReceived,
    /// It is always written, in these forms.
    Always {
        /// `b3`
        single: bool,
        /// `x-b3-*`
        multi: bool,
    },
}

/// How traces are continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tracing {
    /// Which traces are sampled.
    pub sampling: Sampling,
    /// The formats of trace context.
    pub propagators: Propagators,
}

impl Tracing {
    /// Samples every trace, in the default formats.
    pub const DEFAULT: Self = Self { sampling: Sampling::ALL, propagators: Propagators::DEFAULT };
}

/// A request's trace context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The span of the request: the SERVER span if the proxy serves the request, else the CLIENT span of the first attempt. The
    /// caller's span if the proxy exports no spans.
    pub span: SpanId,
    /// The caller's span, if the caller sent one.
    pub parent: Option<SpanId>,
    /// Whether spans of this trace are recorded.
    pub sampled: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_decision_applies_only_if_parent_based() {
        let trace = TraceId::new(7).unwrap();
        let off = Sampling { ratio: Percentage::ZERO, ..Sampling::ALL };
        assert!(Sampling::ALL.holds(trace, None) && !Sampling::ALL.holds(trace, Some(false)));
        assert!(off.holds(trace, Some(true)) && !off.holds(trace, None));
        let deaf = |ratio| Sampling { ratio, parent_based: false };
        assert!(deaf(Percentage::ALL).holds(trace, Some(false)));
        assert!(!deaf(Percentage::ZERO).holds(trace, Some(true)));
    }
}
