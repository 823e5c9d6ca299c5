//! HTTP/1.1 and HTTP/1.0 (RFC 9112): a server and a client over common parts.
//!
//! Reading: [`parse`] parses heads, [`framing`] bodies. Writing: [`write`] serializes both. [`buffered_stream`] moves the
//! bytes. What the RFC lets a recipient tolerate, and what two parsers could read differently, is refused.

#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod properties;
pub(crate) mod server;
mod responder;
mod next_request;
mod client_gone;
mod session;
mod response_body;
pub(crate) mod client;
mod sending;
mod transfer;
mod buffered_stream;
mod write;
mod parse;
mod framing;
mod fields;

pub(crate) use responder::Responder;
#[cfg(test)]
pub(crate) use session::Session;

/// Why bytes are not a valid message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// More fields, or a longer head, than the limit.
    TooLarge,
    /// A longer request target than the limit.
    TargetTooLong,
    /// A violated rule of the RFC.
    Rule(&'static str),
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the head is too large",
            Self::TargetTooLong => "the request target is too long",
            Self::Rule(rule) => rule,
        })
    }
}
