//! Values with the limits of the CRDs of Gateway API 1.6: a type cannot hold a value that an API server would refuse.
//!
//! They are decoded by serde, so that an error has the path of its field.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::Duration;

use outrigger_core::Name;
use outrigger_core::matcher::full_match;
use outrigger_core::tchar::is_tchar;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

/// Implements `JsonSchema` for a type. Its schema stands where the type is used.
macro_rules! schema {
    ([$($parameters:tt)*] $name:ty => $schema:tt) => {
        impl<$($parameters)*> JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

/// The pattern of a DNS label.
const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// The pattern of a DNS subdomain.
const SUBDOMAIN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// Declares a string type that is validated when it is decoded. The schema may accept more. An error shows the text, unless it is
/// marked as one that may be secret.
macro_rules! checked_string {
    (@error $text:ident, $reason:ident) => {
        format!("{:?} {}", $text, $reason)
    };
    (@error $text:ident, $reason:ident, may_be_secret) => {
        format!("{} (it is not shown, because it may be a credential)", $reason)
    };
    ($(#[$doc:meta])* $name:ident, $check:expr, $schema:tt $(, $secret:ident)?) => {
        schema!([] $name => $schema);

        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) struct $name(pub(crate) Name);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                let check: fn(&str) -> Result<(), &'static str> = $check;
                check(&text).map_err(|reason| {
                    de::Error::custom(checked_string!(@error text, reason $(, $secret)?))
                })?;
                Ok(Self(text.into()))
            }
        }
    };
}

checked_string!(
    /// A namespace: a DNS label of RFC 1123.
    NamespaceName,
    |text| is_label(text).then_some(()).ok_or("is not a DNS label"),
    { "type": "string", "maxLength": 63, "pattern": LABEL }
);
checked_string!(
    /// The name of an object.
    ObjectName,
    |text| matches!(text.len(), 1..=253).then_some(()).ok_or("is empty or longer than 253 bytes"),
    { "type": "string", "minLength": 1, "maxLength": 253 }
);
checked_string!(
    /// The name of a section or a rule, a DNS subdomain.
    SectionName,
    |text| is_subdomain(text).then_some(()).ok_or("is not a DNS subdomain"),
    { "type": "string", "maxLength": 253, "pattern": SUBDOMAIN }
);
checked_string!(
    /// An API group; empty is the core group.
    Group,
    |text| (text.is_empty() || is_subdomain(text)).then_some(()).ok_or("is not an API group"),
    { "type": "string", "maxLength": 253 }
);
checked_string!(
    /// A kind.
    KindName,
    |text| is_kind(text).then_some(()).ok_or("is not a kind"),
    { "type": "string", "maxLength": 63, "pattern": "^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$" }
);
checked_string!(
    /// A host name without a wildcard.
    PreciseHostname,
    |text| is_subdomain(text).then_some(()).ok_or("is not a host name without wildcard"),
    { "type": "string", "maxLength": 253, "pattern": SUBDOMAIN }
);
checked_string!(
    /// A host name, which may begin with `*.`.
    Hostname,
    |text| {
        let legal = text.len() <= 253 && is_subdomain(text.strip_prefix("*.").unwrap_or(text));
        legal.then_some(()).ok_or("is not a host name")
    },
    { "type": "string", "minLength": 1, "maxLength": 253 }
);
checked_string!(
    /// A header name as it was written (RFC 9110 section 5.1).
    HeaderName,
    |text| is_header_name(text).then_some(()).ok_or("is not a header name"),
    { "type": "string", "minLength": 1, "maxLength": 256 }
);
checked_string!(
    /// A header value: visible ASCII with single blanks inside it, 1 to 4096 bytes.
    HeaderValue,
    |text| is_header_value(text).then_some(()).ok_or("is not a header value"),
    { "type": "string", "minLength": 1, "maxLength": 4096 },
    may_be_secret
);
checked_string!(
    /// A path that replaces another: at most 1024 bytes, all valid in a request line.
    ReplacementPath,
    |text| {
        let legal = |b: u8| b.is_ascii_graphic() && b != b'#' && b != b'?';
        (text.len() <= 1024 && text.bytes().all(legal)).then_some(()).ok_or("is not a path")
    },
    { "type": "string", "maxLength": 1024 }
);

impl From<HeaderValue> for Name {
    fn from(HeaderValue(text): HeaderValue) -> Self {
        text
    }
}

schema!([const MAX: usize] Text<MAX> => { "type": "string", "minLength": 1, "maxLength": MAX });
schema!([] Port => { "type": "integer", "minimum": 1, "maximum": 65535 });
schema!([const MIN: i64, const MAX: i64] Integer<MIN, MAX> => { "type": "integer", "minimum": MIN, "maximum": MAX });
schema!([] GepDuration => { "type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$" });

impl<T: JsonSchema, const MIN: usize, const MAX: usize> JsonSchema for List<T, MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("List_of_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let items = generator.subschema_for::<T>();
        json_schema!({ "type": "array", "items": items, "minItems": MIN, "maxItems": MAX })
    }
}

/// Text of 1 to `MAX` bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text<const MAX: usize>(pub(crate) Name);

impl<'de, const MAX: usize> Deserialize<'de> for Text<MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if text.is_empty() || text.len() > MAX {
            return Err(de::Error::custom(format!("is empty or longer than {MAX} bytes")));
        }
        Ok(Self(text.into()))
    }
}

impl<const MAX: usize> From<Text<MAX>> for Name {
    fn from(Text(text): Text<MAX>) -> Self {
        text
    }
}

impl HeaderName {
    /// Returns the name in lower case.
    pub(crate) fn lower(&self) -> Name {
        self.0.to_ascii_lowercase().into()
    }
}

/// A port: 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port(pub(crate) u16);

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Integer::<1, 65535>::deserialize(from)
            .map(|Integer(port)| Self(u16::try_from(port).unwrap_or(u16::MAX)))
    }
}

/// An integer between two bounds, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Integer<const MIN: i64, const MAX: i64>(pub(crate) i64);

impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Integer<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(from)?;
        if (MIN..=MAX).contains(&number) {
            return Ok(Self(number));
        }
        Err(de::Error::custom(format!("{number} is not between {MIN} and {MAX}")))
    }
}

impl<const MIN: i64, const MAX: i64> Integer<MIN, MAX> {
    /// Returns the number, which the bounds keep within `u32`.
    pub(crate) fn as_u32(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

/// A list of a bounded length.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct List<T, const MIN: usize, const MAX: usize>(pub(crate) Vec<T>);

impl<T, const MIN: usize, const MAX: usize> Default for List<T, MIN, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MIN: usize, const MAX: usize> Deserialize<'de> for List<T, MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let items = Vec::deserialize(from)?;
        if items.len() < MIN || items.len() > MAX {
            let count = items.len();
            return Err(de::Error::custom(format!("has {count} items, not {MIN} to {MAX}")));
        }
        Ok(Self(items))
    }
}

/// A duration as GEP-2257 writes it: 1 to 4 numbers of up to 5 digits, each with `h`, `m`, `s` or `ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GepDuration(pub(crate) Duration);

impl<'de> Deserialize<'de> for GepDuration {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        parse_duration(&text)
            .map(Self)
            .ok_or_else(|| de::Error::custom(format!("{text:?} is not a duration such as 1m30s (GEP-2257)")))
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (mut rest, mut sum, mut parts) = (text, Duration::ZERO, 0);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=5).contains(&digits) || parts == 4 {
            return None;
        }
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (length, unit) = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)]
            .iter()
            .find_map(|(name, unit)| rest.starts_with(name).then_some((name.len(), *unit)))?;
        rest = &rest[length..];
        sum += Duration::from_millis(number * unit);
        parts += 1;
    }
    (parts > 0).then_some(sum)
}

/// A field of the API that is not supported yet: refused if it is set.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Unsupported {}

impl<'de> Deserialize<'de> for Unsupported {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(de::Error::custom("is not supported yet"))
    }
}

/// Returns an error if a list has duplicate names (`x-kubernetes-list-type: map` or `set`).
pub(super) fn refuse_repeated<'a>(names: impl Iterator<Item = &'a Name>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(format!("{name:?} is duplicated"));
        }
    }
    Ok(())
}

/// Returns an error if a regular expression is invalid.
pub(crate) fn check_regex(expression: &str) -> Result<(), String> {
    full_match(expression).map(drop).map_err(|error| error.to_string())
}

/// Returns true for a DNS label of RFC 1123: up to 63 lower-case letters, digits and inner dashes.
pub(crate) fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    matches!(text.len(), 1..=63) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// Returns true for a DNS subdomain of up to 253 bytes. Like Kubernetes, it does not limit the length of the labels.
pub(crate) fn is_subdomain(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let label = |part: &str| {
        !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-')
    };
    matches!(text.len(), 1..=253) && text.split('.').all(label)
}

fn is_kind(text: &str) -> bool {
    matches!(text.len(), 1..=63)
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && !text.ends_with('-')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn is_header_name(text: &str) -> bool {
    matches!(text.len(), 1..=256) && text.bytes().all(is_tchar)
}

fn is_header_value(text: &str) -> bool {
    let visible = |b: &u8| b.is_ascii_graphic();
    let bytes = text.as_bytes();
    matches!(bytes.len(), 1..=4096)
        && bytes.iter().all(|b| visible(b) || matches!(b, b' ' | b'\t'))
        && bytes.first().is_some_and(visible)
        && bytes.last().is_some_and(visible)
        && bytes.windows(2).all(|pair| visible(&pair[0]) || visible(&pair[1]))
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_those_of_the_gep_and_no_others() {
        for (text, millis) in
            [("0s", 0), ("10ms", 10), ("1m30s", 90_000), ("1h1m1s1ms", 3_661_001), ("5s5s", 10_000)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "10", "s", "1.5s", "-1s", "100000s", "1s1s1s1s1s", "1us", "1d", "1 s", "1S"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn an_invalid_header_value_is_not_shown() {
        let error = serde_json::from_str::<HeaderValue>(r#""Bearer secret\u0001""#).unwrap_err().to_string();
        assert!(error.starts_with("is not a header value") && !error.contains("Bearer"), "{error}");
        let error = serde_json::from_str::<HeaderName>(r#""a b""#).unwrap_err().to_string();
        assert_eq!(error, r#""a b" is not a header name"#);
    }

    #[test]
    fn header_values_have_no_double_or_outer_blanks() {
        for text in ["a", "a b", "a\tb", "a b c"] {
            assert!(is_header_value(text), "{text:?}");
        }
        for text in ["", " a", "a ", "a  b", "a\nb", "é"] {
            assert!(!is_header_value(text), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_label_is_a_subdomain(text in "[-a-z0-9.]{0,70}") {
            prop_assert!(!is_label(&text) || is_subdomain(&text));
        }

        #[test]
        fn durations_are_those_of_the_gateway_api_crate(text in "[0-9]{0,6}(h|m|s|ms|us|d|\\.|-)?([0-9]{1,6}(h|m|s|ms)){0,5}") {
            let other = gateway_api::Duration::from_str(&text).ok();
            let other = other.map(|other| Duration::new(other.as_secs(), other.subsec_nanos()));
            // The CRDs refuse no sum of a valid pattern; the crate refuses larger ones than this.
            let limit = Duration::from_millis(((99_999 * 60 + 59) * 60 + 59) * 1000 + 999);
            prop_assert_eq!(parse_duration(&text).filter(|duration| *duration <= limit), other, "{}", text);
        }

        #[test]
        fn every_text_of_the_gep_pattern_is_a_duration(text in "([0-9]{1,5}(h|m|s|ms)){1,4}") {
            prop_assert!(parse_duration(&text).is_some());
        }
    }
}
