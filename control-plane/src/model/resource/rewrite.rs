//! The RequestRedirect and URLRewrite filters of HTTPRoute (GEP-726).

use outrigger_core::Name;
use schemars::JsonSchema;
use serde::Deserialize;

use super::value::{Port, PreciseHostname, ReplacementPath};
use crate::model::route::{PathRewrite, Redirect, RedirectScheme, Rewrite};

/// The fields of a redirect.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct WireRedirect {
    scheme: Option<WireScheme>,
    hostname: Option<PreciseHostname>,
    path: Option<WirePathRewrite>,
    port: Option<Port>,
    status_code: Option<RedirectStatus>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum WireScheme {
    Http,
    Https,
}

#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "u16")]
#[schemars(with = "u16")]
struct RedirectStatus(u16);

impl TryFrom<u16> for RedirectStatus {
    type Error = String;

    fn try_from(code: u16) -> Result<Self, String> {
        if !matches!(code, 301 | 302 | 303 | 307 | 308) {
            return Err(format!("{code} is none of 301, 302, 303, 307 and 308"));
        }
        Ok(Self(code))
    }
}

impl From<WireRedirect> for Redirect {
    fn from(WireRedirect { scheme, hostname, path, port, status_code }: WireRedirect) -> Self {
        Self {
            scheme: scheme.map(|scheme| match scheme {
                WireScheme::Http => RedirectScheme::Http,
                WireScheme::Https => RedirectScheme::Https,
            }),
            hostname: hostname.map(|host| host.0),
            path: path.map(|path| path.0),
            port: port.map(|port| port.0),
            status: status_code.map_or(302, |code| code.0),
        }
    }
}

/// The fields of a rewrite.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WireRewrite {
    hostname: Option<PreciseHostname>,
    path: Option<WirePathRewrite>,
}

impl From<WireRewrite> for Rewrite {
    fn from(WireRewrite { hostname, path }: WireRewrite) -> Self {
        Self { hostname: hostname.map(|host| host.0), path: path.map(|path| path.0) }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "WirePathRewriteFields")]
#[schemars(with = "WirePathRewriteFields")]
struct WirePathRewrite(PathRewrite);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WirePathRewriteFields {
    r#type: PathRewriteType,
    replace_full_path: Option<ReplacementPath>,
    replace_prefix_match: Option<ReplacementPath>,
}

#[derive(Deserialize, JsonSchema)]
enum PathRewriteType {
    ReplaceFullPath,
    ReplacePrefixMatch,
}

impl TryFrom<WirePathRewriteFields> for WirePathRewrite {
    type Error = &'static str;

    fn try_from(wire: WirePathRewriteFields) -> Result<Self, Self::Error> {
        let WirePathRewriteFields { r#type, replace_full_path, replace_prefix_match } = wire;
        match (r#type, replace_full_path, replace_prefix_match) {
            (PathRewriteType::ReplaceFullPath, Some(path), None) => {
                Ok(Self(PathRewrite::Full(absolute(path.0, "/"))))
            }
            (PathRewriteType::ReplacePrefixMatch, None, Some(path)) => {
                Ok(Self(PathRewrite::Prefix(absolute(path.0, ""))))
            }
            (PathRewriteType::ReplaceFullPath, ..) => {
                Err("type ReplaceFullPath goes with replaceFullPath and nothing else")
            }
            (PathRewriteType::ReplacePrefixMatch, ..) => {
                Err("type ReplacePrefixMatch goes with replacePrefixMatch and nothing else")
            }
        }
    }
}

/// Makes a path absolute: the CRD accepts others, which would make the request malformed. An empty prefix removes the matched
/// one; an empty path is the root.
fn absolute(path: Name, empty: &str) -> Name {
    match &*path {
        "" => empty.into(),
        path if path.starts_with('/') => path.into(),
        path => format!("/{path}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_is_absolute() {
        let read = |json: &str| serde_json::from_str::<WirePathRewrite>(json).map(|path| path.0).unwrap();
        let full =
            |path: &str| read(&format!(r#"{{"type": "ReplaceFullPath", "replaceFullPath": "{path}"}}"#));
        assert_eq!(full("/a/"), PathRewrite::Full("/a/".into()));
        assert_eq!(full("a"), PathRewrite::Full("/a".into()));
        assert_eq!(full(""), PathRewrite::Full("/".into()));
        let prefix = |path: &str| {
            read(&format!(r#"{{"type": "ReplacePrefixMatch", "replacePrefixMatch": "{path}"}}"#))
        };
        assert_eq!(prefix("a"), PathRewrite::Prefix("/a".into()));
        assert_eq!(prefix(""), PathRewrite::Prefix("".into()));
    }
}
