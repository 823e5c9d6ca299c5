//! Failures on the data path: the reason, the side, and whether another attempt is safe.
//!
//! A failure is created where it is detected. Only [`crate::reason`] maps it to a status.

use std::fmt;

use crate::reason::Reason;

/// A request, attempt or connection that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What happened.
    pub reason: Reason,
    /// Which side caused it.
    pub side: Side,
    /// How far the request had come.
    pub reached: Reached,
    /// The underlying error and where it occurred. For the log, never sent to the client.
    pub detail: Box<str>,
    /// The error code with which an HTTP/2 peer reset the stream (RFC 9113 section 7). `None` for other failures.
    pub code: Option<u32>,
}

/// The side that caused a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client of this proxy.
    Downstream,
    /// The upstream of this proxy.
    Upstream,
    /// This proxy itself.
    Local,
}

/// How far a request had come when its attempt failed. Decides whether another attempt is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reached {
    /// No byte of it was written. Another attempt is safe for every method.
    NotWritten,
    /// The peer states that it did not process it: REFUSED_STREAM, or a stream above the last stream ID of a GOAWAY
    /// (RFC 9113 sections 8.7 and 6.8). Another attempt is safe for every method.
    NotProcessed,
    /// It may have been processed. Another attempt is safe for idempotent methods only (RFC 9110 section 9.2.2).
    Maybe,
    /// Bytes of the response were already relayed. Another attempt is impossible.
    ResponseStarted,
}

impl Failure {
    /// Creates a failure that the client caused.
    pub fn downstream(reason: Reason, detail: impl fmt::Display) -> Self {
        Self::new(reason, Side::Downstream, Reached::NotWritten, detail)
    }

    /// Creates a failure of the upstream; `reached` is how far the request had come there.
    pub fn upstream(reason: Reason, reached: Reached, detail: impl fmt::Display) -> Self {
        Self::new(reason, Side::Upstream, reached, detail)
    }

    /// Creates a failure of this proxy, before anything was written upstream.
    pub fn local(reason: Reason, detail: impl fmt::Display) -> Self {
        Self::new(reason, Side::Local, Reached::NotWritten, detail)
    }

    fn new(reason: Reason, side: Side, reached: Reached, detail: impl fmt::Display) -> Self {
        Self { reason, side, reached, detail: detail.to_string().into(), code: None }
    }

    /// Sets the error code of the stream reset that caused the failure.
    #[must_use]
    pub fn with_code(self, code: Option<u32>) -> Self {
        Self { code, ..self }
    }

    /// Returns whether the request provably had no effect, so that a retry is safe for every method.
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
