//! External authorization, and the services that filters ask.

use outrigger_proto::xds::core::{self, grpc_service, http_uri::HttpUpstreamType};
use outrigger_proto::xds::ext_authz::{
    AuthorizationRequest, AuthorizationResponse, BufferSettings, CheckSettings, ExtAuthz, ExtAuthzPerRoute,
    HttpService, check_settings::ServiceOverride, ext_authz::Services, ext_authz_per_route::Override,
};
use outrigger_proto::xds::matcher::{self, string_matcher::MatchPattern};
use outrigger_proto::xds::protobuf::{self, Any};
use outrigger_proto::xds::{route, type_url, types};

use super::managers::in_http_filter;
use super::place::Place;
use super::routes::in_route;
use crate::fixture::*;

const COUNTED: &str = "denials are counted by their reason";
const RUNTIME: &str = "there is no runtime layer, so that the key never has a value";

fn in_filter(of: ExtAuthz) -> (String, Any) {
    in_http_filter(http_filter("ext_authz", packed(type_url::EXT_AUTHZ, &of)))
}

fn in_service(of: core::GrpcService) -> (String, Any) {
    in_filter(ExtAuthz { services: Some(Services::GrpcService(of)), ..filter() })
}

fn in_http_service(of: HttpService) -> (String, Any) {
    in_filter(ExtAuthz { services: Some(Services::HttpService(of)), ..filter() })
}

fn in_settings(of: CheckSettings) -> (String, Any) {
    in_per_route(ExtAuthzPerRoute { r#override: Some(Override::CheckSettings(of)) })
}

fn in_per_route(of: ExtAuthzPerRoute) -> (String, Any) {
    let typed_per_filter_config =
        [("ext_authz".to_owned(), packed(type_url::EXT_AUTHZ_PER_ROUTE, &of))].into();
    in_route(route::Route { typed_per_filter_config, ..forward(CART) })
}

/// A filter that lets requests through when its service fails, so that this can be told.
fn filter() -> ExtAuthz {
    let services = Some(Services::GrpcService(service()));
    ExtAuthz { failure_mode_allow: true, services, ..Default::default() }
}

fn service() -> core::GrpcService {
    core::GrpcService {
        target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(cluster_of_service())),
        ..Default::default()
    }
}

fn cluster_of_service() -> grpc_service::EnvoyGrpc {
    grpc_service::EnvoyGrpc { cluster_name: "authz".into(), ..Default::default() }
}

fn http_service() -> HttpService {
    HttpService { server_uri: Some(uri()), ..Default::default() }
}

fn uri() -> core::HttpUri {
    let http_upstream_type = Some(HttpUpstreamType::Cluster("authz".into()));
    core::HttpUri { uri: "http://authz".into(), timeout: None, http_upstream_type }
}

fn body() -> BufferSettings {
    BufferSettings { max_request_bytes: 4, ..Default::default() }
}

fn names() -> matcher::ListStringMatcher {
    let exact = Some(MatchPattern::Exact("a".into()));
    matcher::ListStringMatcher {
        patterns: vec![matcher::StringMatcher { match_pattern: exact, ignore_case: false }],
    }
}

fn header() -> core::HeaderValue {
    core::HeaderValue { key: "a".into(), value: "b".into(), ..Default::default() }
}

fn denies() -> core::RuntimeFeatureFlag {
    core::RuntimeFeatureFlag {
        default_value: Some(protobuf::BoolValue { value: true }),
        ..Default::default()
    }
}

fn half() -> core::RuntimeFractionalPercent {
    core::RuntimeFractionalPercent {
        default_value: Some(types::FractionalPercent { numerator: 50, denominator: 0 }),
        ..Default::default()
    }
}

pub fn places() -> Vec<Place> {
    [filters(), services()].into_iter().flatten().collect()
}

fn filters() -> Vec<Place> {
    vec![
        Place::new("ExtAuthz", "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz", filter(), in_filter)
            .probe("http_service", |of: &mut ExtAuthz| {
                of.services = Some(Services::HttpService(http_service()));
            })
            .probe("with_request_body", |of: &mut ExtAuthz| of.with_request_body = Some(body()))
            .probe("status_on_error", |of: &mut ExtAuthz| {
                of.status_on_error = Some(types::HttpStatus { code: 503 });
            })
            .probe("filter_enabled", |of: &mut ExtAuthz| of.filter_enabled = Some(half()))
            .probe("deny_at_disable", |of: &mut ExtAuthz| of.deny_at_disable = Some(denies()))
            .probe("allowed_headers", |of: &mut ExtAuthz| of.allowed_headers = Some(names()))
            .probe("disallowed_headers", |of: &mut ExtAuthz| of.disallowed_headers = Some(names()))
            .harmless("there is only V3", &["transport_api_version"])
            .harmless("they always are", &["validate_mutations"])
            .harmless(COUNTED, &["stat_prefix", "charge_cluster_response_stats"])
            .harmless("no filter reads metadata", &["enable_dynamic_metadata_ingestion"])
            .harmless("for access logs", &["filter_metadata", "emit_filter_state_stats"])
            .harmless("there is no such span", &["emit_client_span"]),
        Place::new(
            "ExtAuthzPerRoute",
            "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
            ExtAuthzPerRoute { r#override: Some(Override::CheckSettings(CheckSettings::default())) },
            in_per_route,
        ),
        Place::new(
            "CheckSettings",
            "envoy.extensions.filters.http.ext_authz.v3.CheckSettings",
            CheckSettings::default(),
            in_settings,
        )
        .probe("with_request_body", |of: &mut CheckSettings| of.with_request_body = Some(body()))
        .probe("grpc_service", |of: &mut CheckSettings| {
            of.service_override = Some(ServiceOverride::GrpcService(service()));
        })
        .probe("http_service", |of: &mut CheckSettings| {
            of.service_override = Some(ServiceOverride::HttpService(http_service()));
        })
        .harmless("there is no such span", &["emit_client_span"]),
        Place::new(
            "BufferSettings",
            "envoy.extensions.filters.http.ext_authz.v3.BufferSettings",
            body(),
            |of| in_filter(ExtAuthz { with_request_body: Some(of), ..filter() }),
        ),
        Place::new("ListStringMatcher", "envoy.type.matcher.v3.ListStringMatcher", names(), |of| {
            in_filter(ExtAuthz { allowed_headers: Some(of), ..filter() })
        }),
        Place::new("HttpStatus", "envoy.type.v3.HttpStatus", types::HttpStatus { code: 503 }, |of| {
            in_filter(ExtAuthz { status_on_error: Some(of), ..filter() })
        })
        .probe("code", |of: &mut types::HttpStatus| of.code = 429),
        Place::new(
            "RuntimeFeatureFlag",
            "envoy.config.core.v3.RuntimeFeatureFlag",
            core::RuntimeFeatureFlag::default(),
            |of| in_filter(ExtAuthz { deny_at_disable: Some(of), ..filter() }),
        )
        .probe("default_value", |of: &mut core::RuntimeFeatureFlag| *of = denies())
        .harmless(RUNTIME, &["runtime_key"]),
    ]
}

#[expect(deprecated, reason = "older forms are still sent")]
fn services() -> Vec<Place> {
    let response = |of: AuthorizationResponse| {
        in_http_service(HttpService { authorization_response: Some(of), ..http_service() })
    };
    let request = |of: AuthorizationRequest| {
        in_http_service(HttpService { authorization_request: Some(of), ..http_service() })
    };
    vec![
        Place::new("GrpcService", "envoy.config.core.v3.GrpcService", service(), in_service)
            .probe("initial_metadata", |of: &mut core::GrpcService| of.initial_metadata = vec![header()]),
        Place::new(
            "GrpcService.EnvoyGrpc",
            "envoy.config.core.v3.GrpcService.EnvoyGrpc",
            cluster_of_service(),
            |of| {
                let target_specifier = Some(grpc_service::TargetSpecifier::EnvoyGrpc(of));
                in_service(core::GrpcService { target_specifier, ..Default::default() })
            },
        )
        .harmless("no such header is sent", &["skip_envoy_headers"]),
        Place::new(
            "HttpService",
            "envoy.extensions.filters.http.ext_authz.v3.HttpService",
            http_service(),
            in_http_service,
        )
        .probe("path_prefix", |of: &mut HttpService| of.path_prefix = "/a".into())
        .probe("path_override", |of: &mut HttpService| of.path_override = "/a".into())
        .probe("authorization_request", |of: &mut HttpService| {
            let headers_to_add = vec![header()];
            of.authorization_request =
                Some(AuthorizationRequest { headers_to_add, ..AuthorizationRequest::default() });
        })
        .probe("authorization_response", |of: &mut HttpService| {
            let allowed_client_headers = Some(names());
            of.authorization_response =
                Some(AuthorizationResponse { allowed_client_headers, ..Default::default() });
        }),
        Place::new("HttpUri", "envoy.config.core.v3.HttpUri", uri(), |of| {
            in_http_service(HttpService { server_uri: Some(of), ..Default::default() })
        })
        .harmless("a service is found by its cluster, and sees authority and path of the request", &["uri"]),
        Place::new(
            "AuthorizationRequest",
            "envoy.extensions.filters.http.ext_authz.v3.AuthorizationRequest",
            AuthorizationRequest::default(),
            request,
        )
        .probe("allowed_headers", |of: &mut AuthorizationRequest| of.allowed_headers = Some(names()))
        .probe("headers_to_add", |of: &mut AuthorizationRequest| of.headers_to_add = vec![header()]),
        Place::new(
            "AuthorizationResponse",
            "envoy.extensions.filters.http.ext_authz.v3.AuthorizationResponse",
            AuthorizationResponse::default(),
            response,
        )
        .probe("allowed_upstream_headers", |of: &mut AuthorizationResponse| {
            of.allowed_upstream_headers = Some(names());
        })
        .probe("allowed_upstream_headers_to_append", |of: &mut AuthorizationResponse| {
            of.allowed_upstream_headers_to_append = Some(names());
        })
        .probe("allowed_client_headers", |of: &mut AuthorizationResponse| {
            of.allowed_client_headers = Some(names());
        })
        .probe("allowed_client_headers_on_success", |of: &mut AuthorizationResponse| {
            of.allowed_client_headers_on_success = Some(names());
        }),
    ]
}
