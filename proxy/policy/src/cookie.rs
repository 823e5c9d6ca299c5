//! A cookie that the proxy reads from requests and generates for clients (RFC 6265).
//!
//! Used by the policies that remember something of a client. A cookie that may not stand in a field is refused when it is decoded.

use std::fmt::Write;
use std::time::Duration;

use http::{HeaderValue, header};

use crate::field::{Unusable, non_empty, unsupported};
use crate::header_match::Head;

/// The name of a cookie, and the attributes that clients get with its value.
#[derive(Debug, Clone)]
pub(crate) struct Cookie {
    name: Box<str>,
    /// What follows the value in `set-cookie`.
    tail: Box<str>,
}

impl Cookie {
    /// Creates a cookie. Without `ttl`, or with zero, it lasts as long as the session of the client; an empty `path` is left out. Returns an
    /// error for what may not stand in a `set-cookie` line, with the name of the field: `name`, `path` or `attributes[0].name`.
    pub(crate) fn new(
        name: String,
        ttl: Option<Duration>,
        path: &str,
        attributes: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, Unusable> {
        let name = non_empty("name", name)?;
        // The name of a cookie is a token (RFC 6265 section 4.1.1), as that of a header is.
        http::HeaderName::try_from(&name)
            .map_err(|_| Unusable::new("name", format_args!("{name:?} is no name of a cookie")))?;
        legal("path", path)?;
        let mut tail = String::new();
        if let Some(seconds) = ttl.map(|ttl| ttl.as_secs()).filter(|seconds| *seconds > 0) {
            let _ = write!(tail, "; Max-Age={seconds}");
        }
        if !path.is_empty() {
            let _ = write!(tail, "; Path={path}");
        }
        for (at, (name, value)) in attributes.enumerate() {
            let field = |of: &str| format!("attributes[{at}].{of}");
            unsupported(&field("name"), name.is_empty() || name.contains('='))?;
            legal(&field("name"), &name)?;
            legal(&field("value"), &value)?;
            let _ = write!(tail, "; {name}");
            if !value.is_empty() {
                let _ = write!(tail, "={value}");
            }
        }
        tail.push_str("; HttpOnly");
        Ok(Self { name: name.into(), tail: tail.into() })
    }

    /// Returns the `set-cookie` line with this value, or `None` if the value may not stand in a field.
    pub(crate) fn set(&self, value: &str) -> Option<HeaderValue> {
        HeaderValue::from_str(&format!("{}=\"{value}\"{}", self.name, self.tail)).ok()
    }

    /// Returns the value in a request, without the quotes that it may have (RFC 6265 section 4.1.1). `None` if it is empty.
    pub(crate) fn value<'a>(&self, head: &Head<'a>) -> Option<&'a [u8]> {
        let lines = head.headers.get_all(header::COOKIE).iter();
        let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
        let mut values = pairs.filter_map(|pair| {
            let pair = pair.trim_ascii();
            let value = pair.strip_prefix(self.name.as_bytes())?.strip_prefix(b"=")?;
            let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
            Some(unquoted.unwrap_or(value))
        });
        values.next().filter(|value| !value.is_empty())
    }
}

fn legal(field: &str, text: &str) -> Result<(), Unusable> {
    match text.bytes().any(|byte| !matches!(byte, b' '..0x7f) || byte == b';') {
        true => Err(Unusable::new(field, format_args!("{text:?} may not stand in a set-cookie line"))),
        false => Ok(()),
    }
}
