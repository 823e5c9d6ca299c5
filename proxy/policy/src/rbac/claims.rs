//! A condition on the claims of verified tokens (`envoy.type.matcher.v3.MetadataMatcher`), as the filter for tokens leaves them for later filters.
//!
//! A claim that is not there satisfies no condition, except an inverted one. Other filters leave nothing, so that a condition on what they
//! leave is refused.

use outrigger_core::matcher::StringMatcher;
use outrigger_proto::xds::matcher::metadata_matcher::{PathSegment, path_segment};
use outrigger_proto::xds::matcher::{self, double_matcher, list_matcher, value_matcher};
use serde_json::Value;

use crate::claim::{ClaimPath, NamedClaims};
use crate::field::{Unusable, each, required};
use crate::string_match;

/// A condition on a claim.
#[derive(Debug, Clone)]
pub(super) struct ClaimMatcher {
    claim: ClaimPath,
    value: ValueMatcher,
    invert: bool,
}

#[derive(Debug, Clone)]
enum ValueMatcher {
    Text(StringMatcher),
    Bool(bool),
    Number(f64),
    /// Text, a number or a truth value.
    Primitive,
    /// A list with such an element.
    Element(Box<Self>),
    OneOf(Box<[Self]>),
}

impl ClaimMatcher {
    /// Decodes a condition.
    pub(super) fn decode(wire: matcher::MetadataMatcher) -> Result<Self, Unusable> {
        let matcher::MetadataMatcher { filter, path, value, invert } = wire;
        let segment = |PathSegment { segment }| {
            let path_segment::Segment::Key(key) = required("key", segment)?;
            Ok(key)
        };
        let path = each("path", path, segment)?;
        let claim = ClaimPath::new(("filter", &filter), ("path", path))?;
        let value = ValueMatcher::decode(required("value", value)?).map_err(|bad| bad.within("value"))?;
        Ok(Self { claim, value, invert })
    }

    /// Returns whether the claims of a request satisfy the condition.
    pub(super) fn matches(&self, claims: &[NamedClaims]) -> bool {
        let claim = self.claim.find(claims);
        claim.is_some_and(|claim| self.value.matches(claim)) != self.invert
    }
}

impl ValueMatcher {
    fn decode(wire: matcher::ValueMatcher) -> Result<Self, Unusable> {
        use value_matcher::MatchPattern as Wire;
        let matcher::ValueMatcher { match_pattern } = wire;
        Ok(match required("match_pattern", match_pattern)? {
            Wire::StringMatch(wire) => {
                Self::Text(string_match::decode(wire).map_err(|bad| bad.within("string_match"))?)
            }
            Wire::BoolMatch(value) => Self::Bool(value),
            Wire::DoubleMatch(matcher::DoubleMatcher { match_pattern }) => {
                match required("double_match.match_pattern", match_pattern)? {
                    double_matcher::MatchPattern::Exact(value) => Self::Number(value),
                    double_matcher::MatchPattern::Range(_) => {
                        return Err(Unusable::new("double_match.range", "is not supported"));
                    }
                }
            }
            Wire::PresentMatch(true) => Self::Primitive,
            Wire::PresentMatch(false) => return Err(Unusable::new("present_match", "must be true")),
            Wire::NullMatch(value_matcher::NullMatch {}) => {
                return Err(Unusable::new("null_match", "is not supported"));
            }
            Wire::ListMatch(wire) => {
                let matcher::ListMatcher { match_pattern } = *wire;
                let list_matcher::MatchPattern::OneOf(wire) =
                    required("list_match.match_pattern", match_pattern)?;
                let element = Self::decode(*wire).map_err(|bad| bad.within("list_match.one_of"))?;
                Self::Element(Box::new(element))
            }
            Wire::OrMatch(matcher::OrMatcher { value_matchers }) => {
                if value_matchers.len() < 2 {
                    return Err(Unusable::new("or_match.value_matchers", "has fewer than two"));
                }
                Self::OneOf(each("or_match.value_matchers", value_matchers, Self::decode)?.into())
            }
        })
    }

    fn matches(&self, claim: &Value) -> bool {
        match self {
            Self::Text(matcher) => claim.as_str().is_some_and(|text| matcher.matches(text)),
            Self::Bool(expected) => claim.as_bool() == Some(*expected),
            Self::Number(expected) => claim.as_f64() == Some(*expected),
            Self::Primitive => matches!(claim, Value::String(_) | Value::Number(_) | Value::Bool(_)),
            Self::Element(of) => claim.as_array().is_some_and(|all| all.iter().any(|one| of.matches(one))),
            Self::OneOf(any) => any.iter().any(|one| one.matches(claim)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outrigger_proto::xds::matcher::StringMatcher as WireText;
    use outrigger_proto::xds::matcher::string_matcher::MatchPattern;
    use serde_json::json;
    use value_matcher::MatchPattern as Wire;

    use super::*;

    const OF_TOKENS: &str = "envoy.filters.http.jwt_authn";

    fn text(value: &str) -> Wire {
        let match_pattern = Some(MatchPattern::Exact(value.into()));
        Wire::StringMatch(WireText { match_pattern, ignore_case: false })
    }

    fn of(pattern: Wire) -> matcher::ValueMatcher {
        matcher::ValueMatcher { match_pattern: Some(pattern) }
    }

    fn element(pattern: Wire) -> Wire {
        let one_of = list_matcher::MatchPattern::OneOf(Box::new(of(pattern)));
        Wire::ListMatch(Box::new(matcher::ListMatcher { match_pattern: Some(one_of) }))
    }

    fn any(patterns: Vec<Wire>) -> Wire {
        Wire::OrMatch(matcher::OrMatcher { value_matchers: patterns.into_iter().map(of).collect() })
    }

    fn wire(path: &[&str], value: Wire) -> matcher::MetadataMatcher {
        let segment = |key: &&str| PathSegment { segment: Some(path_segment::Segment::Key((*key).into())) };
        let path = path.iter().map(segment).collect();
        matcher::MetadataMatcher { filter: OF_TOKENS.into(), path, value: Some(of(value)), invert: false }
    }

    fn claims(name: &str, claims: Value) -> NamedClaims {
        let Value::Object(claims) = claims else { panic!("{claims}") };
        (name.into(), Arc::new(claims))
    }

    #[test]
    fn a_claim_is_compared_by_its_type() {
        let token = [claims(
            "jwt",
            json!({"sub": "ann", "groups": ["a", "b"], "admin": true, "level": 3, "realm": {"roles": ["r"]}, "none": null}),
        )];
        for (path, value, holds) in [
            (&["jwt", "sub"][..], text("ann"), true),
            (&["jwt", "sub"], text("bob"), false),
            (&["jwt", "sub"], element(text("ann")), false),
            (&["jwt", "groups"], text("a"), false),
            (&["jwt", "groups"], element(text("b")), true),
            (&["jwt", "groups"], element(text("c")), false),
            (&["jwt", "groups"], any(vec![text("c"), element(text("a"))]), true),
            (&["jwt", "realm", "roles"], element(text("r")), true),
            (&["jwt", "realm"], Wire::PresentMatch(true), false),
            (&["jwt", "admin"], Wire::BoolMatch(true), true),
            (&["jwt", "admin"], Wire::BoolMatch(false), false),
            (&["jwt", "admin"], text("true"), false),
            (&["jwt", "level"], exactly(3.0), true),
            (&["jwt", "level"], exactly(4.0), false),
            (&["jwt", "level"], Wire::PresentMatch(true), true),
            (&["jwt", "none"], Wire::PresentMatch(true), false),
            (&["jwt", "email"], Wire::PresentMatch(true), false),
            (&["other", "sub"], text("ann"), false),
            (&["jwt", "sub", "x"], text("ann"), false),
        ] {
            let matcher = ClaimMatcher::decode(wire(path, value.clone())).unwrap();
            assert_eq!(matcher.matches(&token), holds, "{path:?} {value:?}");
            assert!(!matcher.matches(&[]), "{path:?} {value:?}");
        }
    }

    #[test]
    fn the_last_token_of_a_name_counts_and_an_inverted_condition_holds_without_one() {
        let tokens = [claims("jwt", json!({"sub": "ann"})), claims("jwt", json!({"sub": "bob"}))];
        let sub = |name: &str, invert| {
            let wire = matcher::MetadataMatcher { invert, ..wire(&["jwt", "sub"], text(name)) };
            ClaimMatcher::decode(wire).unwrap()
        };
        assert!(!sub("ann", false).matches(&tokens) && sub("bob", false).matches(&tokens));
        assert!(sub("ann", true).matches(&tokens) && !sub("bob", true).matches(&tokens));
        assert!(sub("ann", true).matches(&[]));
    }

    #[test]
    fn a_condition_that_could_never_be_read_is_refused_by_field() {
        let good = || wire(&["jwt", "sub"], text("ann"));
        let refused = |wire| ClaimMatcher::decode(wire).unwrap_err().field;
        for (wire, field) in [
            (matcher::MetadataMatcher { filter: "envoy.lua".into(), ..good() }, "filter"),
            (matcher::MetadataMatcher { path: Vec::new(), ..good() }, "path"),
            (wire(&["jwt"], text("ann")), "path"),
            (matcher::MetadataMatcher { path: vec![PathSegment::default()], ..good() }, "path[0].key"),
            (matcher::MetadataMatcher { value: None, ..good() }, "value"),
            (wire(&["jwt", "a"], Wire::PresentMatch(false)), "value.present_match"),
            (wire(&["jwt", "a"], Wire::NullMatch(value_matcher::NullMatch {})), "value.null_match"),
            (wire(&["jwt", "a"], any(vec![text("a")])), "value.or_match.value_matchers"),
            (wire(&["jwt", "a"], Wire::ListMatch(Box::default())), "value.list_match.match_pattern"),
            (wire(&["jwt", "a"], Wire::DoubleMatch(Default::default())), "value.double_match.match_pattern"),
        ] {
            assert_eq!(refused(wire), field);
        }
    }

    fn exactly(number: f64) -> Wire {
        let match_pattern = Some(double_matcher::MatchPattern::Exact(number));
        Wire::DoubleMatch(matcher::DoubleMatcher { match_pattern })
    }
}
