//! What went wrong on the data path, on whose side, and whether another try is safe.
//!
//! Made where the fact is known, mapped to a status in [`crate::reason`] alone.

use std::fmt;

use crate::reason::Reason;

/// A request, try or connection that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What happened.
    pub reason: Reason,
    /// Who caused it.
    pub side: Side,
    /// How far the request had come.
    pub reached: Reached,
    /// For the log, not for the client: the error beneath, with the place.
    pub detail: Box<str>,
    /// The error code with which an HTTP/2 peer reset the stream, if that is what happened (RFC 9113 section 7).
    pub code: Option<u32>,
}

/// Who caused a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client of this proxy.
    Downstream,
    /// What this proxy calls.
    Upstream,
    /// This proxy.
    Local,
}

/// How far a request had come when its try failed: what decides whether another try is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reached {
    /// No byte of it was written. Another try is safe for every method.
    NotWritten,
    /// The peer says that it did not process it: REFUSED_STREAM, or a stream above a GOAWAY's last
    /// (RFC 9113 sections 8.7 and 6.8). Another try is safe for every method.
    NotProcessed,
    /// It may have been processed. Another try is safe for idempotent methods only (RFC 9110 section 9.2.2).
    Maybe,
    /// Bytes of the response were already relayed. No other try is possible.
    ResponseStarted,
}

impl Failure {
    /// A failure that the client caused.
    pub fn downstream(reason: Reason, detail: impl fmt::Display) -> Self {
        Self::new(reason, Side::Downstream, Reached::NotWritten, detail)
    }

    /// A failure of what this proxy called, and how far the request had come there.
    pub fn upstream(reason: Reason, reached: Reached, detail: impl fmt::Display) -> Self {
        Self::new(reason, Side::Upstream, reached, detail)
    }

    /// A failure of this proxy before anything was written upstream.
    pub fn local(reason: Reason, detail: impl fmt::Display) -> Self {
        Self::new(reason, Side::Local, Reached::NotWritten, detail)
    }

    fn new(reason: Reason, side: Side, reached: Reached, detail: impl fmt::Display) -> Self {
        Self { reason, side, reached, detail: detail.to_string().into(), code: None }
    }

    /// The same failure, caused by a reset of the stream with that code.
    #[must_use]
    pub fn with_code(self, code: Option<u32>) -> Self {
        Self { code, ..self }
    }

    /// Whether the request provably had no effect, so that any method may be tried again.
    pub fn never_processed(&self) -> bool {
        matches!(self.reached, Reached::NotWritten | Reached::NotProcessed)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.name(), self.detail)
    }
}

impl std::error::Error for Failure {}
