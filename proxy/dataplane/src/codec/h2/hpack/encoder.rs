//! Encodes field sections (RFC 7541 section 3).
use http::{HeaderMap, Method, StatusCode};

/// The pseudo-fields of a section (RFC 9113 section 8.3).
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Pseudo<'a> {
    /// A request. `scheme` and `path` are absent for CONNECT without a protocol.
    Request {
        method: &'a Method,
        scheme: Option<&'a str>,
        authority: Option<&'a str>,
        path: Option<&'a str>,
        protocol: Option<&'a str>,
    },
    /// A response.
    Response(StatusCode),
    /// Trailers, which have none.
    None,
}

/// Encodes the field sections of one connection. What it returns must be sent in the order of the calls.
#[derive(Debug, Default)]
pub(in super::super) struct Encoder {}

impl Encoder {
    /// Applies the peer's SETTINGS_HEADER_TABLE_SIZE. The table has at most [`super::TABLE_BYTES`] whatever the peer allows.
    pub(in super::super) fn set_table_size(&mut self, bytes: u32) {
        todo!()
    }

    /// Appends the field block of a section to `out`. Sensitive values (`HeaderValue::is_sensitive`) are never indexed.
    pub(in super::super) fn encode(&mut self, pseudo: Pseudo<'_>, fields: &HeaderMap, out: &mut Vec<u8>) {
        todo!()
    }
}
