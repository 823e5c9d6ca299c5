//! Conditions of RBAC on the claims of tokens.

use outrigger_proto::xds::matcher::double_matcher::MatchPattern as NumberPattern;
use outrigger_proto::xds::matcher::list_matcher::MatchPattern as ListPattern;
use outrigger_proto::xds::matcher::metadata_matcher::{PathSegment, path_segment::Segment};
use outrigger_proto::xds::matcher::string_matcher::MatchPattern as TextPattern;
use outrigger_proto::xds::matcher::value_matcher::MatchPattern;
use outrigger_proto::xds::matcher::{
    DoubleMatcher, ListMatcher, MetadataMatcher, OrMatcher, StringMatcher, ValueMatcher,
};
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::rbac::{Principal, SourcedMetadata, principal::Identifier};

use super::filters::in_principal;
use super::place::Place;

/// The condition that the claim `sub` is `ann`.
pub fn claim() -> MetadataMatcher {
    let filter = "envoy.filters.http.jwt_authn".into();
    let path = vec![segment("jwt"), segment("sub")];
    MetadataMatcher { filter, path, value: Some(value(text(false))), invert: false }
}

pub fn sourced(of: MetadataMatcher) -> SourcedMetadata {
    SourcedMetadata { metadata_matcher: Some(of), metadata_source: 0 }
}

fn segment(key: &str) -> PathSegment {
    PathSegment { segment: Some(Segment::Key(key.into())) }
}

fn text(ignore_case: bool) -> MatchPattern {
    let match_pattern = Some(TextPattern::Exact("ann".into()));
    MatchPattern::StringMatch(StringMatcher { match_pattern, ignore_case })
}

fn number(number: f64) -> DoubleMatcher {
    DoubleMatcher { match_pattern: Some(NumberPattern::Exact(number)) }
}

fn list(of: MatchPattern) -> ListMatcher {
    ListMatcher { match_pattern: Some(ListPattern::OneOf(Box::new(value(of)))) }
}

fn either() -> OrMatcher {
    OrMatcher { value_matchers: vec![value(text(false)), value(text(true))] }
}

fn value(pattern: MatchPattern) -> ValueMatcher {
    ValueMatcher { match_pattern: Some(pattern) }
}

fn in_claim(of: MetadataMatcher) -> (String, Any) {
    in_principal(Principal { identifier: Some(Identifier::SourcedMetadata(sourced(of))) })
}

fn in_value(of: MatchPattern) -> (String, Any) {
    in_claim(MetadataMatcher { value: Some(value(of)), ..claim() })
}

pub fn places() -> Vec<Place> {
    let pattern =
        |pattern: fn() -> MatchPattern| move |of: &mut ValueMatcher| of.match_pattern = Some(pattern());
    vec![
        Place::new("SourcedMetadata", "envoy.config.rbac.v3.SourcedMetadata", sourced(claim()), |of| {
            in_principal(Principal { identifier: Some(Identifier::SourcedMetadata(of)) })
        })
        .probe("metadata_matcher", |of: &mut SourcedMetadata| {
            of.metadata_matcher = Some(MetadataMatcher { invert: true, ..claim() });
        }),
        Place::new("MetadataMatcher", "envoy.type.matcher.v3.MetadataMatcher", claim(), in_claim)
            .probe("path", |of: &mut MetadataMatcher| of.path.push(segment("inner")))
            .probe("value", |of: &mut MetadataMatcher| of.value = Some(value(text(true))))
            .refuses(&["filter"]),
        Place::new(
            "MetadataMatcher.PathSegment",
            "envoy.type.matcher.v3.MetadataMatcher.PathSegment",
            segment("sub"),
            |of| in_claim(MetadataMatcher { path: vec![segment("jwt"), of], ..claim() }),
        ),
        Place::new("ValueMatcher", "envoy.type.matcher.v3.ValueMatcher", value(text(false)), |of| {
            in_claim(MetadataMatcher { value: Some(of), ..claim() })
        })
        .probe("double_match", pattern(|| MatchPattern::DoubleMatch(number(1.0))))
        .probe("string_match", pattern(|| text(true)))
        .probe("bool_match", pattern(|| MatchPattern::BoolMatch(true)))
        .probe("present_match", pattern(|| MatchPattern::PresentMatch(true)))
        .probe("list_match", pattern(|| MatchPattern::ListMatch(Box::new(list(text(false))))))
        .probe("or_match", pattern(|| MatchPattern::OrMatch(either()))),
        Place::new("DoubleMatcher", "envoy.type.matcher.v3.DoubleMatcher", number(1.0), |of| {
            in_value(MatchPattern::DoubleMatch(of))
        })
        .probe("exact", |of: &mut DoubleMatcher| *of = number(2.0)),
        Place::new("ListMatcher", "envoy.type.matcher.v3.ListMatcher", list(text(false)), |of| {
            in_value(MatchPattern::ListMatch(Box::new(of)))
        })
        .probe("one_of", |of: &mut ListMatcher| *of = list(text(true))),
        Place::new("OrMatcher", "envoy.type.matcher.v3.OrMatcher", either(), |of| {
            in_value(MatchPattern::OrMatch(of))
        })
        .probe("value_matchers", |of: &mut OrMatcher| of.value_matchers.push(value(text(false)))),
    ]
}
