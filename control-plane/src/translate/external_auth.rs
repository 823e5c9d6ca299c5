//! Envoy's external authorization filter (`envoy.extensions.filters.http.ext_authz.v3.ExtAuthz`) of the HTTPRoutes' filter ExternalAuth and of
//! ExternalAuthorizationPolicies.
//!
//! A listener has a filter for each different configuration of its routes and policies, and only the routes that have the configuration enable
//! it. What the service may see is a setting of the filter that no route can change, so that one filter for all would not do.

use std::time::Duration;

use outrigger_core::Name;
use outrigger_proto::xds::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
use outrigger_proto::xds::core::http_uri::HttpUpstreamType;
use outrigger_proto::xds::core::{ApiVersion, GrpcService, HttpUri};
use outrigger_proto::xds::ext_authz::ext_authz::Services;
use outrigger_proto::xds::ext_authz::ext_authz_per_route::Override;
use outrigger_proto::xds::ext_authz::{
    AuthorizationResponse, BufferSettings, CheckSettings, ExtAuthz, ExtAuthzPerRoute, HttpService,
};
use outrigger_proto::xds::hcm::{HttpFilter, http_filter};
use outrigger_proto::xds::matcher::ListStringMatcher;
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::type_url;

use super::defaults::EXTERNAL_AUTHORIZATION_TIMEOUT;
use super::destination::Target;
use super::other_names::none_of;
use super::wire::{any, duration, exact, matching};
use crate::model::route::{
    AuthCheck, AuthProtocol, BackendTarget, ExternalAuth, HttpAuth, Route, RouteTable,
};

/// Fields of a service's reply that are about the reply itself or that no filter may set: they are not copied into the request. A name that ends
/// with a hyphen stands for all that begin with it.
const NOT_COPIED: [&str; 14] = [
    "age",
    "connection",
    "content-",
    "date",
    "etag",
    "expires",
    "host",
    "keep-alive",
    "last-modified",
    "proxy-",
    "server",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Different configurations, by the numbers of their filters.
#[derive(Debug, Default)]
pub(super) struct ExternalAuths<'a>(Vec<(&'a AuthCheck, &'a BackendTarget)>);

impl<'a> ExternalAuths<'a> {
    /// Finds those of a table. A route whose service cannot be used has none: it answers all requests itself.
    pub(super) fn of(table: Option<&'a RouteTable>) -> Self {
        let Some(RouteTable::Http(routes)) = table else { return Self::default() };
        Self::among(routes.iter().filter_map(of_action))
    }

    /// Finds the different ones among these. One whose service cannot be used is left out.
    pub(super) fn among(all: impl Iterator<Item = &'a ExternalAuth>) -> Self {
        let mut different = Vec::new();
        for one in all.filter_map(usable) {
            if !different.contains(&one) {
                different.push(one);
            }
        }
        Self(different)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the filters of the listener. Of `everywhere`, the filter applies where no route disables it; the others apply to the routes that
    /// enable them.
    pub(super) fn filters(
        &self,
        cluster_domain: &str,
        everywhere: Option<&ExternalAuth>,
    ) -> impl Iterator<Item = HttpFilter> {
        let everywhere = everywhere.and_then(|auth| self.position(auth));
        self.0.iter().enumerate().map(move |(at, (check, backend))| {
            let cluster = Target::service(backend.service.clone(), backend.port).name(cluster_domain);
            let config = any(type_url::EXT_AUTHZ, &config(check, &cluster));
            HttpFilter {
                name: name(at),
                disabled: everywhere != Some(at),
                config_type: Some(http_filter::ConfigType::TypedConfig(config)),
                ..Default::default()
            }
        })
    }

    /// Returns what enables the filter of a route, by its name. None if the route has none.
    pub(super) fn of_route(&self, route: &Route) -> Option<(String, Any)> {
        self.enabling(of_action(route)?)
    }

    /// Returns what enables the filter of this configuration, by its name. None if its service cannot be used.
    pub(super) fn enabling(&self, auth: &ExternalAuth) -> Option<(String, Any)> {
        self.in_route(auth, Override::CheckSettings(CheckSettings::default()))
    }

    /// Returns what disables the filter of this configuration, by its name. None if its service cannot be used.
    pub(super) fn disabling(&self, auth: &ExternalAuth) -> Option<(String, Any)> {
        self.in_route(auth, Override::Disabled(true))
    }

    fn in_route(&self, auth: &ExternalAuth, of_route: Override) -> Option<(String, Any)> {
        let config = ExtAuthzPerRoute { r#override: Some(of_route) };
        Some((name(self.position(auth)?), any(type_url::EXT_AUTHZ_PER_ROUTE, &config)))
    }

    fn position(&self, auth: &ExternalAuth) -> Option<usize> {
        let own = usable(auth)?;
        self.0.iter().position(|other| *other == own)
    }
}

fn name(at: usize) -> String {
    format!("outrigger.external-authorization.{at}")
}

fn of_action(route: &Route) -> Option<&ExternalAuth> {
    route.action.filters.external_auth.as_ref()
}

fn usable(auth: &ExternalAuth) -> Option<(&AuthCheck, &BackendTarget)> {
    Some((&auth.check, auth.target.as_ref().ok()?))
}

fn config(check: &AuthCheck, cluster: &str) -> ExtAuthz {
    let AuthCheck { protocol, longest_body, may_be_cut, timeout, fails_open } = check;
    let timeout = timeout.unwrap_or(EXTERNAL_AUTHORIZATION_TIMEOUT);
    let (services, allowed) = match protocol {
        AuthProtocol::Grpc { allowed_headers } => {
            (Services::GrpcService(grpc(cluster, timeout)), allowed_headers)
        }
        AuthProtocol::Http(http) => {
            (Services::HttpService(of_http(http, cluster, timeout)), &http.allowed_headers)
        }
    };
    ExtAuthz {
        services: Some(services),
        transport_api_version: ApiVersion::V3 as i32,
        allowed_headers: exactly(allowed),
        with_request_body: (*longest_body > 0).then(|| BufferSettings {
            max_request_bytes: *longest_body,
            allow_partial_message: *may_be_cut,
            ..Default::default()
        }),
        failure_mode_allow: *fails_open,
        ..Default::default()
    }
}

fn grpc(cluster: &str, timeout: Duration) -> GrpcService {
    let service = EnvoyGrpc { cluster_name: cluster.into(), ..Default::default() };
    GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(service)),
        timeout: duration(timeout),
        ..Default::default()
    }
}

fn of_http(http: &HttpAuth, cluster: &str, timeout: Duration) -> HttpService {
    let HttpAuth { path_prefix, allowed_headers: _, allowed_response_headers, allowed_client_headers } = http;
    // "If this list is empty, then all headers from the authorization server except Authority or Host must be copied"
    // (`allowedResponseHeaders`). Those about the reply itself would falsify the request.
    let copied = exactly(allowed_response_headers)
        .unwrap_or_else(|| ListStringMatcher { patterns: vec![matching(&none_of(&NOT_COPIED))] });
    HttpService {
        server_uri: Some(HttpUri {
            uri: format!("http://{cluster}"),
            timeout: duration(timeout),
            http_upstream_type: Some(HttpUpstreamType::Cluster(cluster.into())),
        }),
        path_prefix: path_prefix.to_string(),
        authorization_response: Some(AuthorizationResponse {
            allowed_upstream_headers: Some(copied),
            allowed_client_headers: exactly(allowed_client_headers),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Returns the matcher of these names. None if there are none.
fn exactly(names: &[Name]) -> Option<ListStringMatcher> {
    let patterns: Vec<_> = names.iter().map(|name| exact(name)).collect();
    (!patterns.is_empty()).then_some(ListStringMatcher { patterns })
}
