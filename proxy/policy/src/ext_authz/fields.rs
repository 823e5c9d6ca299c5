//! Which fields of a request the service sees (`allowed_headers`, `disallowed_headers`), and in which form.

use std::collections::HashMap;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use outrigger_core::matcher::StringMatcher;
use outrigger_proto::xds::matcher;

use crate::field::{Unusable, each, required};
use crate::string_match;

/// The field by which the service learns whether it has only a part of the body.
pub(super) const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";

/// A list of field names.
#[derive(Debug, Clone)]
pub(super) struct Names(Box<[StringMatcher]>);

/// The fields that the service sees.
#[derive(Debug, Clone)]
pub(super) struct Selection {
    allowed: Option<Names>,
    disallowed: Option<Names>,
    /// Whether values are sent as they are and each line by itself.
    pub(super) raw: bool,
}

impl Names {
    /// Decodes a list, which must not be empty.
    pub(super) fn decode(field: &str, wire: matcher::ListStringMatcher) -> Result<Self, Unusable> {
        let matcher::ListStringMatcher { patterns } = wire;
        let decode = || {
            required("patterns", patterns.first())?;
            each("patterns", patterns.clone(), string_match::decode)
        };
        Ok(Self(decode().map_err(|bad| bad.within(field))?.into()))
    }

    /// Decodes an optional list.
    pub(super) fn optional(
        field: &str,
        wire: Option<matcher::ListStringMatcher>,
    ) -> Result<Option<Self>, Unusable> {
        wire.map(|wire| Self::decode(field, wire)).transpose()
    }

    /// Returns whether the list has `name`, which is in lower case.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|matcher| matcher.matches(name))
    }
}

impl Selection {
    /// Decodes the lists of the filter.
    pub(super) fn decode(
        allowed: Option<matcher::ListStringMatcher>,
        disallowed: Option<matcher::ListStringMatcher>,
        raw: bool,
    ) -> Result<Self, Unusable> {
        Ok(Self {
            allowed: Names::optional("allowed_headers", allowed)?,
            disallowed: Names::optional("disallowed_headers", disallowed)?,
            raw,
        })
    }

    /// Returns whether the service sees the field `name`, if it sees those that are in no list only by `default`.
    pub(super) fn shows(&self, name: &str, default: bool) -> bool {
        let allowed = self.allowed.as_ref().map_or(default, |names| names.contains(name));
        allowed && !self.is_disallowed(name)
    }

    /// Returns whether the service never sees the field `name`.
    pub(super) fn is_disallowed(&self, name: &str) -> bool {
        self.disallowed.as_ref().is_some_and(|names| names.contains(name))
    }
}

/// Returns the fields with their lines joined as RFC 9110 section 5.3 has it, those of `cookie` as RFC 9113 section 8.2.3.
pub(super) fn joined(headers: &HeaderMap, shows: impl Fn(&str) -> bool) -> HashMap<String, String> {
    let shown = headers.keys().filter(|name| shows(name.as_str()));
    shown.map(|name| (name.to_string(), text_of(headers, name))).collect()
}

/// Returns the lines of a field as one text.
pub(super) fn text_of(headers: &HeaderMap, name: &HeaderName) -> String {
    let separator = if name == header::COOKIE { "; " } else { "," };
    let lines: Vec<_> = headers.get_all(name).iter().map(|value| text(value.as_bytes())).collect();
    lines.join(separator)
}

/// Returns the fields as they are, each line by itself.
pub(super) fn lines<'a>(
    headers: &'a HeaderMap,
    shows: impl Fn(&str) -> bool + 'a,
) -> impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)> {
    headers.iter().filter(move |(name, _)| shows(name.as_str()))
}

/// Returns bytes as text. Each character that is not UTF-8 becomes `!`, as in Envoy.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace(char::REPLACEMENT_CHARACTER, "!")
}
