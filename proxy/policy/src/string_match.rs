//! Decoding of `envoy.type.matcher.v3.StringMatcher` and `RegexMatcher` to the types of `outrigger-core`.

use outrigger_core::matcher::{Pattern, StringMatcher, full_match};
use outrigger_proto::xds::matcher;
use regex::Regex;

use crate::field::Unusable;

/// Decodes a string matcher. Returns an error for custom matchers (`custom`).
pub(crate) fn decode(wire: matcher::StringMatcher) -> Result<StringMatcher, Unusable> {
    use matcher::string_matcher::MatchPattern;
    let matcher::StringMatcher { ignore_case, match_pattern } = wire;
    let pattern = match match_pattern {
        Some(MatchPattern::Exact(text)) => Pattern::Exact(text.into()),
        Some(MatchPattern::Prefix(text)) => Pattern::Prefix(text.into()),
        Some(MatchPattern::Suffix(text)) => Pattern::Suffix(text.into()),
        Some(MatchPattern::Contains(text)) => Pattern::Contains(text.into()),
        Some(MatchPattern::SafeRegex(regex)) => {
            Pattern::Regex(self::regex(regex).map_err(|bad| bad.within("safe_regex"))?)
        }
        Some(MatchPattern::Custom(_)) => return Err(Unusable::new("custom", "is not supported")),
        None => return Err(Unusable::new("match_pattern", "is required")),
    };
    Ok(StringMatcher::new(pattern, ignore_case))
}

/// Compiles a regular expression that must match a whole value.
pub(crate) fn regex(wire: matcher::RegexMatcher) -> Result<Regex, Unusable> {
    // RE2 is the only `engine_type`, and this is its syntax.
    let matcher::RegexMatcher { regex, engine_type: _ } = wire;
    full_match(&regex).map_err(|bad| Unusable::new("regex", bad))
}

#[cfg(test)]
mod tests {
    use matcher::string_matcher::MatchPattern;

    use super::*;

    #[test]
    fn what_cannot_match_is_refused_by_field() {
        let regex = matcher::RegexMatcher { regex: "(".into(), ..Default::default() };
        for (pattern, field) in [
            (None, "match_pattern"),
            (Some(MatchPattern::SafeRegex(regex)), "safe_regex.regex"),
            (Some(MatchPattern::Custom(Default::default())), "custom"),
        ] {
            let wire = matcher::StringMatcher { match_pattern: pattern, ignore_case: false };
            assert_eq!(decode(wire).unwrap_err().field, field);
        }
    }
}
