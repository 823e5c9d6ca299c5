//! What an HTTPRoute matches: path, method, headers, query parameters.

use outrigger_core::Name;
use serde::Deserialize;

use super::value::{HeaderName, HeaderValue, List, check_regex, refuse_repeated};
use crate::model::route::{PathMatch, RouteMatch, ValueMatch, ValuePattern};

/// The match of a rule that names none: every request.
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
#[derive(Deserialize)]
#[serde(try_from = "WireMatch")]
pub(super) struct HttpMatch(pub(super) RouteMatch);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireMatch {
    path: Option<Path>,
    method: Option<Method>,
    #[serde(default)]
    headers: List<HeaderMatch, 0, 16>,
    #[serde(default)]
    query_params: List<QueryMatch, 0, 16>,
}

impl TryFrom<WireMatch> for HttpMatch {
    type Error = String;

    fn try_from(WireMatch { path, method, headers, query_params }: WireMatch) -> Result<Self, String> {
        let headers = headers.0.into_iter().map(|header| header.0).collect();
        let query: Vec<_> = query_params.0.into_iter().map(|param| param.0).collect();
        refuse_repeated(query.iter().map(|param| &param.name)).map_err(|e| format!("queryParams: {e}"))?;
        Ok(Self(RouteMatch {
            path: path.map_or_else(|| PathMatch::Prefix("/".into()), |Path(path)| path),
            method: method.map(Method::into),
            headers: first_of_each_name(headers)?,
            query,
            grpc: false,
        }))
    }
}

/// Refuses a header named twice as the CRD does. Names that differ in case alone are one header, and "only the first
/// entry with an equivalent name MUST be considered for a match" (`HTTPHeaderMatch.name`).
pub(super) fn first_of_each_name(headers: Vec<ValueMatch>) -> Result<Vec<ValueMatch>, String> {
    refuse_repeated(headers.iter().map(|header| &header.name)).map_err(|e| format!("headers: {e}"))?;
    let mut all: Vec<ValueMatch> = Vec::new();
    for header in headers {
        let name: Name = header.name.to_ascii_lowercase().into();
        if all.iter().all(|other| other.name != name) {
            all.push(ValueMatch { name, value: header.value });
        }
    }
    Ok(all)
}

#[derive(Deserialize)]
#[serde(try_from = "WirePath")]
struct Path(PathMatch);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WirePath {
    #[serde(default)]
    r#type: PathType,
    value: Option<String>,
}

#[derive(Default, Deserialize)]
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
            return Err("value is longer than 1024 bytes".into());
        }
        if let PathType::RegularExpression = r#type {
            check_regex(&value)?;
            return Ok(Self(PathMatch::Regex(value.into())));
        }
        check_path(&value)?;
        Ok(Self(match r#type {
            PathType::Exact => PathMatch::Exact(value.into()),
            // "/a/" and "/a" are one prefix: "a trailing slash is ignored" (`HTTPPathMatch`).
            _ => PathMatch::Prefix(match value.trim_end_matches('/') {
                "" => "/".into(),
                prefix => prefix.into(),
            }),
        }))
    }
}

/// The CRD's rules for a path that is no expression: absolute, of path characters, already normal.
fn check_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err(format!("value {path:?} does not start with '/'"));
    }
    for part in ["//", "/./", "/../", "%2f", "%2F", "#"] {
        if path.contains(part) {
            return Err(format!("value {path:?} contains {part:?}"));
        }
    }
    if path.ends_with("/..") || path.ends_with("/.") {
        return Err(format!("value {path:?} ends with a dot segment"));
    }
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let hex = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_hexdigit());
        let legal = match byte {
            b'%' => hex(bytes.next()) && hex(bytes.next()),
            byte => byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&byte),
        };
        if !legal {
            return Err(format!("value {path:?} has a character that a path cannot have"));
        }
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Method {
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

/// How the values of headers, parameters and gRPC methods are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
pub(super) enum ValueType {
    #[default]
    Exact,
    RegularExpression,
}

impl ValueType {
    /// Makes the pattern; fails on an expression that does not compile.
    pub(super) fn pattern(self, value: Name) -> Result<ValuePattern, String> {
        Ok(match self {
            Self::Exact => ValuePattern::Exact(value),
            Self::RegularExpression => {
                check_regex(&value).map_err(|error| format!("value: {error}"))?;
                ValuePattern::Regex(value)
            }
        })
    }
}

#[derive(Deserialize)]
#[serde(try_from = "WireHeaderMatch")]
struct HeaderMatch(ValueMatch);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireHeaderMatch {
    #[serde(default)]
    r#type: ValueType,
    name: HeaderName,
    value: HeaderValue,
}

impl TryFrom<WireHeaderMatch> for HeaderMatch {
    type Error = String;

    fn try_from(WireHeaderMatch { r#type, name, value }: WireHeaderMatch) -> Result<Self, String> {
        Ok(Self(ValueMatch { name: name.0, value: r#type.pattern(value.0)? }))
    }
}

#[derive(Deserialize)]
#[serde(try_from = "WireQueryMatch")]
struct QueryMatch(ValueMatch);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireQueryMatch {
    #[serde(default)]
    r#type: ValueType,
    name: HeaderName,
    value: String,
}

impl TryFrom<WireQueryMatch> for QueryMatch {
    type Error = String;

    fn try_from(WireQueryMatch { r#type, name, value }: WireQueryMatch) -> Result<Self, String> {
        if !matches!(value.len(), 1..=1024) {
            return Err("value is empty or longer than 1024 bytes".into());
        }
        Ok(Self(ValueMatch { name: name.0, value: r#type.pattern(value.into())? }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_table;
    use super::*;

    const MATCH: &str = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a},
        spec: {rules: [{matches: [{@}]}]}}";

    #[test]
    fn a_match_outside_the_crds_limits_is_refused() {
        let at = "spec.rules[0].matches[0]";
        let [path, header, param] =
            ["path", "headers[0]", "queryParams[0]"].map(|field| format!("{at}.{field}"));
        check_table(
            MATCH,
            &[
                "path: {type: RegularExpression, value: '/a/[0-9]+'}, method: PATCH",
                "headers: [{name: X-A, value: a b}, {name: x-a, value: c}]",
                "queryParams: [{name: a, value: ' '}, {name: A, value: b, type: RegularExpression}]",
            ],
            &[
                ("path: {value: a}", &path, "does not start with"),
                ("path: {value: //a}", &path, "contains \"//\""),
                ("path: {value: /a/../b}", &path, "contains"),
                ("path: {value: /a%2fb}", &path, "contains"),
                ("path: {value: '/a#b'}", &path, "contains"),
                ("path: {value: /a/..}", &path, "dot segment"),
                ("path: {value: /a b}", &path, "character"),
                ("path: {value: /a%zz}", &path, "character"),
                ("path: {value: '/a?b'}", &path, "character"),
                ("path: {type: Suffix, value: /a}", &format!("{path}.type"), "unknown variant"),
                ("path: {type: RegularExpression, value: '(a'}", &path, "bad regular expression \"(a\""),
                ("path: {type: RegularExpression, value: '(a)\\1'}", &path, "bad regular expression"),
                ("method: get", &format!("{at}.method"), "unknown variant"),
                ("headers: [{name: 'a b', value: c}]", &format!("{header}.name"), "not a header name"),
                ("headers: [{name: a, value: ' c'}]", &format!("{header}.value"), "not a header value"),
                (
                    "headers: [{name: a, value: '[', type: RegularExpression}]",
                    &header,
                    "bad regular expression",
                ),
                ("headers: [{name: a, value: b}, {name: a, value: c}]", at, "headers: \"a\" is there twice"),
                ("headers: [{name: a}]", &header, "missing field `value`"),
                ("queryParams: [{name: a, value: ''}]", &param, "empty"),
                (
                    "queryParams: [{name: a, value: '[', type: RegularExpression}]",
                    &param,
                    "bad regular expression",
                ),
                ("queryParams: [{name: a, value: b}, {name: a, value: c}]", at, "queryParams: \"a\""),
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
