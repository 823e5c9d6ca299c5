//! One JSON object (RFC 8259), which is written field by field.
//!
//! Used for access log lines, of which there is one for each request: a serializer that does not know that names and most values
//! need no escaping costs four times as much.

use std::fmt::Display;
use std::io::Write as _;

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

    /// Writes a string that needs no escaping, such as an address or a number in hexadecimal.
    pub(super) fn plain(&mut self, name: &'static str, value: impl Display) {
        self.name(name);
        // Writing to memory cannot fail.
        let _ = write!(self.line, "\"{value}\"");
    }

    /// Writes a whole number.
    pub(super) fn number(&mut self, name: &'static str, value: u64) {
        self.name(name);
        self.line.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
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
