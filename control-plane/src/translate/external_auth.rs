//! Envoy's external authorization filter (`envoy.extensions.filters.http.ext_authz.v3.ExtAuthz`) of the HTTPRoutes' filter ExternalAuth.
//!
//! A listener has a filter for each different configuration among its routes, and only the routes that have the configuration enable it. What the
//! service may see is a setting of the filter that no route can change, so that one filter for all would not do.

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
use crate::model::route::{AuthProtocol, BackendTarget, ExternalAuth, HttpAuth, Route, RouteTable};

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

/// The different configurations of some routes, by the numbers of their filters.
#[derive(Debug, Default)]
pub(super) struct ExternalAuths<'a>(Vec<(&'a ExternalAuth, &'a BackendTarget)>);

impl<'a> ExternalAuths<'a> {
    /// Finds those of a table. A route whose service cannot be used has none: it answers all requests itself.
    pub(super) fn of(table: Option<&'a RouteTable>) -> Self {
        let mut all = Vec::new();
        let Some(RouteTable::Http(routes)) = table else { return Self(all) };
        for one in routes.iter().filter_map(usable) {
            if !all.contains(&one) {
                all.push(one);
            }
        }
        Self(all)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the filters of the listener. None of them applies to a route that does not enable it.
    pub(super) fn filters(&self, cluster_domain: &str) -> impl Iterator<Item = HttpFilter> {
        self.0.iter().enumerate().map(move |(at, (auth, backend))| {
            let cluster = Target::service(backend.service.clone(), backend.port).name(cluster_domain);
            let config = any(type_url::EXT_AUTHZ, &config(auth, &cluster));
            HttpFilter {
                name: name(at),
                disabled: true,
                config_type: Some(http_filter::ConfigType::TypedConfig(config)),
                ..Default::default()
            }
        })
    }

    /// Returns what enables the filter of a route, by its name. None if the route has none.
    pub(super) fn of_route(&self, route: &Route) -> Option<(String, Any)> {
        let own = usable(route)?;
        let at = self.0.iter().position(|other| *other == own)?;
        let enabled =
            ExtAuthzPerRoute { r#override: Some(Override::CheckSettings(CheckSettings::default())) };
        Some((name(at), any(type_url::EXT_AUTHZ_PER_ROUTE, &enabled)))
    }
}

fn name(at: usize) -> String {
    format!("outrigger.external-authorization.{at}")
}

fn usable(route: &Route) -> Option<(&ExternalAuth, &BackendTarget)> {
    let auth = route.action.filters.external_auth.as_ref()?;
    Some((auth, auth.target.as_ref().ok()?))
}

fn config(auth: &ExternalAuth, cluster: &str) -> ExtAuthz {
    let ExternalAuth { target: _, protocol, longest_body } = auth;
    let (services, allowed) = match protocol {
        AuthProtocol::Grpc { allowed_headers } => (Services::GrpcService(grpc(cluster)), allowed_headers),
        AuthProtocol::Http(http) => (Services::HttpService(of_http(http, cluster)), &http.allowed_headers),
    };
    ExtAuthz {
        services: Some(services),
        transport_api_version: ApiVersion::V3 as i32,
        allowed_headers: exactly(allowed),
        // A longer body is refused (`forwardBody`).
        with_request_body: (*longest_body > 0)
            .then(|| BufferSettings { max_request_bytes: *longest_body, ..Default::default() }),
        // `failure_mode_allow` stays false: "this filter MUST fail closed".
        ..Default::default()
    }
}

fn grpc(cluster: &str) -> GrpcService {
    let service = EnvoyGrpc { cluster_name: cluster.into(), ..Default::default() };
    GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(service)),
        timeout: duration(EXTERNAL_AUTHORIZATION_TIMEOUT),
        ..Default::default()
    }
}

fn of_http(http: &HttpAuth, cluster: &str) -> HttpService {
    let HttpAuth { path_prefix, allowed_headers: _, allowed_response_headers } = http;
    // "If this list is empty, then all headers from the authorization server except Authority or Host must be copied"
    // (`allowedResponseHeaders`). Those about the reply itself would falsify the request.
    let copied = exactly(allowed_response_headers)
        .unwrap_or_else(|| ListStringMatcher { patterns: vec![matching(&none_of(&NOT_COPIED))] });
    HttpService {
        server_uri: Some(HttpUri {
            uri: format!("http://{cluster}"),
            timeout: duration(EXTERNAL_AUTHORIZATION_TIMEOUT),
            http_upstream_type: Some(HttpUpstreamType::Cluster(cluster.into())),
        }),
        path_prefix: path_prefix.to_string(),
        authorization_response: Some(AuthorizationResponse {
            allowed_upstream_headers: Some(copied),
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
