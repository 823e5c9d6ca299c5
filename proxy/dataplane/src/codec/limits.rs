//! Limits on what one peer may cost: sizes, counts and times. They belong to the proxy, not to the configuration of a route.
//!
//! Fields are counted alike in HTTP/1 and HTTP/2, in requests and responses, in heads and trailer sections: each costs its
//! name, its value and 32 bytes (RFC 9113 section 6.5.2). `Host` or `:authority` counts as a field; the request target has its
//! own limit. A peer that is another sidecar is allowed [`SLACK`] more, because both sidecars add fields to what an
//! application was allowed to send.

use std::time::Duration;

/// The longest method that is served, in bytes. The longest registered one, `VERSION-CONTROL`, has 15.
pub(crate) const METHOD_BYTES: usize = 64;

/// How long a request's body is held back for a 100 response (RFC 9110 section 10.1.1 forbids waiting indefinitely).
pub(crate) const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// How long a response whose body failed waits for the client to read what preceded the failure.
pub(crate) const CUT_WITHIN: Duration = Duration::from_secs(1);

/// How long a client that connected just before a drain may take to send its first request.
pub(crate) const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// How often the kernel is asked whether a client is still there that has closed its side, or that has sent too much to read
/// up to its end.
pub(crate) const LOOK_AFTER: Duration = Duration::from_secs(1);

/// How long a response is still sent to a client that has closed its side, if it is unknown whether the client still reads.
/// There is no limit if it is known to read.
pub(crate) const HALF_CLOSED: Duration = Duration::from_secs(30);

/// What a field costs besides its name and value, in bytes (RFC 9113 section 6.5.2).
const FIELD_OVERHEAD: usize = 32;

/// How much larger a head may be between two sidecars than at the edge of the mesh.
pub(crate) const SLACK: FieldSize = FieldSize { fields: 10, bytes: 8 * 1024 };

/// Bytes of a request line besides its target, and of line ends and optional whitespace.
const LINE_BYTES: usize = 1024;

/// The size of a head's or a trailer section's fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FieldSize {
    /// The number of fields.
    pub(crate) fields: usize,
    /// The bytes of names and values, and 32 bytes per field.
    pub(crate) bytes: usize,
}

impl FieldSize {
    /// Adds a field whose name and value have these lengths.
    pub(crate) fn add(&mut self, name: usize, value: usize) {
        self.fields += 1;
        self.bytes += name + value + FIELD_OVERHEAD;
    }
}

/// The limits of one connection. Bodies are streamed and have no limit; how much of them is buffered is limited here.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Bytes of a head's fields, and of a trailer section's, each field counted with 32 bytes on top. More: 431.
    pub head_bytes: usize,
    /// Fields of a head, and of a trailer section. More: 431.
    pub fields: usize,
    /// Bytes of a request target. More: 414.
    pub target_bytes: usize,
    /// Interim (1xx) responses to one request. More: the exchange fails (an endless 1xx holds a request forever).
    pub interim_responses: usize,
    /// From the first byte of a request's head to its last. Longer: 408.
    pub head_timeout: Duration,
    /// How long a new connection may be open before its first byte.
    pub first_byte_timeout: Duration,
    /// How long a client may stall while it sends the body of a request that has no response yet; less if it trickles. Longer:
    /// 408.
    pub body_timeout: Duration,
    /// The same for a gRPC call.
    pub stream_timeout: Duration,
    /// How long a connection may be without a request.
    pub idle_timeout: Duration,
    /// The maximum lifetime of a connection; then it ends after the requests in flight. `None`: no limit.
    pub longest_life: Option<Duration>,
    /// The number of requests after which a connection ends. `None`: no limit.
    pub requests: Option<u32>,
    /// How long a client that reads nothing, or a trickle, may stall a response before it is cut off.
    pub write_timeout: Duration,
    /// Streams that one HTTP/2 client may have open.
    pub concurrent_streams: u32,
    /// HTTP/2 flow-control window of a stream, in bytes: what one stream may hold in memory.
    pub stream_window: u32,
    /// HTTP/2 flow-control window of a connection, in bytes: what one connection may hold in memory. It is many times that of
    /// a stream, so that a few stalled streams do not block the others.
    pub connection_window: u32,
    /// Limits on resets of HTTP/2 streams.
    pub resets: ResetLimits,
}

/// How many resets of HTTP/2 streams a peer may cause before its connection is closed. Resets are used by attacks
/// (CVE-2023-44487, CVE-2025-8671), but also by a legitimate peer that cancels many requests at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResetLimits {
    /// Burst of streams that may be reset without a response within 100 ms; a tenth of it is restored per second, and one by each
    /// response. `None`: no limit.
    pub early: Option<u32>,
    /// Streams reset by us whose late frames are ignored, for a second each. Late frames of other streams count as errors.
    pub remembered: usize,
    /// Resets sent because of the peer's errors, over the lifetime of the connection. `None`: no limit.
    pub errors: Option<usize>,
}

impl ResetLimits {
    /// For an unknown peer. An application that cancels its requests while this proxy was starved of CPU stays well below.
    pub(crate) const STRANGER: Self = Self { early: Some(1000), remembered: 512, errors: Some(1024) };
    /// For an authenticated peer of the mesh, and for upstreams: cancelling all requests at once, after a pause of either
    /// side, is not an attack.
    pub(crate) const MEMBER: Self = Self { early: None, remembered: 2048, errors: None };
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 60 * 1024,
            fields: 100,
            target_bytes: 8 * 1024,
            interim_responses: 16,
            head_timeout: Duration::from_secs(10),
            first_byte_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(60),
            stream_timeout: Duration::from_secs(300),
            idle_timeout: Duration::from_secs(300),
            longest_life: None,
            requests: None,
            write_timeout: Duration::from_secs(300),
            concurrent_streams: 256,
            stream_window: 256 * 1024,
            connection_window: 16 * 1024 * 1024,
            resets: ResetLimits::STRANGER,
        }
    }
}

impl Limits {
    /// Returns whether fields of that size may pass.
    pub(crate) fn allow(&self, size: FieldSize) -> bool {
        size.fields <= self.fields && size.bytes <= self.head_bytes
    }

    /// Returns the limits for another sidecar, which adds fields of its own to a head that is within ours.
    #[must_use]
    pub(crate) fn with_slack(self) -> Self {
        Self { head_bytes: self.head_bytes + SLACK.bytes, fields: self.fields + SLACK.fields, ..self }
    }

    /// Returns the limit above which fields of a section are not even stored, by RFC 9113 section 6.5.2, which counts the target and the
    /// pseudo-fields too. It is well above what [`Self::allow`] accepts.
    pub(crate) fn http2_list_bytes(&self) -> u32 {
        u32::try_from(self.written_bytes().saturating_mul(2)).unwrap_or(u32::MAX)
    }

    /// Returns the limit for a head as HTTP/1 writes it, including the start line. What [`Self::allow`] accepts is shorter,
    /// unless its sender wrote excessive whitespace.
    pub(crate) fn written_bytes(&self) -> usize {
        self.head_bytes + self.target_bytes + LINE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_costs_its_name_its_value_and_32_bytes() {
        let mut size = FieldSize::default();
        size.add("x-a".len(), 5);
        size.add("x-a".len(), 0);
        assert_eq!(size, FieldSize { fields: 2, bytes: 40 + 35 });
    }

    #[test]
    fn between_sidecars_a_head_may_have_grown() {
        let (entry, mesh) = (Limits::default(), Limits::default().with_slack());
        let largest = FieldSize { fields: 100, bytes: 60 * 1024 };
        let grown = FieldSize { fields: 110, bytes: 68 * 1024 };
        assert!(entry.allow(largest) && !entry.allow(grown) && mesh.allow(grown));
        assert!(!mesh.allow(FieldSize { fields: 111, ..grown }));
        assert!(!mesh.allow(FieldSize { bytes: grown.bytes + 1, ..grown }));
    }
}
