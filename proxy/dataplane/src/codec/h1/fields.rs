//! The field section of a message: line ends, names, values (RFC 9112 section 5). Of heads and of trailers alike.
//!
//! Values are slices of the bytes that were read; nothing is copied. A bare CR or LF, obs-fold, a space before the colon
//! and control characters are refused: each has made two parsers disagree.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use super::Malformed;
use crate::codec::limits::{FieldSize, Limits};

/// Fields that are parsed without an allocation for them; more are rare.
pub(crate) const USUAL_FIELDS: usize = 128;

/// Where the search for the end of a section has come to, so that bytes that drip in are looked at once.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Search {
    scanned: usize,
    line: usize,
}

impl Search {
    /// The length of the section with its empty line, once that is there. A line feed without a carriage return is refused.
    pub(crate) fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        while let Some(offset) = memchr::memchr(b'\n', &bytes[self.scanned..]) {
            let at = self.scanned + offset;
            if at == 0 || bytes[at - 1] != b'\r' {
                return Err(Malformed::Rule("a line ends in a bare LF"));
            }
            let empty = at - 1 == self.line;
            self.scanned = at + 1;
            self.line = at + 1;
            if empty {
                return Ok(Some(at + 1));
            }
        }
        self.scanned = bytes.len();
        Ok(None)
    }
}

/// Uninitialized slots for the fields that the parser finds.
pub(crate) struct Slots<'a> {
    usual: [MaybeUninit<httparse::Header<'a>>; USUAL_FIELDS],
    more: Vec<MaybeUninit<httparse::Header<'a>>>,
}

impl<'a> Slots<'a> {
    /// For as many fields as `limits` allow.
    pub(crate) fn new(limits: &Limits) -> Self {
        let more = if limits.fields > USUAL_FIELDS { limits.fields } else { 0 };
        Self {
            usual: [const { MaybeUninit::uninit() }; USUAL_FIELDS],
            more: std::iter::repeat_with(MaybeUninit::uninit).take(more).collect(),
        }
    }

    pub(crate) fn uninit(&mut self) -> &mut [MaybeUninit<httparse::Header<'a>>] {
        if self.more.is_empty() { &mut self.usual } else { &mut self.more }
    }
}

/// Returns whether the fields that were parsed are within `limits`.
pub(crate) fn check_size(parsed: &[httparse::Header<'_>], limits: &Limits) -> Result<(), Malformed> {
    let mut size = FieldSize::default();
    for field in parsed {
        size.add(field.name.len(), field.value.len());
    }
    if limits.allow(size) { Ok(()) } else { Err(Malformed::TooLarge) }
}

/// A parsed field as a name and a value that shares `section`.
pub(crate) fn field(
    section: &Bytes,
    field: &httparse::Header<'_>,
) -> Result<(HeaderName, HeaderValue), Malformed> {
    let name = HeaderName::from_bytes(field.name.as_bytes())
        .map_err(|_| Malformed::Rule("a field name is no token"))?;
    let value = HeaderValue::from_maybe_shared(section.slice_ref(field.value))
        .map_err(|_| Malformed::Rule("a field value holds a control character"))?;
    Ok((name, value))
}

/// What the parser's error means.
pub(crate) fn malformed(error: httparse::Error) -> Malformed {
    match error {
        httparse::Error::TooManyHeaders => Malformed::TooLarge,
        httparse::Error::HeaderName => {
            Malformed::Rule("a field name is no token, or a space is before its colon")
        }
        httparse::Error::HeaderValue => Malformed::Rule("a field value holds a control character"),
        httparse::Error::NewLine => Malformed::Rule("a line does not end in CR LF"),
        httparse::Error::Version => Malformed::Rule("the version is neither HTTP/1.1 nor HTTP/1.0"),
        httparse::Error::Status => Malformed::Rule("the status line is malformed"),
        httparse::Error::Token => Malformed::Rule("the start line holds what is no token"),
    }
}

/// The value of `Content-Length`: digits alone, once (RFC 9112 section 6.3).
pub(crate) fn content_length(before: Option<u64>, value: &[u8]) -> Result<u64, Malformed> {
    if before.is_some() {
        return Err(Malformed::Rule("more than one Content-Length"));
    }
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return Err(Malformed::Rule("Content-Length is no number"));
    }
    // At most 19 digits: fits.
    Ok(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_section_is_found_wherever_the_bytes_are_split() {
        let bytes = b"A: 1\r\nB: 2\r\n\r\nrest";
        for split in 0..bytes.len() {
            let mut search = Search::default();
            let first = search.end(&bytes[..split]).unwrap();
            let found = if first.is_some() { first } else { search.end(bytes).unwrap() };
            assert_eq!(found, Some(14), "{split}");
        }
        assert_eq!(Search::default().end(b"\r\n").unwrap(), Some(2));
    }

    #[test]
    fn a_bare_line_feed_is_refused() {
        for bytes in [&b"A: 1\nB: 2\r\n\r\n"[..], b"\n", b"A: 1\r\n\n"] {
            assert!(Search::default().end(bytes).is_err());
        }
    }

    #[test]
    fn a_length_is_digits_alone_and_once() {
        assert_eq!(content_length(None, b"0042"), Ok(42));
        for value in [&b""[..], b"+1", b"-1", b"0x10", b"1 ", b"1,1", b"1e3", b"99999999999999999999"] {
            assert!(content_length(None, value).is_err(), "{value:?}");
        }
        assert!(content_length(Some(1), b"1").is_err());
    }
}
