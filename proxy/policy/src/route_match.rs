//! The requests that a route, or a rule of a filter, matches (`envoy.config.route.v3.RouteMatch`).

use outrigger_core::Name;
use outrigger_core::matcher::StringMatcher;
use outrigger_core::percentage::Percentage;
use outrigger_proto::xds::route;
use regex::Regex;

use crate::field::{Unusable, each, non_empty, required, runtime_fraction, unsupported_any};
use crate::header_match::{Head, HeaderMatcher};
use crate::string_match;

/// The match of a route. All criteria must hold.
#[derive(Debug, Clone)]
pub struct RouteMatcher {
    path: PathMatcher,
    headers: Box<[HeaderMatcher]>,
    query: Box<[QueryMatcher]>,
    grpc: bool,
    share: Percentage,
}

#[derive(Debug, Clone)]
enum PathMatcher {
    Exact(Box<str>, Case),
    Prefix(Box<str>, Case),
    /// A prefix that ends at a segment boundary.
    SegmentPrefix(Box<str>, Case),
    Regex(Regex),
}

/// The path of a route whose bytes decide, for an index.
#[derive(Debug, Clone, Copy)]
pub enum Literal<'a> {
    /// Only this path matches.
    Exact(&'a str),
    /// Only paths with this prefix match. `*` also matches the prefix `/`.
    Prefix(&'a str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Counts,
    Ignored,
}

#[derive(Debug, Clone)]
struct QueryMatcher {
    name: Box<str>,
    /// `None` matches any value.
    value: Option<StringMatcher>,
    present: bool,
}

impl RouteMatcher {
    /// Matches every request.
    pub fn any() -> Self {
        Self {
            path: PathMatcher::Prefix("/".into(), Case::Counts),
            headers: Box::default(),
            query: Box::default(),
            grpc: false,
            share: Percentage::ALL,
        }
    }

    /// Decodes a match.
    pub fn decode(wire: route::RouteMatch) -> Result<Self, Unusable> {
        let route::RouteMatch {
            case_sensitive,
            runtime_fraction: fraction,
            headers,
            query_parameters,
            cookies,
            grpc,
            tls_context,
            dynamic_metadata,
            filter_state,
            path_specifier,
        } = wire;
        unsupported_any(&[
            ("cookies", !cookies.is_empty()),
            ("tls_context", tls_context.is_some()),
            ("dynamic_metadata", !dynamic_metadata.is_empty()),
            ("filter_state", !filter_state.is_empty()),
        ])?;
        let case = if case_sensitive.is_none_or(|yes| yes.value) { Case::Counts } else { Case::Ignored };
        Ok(Self {
            path: PathMatcher::decode(required("path_specifier", path_specifier)?, case)?,
            headers: each("headers", headers, HeaderMatcher::decode)?.into(),
            query: each("query_parameters", query_parameters, QueryMatcher::decode)?.into(),
            // The message has no fields; its presence is the setting.
            grpc: grpc.is_some(),
            share: runtime_fraction("runtime_fraction", fraction)?.unwrap_or(Percentage::ALL),
        })
    }

    /// Returns true if the route matches the request. `sample` is a random number of the request, uniform over `u32`.
    pub fn matches(&self, head: &Head<'_>, sample: u32) -> bool {
        let (path, query) = split_query(head.path);
        self.path.matches(path)
            && self.share.holds(sample)
            && (!self.grpc || is_grpc(head))
            && self.headers.iter().all(|matcher| matcher.matches(head))
            && self.query.iter().all(|matcher| matcher.matches(query))
    }

    /// Returns what a matching path must be or begin with, or `None` if that is not a fixed sequence of bytes.
    pub fn literal(&self) -> Option<Literal<'_>> {
        match &self.path {
            PathMatcher::Exact(path, Case::Counts) => Some(Literal::Exact(path)),
            PathMatcher::Prefix(prefix, Case::Counts) | PathMatcher::SegmentPrefix(prefix, Case::Counts) => {
                Some(Literal::Prefix(prefix))
            }
            PathMatcher::Regex(_) => None,
            PathMatcher::Exact(_, Case::Ignored)
            | PathMatcher::Prefix(_, Case::Ignored)
            | PathMatcher::SegmentPrefix(_, Case::Ignored) => None,
        }
    }

    /// Returns the path that it matches in a form of low cardinality (OpenTelemetry's `http.route`): an exact path, a prefix with
    /// `*` for the rest, or a regular expression. Returns `None` if it matches any path.
    pub fn template(&self) -> Option<Name> {
        match &self.path {
            PathMatcher::Prefix(prefix, _) if matches!(&**prefix, "" | "/") => None,
            PathMatcher::Prefix(prefix, _) => Some(format!("{prefix}*").into()),
            PathMatcher::SegmentPrefix(prefix, _) => Some(format!("{prefix}/*").into()),
            PathMatcher::Exact(path, _) => Some((&**path).into()),
            PathMatcher::Regex(regex) => {
                let whole = regex.as_str();
                // As it was before it was anchored.
                let own =
                    whole.strip_prefix(r"\A(?:").and_then(|tail| tail.strip_suffix(r")\z")).unwrap_or(whole);
                (!matches!(own, ".*" | "/.*")).then(|| own.into())
            }
        }
    }

    /// Returns the length in bytes that a prefix rewrite replaces in `path_and_query`: the matched prefix, else the whole path.
    pub fn matched(&self, path_and_query: &str) -> usize {
        match &self.path {
            PathMatcher::Prefix(prefix, _) | PathMatcher::SegmentPrefix(prefix, _) => prefix.len(),
            PathMatcher::Exact(..) | PathMatcher::Regex(_) => split_query(path_and_query).0.len(),
        }
    }
}

impl PathMatcher {
    fn decode(wire: route::route_match::PathSpecifier, case: Case) -> Result<Self, Unusable> {
        use route::route_match::PathSpecifier as Wire;
        match wire {
            Wire::Path(path) => Ok(Self::Exact(path.into(), case)),
            Wire::Prefix(prefix) => Ok(Self::Prefix(prefix.into(), case)),
            Wire::PathSeparatedPrefix(prefix) => {
                if !prefix.starts_with('/') || prefix.ends_with('/') || prefix.contains(['?', '#']) {
                    let problem = format_args!("{prefix:?} does not begin, or does end, with a slash");
                    return Err(Unusable::new("path_separated_prefix", problem));
                }
                Ok(Self::SegmentPrefix(prefix.into(), case))
            }
            Wire::SafeRegex(regex) => {
                string_match::regex(regex).map(Self::Regex).map_err(|bad| bad.within("safe_regex"))
            }
            Wire::ConnectMatcher(_) => Err(Unusable::new("connect_matcher", "is not supported")),
            Wire::PathMatchPolicy(_) => Err(Unusable::new("path_match_policy", "is not supported")),
        }
    }

    fn matches(&self, path: &str) -> bool {
        let same = |a: &[u8], b: &str, case: &Case| match case {
            Case::Counts => a == b.as_bytes(),
            Case::Ignored => a.eq_ignore_ascii_case(b.as_bytes()),
        };
        // `OPTIONS *` concerns the whole server, not a path: a prefix matches it only if it matches every path.
        if path == "*" {
            return match self {
                Self::Prefix(prefix, _) => matches!(&**prefix, "" | "/" | "*"),
                Self::Exact(want, _) => &**want == "*",
                Self::SegmentPrefix(..) => false,
                Self::Regex(regex) => regex.is_match(path),
            };
        }
        let begins = |prefix: &str, case| {
            path.as_bytes().get(..prefix.len()).is_some_and(|head| same(head, prefix, case))
        };
        match self {
            Self::Exact(want, case) => same(path.as_bytes(), want, case),
            Self::Prefix(prefix, case) => begins(prefix, case),
            Self::SegmentPrefix(prefix, case) => {
                begins(prefix, case) && matches!(path.as_bytes().get(prefix.len()), None | Some(b'/'))
            }
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

impl QueryMatcher {
    fn decode(wire: route::QueryParameterMatcher) -> Result<Self, Unusable> {
        use route::query_parameter_matcher::QueryParameterMatchSpecifier as Wire;
        let route::QueryParameterMatcher { name, query_parameter_match_specifier } = wire;
        let (value, present) = match query_parameter_match_specifier {
            None => (None, true),
            Some(Wire::PresentMatch(present)) => (None, present),
            Some(Wire::StringMatch(matcher)) => {
                (Some(string_match::decode(matcher).map_err(|bad| bad.within("string_match"))?), true)
            }
        };
        Ok(Self { name: non_empty("name", name)?.into(), value, present })
    }

    /// The first parameter with the name is compared (HTTPRoute, HTTPQueryParamMatch.name). Values are compared as sent.
    fn matches(&self, query: &str) -> bool {
        let mut parameters = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let value = parameters.find(|(name, _)| *name == &*self.name).map(|(_, value)| value);
        match (&self.value, value) {
            (None, value) => value.is_some() == self.present,
            (Some(matcher), Some(value)) => matcher.matches(value),
            (Some(_), None) => false,
        }
    }
}

/// Returns the path without the query.
pub fn path<'a>(head: &Head<'a>) -> &'a str {
    split_query(head.path).0
}

fn split_query(path_and_query: &str) -> (&str, &str) {
    path_and_query.split_once('?').unwrap_or((path_and_query, ""))
}

/// Returns true for gRPC over HTTP/2: the content type is `application/grpc`, alone or with a suffix such as `+proto`.
fn is_grpc(head: &Head<'_>) -> bool {
    let Some(value) = head.headers.get(http::header::CONTENT_TYPE) else { return false };
    value
        .as_bytes()
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};
    use outrigger_proto::xds::{matcher, protobuf};
    use route::route_match::PathSpecifier;

    use super::*;

    fn takes(wire: route::RouteMatch, path: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/grpc+proto".parse().unwrap());
        let head = Head { method: &Method::GET, scheme: "http", authority: "a", path, headers: &headers };
        RouteMatcher::decode(wire).unwrap().matches(&head, u32::MAX / 2)
    }

    fn path(specifier: PathSpecifier) -> route::RouteMatch {
        route::RouteMatch { path_specifier: Some(specifier), ..Default::default() }
    }

    #[test]
    fn each_kind_of_path_matches_as_specified() {
        let regex = matcher::RegexMatcher { regex: "/a+".into(), ..Default::default() };
        for (specifier, requested, expected) in [
            (PathSpecifier::Path("/a".into()), "/a?b", true),
            (PathSpecifier::Path("/a".into()), "/a/", false),
            (PathSpecifier::Prefix("/a".into()), "/ab", true),
            (PathSpecifier::PathSeparatedPrefix("/a".into()), "/ab", false),
            (PathSpecifier::PathSeparatedPrefix("/a".into()), "/a/b", true),
            (PathSpecifier::PathSeparatedPrefix("/a".into()), "/a?b", true),
            (PathSpecifier::SafeRegex(regex.clone()), "/aaa?b", true),
            (PathSpecifier::SafeRegex(regex), "/aab", false),
            (PathSpecifier::Path("/A".into()), "/a", false),
        ] {
            assert_eq!(takes(path(specifier.clone()), requested), expected, "{specifier:?} {requested}");
        }
        let mut any_case = path(PathSpecifier::Prefix("/A".into()));
        any_case.case_sensitive = Some(protobuf::BoolValue { value: false });
        assert!(takes(any_case, "/ab"));
    }

    #[test]
    fn the_template_has_the_static_part_of_the_path() {
        let regex = |regex: &str| matcher::RegexMatcher { regex: regex.into(), ..Default::default() };
        for (specifier, expected) in [
            (PathSpecifier::Path("/users".into()), Some("/users")),
            (PathSpecifier::PathSeparatedPrefix("/users".into()), Some("/users/*")),
            (PathSpecifier::Prefix("/users/".into()), Some("/users/*")),
            (PathSpecifier::Prefix("/us".into()), Some("/us*")),
            (PathSpecifier::SafeRegex(regex("/users/[0-9]+")), Some("/users/[0-9]+")),
            (PathSpecifier::Prefix("/".into()), None),
            (PathSpecifier::Prefix(String::new()), None),
            (PathSpecifier::SafeRegex(regex(".*")), None),
        ] {
            let template = RouteMatcher::decode(path(specifier.clone())).unwrap().template();
            assert_eq!(template.as_deref(), expected, "{specifier:?}");
        }
    }

    #[test]
    fn an_asterisk_form_request_matches_like_the_root_prefix() {
        for (specifier, expected) in [
            (PathSpecifier::Prefix("/".into()), true),
            (PathSpecifier::Prefix(String::new()), true),
            (PathSpecifier::Path("*".into()), true),
            (PathSpecifier::Prefix("/a".into()), false),
            (PathSpecifier::Path("/".into()), false),
            (PathSpecifier::PathSeparatedPrefix("/a".into()), false),
        ] {
            assert_eq!(takes(path(specifier.clone()), "*"), expected, "{specifier:?}");
        }
    }

    #[test]
    fn query_parameters_are_matched_by_their_first_value() {
        use route::query_parameter_matcher::QueryParameterMatchSpecifier as Wire;
        let with = |specifier| route::RouteMatch {
            query_parameters: vec![route::QueryParameterMatcher {
                name: "v".into(),
                query_parameter_match_specifier: Some(specifier),
            }],
            ..path(PathSpecifier::Prefix("/".into()))
        };
        let exact = matcher::StringMatcher {
            match_pattern: Some(matcher::string_matcher::MatchPattern::Exact("2".into())),
            ignore_case: false,
        };
        assert!(takes(with(Wire::StringMatch(exact.clone())), "/?a=1&v=2&v=3"));
        assert!(!takes(with(Wire::StringMatch(exact.clone())), "/?v=3&v=2"));
        assert!(!takes(with(Wire::StringMatch(exact)), "/"));
        assert!(takes(with(Wire::PresentMatch(true)), "/?v"));
        assert!(takes(with(Wire::PresentMatch(false)), "/?w=v"));
    }

    #[test]
    fn a_fraction_of_requests_or_only_grpc_can_be_matched() {
        use outrigger_proto::xds::{core, types};
        let share = |numerator| route::RouteMatch {
            runtime_fraction: Some(core::RuntimeFractionalPercent {
                default_value: Some(types::FractionalPercent { numerator, denominator: 0 }),
                runtime_key: String::new(),
            }),
            grpc: Some(Default::default()),
            ..path(PathSpecifier::Prefix("/".into()))
        };
        assert!(takes(share(51), "/") && !takes(share(49), "/"));
    }
}
