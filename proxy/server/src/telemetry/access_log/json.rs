//! One JSON object (RFC 8259), which is written field by field.
//!
//! Used for access log lines, of which there is one for each request: a serializer that does not know that names and most values
//! need no escaping costs four times as much.

use std::fmt::Display;
use std::io::Write as _;
use std::net::SocketAddr;

use super::milliseconds::Milliseconds;

/// An object that is appended to a line. It is closed by [`Object::end`].
pub(super) struct Object<'line> {
    line: &'line mut Vec<u8>,
    separator: &'static str,
}

impl<'line> Object<'line> {
    /// Begins an object at the end of `line`.
    pub(super) fn begin(line: &'line mut Vec<u8>) -> Self {
        Self { line, separator: "{\"" }
    }

    /// Writes a string, which may contain any characters. Leaves the field out if it is empty.
    pub(super) fn text(&mut self, name: &'static str, value: &str) {
        if value.is_empty() {
            return;
        }
        self.name(name);
        if value.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
            // Writing to memory cannot fail.
            let _ = serde_json::to_writer(&mut *self.line, value);
        } else {
            self.line.push(b'"');
            self.line.extend_from_slice(value.as_bytes());
            self.line.push(b'"');
        }
    }

    /// Writes an address with its port.
    pub(super) fn address(&mut self, name: &'static str, value: SocketAddr) {
        let SocketAddr::V4(value) = value else { return self.plain(name, value) };
        self.name(name);
        let mut before = b'"';
        for octet in value.ip().octets() {
            self.line.push(std::mem::replace(&mut before, b'.'));
            self.digits(octet.into());
        }
        self.line.push(b':');
        self.digits(value.port().into());
        self.line.push(b'"');
    }

    /// Writes a number in hexadecimal, as a string.
    pub(super) fn hexadecimal(&mut self, name: &'static str, big_endian: &[u8]) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.name(name);
        self.line.push(b'"');
        for byte in big_endian {
            self.line.extend([byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)]));
        }
        self.line.push(b'"');
    }

    /// Writes a string that needs no escaping.
    pub(super) fn plain(&mut self, name: &'static str, value: impl Display) {
        self.name(name);
        // Writing to memory cannot fail.
        let _ = write!(self.line, "\"{value}\"");
    }

    /// Writes a whole number.
    pub(super) fn number(&mut self, name: &'static str, value: u64) {
        self.name(name);
        self.digits(value);
    }

    /// Writes a time in milliseconds.
    pub(super) fn milliseconds(&mut self, name: &'static str, value: Milliseconds) {
        self.name(name);
        value.write(self.line);
    }

    /// Closes the object.
    pub(super) fn end(self) {
        self.line.push(b'}');
    }

    fn digits(&mut self, value: u64) {
        self.line.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    fn name(&mut self, name: &'static str) {
        self.line.extend_from_slice(std::mem::replace(&mut self.separator, ",\"").as_bytes());
        self.line.extend_from_slice(name.as_bytes());
        self.line.extend_from_slice(b"\":");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_and_numbers_are_written_as_elsewhere() {
        for address in ["10.0.0.255:1", "127.0.0.1:65535", "[fd00::1]:80"] {
            let mut line = Vec::new();
            let mut object = Object::begin(&mut line);
            object.address("address", address.parse().unwrap());
            object.hexadecimal("id", &0x0123_4567_89ab_cdef_u64.to_be_bytes());
            object.end();
            let expected = format!("{{\"address\":\"{address}\",\"id\":\"0123456789abcdef\"}}");
            assert_eq!(String::from_utf8(line).unwrap(), expected);
        }
    }

    proptest! {
        #[test]
        fn any_string_is_read_back(value in any::<String>()) {
            let mut line = Vec::new();
            let mut object = Object::begin(&mut line);
            object.number("before", 1);
            object.text("value", &value);
            object.end();
            let read: serde_json::Value = serde_json::from_slice(&line).unwrap();
            prop_assert_eq!(read["value"].as_str().unwrap_or_default(), value.as_str());
            prop_assert!(line.iter().all(|byte| *byte >= b' '), "one line");
        }
    }
}
