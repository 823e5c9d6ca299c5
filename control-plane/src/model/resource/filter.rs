//! Filters of HTTPRoute and GRPCRoute.
//!
//! Both share the wire format; a GRPCRoute has fewer types. Filters of the API that are not supported yet are refused by name.

use schemars::JsonSchema;
use serde::{Deserialize, de};

use super::cors::WireCors;
use super::external_auth::{ExternalAuthSpec, WireExternalAuth};
use super::header_changes::WireHeaderChanges;
use super::mirror::{MirrorSpec, WireMirror};
use super::rewrite::{WireRedirect, WireRewrite};
use super::strict::at;
use super::value::Unsupported;
use crate::model::route::{Cors, Filters, HeaderChanges, Redirect, Rewrite};

/// The filters of a rule by type. Each at most once, except mirrors.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct RuleFilters {
    /// All but the redirect, and those whose backends are not resolved yet.
    pub(crate) plain: Filters,
    pub(crate) mirrors: Vec<MirrorSpec>,
    pub(crate) external_auth: Option<ExternalAuthSpec>,
    pub(crate) redirect: Option<Redirect>,
}

impl RuleFilters {
    /// Sorts the filters of a rule by type. Returns an error if one is repeated, or if there are a redirect and a rewrite, as
    /// the CRD does.
    pub(crate) fn of_rule(filters: Vec<impl Into<HttpFilter>>) -> Result<Self, String> {
        let mut all = Self::default();
        let mut seen = Vec::new();
        for filter in filters.into_iter().map(Into::into) {
            let name = filter.name();
            if seen.contains(&name) && name != "RequestMirror" {
                return Err(at("filters", format_args!("{name} cannot be repeated")));
            }
            seen.push(name);
            match filter {
                HttpFilter::RequestHeaderModifier(changes) => all.plain.request_headers = changes,
                HttpFilter::ResponseHeaderModifier(changes) => all.plain.response_headers = changes,
                HttpFilter::RequestMirror(mirror) => all.mirrors.push(mirror),
                HttpFilter::RequestRedirect(redirect) => all.redirect = Some(redirect),
                HttpFilter::UrlRewrite(rewrite) => all.plain.rewrite = Some(rewrite),
                HttpFilter::Cors(cors) => all.plain.cors = Some(cors),
                HttpFilter::ExternalAuth(auth) => all.external_auth = Some(auth),
            }
        }
        if all.redirect.is_some() && all.plain.rewrite.is_some() {
            return Err(at("filters", "RequestRedirect and URLRewrite exclude each other"));
        }
        Ok(all)
    }

    /// Sorts the filters of a backend by type. Returns an error for all but header changes: the API allows others, which are
    /// not supported yet.
    pub(crate) fn of_backend(filters: Vec<impl Into<HttpFilter>>) -> Result<Filters, String> {
        let filters: Vec<HttpFilter> = filters.into_iter().map(Into::into).collect();
        let header = |filter: &HttpFilter| {
            matches!(filter, HttpFilter::RequestHeaderModifier(_) | HttpFilter::ResponseHeaderModifier(_))
        };
        if let Some(other) = filters.iter().find(|filter| !header(filter)) {
            let name = other.name();
            let reason = format_args!("{name} on a backend is not supported yet: put it on the rule");
            return Err(at("filters", reason));
        }
        Self::of_rule(filters).map(|all| all.plain)
    }
}

/// A filter of an HTTPRoute.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(try_from = "WireFilter")]
#[schemars(with = "WireFilter")]
pub(crate) enum HttpFilter {
    RequestHeaderModifier(HeaderChanges),
    ResponseHeaderModifier(HeaderChanges),
    RequestMirror(MirrorSpec),
    RequestRedirect(Redirect),
    UrlRewrite(Rewrite),
    Cors(Cors),
    ExternalAuth(ExternalAuthSpec),
}

impl HttpFilter {
    fn name(&self) -> &'static str {
        match self {
            Self::RequestHeaderModifier(_) => "RequestHeaderModifier",
            Self::ResponseHeaderModifier(_) => "ResponseHeaderModifier",
            Self::RequestMirror(_) => "RequestMirror",
            Self::RequestRedirect(_) => "RequestRedirect",
            Self::UrlRewrite(_) => "URLRewrite",
            Self::Cors(_) => "CORS",
            Self::ExternalAuth(_) => "ExternalAuth",
        }
    }
}

/// A filter of a GRPCRoute: one of those of an HTTPRoute that apply to gRPC.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
pub(crate) struct GrpcFilter(pub(crate) HttpFilter);

impl From<GrpcFilter> for HttpFilter {
    fn from(GrpcFilter(filter): GrpcFilter) -> Self {
        filter
    }
}

impl<'de> Deserialize<'de> for GrpcFilter {
    fn deserialize<D: de::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match HttpFilter::deserialize(from)? {
            HttpFilter::RequestRedirect(_)
            | HttpFilter::UrlRewrite(_)
            | HttpFilter::Cors(_)
            | HttpFilter::ExternalAuth(_) => Err(de::Error::custom("a GRPCRoute has no filter of this type")),
            filter => Ok(Self(filter)),
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireFilter {
    r#type: FilterType,
    request_header_modifier: Option<WireHeaderChanges>,
    response_header_modifier: Option<WireHeaderChanges>,
    request_mirror: Option<WireMirror>,
    request_redirect: Option<WireRedirect>,
    url_rewrite: Option<WireRewrite>,
    cors: Option<WireCors>,
    external_auth: Option<WireExternalAuth>,
    #[schemars(skip)]
    extension_ref: Option<Unsupported>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
enum FilterType {
    RequestHeaderModifier,
    ResponseHeaderModifier,
    RequestMirror,
    RequestRedirect,
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    #[serde(rename = "CORS")]
    Cors,
    ExternalAuth,
    #[schemars(skip)]
    ExtensionRef,
}

impl TryFrom<WireFilter> for HttpFilter {
    type Error = String;

    fn try_from(wire: WireFilter) -> Result<Self, String> {
        let WireFilter {
            r#type,
            request_header_modifier,
            response_header_modifier,
            request_mirror,
            request_redirect,
            url_rewrite,
            cors,
            external_auth,
            extension_ref: None,
        } = wire;
        let given = [
            request_header_modifier.is_some(),
            response_header_modifier.is_some(),
            request_mirror.is_some(),
            request_redirect.is_some(),
            url_rewrite.is_some(),
            cors.is_some(),
            external_auth.is_some(),
        ];
        if given.iter().filter(|given| **given).count() > 1 {
            return Err("has fields of several types".into());
        }
        let missing = |field: &str| format!("the type requires {field}");
        Ok(match r#type {
            FilterType::RequestHeaderModifier => Self::RequestHeaderModifier(
                request_header_modifier.ok_or_else(|| missing("requestHeaderModifier"))?.0,
            ),
            FilterType::ResponseHeaderModifier => Self::ResponseHeaderModifier(
                response_header_modifier.ok_or_else(|| missing("responseHeaderModifier"))?.0,
            ),
            FilterType::RequestMirror => {
                Self::RequestMirror(request_mirror.ok_or_else(|| missing("requestMirror"))?.0)
            }
            FilterType::RequestRedirect => {
                Self::RequestRedirect(request_redirect.ok_or_else(|| missing("requestRedirect"))?.into())
            }
            FilterType::UrlRewrite => {
                Self::UrlRewrite(url_rewrite.ok_or_else(|| missing("urlRewrite"))?.into())
            }
            FilterType::Cors => Self::Cors(cors.ok_or_else(|| missing("cors"))?.0),
            FilterType::ExternalAuth => {
                Self::ExternalAuth(external_auth.ok_or_else(|| missing("externalAuth"))?.0)
            }
            FilterType::ExtensionRef => return Err("ExtensionRef is not supported yet".into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_table;

    const FILTERS: &str = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a},
        spec: {rules: [{@}]}}";

    #[test]
    fn filters_outside_the_crds_limits_are_refused() {
        let at = |field: &str| format!("spec.rules[0].filters[0]{field}");
        let filter = |text: &str| format!("filters: [{{{text}}}]");
        let refused: &[(&str, &str, &str)] = &[
            ("type: Mirror", &at(".type"), "unknown value"),
            ("requestRedirect: {}", &at(""), "missing field `type`"),
            ("type: CORS", &at(""), "the type requires cors"),
            ("type: RequestRedirect, requestRedirect: {}, cors: {}", &at(""), "several types"),
            ("type: URLRewrite, cors: {}", &at(""), "the type requires urlRewrite"),
            ("type: ExtensionRef", &at(""), "ExtensionRef is not supported yet"),
            (
                "type: ExtensionRef, extensionRef: {group: g, kind: K, name: n}",
                &at(".extensionRef"),
                "not supported",
            ),
            ("type: ExternalAuth", &at(""), "the type requires externalAuth"),
            (
                "type: RequestRedirect, requestRedirect: {statusCode: 300}",
                &at(".requestRedirect.statusCode"),
                "none of",
            ),
            (
                "type: RequestRedirect, requestRedirect: {scheme: ftp}",
                &at(".requestRedirect.scheme"),
                "unknown value",
            ),
            (
                "type: RequestRedirect, requestRedirect: {hostname: '*.a'}",
                &at(".requestRedirect.hostname"),
                "wildcard",
            ),
            (
                "type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath}}",
                &at(".requestRedirect.path"),
                "goes with replaceFullPath",
            ),
            (
                "type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replaceFullPath: /a}}",
                &at(".urlRewrite.path"),
                "goes with replacePrefixMatch",
            ),
            (
                "type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: 'a b'}}",
                &at(".urlRewrite.path.replaceFullPath"),
                "not a path",
            ),
        ];
        for (text, path, reason) in refused {
            check_table(FILTERS, &[], &[(&filter(text), path, reason)]);
        }
    }

    #[test]
    fn filters_that_exclude_each_other_are_refused() {
        let modifier = "{type: RequestHeaderModifier, requestHeaderModifier: {remove: [a]}}";
        let mirror = "{type: RequestMirror, requestMirror: {backendRef: {name: b, port: 1}}}";
        let redirect = "{type: RequestRedirect, requestRedirect: {}}";
        let rewrite = "{type: URLRewrite, urlRewrite: {}}";
        check_table(
            FILTERS,
            &[
                &format!("filters: [{mirror}, {mirror}, {modifier}]"),
                &format!("backendRefs: [{{name: b, port: 1, filters: [{modifier}]}}]"),
            ],
            &[
                (
                    &format!("filters: [{modifier}, {modifier}]"),
                    "spec.rules[0].filters",
                    "cannot be repeated",
                ),
                (&format!("filters: [{redirect}, {rewrite}]"), "spec.rules[0].filters", "exclude each other"),
                (
                    &format!("backendRefs: [{{name: b, port: 1, filters: [{mirror}]}}]"),
                    "spec.rules[0].backendRefs[0].filters",
                    "RequestMirror on a backend is not supported yet",
                ),
            ],
        );
    }
}
