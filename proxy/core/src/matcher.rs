//! String matching: exact, prefix, suffix, contains or regular expression.
//!
//! The compiled form of `envoy.type.matcher.v3.StringMatcher`. Regular expressions run in linear time and must
//! match the whole value, as RE2's `FullMatch` does in Envoy.

use regex::Regex;
use thiserror::Error;

/// A compiled string matcher.
#[derive(Debug, Clone)]
pub struct StringMatcher {
    pattern: Pattern,
    ignore_case: bool,
}

/// The pattern of a [`StringMatcher`].
#[derive(Debug, Clone)]
pub enum Pattern {
    /// The value equals this text.
    Exact(Box<str>),
    /// The value starts with this text.
    Prefix(Box<str>),
    /// The value ends with this text.
    Suffix(Box<str>),
    /// The value contains this text.
    Contains(Box<str>),
    /// The whole value matches this expression.
    Regex(Regex),
}

impl StringMatcher {
    /// Creates a matcher. `ignore_case` applies to ASCII letters and not to regular expressions
    /// (`envoy.type.matcher.v3.StringMatcher.ignore_case`).
    pub fn new(pattern: Pattern, ignore_case: bool) -> Self {
        Self { pattern, ignore_case }
    }

    /// Returns whether `value` matches.
    pub fn matches(&self, value: &str) -> bool {
        let (value, fold) = (value.as_bytes(), self.ignore_case);
        let same = |a: &[u8], b: &[u8]| if fold { a.eq_ignore_ascii_case(b) } else { a == b };
        match &self.pattern {
            Pattern::Exact(want) => same(value, want.as_bytes()),
            Pattern::Prefix(want) => value.get(..want.len()).is_some_and(|head| same(head, want.as_bytes())),
            Pattern::Suffix(want) => {
                value.len().checked_sub(want.len()).is_some_and(|at| same(&value[at..], want.as_bytes()))
            }
            Pattern::Contains(want) => {
                want.is_empty() || value.windows(want.len()).any(|part| same(part, want.as_bytes()))
            }
            Pattern::Regex(regex) => std::str::from_utf8(value).is_ok_and(|value| regex.is_match(value)),
        }
    }
}

/// Compiles a regular expression that must match a whole value.
///
/// Returns an error that names the expression if it uses what the linear-time engine does not support (back-references,
/// look-around), or if the compiled program exceeds 1 MiB.
pub fn full_match(expression: &str) -> Result<Regex, RegexError> {
    let build = |pattern: &str| regex::RegexBuilder::new(pattern).size_limit(1 << 20).build();
    // The expression must be valid before it is wrapped: `a)|(b` must not close the surrounding group.
    build(expression)
        .and_then(|_| build(&format!(r"\A(?:{expression})\z")))
        .map_err(|error| RegexError { expression: expression.into(), error: last_line(&error) })
}

/// Returns the last line, which states the problem. The lines above it show the position in the expression.
fn last_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next_back().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

/// A regular expression that cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("bad regular expression {expression:?}: {error}")]
pub struct RegexError {
    expression: String,
    error: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pattern_matches_what_it_says() {
        let matches = |pattern, value| StringMatcher::new(pattern, false).matches(value);
        assert!(matches(Pattern::Exact("a".into()), "a") && !matches(Pattern::Exact("a".into()), "A"));
        assert!(matches(Pattern::Prefix("ab".into()), "abc") && !matches(Pattern::Prefix("ab".into()), "a"));
        assert!(
            matches(Pattern::Suffix("bc".into()), "abc") && !matches(Pattern::Suffix("abc".into()), "bc")
        );
        assert!(matches(Pattern::Contains("".into()), "") && matches(Pattern::Contains("b".into()), "abc"));
        assert!(matches(Pattern::Regex(full_match("a|bc").unwrap()), "bc"));
        assert!(!matches(Pattern::Regex(full_match("a|bc").unwrap()), "abc"));
    }

    #[test]
    fn case_is_ignored_on_request() {
        assert!(StringMatcher::new(Pattern::Prefix("AB".into()), true).matches("abc"));
    }

    #[test]
    fn a_regex_that_needs_backtracking_is_refused_by_name() {
        let refusal = full_match("(a)\\1").unwrap_err().to_string();
        assert_eq!(refusal, "bad regular expression \"(a)\\\\1\": backreferences are not supported");
    }
}
