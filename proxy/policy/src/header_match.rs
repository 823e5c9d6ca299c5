//! Matching of a request's head by header: `envoy.config.route.v3.HeaderMatcher`, deprecated forms included.
//!
//! Used by routes and by retry policies. A header that occurs several times is matched as one value joined with commas
//! (RFC 9110 section 5.3), as Envoy does; only that case allocates.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, Method, header};
use outrigger_core::matcher::{Pattern, StringMatcher};
use outrigger_proto::xds::{route, types};

use crate::field::Unusable;
use crate::string_match;

/// What a matcher sees of a request, in either version of HTTP.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// The method.
    pub method: &'a Method,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host and, where given, port.
    pub authority: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// The header fields.
    pub headers: &'a HeaderMap,
}

/// A condition on one header.
#[derive(Debug, Clone)]
pub struct HeaderMatcher {
    name: Name,
    test: Test,
    invert: bool,
    missing_is_empty: bool,
}

#[derive(Debug, Clone)]
enum Name {
    Method,
    Scheme,
    Authority,
    Path,
    Field(HeaderName),
}

#[derive(Debug, Clone)]
enum Test {
    Present(bool),
    Text(StringMatcher),
    /// From the first, up to and without the second.
    Range(i64, i64),
}

impl HeaderMatcher {
    /// Reads a matcher. Without any condition it asks for presence, as Envoy does.
    #[allow(deprecated)] // the older forms are still sent
    pub fn decode(wire: route::HeaderMatcher) -> Result<Self, Unusable> {
        use route::header_matcher::HeaderMatchSpecifier as Wire;
        let route::HeaderMatcher {
            name,
            invert_match,
            treat_missing_header_as_empty,
            header_match_specifier,
        } = wire;
        let text = |pattern| Test::Text(StringMatcher::new(pattern, false));
        let test = match header_match_specifier {
            None => Test::Present(true),
            Some(Wire::PresentMatch(present)) => Test::Present(present),
            Some(Wire::StringMatch(matcher)) => {
                Test::Text(string_match::decode(matcher).map_err(|bad| bad.within("string_match"))?)
            }
            Some(Wire::ExactMatch(value)) => text(Pattern::Exact(value.into())),
            Some(Wire::PrefixMatch(value)) => text(Pattern::Prefix(value.into())),
            Some(Wire::SuffixMatch(value)) => text(Pattern::Suffix(value.into())),
            Some(Wire::ContainsMatch(value)) => text(Pattern::Contains(value.into())),
            Some(Wire::SafeRegexMatch(regex)) => {
                let regex = string_match::regex(regex).map_err(|bad| bad.within("safe_regex_match"))?;
                text(Pattern::Regex(regex))
            }
            Some(Wire::RangeMatch(types::Int64Range { start, end })) => Test::Range(start, end),
        };
        let missing_is_empty = treat_missing_header_as_empty;
        Ok(Self { name: Name::decode(&name)?, test, invert: invert_match, missing_is_empty })
    }

    /// Whether `head` satisfies the condition.
    ///
    /// A missing header satisfies no condition on its value, inverted or not, unless missing counts as empty.
    pub fn matches(&self, head: &Head<'_>) -> bool {
        let value = self.name.value(head);
        let holds = match (&self.test, value) {
            (Test::Present(want), value) => value.is_some() == *want,
            (_, None) if !self.missing_is_empty => return false,
            (Test::Text(matcher), value) => matcher.matches(value.as_deref().unwrap_or_default()),
            (Test::Range(start, end), value) => value
                .and_then(|value| value.parse::<i64>().ok())
                .is_some_and(|number| (*start..*end).contains(&number)),
        };
        holds != self.invert
    }

    /// Whether a response's headers satisfy the condition. Pseudo-headers of requests never do.
    pub fn matches_response(&self, headers: &HeaderMap) -> bool {
        let head = Head { method: &Method::GET, scheme: "", authority: "", path: "", headers };
        matches!(self.name, Name::Field(_)) && self.matches(&head)
    }
}

impl Name {
    fn decode(name: &str) -> Result<Self, Unusable> {
        match name.to_ascii_lowercase().as_str() {
            ":method" => Ok(Self::Method),
            ":scheme" => Ok(Self::Scheme),
            ":authority" | "host" => Ok(Self::Authority),
            ":path" => Ok(Self::Path),
            other => HeaderName::try_from(other)
                .map(Self::Field)
                .map_err(|_| Unusable::new("name", format_args!("{name:?} is no header name"))),
        }
    }

    fn value<'a>(&self, head: &Head<'a>) -> Option<Cow<'a, str>> {
        match self {
            Self::Method => Some(head.method.as_str().into()),
            Self::Scheme => Some(head.scheme.into()),
            Self::Authority => Some(head.authority.into()),
            Self::Path => Some(head.path.into()),
            Self::Field(name) => joined(head.headers, name),
        }
    }
}

fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
    let mut values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    let first = values.next()?;
    let Some(second) = values.next() else { return Some(first) };
    // Cookies are the one list whose separator is a semicolon (RFC 9113 section 8.2.3).
    let separator = if name == header::COOKIE { "; " } else { "," };
    let mut all = first.into_owned();
    for value in std::iter::once(second).chain(values) {
        all.push_str(separator);
        all.push_str(&value);
    }
    Some(all.into())
}

#[cfg(test)]
mod tests {
    #![allow(deprecated)]
    use outrigger_proto::xds::matcher;
    use route::header_matcher::HeaderMatchSpecifier as Wire;

    use super::*;

    fn matcher(name: &str, wire: Option<Wire>) -> HeaderMatcher {
        let wire =
            route::HeaderMatcher { name: name.into(), header_match_specifier: wire, ..Default::default() };
        HeaderMatcher::decode(wire).unwrap()
    }

    fn matches(matcher: &HeaderMatcher, fields: &[(&'static str, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let (method, path) = (&Method::POST, "/a?b=c");
        matcher.matches(&Head { method, scheme: "http", authority: "cart:80", path, headers: &headers })
    }

    #[test]
    fn every_form_of_a_condition_holds_for_what_it_describes() {
        let regex = matcher::RegexMatcher { regex: "a.c".into(), ..Default::default() };
        let string = matcher::StringMatcher {
            ignore_case: true,
            match_pattern: Some(matcher::string_matcher::MatchPattern::Exact("ABC".into())),
        };
        for wire in [
            Wire::ExactMatch("abc".into()),
            Wire::PrefixMatch("ab".into()),
            Wire::SuffixMatch("bc".into()),
            Wire::ContainsMatch("b".into()),
            Wire::SafeRegexMatch(regex),
            Wire::StringMatch(string),
            Wire::PresentMatch(true),
        ] {
            let matcher = matcher("x-a", Some(wire));
            assert!(matches(&matcher, &[("x-a", "abc")]), "{matcher:?}");
            assert!(!matches(&matcher, &[("x-b", "abc")]), "{matcher:?}");
        }
        let range = matcher("x-a", Some(Wire::RangeMatch(types::Int64Range { start: -10, end: 0 })));
        assert!(matches(&range, &[("x-a", "-10")]) && matches(&range, &[("x-a", "-1")]));
        assert!(!matches(&range, &[("x-a", "0")]) && !matches(&range, &[("x-a", "one")]));
    }

    #[test]
    fn several_values_are_matched_joined() {
        let joined = matcher("x-a", Some(Wire::ExactMatch("1,2".into())));
        assert!(matches(&joined, &[("x-a", "1"), ("x-a", "2")]));
        assert!(!matches(&matcher("x-a", Some(Wire::ExactMatch("1".into()))), &[("x-a", "1"), ("x-a", "2")]));
    }

    #[test]
    fn a_missing_header_fails_even_an_inverted_condition_unless_it_counts_as_empty() {
        let mut not_one = matcher("x-a", Some(Wire::ExactMatch("1".into())));
        not_one.invert = true;
        assert!(matches(&not_one, &[("x-a", "2")]) && !matches(&not_one, &[]));
        not_one.missing_is_empty = true;
        assert!(matches(&not_one, &[]));
        assert!(matches(&matcher("x-a", Some(Wire::PresentMatch(false))), &[]));
    }

    #[test]
    fn pseudo_headers_can_be_matched() {
        assert!(matches(&matcher(":method", Some(Wire::ExactMatch("POST".into()))), &[]));
        assert!(matches(&matcher("host", Some(Wire::ExactMatch("cart:80".into()))), &[]));
        assert!(matches(&matcher(":path", Some(Wire::PrefixMatch("/a".into()))), &[]));
    }

    #[test]
    fn a_name_that_no_header_can_have_is_refused() {
        let wire = route::HeaderMatcher { name: "a b".into(), ..Default::default() };
        assert_eq!(HeaderMatcher::decode(wire).unwrap_err().to_string(), "name: \"a b\" is no header name");
    }
}
