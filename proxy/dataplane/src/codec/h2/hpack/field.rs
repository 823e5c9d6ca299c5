//! A field, parsed and checked: its name, its value by the type that the name requires, or the rule that one of them violates.
//!
//! This happens once for a literal, and not again for each reference to it from the table.

use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::ENTRY_OVERHEAD;
use crate::codec::head::Scheme;
use crate::codec::{authority, path};

/// A field. Cloning it counts references.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) name: Name,
    pub(super) value: Value,
    /// The lengths of the name and the value as sent.
    pub(super) name_bytes: usize,
    pub(super) value_bytes: usize,
}

/// A name.
#[derive(Debug, Clone)]
pub(super) enum Name {
    Method,
    Scheme,
    Authority,
    Path,
    Protocol,
    Status,
    Regular(HeaderName, Role),
    /// What a name violates.
    Malformed(&'static str),
}

/// What a section does with a regular field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It is passed on.
    Plain,
    ContentLength,
    Host,
    Te,
    Cookie,
    Expect,
    Priority,
    /// It makes the section malformed (RFC 9113 section 8.2.2).
    ConnectionSpecific,
}

/// A value.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Method(Method),
    /// `None`: neither `http` nor `https`.
    Scheme(Option<Scheme>),
    Authority(Authority),
    /// In its normal form, or `*`.
    Path(PathAndQuery),
    Status(StatusCode),
    /// Of a regular field or `:protocol`.
    Text(HeaderValue),
    /// A value that is well-formed, and that this proxy refuses for a reason.
    Refused(&'static str),
    /// What the name or the value violates.
    Malformed(&'static str),
}

impl Field {
    /// Parses a field whose name is already parsed.
    pub(super) fn new(name: Name, name_bytes: usize, value: &[u8]) -> Self {
        let parsed = name.parse_value(value).unwrap_or_else(Value::Malformed);
        Self { name, value: parsed, name_bytes, value_bytes: value.len() }
    }

    /// Returns the size by RFC 7541 section 4.1 and RFC 9113 section 6.5.2.
    pub(super) fn size(&self) -> usize {
        self.name_bytes + self.value_bytes + ENTRY_OVERHEAD
    }
}

impl Name {
    /// Parses a name: a token without upper-case letters, or a pseudo-field's (RFC 9113 sections 8.2.1 and 8.3).
    pub(super) fn parse(name: &[u8]) -> Self {
        if name.first() == Some(&b':') {
            return match name {
                b":method" => Self::Method,
                b":scheme" => Self::Scheme,
                b":authority" => Self::Authority,
                b":path" => Self::Path,
                b":protocol" => Self::Protocol,
                b":status" => Self::Status,
                _ => Self::Malformed("an unknown pseudo-field"),
            };
        }
        match HeaderName::from_lowercase(name) {
            Ok(name) => Self::regular(name),
            Err(_) => Self::Malformed("a field name is no token in lower case"),
        }
    }

    /// Returns the name of a regular field.
    pub(super) fn regular(name: HeaderName) -> Self {
        let role = match name.as_str() {
            "content-length" => Role::ContentLength,
            "host" => Role::Host,
            "te" => Role::Te,
            "cookie" => Role::Cookie,
            "expect" => Role::Expect,
            "priority" => Role::Priority,
            "connection" | "proxy-connection" | "keep-alive" | "transfer-encoding" | "upgrade" => {
                Role::ConnectionSpecific
            }
            _ => Role::Plain,
        };
        Self::Regular(name, role)
    }

    fn parse_value(&self, value: &[u8]) -> Result<Value, &'static str> {
        match self {
            Self::Regular(_, Role::ConnectionSpecific) => Err("a field that is specific to a connection"),
            Self::Regular(_, Role::Te) if !value.eq_ignore_ascii_case(b"trailers") => {
                Err("te is not trailers")
            }
            Self::Regular(_, Role::Te) => Ok(Value::Text(HeaderValue::from_static("trailers"))),
            Self::Regular(..) => text(value),
            Self::Protocol if value.is_empty() => Err(":protocol is empty"),
            Self::Protocol => text(value),
            Self::Method => Method::from_bytes(value).map(Value::Method).map_err(|_| ":method is no token"),
            Self::Scheme => scheme(value),
            Self::Authority => {
                let authority = Authority::try_from(value).map_err(|_| ":authority is malformed")?;
                Ok(authority::normal(authority).map_or_else(Value::Refused, Value::Authority))
            }
            Self::Path => target(value),
            Self::Status => match StatusCode::from_bytes(value) {
                Ok(status) => Ok(Value::Status(status)),
                Err(_) => Err(":status is no status"),
            },
            Self::Malformed(rule) => Err(rule),
        }
    }
}

/// Checks a value (RFC 9113 section 8.2.1, RFC 9110 section 5.5).
fn text(value: &[u8]) -> Result<Value, &'static str> {
    let is_whitespace = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if is_whitespace(value.first()) || is_whitespace(value.last()) {
        return Err("a field value begins or ends with whitespace");
    }
    HeaderValue::from_bytes(value).map(Value::Text).map_err(|_| "a field value holds a control character")
}

/// Checks `:scheme` (RFC 3986 section 3.1).
fn scheme(value: &[u8]) -> Result<Value, &'static str> {
    match value {
        b"http" => Ok(Value::Scheme(Some(Scheme::Http))),
        b"https" => Ok(Value::Scheme(Some(Scheme::Https))),
        [first, rest @ ..]
            if first.is_ascii_alphabetic()
                && rest.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte)) =>
        {
            Ok(Value::Scheme(match value {
                _ if value.eq_ignore_ascii_case(b"http") => Some(Scheme::Http),
                _ if value.eq_ignore_ascii_case(b"https") => Some(Scheme::Https),
                _ => None,
            }))
        }
        _ => Err(":scheme is malformed"),
    }
}

/// Checks and normalizes `:path` (RFC 9113 section 8.3.1). Whether the method may have `*` is not known here.
fn target(value: &[u8]) -> Result<Value, &'static str> {
    let target = PathAndQuery::try_from(value).map_err(|_| ":path is malformed")?;
    if value.is_empty() {
        return Err(":path is empty");
    }
    Ok(path::normal(&Method::OPTIONS, target).map_or_else(Value::Refused, Value::Path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(name: &str, value: &str) -> Option<&'static str> {
        match Field::new(Name::parse(name.as_bytes()), name.len(), value.as_bytes()).value {
            Value::Malformed(rule) | Value::Refused(rule) => Some(rule),
            _ => None,
        }
    }

    #[test]
    fn each_rule_for_names_and_values_is_checked() {
        for (name, value) in [
            ("X", "1"),
            ("a b", "1"),
            ("", "1"),
            ("a\0", "1"),
            ("x\u{e9}", "1"),
            (":", "1"),
            (":Path", "/"),
            (":x", "1"),
            ("a", " 1"),
            ("a", "1\t"),
            ("a", " "),
            ("a", "1\r\nb: 2"),
            ("a", "\0"),
            ("a", "\x7f"),
            ("connection", "close"),
            ("keep-alive", "5"),
            ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("te", "gzip"),
            ("te", "trailers, gzip"),
            (":method", ""),
            (":method", "G T"),
            (":scheme", ""),
            (":scheme", "1a"),
            (":scheme", "ht tp"),
            (":authority", ""),
            (":authority", "u@a"),
            (":authority", "a b"),
            (":authority", "a:x"),
            (":path", ""),
            (":path", "a"),
            (":path", "http://a/"),
            (":path", "?a"),
            (":path", "/a b"),
            (":path", "/%00"),
            (":protocol", ""),
            (":status", "20"),
            (":status", "2000"),
            (":status", "abc"),
            (":status", "099"),
        ] {
            assert!(rule(name, value).is_some(), "{name:?}: {value:?}");
        }
    }

    #[test]
    fn what_is_allowed_is_parsed() {
        for (name, value) in [
            ("x-a", ""),
            ("x-a", "a b\tc"),
            ("x-a", "\u{e9}"),
            ("te", "Trailers"),
            ("content-length", "1"),
            (":method", "PROPFIND"),
            (":scheme", "HTTPS"),
            (":scheme", "coap+tcp"),
            (":authority", "cart.shop:80"),
            (":authority", "[::1]"),
            (":path", "*"),
            (":path", "/a/../b?c"),
            (":protocol", "websocket"),
            (":status", "103"),
            (":status", "999"),
        ] {
            assert_eq!(rule(name, value), None, "{name:?}: {value:?}");
        }
        let path = Field::new(Name::Path, 5, b"/a/../b?c");
        assert!(matches!(path.value, Value::Path(normal) if normal == "/b?c"));
    }
}
