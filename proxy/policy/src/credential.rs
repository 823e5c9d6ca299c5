//! Where a request carries a credential: in a header field, a query parameter or a cookie. Used by the filters that authenticate requests.
//!
//! Every value at a place is found, and all of them are removed, so that no value passes that was not looked at.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod properties;

use std::borrow::Cow;

use http::header::COOKIE;
use http::{HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use crate::header_match::Head;

/// A place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A header field, whose value begins with a prefix.
    Header(HeaderName, Prefix),
    /// A query parameter.
    Query(Box<str>),
    /// A cookie.
    Cookie(Box<str>),
}

/// What stands before a credential in a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Prefix {
    /// The authentication scheme `Bearer`, in any case (RFC 9110 section 11.1).
    Bearer,
    /// `Bearer`, if it is there.
    MaybeBearer,
    /// This text.
    Text(Box<str>),
}

impl Place {
    /// Adds the values at this place to `found`. A field that is not text, or does not have the prefix, has none. A cookie that is not
    /// text has a value that no credential has.
    pub(crate) fn find<'a>(&self, head: &Head<'a>, found: &mut Vec<Cow<'a, str>>) {
        match self {
            Self::Header(name, prefix) => {
                let values = head.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
                found.extend(values.filter_map(|value| prefix.strip(value)).map(Cow::Borrowed));
            }
            Self::Query(name) => {
                let query = head.path.split_once('?').map_or("", |(_, query)| query);
                let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
                found
                    .extend(pairs.filter(|(key, _)| decoded(key) == **name).map(|(_, value)| decoded(value)));
            }
            Self::Cookie(name) => {
                // Bytes, because other cookies in the line need not be text.
                let lines = head.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
                let pairs = lines.flat_map(|line| line.split(|byte| *byte == b';'));
                let values = pairs.filter_map(|pair| {
                    let at = pair.iter().position(|byte| *byte == b'=')?;
                    (pair[..at].trim_ascii() == name.as_bytes()).then(|| &pair[at + 1..])
                });
                found.extend(values.map(|value| match str::from_utf8(value) {
                    Ok(value) => Cow::Borrowed(unquoted(value)),
                    Err(_) => String::from_utf8_lossy(value.trim_ascii()),
                }));
            }
        }
    }
}

impl Prefix {
    fn strip<'a>(&self, value: &'a str) -> Option<&'a str> {
        let bearer = || {
            let (scheme, rest) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim())
        };
        match self {
            Self::Bearer => bearer(),
            Self::MaybeBearer => Some(bearer().unwrap_or(value)),
            Self::Text(prefix) => value.strip_prefix(&**prefix).map(str::trim),
        }
    }
}

/// Returns path and query without the parameters that are called `name`.
pub(crate) fn without_parameter(path: &str, name: &str) -> String {
    let Some((path, query)) = path.split_once('?') else { return path.to_owned() };
    let key = |pair: &str| decoded(pair.split_once('=').map_or(pair, |(key, _)| key)) == *name;
    let kept: Vec<_> = query.split('&').filter(|pair| !key(pair)).collect();
    if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) }
}

/// Returns the `cookie` lines of a request without the cookies that have one of `names`. Lines that become empty are left out.
pub(crate) fn without_cookies(head: &Head<'_>, names: &[&str]) -> Vec<HeaderValue> {
    let named = |pair: &[u8]| {
        let key = pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
        names.iter().any(|name| key == name.as_bytes())
    };
    let line = |line: &HeaderValue| {
        let kept: Vec<_> = line.as_bytes().split(|byte| *byte == b';').filter(|pair| !named(pair)).collect();
        HeaderValue::from_bytes(kept.join(&b';').trim_ascii()).ok().filter(|line| !line.is_empty())
    };
    head.headers.get_all(COOKIE).iter().filter_map(line).collect()
}

/// Returns a part of a query with its percent-encoding undone. One that is not UTF-8 stays as it is.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    percent_decode_str(text).decode_utf8().unwrap_or(Cow::Borrowed(text))
}

/// Returns a cookie's value without the quotes that it may have (RFC 6265 section 4.1.1).
fn unquoted(value: &str) -> &str {
    let value = value.trim_ascii();
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use http::header::AUTHORIZATION;
    use http::{HeaderMap, Method};

    use super::*;

    fn head<'a>(path: &'a str, headers: &'a HeaderMap) -> Head<'a> {
        Head { method: &Method::GET, scheme: "http", authority: "a", path, headers }
    }

    fn fields(of: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in of {
            fields.append(name, HeaderValue::from_static(value));
        }
        fields
    }

    fn found(place: &Place, path: &str, headers: &HeaderMap) -> Vec<String> {
        let mut found = Vec::new();
        place.find(&head(path, headers), &mut found);
        found.into_iter().map(Cow::into_owned).collect()
    }

    #[test]
    fn every_line_of_a_field_with_the_prefix_has_a_value() {
        let headers = fields(&[
            (AUTHORIZATION, "Bearer a"),
            (AUTHORIZATION, "bearer  b "),
            (AUTHORIZATION, "Basic c"),
            (AUTHORIZATION, "d"),
        ]);
        let of = |prefix| found(&Place::Header(AUTHORIZATION, prefix), "/", &headers);
        assert_eq!(of(Prefix::Bearer), ["a", "b"]);
        assert_eq!(of(Prefix::MaybeBearer), ["a", "b", "Basic c", "d"]);
        assert_eq!(of(Prefix::Text("Basic ".into())), ["c"]);
        assert_eq!(of(Prefix::Text("".into())).len(), 4);
    }

    #[test]
    fn every_parameter_with_the_name_is_found_and_removed() {
        let none = HeaderMap::new();
        let place = Place::Query("key".into());
        for (path, values, rest) in [
            ("/a", vec![], "/a"),
            ("/a?key=1", vec!["1"], "/a"),
            ("/a?b=2&key=1&k%65y=a%20b&c", vec!["1", "a b"], "/a?b=2&c"),
            ("/a?key&keys=1", vec![], "/a?keys=1"),
            ("/a?key=%ff", vec!["%ff"], "/a"),
            ("/a?key=1=2?", vec!["1=2?"], "/a"),
        ] {
            assert_eq!(found(&place, path, &none), values, "{path}");
            assert_eq!(without_parameter(path, "key"), rest);
        }
    }

    #[test]
    fn every_cookie_with_the_name_is_found_and_removed() {
        let headers = fields(&[(COOKIE, "a=1; key=2;key=\"3\""), (COOKIE, "key=4"), (COOKIE, "b=5; keys=6")]);
        let place = Place::Cookie("key".into());
        assert_eq!(found(&place, "/", &headers), ["2", "3", "4"]);
        assert_eq!(without_cookies(&head("/", &headers), &["key"]), ["a=1", "b=5; keys=6"]);
    }

    #[test]
    fn a_cookie_is_found_beside_one_that_is_not_text_and_one_that_is_not_text_itself_is_no_credential() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_bytes(b"a=\xff; key=1; key=\xff").unwrap());
        assert_eq!(found(&Place::Cookie("key".into()), "/", &headers), ["1", "\u{fffd}"]);
    }
}
