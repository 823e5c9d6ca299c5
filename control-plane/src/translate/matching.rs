//! Translates Gateway API's matches to Envoy's.

use outrigger_proto::xds::route::header_matcher::HeaderMatchSpecifier;
use outrigger_proto::xds::route::query_parameter_matcher::QueryParameterMatchSpecifier;
use outrigger_proto::xds::route::route_match::{GrpcRouteMatchOptions, PathSpecifier};
use outrigger_proto::xds::route::{self, HeaderMatcher, QueryParameterMatcher};

use super::wire::{exact, matching, regex};
use crate::model::route::{PathMatch, RouteMatch, ValuePattern};

pub(super) fn route_match(of: &RouteMatch) -> route::RouteMatch {
    let RouteMatch { path, method, headers, query, grpc } = of;
    let method =
        method.as_ref().map(|method| header(":method", &ValuePattern::Exact(method.as_str().into())));
    route::RouteMatch {
        path_specifier: Some(path_specifier(path)),
        headers: method
            .into_iter()
            .chain(headers.iter().map(|wanted| header(&wanted.name, &wanted.value)))
            .collect(),
        query_parameters: query
            .iter()
            .map(|wanted| QueryParameterMatcher {
                name: wanted.name.to_string(),
                query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(string(
                    &wanted.value,
                ))),
            })
            .collect(),
        grpc: grpc.then_some(GrpcRouteMatchOptions {}),
        ..Default::default()
    }
}

/// Returns the match of every request.
pub(super) fn everything() -> route::RouteMatch {
    route::RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".into())), ..Default::default() }
}

/// Returns the match of every gRPC request.
pub(super) fn grpc() -> route::RouteMatch {
    route::RouteMatch { grpc: Some(GrpcRouteMatchOptions {}), ..everything() }
}

fn path_specifier(path: &PathMatch) -> PathSpecifier {
    match path {
        PathMatch::Exact(path) => PathSpecifier::Path(path.to_string()),
        // Envoy's path_separated_prefix must not end in a slash; `/` matches every path.
        PathMatch::Prefix(prefix) if prefix.as_ref() == "/" => PathSpecifier::Prefix("/".into()),
        PathMatch::Prefix(prefix) => PathSpecifier::PathSeparatedPrefix(prefix.to_string()),
        PathMatch::Regex(expression) => PathSpecifier::SafeRegex(regex(expression)),
    }
}

/// Returns a match of a header.
pub(super) fn header(name: &str, value: &ValuePattern) -> HeaderMatcher {
    HeaderMatcher {
        name: name.into(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(string(value))),
        ..Default::default()
    }
}

fn string(value: &ValuePattern) -> outrigger_proto::xds::matcher::StringMatcher {
    match value {
        ValuePattern::Exact(value) => exact(value),
        ValuePattern::Regex(expression) => matching(expression),
    }
}
