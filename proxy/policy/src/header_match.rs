//! Header matchers: `envoy.config.route.v3.HeaderMatcher`, including its deprecated forms.
//!
//! Used by routes and by retry policies. A header with several lines satisfies a condition if one of its lines does, and an
//! inverted condition if none does, as in Envoy since 1.39 (`match_headers_individually`). If the lines were joined with
//! commas, a client could hide a value from an exact match by adding a line. `cookie` is the exception: its lines are parts
//! of one value (RFC 9113 section 8.2.3), which HTTP/2 may split. They are joined, and only that allocates.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use outrigger_core::matcher::{Pattern, StringMatcher};
use outrigger_proto::xds::{route, types};

use crate::field::Unusable;
use crate::string_match;

/// The head of a request, for matchers, in any version of HTTP.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// The method.
    pub method: &'a Method,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host and optional port.
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

/// The name of a header field, or of a pseudo-header of requests.
#[derive(Debug, Clone)]
pub(crate) enum Name {
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
    /// A half-open range: start (inclusive) and end (exclusive).
    Range(i64, i64),
}

impl HeaderMatcher {
    /// Decodes a matcher. Without a condition, it tests for presence, as in Envoy.
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
            // Envoy's oldest form: an empty value matches any.
            Some(Wire::ExactMatch(value)) if value.is_empty() => text(Pattern::Contains(value.into())),
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

    /// Returns whether `head` satisfies the condition.
    ///
    /// A missing header satisfies no condition on its value, inverted or not, unless it is treated as empty. Then it also
    /// counts as present.
    pub fn matches(&self, head: &Head<'_>) -> bool {
        let holds = match self.name.holds(head, |value| self.test.holds(value)) {
            Some(holds) => holds,
            None if self.missing_is_empty => self.test.holds(""),
            None => return matches!(self.test, Test::Present(want) if want == self.invert),
        };
        holds != self.invert
    }

    /// Returns whether a response's headers satisfy the condition. A condition on a pseudo-header of requests never holds.
    pub fn matches_response(&self, headers: &HeaderMap) -> bool {
        let head = Head { method: &Method::GET, scheme: "", authority: "", path: "", headers };
        matches!(self.name, Name::Field(_)) && self.matches(&head)
    }
}

impl Name {
    /// Decodes a name. `host` is the authority. Returns an error for the field `name` if it is no header name.
    pub(crate) fn decode(name: &str) -> Result<Self, Unusable> {
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

    /// Returns the values in `head`, in their order.
    pub(crate) fn values<'a>(&self, head: &Head<'a>) -> impl Iterator<Item = &'a [u8]> {
        let (pseudo, name) = match self {
            Self::Method => (Some(head.method.as_str()), None),
            Self::Scheme => (Some(head.scheme), None),
            Self::Authority => (Some(head.authority), None),
            Self::Path => (Some(head.path), None),
            Self::Field(name) => (None, Some(name)),
        };
        let fields = name.into_iter().flat_map(|name| head.headers.get_all(name));
        pseudo.map(str::as_bytes).into_iter().chain(fields.map(HeaderValue::as_bytes))
    }

    /// Returns whether `test` holds for one of the values, or `None` if there is no value.
    fn holds(&self, head: &Head<'_>, test: impl Fn(&str) -> bool) -> Option<bool> {
        let name = match self {
            Self::Method => return Some(test(head.method.as_str())),
            Self::Scheme => return Some(test(head.scheme)),
            Self::Authority => return Some(test(head.authority)),
            Self::Path => return Some(test(head.path)),
            Self::Field(name) => name,
        };
        let mut values = head.headers.get_all(name).iter().map(text).peekable();
        values.peek()?;
        Some(if name == header::COOKIE { test(&crumbs(values)) } else { values.any(|value| test(&value)) })
    }
}

impl Test {
    /// Returns whether the test holds for `value`.
    fn holds(&self, value: &str) -> bool {
        match self {
            Self::Present(want) => *want,
            Self::Text(matcher) => matcher.matches(value),
            Self::Range(start, end) => {
                value.parse::<i64>().is_ok_and(|number| (*start..*end).contains(&number))
            }
        }
    }
}

fn text(value: &HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}

fn crumbs<'a>(mut values: impl Iterator<Item = Cow<'a, str>>) -> Cow<'a, str> {
    let mut all = values.next().unwrap_or_default();
    for value in values {
        let all = all.to_mut();
        all.push_str("; ");
        all.push_str(&value);
    }
    all
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

    /// Returns the verdicts for `x-a: 1` and `x-a: 2`, for `x-a: 1,2`, for `x-a: 3` and without `x-a`: plain, inverted, and then
    /// both again with a missing header treated as empty.
    fn verdicts(wire: &Wire) -> [[bool; 4]; 4] {
        let heads: [&[(&str, &str)]; 4] =
            [&[("x-a", "1"), ("x-a", "2")], &[("x-a", "1,2")], &[("x-a", "3")], &[("x-b", "1")]];
        let mut matcher = matcher("x-a", Some(wire.clone()));
        [(false, false), (true, false), (false, true), (true, true)].map(|(invert, missing_is_empty)| {
            matcher.invert = invert;
            matcher.missing_is_empty = missing_is_empty;
            heads.map(|head| matches(&matcher, head))
        })
    }

    #[test]
    fn each_line_of_a_header_is_tested_and_invert_flips_the_verdict_on_all() {
        let (yes, no) = (true, false);
        let string = |pattern| {
            Wire::StringMatch(matcher::StringMatcher { ignore_case: false, match_pattern: Some(pattern) })
        };
        let regex = |regex: &str| {
            Wire::SafeRegexMatch(matcher::RegexMatcher { regex: regex.into(), ..Default::default() })
        };
        let range = |start, end| Wire::RangeMatch(types::Int64Range { start, end });
        use matcher::string_matcher::MatchPattern;
        // Lines 1 and 2; one line "1,2"; one line 3; missing.
        for (wire, holds, missing_as_empty) in [
            (Wire::ExactMatch("1".into()), [yes, no, no], no),
            (Wire::ExactMatch("2".into()), [yes, no, no], no),
            (Wire::ExactMatch("1,2".into()), [no, yes, no], no),
            (Wire::ExactMatch(String::new()), [yes, yes, yes], yes),
            (Wire::PrefixMatch("2".into()), [yes, no, no], no),
            (Wire::SuffixMatch("1".into()), [yes, no, no], no),
            (Wire::ContainsMatch(",".into()), [no, yes, no], no),
            (regex("[12]"), [yes, no, no], no),
            (regex(""), [no, no, no], yes),
            (string(MatchPattern::Exact("2".into())), [yes, no, no], no),
            (string(MatchPattern::Exact(String::new())), [no, no, no], yes),
            (string(MatchPattern::Prefix(String::new())), [yes, yes, yes], yes),
            (range(2, 3), [yes, no, no], no),
            (range(0, 10), [yes, no, yes], no),
        ] {
            let [one, other, third] = holds;
            let expected = [
                [one, other, third, no],
                [!one, !other, !third, no],
                [one, other, third, missing_as_empty],
                [!one, !other, !third, !missing_as_empty],
            ];
            assert_eq!(verdicts(&wire), expected, "{wire:?}");
        }
    }

    #[test]
    fn presence_is_of_the_header_and_what_counts_as_empty_counts_as_present() {
        for (want, as_they_are) in [(true, [true, true, true, false]), (false, [false, false, false, true])] {
            let inverted = as_they_are.map(|holds| !holds);
            let all = [want; 4];
            let expected = [as_they_are, inverted, all, all.map(|holds| !holds)];
            assert_eq!(verdicts(&Wire::PresentMatch(want)), expected, "{want}");
        }
    }

    #[test]
    fn the_crumbs_of_a_cookie_are_one_value() {
        let crumbs = [("cookie", "a=1"), ("cookie", "b=2")];
        assert!(matches(&matcher("cookie", Some(Wire::ExactMatch("a=1; b=2".into()))), &crumbs));
        assert!(!matches(&matcher("cookie", Some(Wire::ExactMatch("a=1".into()))), &crumbs));
        assert!(matches(&matcher("cookie", Some(Wire::ExactMatch("a=1".into()))), &crumbs[..1]));
    }

    #[test]
    fn a_response_is_matched_line_by_line_too() {
        let headers: HeaderMap = [("x-a", "1"), ("x-a", "2")]
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .into_iter()
            .collect();
        for line in ["1", "2"] {
            assert!(matcher("x-a", Some(Wire::ExactMatch(line.into()))).matches_response(&headers), "{line}");
        }
        assert!(!matcher(":path", Some(Wire::PresentMatch(true))).matches_response(&headers));
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
