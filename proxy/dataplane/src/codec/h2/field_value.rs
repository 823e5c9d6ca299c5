//! Rules for field values that the h2 crate does not check.

use http::HeaderMap;

/// Describes [`has_outer_whitespace`] in a failure.
pub(super) const OUTER_WHITESPACE: &str = "a field value begins or ends with whitespace";

/// Returns whether a value begins or ends with a space or tab: the message is malformed (RFC 9113 section 8.2.1).
pub(super) fn has_outer_whitespace(fields: &HeaderMap) -> bool {
    let is_whitespace = |byte: &u8| matches!(byte, b' ' | b'\t');
    fields.values().any(|value| {
        let value = value.as_bytes();
        value.first().is_some_and(is_whitespace) || value.last().is_some_and(is_whitespace)
    })
}
