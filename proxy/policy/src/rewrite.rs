//! Rewrites of a request's path and host (`RouteAction.prefix_rewrite`, `regex_rewrite`,
//! `path_rewrite`, `host_rewrite_literal`, `append_x_forwarded_host`).
//!
//! The query is kept. The route's match determines the prefix.

use http::HeaderValue;
use outrigger_proto::xds::matcher;
use regex::Regex;

use crate::field::{Unusable, required};
use crate::header_mutation::literal;

/// How a route rewrites a request.
#[derive(Debug, Clone, Default)]
pub struct Rewrite {
    /// The new path.
    pub path: Option<PathRewrite>,
    /// The new authority.
    pub host: Option<HeaderValue>,
    /// Whether the client's authority is kept in `x-forwarded-host` when `host` replaces it.
    pub append_x_forwarded_host: bool,
}

/// How a path is changed.
#[derive(Debug, Clone)]
pub enum PathRewrite {
    /// The part that the route matched is replaced.
    Prefix(Box<str>),
    /// The whole path is replaced.
    Full(Box<str>),
    /// Every match of the expression is replaced; `$1` style references are resolved.
    Regex(Regex, Box<str>),
}

impl PathRewrite {
    /// Decodes the three alternatives. Returns an error if more than one is set.
    pub fn decode(
        prefix_rewrite: String,
        regex_rewrite: Option<matcher::RegexMatchAndSubstitute>,
        path_rewrite: String,
    ) -> Result<Option<Self>, Unusable> {
        let regex = regex_rewrite.map(Self::regex).transpose().map_err(|bad| bad.within("regex_rewrite"))?;
        match (prefix_rewrite.as_str(), regex, path_rewrite.as_str()) {
            ("", None, "") => Ok(None),
            (prefix, None, "") => Ok(Some(Self::Prefix(path("prefix_rewrite", prefix)?))),
            ("", Some(regex), "") => Ok(Some(regex)),
            // Only this one may contain substitution commands, and therefore escapes.
            ("", None, full) => Ok(Some(Self::full("path_rewrite", &literal("path_rewrite", full)?)?)),
            _ => Err(Unusable::new(
                "prefix_rewrite",
                "only one of prefix_rewrite, regex_rewrite and path_rewrite may be set",
            )),
        }
    }

    /// Creates a replacement of the whole path, without escapes.
    pub(crate) fn full(field: &str, text: &str) -> Result<Self, Unusable> {
        path(field, text).map(Self::Full)
    }

    /// Decodes a pattern and its substitution.
    fn regex(wire: matcher::RegexMatchAndSubstitute) -> Result<Self, Unusable> {
        // Characters that would corrupt the request line, or begin another part of the target.
        let legal = |c: char| c > ' ' && c != '\x7f' && c != '#' && c != '?' && c.is_ascii();
        let illegal = wire.substitution.chars().find(|c| !legal(*c));
        let (regex, template) = substitution(wire)?;
        match illegal {
            Some(c) => Err(Unusable::new("substitution", format_args!("{c:?} may not stand in a path"))),
            None => Ok(Self::Regex(regex, template)),
        }
    }

    /// Returns the new path and query of a request. The route matched the first `matched` bytes of `path_and_query`.
    ///
    /// A slash is prepended if the result is not an absolute path.
    pub fn apply(&self, path_and_query: &str, matched: usize) -> String {
        let (path, query) = path_and_query.split_at(path_and_query.find('?').unwrap_or(path_and_query.len()));
        let mut new = match self {
            Self::Prefix(prefix) => {
                let rest = path.get(matched.min(path.len())..).unwrap_or_default();
                // Replacing `/shop` by `/` turns `/shop/cart` into `/cart` (HTTPRoute's ReplacePrefixMatch), not `//cart`.
                let prefix = if rest.starts_with('/') { prefix.trim_end_matches('/') } else { prefix };
                format!("{prefix}{rest}")
            }
            Self::Full(full) => full.to_string(),
            Self::Regex(regex, template) => regex.replace_all(path, &**template).into_owned(),
        };
        if !new.starts_with('/') {
            new.insert(0, '/');
        }
        // A query in the new path replaces the request's (`RedirectAction.path_redirect`).
        if !matches!(self, Self::Full(full) if full.contains('?')) {
            new.push_str(query);
        }
        new
    }
}

/// Validates an absolute path.
fn path(field: &str, text: &str) -> Result<Box<str>, Unusable> {
    // A control character, space or fragment would corrupt the request line. Without a leading slash, the target would have
    // another form (RFC 9112 section 3.2).
    if !text.starts_with('/') || text.bytes().any(|b| b <= b' ' || b >= 0x7f || b == b'#') {
        return Err(Unusable::new(field, format_args!("{text:?} is no path")));
    }
    Ok(text.into())
}

/// Decodes a pattern, and what replaces each of its matches.
pub(crate) fn substitution(wire: matcher::RegexMatchAndSubstitute) -> Result<(Regex, Box<str>), Unusable> {
    let matcher::RegexMatchAndSubstitute { pattern, substitution } = wire;
    // RE2 is the only `engine_type`, and this is its syntax.
    let matcher::RegexMatcher { regex, engine_type: _ } = required("pattern", pattern)?;
    let compiled = regex::RegexBuilder::new(&regex)
        .size_limit(1 << 20)
        .build()
        .map_err(|bad| Unusable::new("pattern.regex", bad))?;
    let template = template(&substitution, compiled.captures_len())?;
    Ok((compiled, template.into()))
}

/// Converts RE2's `\1` to the regex crate's `${1}`, and escapes `$`.
fn template(substitution: &str, groups: usize) -> Result<String, Unusable> {
    let mut out = String::new();
    let mut chars = substitution.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some('\\') => out.push('\\'),
                Some(digit @ '0'..='9') if (digit as usize - '0' as usize) < groups => {
                    out.push_str(&format!("${{{digit}}}"));
                }
                _ => return Err(Unusable::new("substitution", "refers to a group that the pattern lacks")),
            },
            c => out.push(c),
        }
    }
    Ok(out)
}

/// Validates a host that replaces a request's authority. Returns `None` if it is empty.
pub fn host(field: &str, text: &str) -> Result<Option<HeaderValue>, Unusable> {
    if text.is_empty() {
        return Ok(None);
    }
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    if !text.bytes().all(legal) {
        return Err(Unusable::new(field, format_args!("{text:?} is no host")));
    }
    HeaderValue::from_str(text).map(Some).map_err(|bad| Unusable::new(field, bad))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regex(pattern: &str, substitution: &str) -> Result<Option<PathRewrite>, Unusable> {
        let pattern = Some(matcher::RegexMatcher { regex: pattern.into(), ..Default::default() });
        let wire = matcher::RegexMatchAndSubstitute { pattern, substitution: substitution.into() };
        PathRewrite::decode(String::new(), Some(wire), String::new())
    }

    #[test]
    fn a_prefix_is_replaced_once_and_slashes_never_double() {
        let prefix = |to: &str| PathRewrite::Prefix(to.into());
        assert_eq!(prefix("/v2").apply("/shop/cart?a=/shop", 5), "/v2/cart?a=/shop");
        assert_eq!(prefix("/").apply("/shop/cart", 5), "/cart");
        assert_eq!(prefix("/").apply("/shop", 5), "/");
        assert_eq!(prefix("/v2/").apply("/shop/cart", 5), "/v2/cart");
        assert_eq!(prefix("/v2/").apply("/shop/cart", 6), "/v2/cart");
    }

    #[test]
    fn a_whole_path_is_replaced_and_its_query_kept() {
        assert_eq!(PathRewrite::Full("/one".into()).apply("/shop/cart?a", 5), "/one?a");
        assert_eq!(PathRewrite::Full("/one?b".into()).apply("/shop/cart?a", 5), "/one?b");
    }

    #[test]
    fn percent_signs_are_escaped_in_a_whole_path_and_nowhere_else() {
        let new = |prefix: &str, full: &str| {
            PathRewrite::decode(prefix.into(), None, full.into())
                .map(|rewrite| rewrite.unwrap().apply("/a/b", 2))
        };
        assert_eq!(new("/c%20d", "").unwrap(), "/c%20d/b");
        assert_eq!(new("", "/c%%20d").unwrap(), "/c%20d");
        assert_eq!(new("", "/%REQ(x)%").unwrap_err().field, "path_rewrite");
    }

    #[test]
    fn groups_of_a_regex_are_filled_in() {
        let rewrite = regex("^/(\\w+)/(\\w+)", "/\\2/\\1").unwrap().unwrap();
        assert_eq!(rewrite.apply("/a/b/c?x=/a/b", 0), "/b/a/c?x=/a/b");
        assert_eq!(regex(".*", "gone").unwrap().unwrap().apply("/a", 0), "/gone");
    }

    #[test]
    fn what_makes_no_path_is_refused_by_field() {
        let refused =
            |result: Result<_, Unusable>| result.map(|_: Option<PathRewrite>| ()).unwrap_err().field;
        assert_eq!(refused(regex("(", "/")), "regex_rewrite.pattern.regex");
        assert_eq!(refused(regex("a", "/\\1")), "regex_rewrite.substitution");
        assert_eq!(refused(regex("a", "/ HTTP/1.1\r\n")), "regex_rewrite.substitution");
        assert_eq!(refused(PathRewrite::decode("a".into(), None, String::new())), "prefix_rewrite");
        assert_eq!(refused(PathRewrite::decode("/a b".into(), None, String::new())), "prefix_rewrite");
        assert_eq!(refused(PathRewrite::decode("/a".into(), None, "/b".into())), "prefix_rewrite");
        assert_eq!(host("host_rewrite_literal", "a b").unwrap_err().field, "host_rewrite_literal");
    }
}
