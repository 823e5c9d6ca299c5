//! What one peer may cost: sizes, counts and times. These are the proxy's own bounds, not configuration of a route.
//!
//! The fields of a head or of a trailer section are counted alike in HTTP/1 and HTTP/2, in requests and in responses: each
//! costs its name, its value and 32 bytes (RFC 9113 section 6.5.2). `Host` and `:authority` are one field like any other;
//! the request target has a limit of its own. A peer that is another sidecar gets [`SLACK`] on top, because both sidecars
//! add fields to what an application was allowed to send.

use std::time::Duration;

use http::HeaderMap;
use http::uri::Authority;

/// The longest method that is served, in bytes. The longest registered one, `VERSION-CONTROL`, has 15.
pub(crate) const METHOD_BYTES: usize = 64;

/// How long a request's body is held back for a 100 that was asked for (RFC 9110 section 10.1.1 forbids to wait without
/// end).
pub(crate) const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// How long a response that breaks off waits for its client to take what came before.
pub(crate) const CUT_WITHIN: Duration = Duration::from_secs(1);

/// How long a client that connected just before a drain may take to send its first request.
pub(crate) const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// How often the kernel is asked about a client that has closed its side, or of which too much is unread to see its end.
pub(crate) const LOOK_AFTER: Duration = Duration::from_secs(1);

/// How long a client that has closed its side is owed an answer when nobody can say whether it still reads. One that is known
/// to read is owed it for as long as it takes.
pub(crate) const HALF_CLOSED: Duration = Duration::from_secs(30);

/// What a field costs besides its name and value, in bytes (RFC 9113 section 6.5.2).
const FIELD_OVERHEAD: usize = 32;

/// How much more a head may have between two sidecars than at the entry of the mesh.
pub(crate) const SLACK: FieldSize = FieldSize { fields: 10, bytes: 8 * 1024 };

/// Bytes of a request line besides its target, and of the line ends and optional white space that a sender may write.
const LINE_BYTES: usize = 1024;

/// The size of a head's or a trailer section's fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FieldSize {
    /// How many there are.
    pub(crate) fields: usize,
    /// Names and values, and 32 bytes for each field.
    pub(crate) bytes: usize,
}

impl FieldSize {
    /// Adds a field whose name and value have these lengths.
    pub(crate) fn add(&mut self, name: usize, value: usize) {
        self.fields += 1;
        self.bytes += name + value + FIELD_OVERHEAD;
    }

    /// The size of `fields`.
    pub(crate) fn of(fields: &HeaderMap) -> Self {
        let mut size = Self::default();
        for (name, value) in fields {
            size.add(name.as_str().len(), value.len());
        }
        size
    }

    /// With the host, which is not among the fields of a parsed head.
    pub(crate) fn with_host(mut self, authority: Option<&Authority>) -> Self {
        if let Some(authority) = authority {
            self.add("host".len(), authority.as_str().len());
        }
        self
    }
}

/// Bounds of one connection. Bodies have no bound: they are streamed, and what is buffered of them is bounded here.
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
    /// How long a client that has connected may say nothing at all.
    pub first_byte_timeout: Duration,
    /// How long a client may let us wait for the body of a request that was not answered yet, less when what it sends is
    /// a trickle. Longer: 408.
    pub body_timeout: Duration,
    /// The same for a gRPC call.
    pub stream_timeout: Duration,
    /// How long a connection may be without a request.
    pub idle_timeout: Duration,
    /// How long a connection may be there at all; then it ends when its requests are done. `None`: for ever.
    pub longest_life: Option<Duration>,
    /// Requests after which a connection ends. `None`: any number.
    pub requests: Option<u32>,
    /// How long a client that reads nothing, or a trickle, may hold an answer before it is cut off.
    pub write_timeout: Duration,
    /// Streams that one HTTP/2 client may have open.
    pub concurrent_streams: u32,
    /// HTTP/2 flow-control window of a stream, in bytes: what one stream may hold in memory.
    pub stream_window: u32,
    /// HTTP/2 flow-control window of a connection, in bytes: what one connection may hold in memory. It is many times that
    /// of a stream, so that a few streams that stand still hold up no other.
    pub connection_window: u32,
    /// What resets of HTTP/2 streams may cost.
    pub resets: ResetLimits,
}

/// How many resets of HTTP/2 streams a peer may cause before its connection is closed. Resets are how attacks are made
/// (CVE-2023-44487, CVE-2025-8671), and how a peer that gives many requests up at once says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResetLimits {
    /// Streams that were reset before anybody looked at them, at once; a tenth of it comes back every second. `None`: any
    /// number.
    pub unseen: Option<u32>,
    /// Streams that we reset and whose late frames are ignored, for a second each. Late frames of others count as errors.
    pub remembered: usize,
    /// Resets that the peer's errors made us send, over the life of the connection. `None`: any number.
    pub errors: Option<usize>,
}

impl ResetLimits {
    /// For a peer that nobody knows. An application that gives up what it asked while this proxy had no CPU is well below.
    pub(crate) const STRANGER: Self = Self { unseen: Some(1000), remembered: 512, errors: Some(1024) };
    /// For a peer that proved to be of the mesh, and for servers that we chose ourselves: one that gives up all its requests
    /// at once, after a pause of either side, is no attack.
    pub(crate) const MEMBER: Self = Self { unseen: None, remembered: 2048, errors: None };
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
    /// Whether fields of that size may pass.
    pub(crate) fn allow(&self, size: FieldSize) -> bool {
        size.fields <= self.fields && size.bytes <= self.head_bytes
    }

    /// The limits towards another sidecar, which has added fields of its own to what was within ours.
    #[must_use]
    pub(crate) fn with_slack(self) -> Self {
        Self { head_bytes: self.head_bytes + SLACK.bytes, fields: self.fields + SLACK.fields, ..self }
    }

    /// What the h2 crate is told to take, in its own count, which includes the target and the pseudo-fields. Well above what
    /// [`Self::allow`] lets pass: whatever the crate refuses it answers by itself, and nobody would record it.
    pub(crate) fn http2_list_bytes(&self) -> u32 {
        u32::try_from(self.written_bytes().saturating_mul(2)).unwrap_or(u32::MAX)
    }

    /// Bytes of a head as HTTP/1 writes it, start line included. Whatever [`Self::allow`] lets pass is shorter, unless its
    /// sender wrote it with an excess of white space.
    pub(crate) fn written_bytes(&self) -> usize {
        self.head_bytes + self.target_bytes + LINE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn a_field_costs_its_name_its_value_and_32_bytes() {
        let mut fields = HeaderMap::new();
        fields.append(HeaderName::from_static("x-a"), HeaderValue::from_static("12345"));
        fields.append(HeaderName::from_static("x-a"), HeaderValue::from_static(""));
        assert_eq!(FieldSize::of(&fields), FieldSize { fields: 2, bytes: 40 + 35 });
        let host = Authority::from_static("cart:80");
        assert_eq!(FieldSize::of(&fields).with_host(Some(&host)), FieldSize { fields: 3, bytes: 75 + 43 });
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
