//! The matches of an HTTPRoute: path, method, headers, query parameters.

use schemars::JsonSchema;
use serde::Deserialize;

use super::named_match::{NamedMatch, first_of_each_name};
use super::path::check_path;
use super::strict::at;
use super::value::{HeaderValue, List, Text, check_regex, refuse_repeated};
use crate::model::route::{PathMatch, RouteMatch};

/// Returns the match of a rule that has none: every request.
pub(super) fn every_path() -> RouteMatch {
    RouteMatch {
        path: PathMatch::Prefix("/".into()),
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
        grpc: false,
    }
}

/// One match.
#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "WireMatch")]
#[schemars(with = "WireMatch")]
pub(super) struct HttpMatch(pub(super) RouteMatch);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireMatch {
    path: Option<Path>,
    method: Option<Method>,
    #[serde(default)]
    headers: List<NamedMatch<HeaderValue>, 0, 16>,
    #[serde(default)]
    query_params: List<NamedMatch<Text<1024>>, 0, 16>,
}

impl TryFrom<WireMatch> for HttpMatch {
    type Error = String;

    fn try_from(WireMatch { path, method, headers, query_params }: WireMatch) -> Result<Self, String> {
        let query: Vec<_> = query_params.0.into_iter().map(NamedMatch::into_inner).collect();
        refuse_repeated(query.iter().map(|param| &param.name)).map_err(|reason| at("queryParams", reason))?;
        Ok(Self(RouteMatch {
            path: path.map_or_else(|| PathMatch::Prefix("/".into()), |Path(path)| path),
            method: method.map(Method::into),
            headers: first_of_each_name(headers)?,
            query,
            grpc: false,
        }))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "WirePath")]
#[schemars(with = "WirePath")]
pub(super) struct Path(pub(super) PathMatch);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WirePath {
    #[serde(default)]
    r#type: PathType,
    value: Option<String>,
}

#[derive(Default, Deserialize, JsonSchema)]
enum PathType {
    Exact,
    #[default]
    PathPrefix,
    RegularExpression,
}

impl TryFrom<WirePath> for Path {
    type Error = String;

    fn try_from(WirePath { r#type, value }: WirePath) -> Result<Self, String> {
        let value = value.unwrap_or_else(|| "/".into());
        if value.len() > 1024 {
            return Err(at("value", "is longer than 1024 bytes"));
        }
        if let PathType::RegularExpression = r#type {
            check_regex(&value).map_err(|reason| at("value", reason))?;
            return Ok(Self(PathMatch::Regex(value.into())));
        }
        check_path(&value).map_err(|reason| at("value", format_args!("{value:?} {reason}")))?;
        Ok(Self(match r#type {
            PathType::Exact => PathMatch::Exact(value.into()),
            // "/a/" and "/a" are the same prefix: "a trailing slash is ignored" (`HTTPPathMatch`).
            _ => PathMatch::Prefix(match value.trim_end_matches('/') {
                "" => "/".into(),
                prefix => prefix.into(),
            }),
        }))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
}

impl From<Method> for http::Method {
    fn from(method: Method) -> Self {
        match method {
            Method::Get => Self::GET,
            Method::Head => Self::HEAD,
            Method::Post => Self::POST,
            Method::Put => Self::PUT,
            Method::Delete => Self::DELETE,
            Method::Connect => Self::CONNECT,
            Method::Options => Self::OPTIONS,
            Method::Trace => Self::TRACE,
            Method::Patch => Self::PATCH,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_table;
    use super::*;
    use crate::model::route::{ValueMatch, ValuePattern};

    const MATCH: &str = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a},
        spec: {rules: [{matches: [{@}]}]}}";

    #[test]
    fn a_match_outside_the_crds_limits_is_refused() {
        let at = "spec.rules[0].matches[0]";
        let [path, header, param] =
            ["path", "headers[0]", "queryParams[0]"].map(|field| format!("{at}.{field}"));
        let value = format!("{path}.value");
        check_table(
            MATCH,
            &[
                "path: {type: RegularExpression, value: '/a/[0-9]+'}, method: PATCH",
                "headers: [{name: X-A, value: a b}, {name: x-a, value: c}]",
                "queryParams: [{name: a, value: ' '}, {name: A, value: b, type: RegularExpression}]",
            ],
            &[
                ("path: {value: a}", &value, "does not start with"),
                ("path: {value: //a}", &value, "contains \"//\""),
                ("path: {value: /a/../b}", &value, "contains"),
                ("path: {value: /a%2fb}", &value, "contains"),
                ("path: {value: '/a#b'}", &value, "contains"),
                ("path: {value: /a/..}", &value, "dot segment"),
                ("path: {value: /a b}", &value, "character"),
                ("path: {value: /a%zz}", &value, "character"),
                ("path: {value: '/a?b'}", &value, "character"),
                ("path: {type: Suffix, value: /a}", &format!("{path}.type"), "unknown value"),
                ("path: {type: RegularExpression, value: '(a'}", &value, "bad regular expression \"(a\""),
                ("path: {type: RegularExpression, value: '(a)\\1'}", &value, "bad regular expression"),
                ("method: get", &format!("{at}.method"), "unknown value"),
                ("headers: [{name: 'a b', value: c}]", &format!("{header}.name"), "not a header name"),
                ("headers: [{name: a, value: ' c'}]", &format!("{header}.value"), "not a header value"),
                (
                    "headers: [{name: a, value: '[', type: RegularExpression}]",
                    &format!("{header}.value"),
                    "bad regular expression",
                ),
                (
                    "headers: [{name: a, value: b}, {name: a, value: c}]",
                    &format!("{at}.headers"),
                    "\"a\" is duplicated",
                ),
                ("headers: [{name: a}]", &header, "missing field `value`"),
                ("queryParams: [{name: a, value: ''}]", &format!("{param}.value"), "empty"),
                (
                    "queryParams: [{name: a, value: '[', type: RegularExpression}]",
                    &format!("{param}.value"),
                    "bad regular expression",
                ),
                (
                    "queryParams: [{name: a, value: b}, {name: a, value: c}]",
                    &format!("{at}.queryParams"),
                    "\"a\"",
                ),
                ("header: []", &format!("{at}.header"), "unknown field"),
            ],
        );
    }

    #[test]
    fn a_prefix_has_no_trailing_slash_and_headers_have_one_case() {
        let read = |json: &str| serde_json::from_str::<HttpMatch>(json).unwrap().0;
        assert_eq!(read(r#"{"path": {"value": "/a/"}}"#).path, PathMatch::Prefix("/a".into()));
        assert_eq!(read(r#"{"path": {}}"#).path, PathMatch::Prefix("/".into()));
        assert_eq!(
            read(r#"{"path": {"type": "Exact", "value": "/a/"}}"#).path,
            PathMatch::Exact("/a/".into())
        );
        let headers =
            read(r#"{"headers": [{"name": "X-A", "value": "1"}, {"name": "x-a", "value": "2"}]}"#).headers;
        assert_eq!(headers, [ValueMatch { name: "x-a".into(), value: ValuePattern::Exact("1".into()) }]);
    }
}
