//! Trace identity: which trace a request belongs to, which span is the parent, whether it is sampled.
//!
//! The values of W3C Trace Context (traceparent, section 3.2). Reading and writing headers is the data path's.

use std::fmt;

use crate::percentage::Percentage;

/// A trace's 16 bytes, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(u128);

/// A span's 8 bytes, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(u64);

impl TraceId {
    /// `None` for zero, which W3C Trace Context section 3.2.2.3 declares invalid.
    pub fn new(value: u128) -> Option<Self> {
        (value != 0).then_some(Self(value))
    }

    /// The number.
    pub fn get(self) -> u128 {
        self.0
    }
}

impl SpanId {
    /// `None` for zero, which W3C Trace Context section 3.2.2.4 declares invalid.
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

/// Who decides whether a trace is recorded (OpenTelemetry SDK, "Built-in samplers").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    /// The share of the traces that are recorded where the caller has not decided, or is not heard.
    pub ratio: Percentage,
    /// Whether a caller that has decided is heard (`ParentBased`). Where not, traces may have holes.
    pub by_parent: bool,
}

impl Sampling {
    /// Every trace, but those that a caller said are not recorded.
    pub const ALL: Self = Self { ratio: Percentage::ALL, by_parent: true };

    /// Whether `trace` is recorded, of which the caller has said `parent`. Every proxy decides alike about one trace.
    pub fn holds(self, trace: TraceId, parent: Option<bool>) -> bool {
        match parent {
            Some(sampled) if self.by_parent => sampled,
            _ => self.ratio.holds(trace.get() as u32),
        }
    }
}

/// A request's place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The span that describes this request here.
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
    fn a_caller_decides_where_it_is_heard() {
        let trace = TraceId::new(7).unwrap();
        let off = Sampling { ratio: Percentage::ZERO, ..Sampling::ALL };
        assert!(Sampling::ALL.holds(trace, None) && !Sampling::ALL.holds(trace, Some(false)));
        assert!(off.holds(trace, Some(true)) && !off.holds(trace, None));
        let deaf = |ratio| Sampling { ratio, by_parent: false };
        assert!(deaf(Percentage::ALL).holds(trace, Some(false)));
        assert!(!deaf(Percentage::ZERO).holds(trace, Some(true)));
    }
}
