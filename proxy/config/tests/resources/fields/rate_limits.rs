//! Rate limits: the filters, and the descriptors of requests.

use outrigger_proto::xds::common_ratelimit::{LocalRateLimitDescriptor, rate_limit_descriptor::Entry};
use outrigger_proto::xds::core::grpc_service;
use outrigger_proto::xds::local_ratelimit::LocalRateLimit;
use outrigger_proto::xds::metadata_key::MetadataKey;
use outrigger_proto::xds::metadata_key::metadata_key::{PathSegment, path_segment::Segment};
use outrigger_proto::xds::protobuf::{Any, BoolValue};
use outrigger_proto::xds::ratelimit::{RateLimit, RateLimitPerRoute};
use outrigger_proto::xds::ratelimit_config::RateLimitServiceConfig;
use outrigger_proto::xds::route::rate_limit::{self, action, action::ActionSpecifier};
use outrigger_proto::xds::{core, route, type_url, types};

use super::managers::in_http_filter;
use super::place::Place;
use super::routes::in_route;
use crate::fixture::*;

const COUNTED: &str = "refusals are counted by their reason";
const RUNTIME: &str = "there is no runtime layer, so that the key never has a value";

fn in_local(of: LocalRateLimit) -> (String, Any) {
    in_http_filter(http_filter("limit", packed(type_url::LOCAL_RATE_LIMIT, &of)))
}

fn in_global(of: RateLimit) -> (String, Any) {
    in_http_filter(http_filter("limit", packed(type_url::RATE_LIMIT, &of)))
}

fn global() -> RateLimit {
    RateLimit { domain: "shop".into(), rate_limit_service: Some(service()), ..Default::default() }
}

fn service() -> RateLimitServiceConfig {
    let target = grpc_service::EnvoyGrpc { cluster_name: "limits".into(), ..Default::default() };
    let target_specifier = Some(grpc_service::TargetSpecifier::EnvoyGrpc(target));
    let grpc_service = Some(core::GrpcService { target_specifier, ..Default::default() });
    RateLimitServiceConfig { grpc_service, ..Default::default() }
}

fn in_descriptor(of: LocalRateLimitDescriptor) -> (String, Any) {
    in_local(LocalRateLimit { descriptors: vec![of], ..local() })
}

fn in_rule(of: route::RateLimit) -> (String, Any) {
    let mut wire = forward(CART);
    let Some(route::route::Action::Route(action)) = &mut wire.action else { unreachable!() };
    action.rate_limits = vec![of];
    in_route(wire)
}

fn in_action(of: rate_limit::Action) -> (String, Any) {
    in_rule(route::RateLimit { actions: vec![of], ..Default::default() })
}

fn does(of: ActionSpecifier) -> (String, Any) {
    in_action(rate_limit::Action { action_specifier: Some(of) })
}

fn local() -> LocalRateLimit {
    LocalRateLimit {
        stat_prefix: "limit".into(),
        token_bucket: Some(bucket()),
        filter_enabled: half(),
        filter_enforced: half(),
        descriptors: vec![descriptor()],
        ..Default::default()
    }
}

fn bucket() -> types::TokenBucket {
    types::TokenBucket { max_tokens: 10, tokens_per_fill: number(2), fill_interval: seconds(60) }
}

fn half() -> Option<core::RuntimeFractionalPercent> {
    let default_value = Some(types::FractionalPercent { numerator: 50, denominator: 0 });
    Some(core::RuntimeFractionalPercent { default_value, ..Default::default() })
}

fn descriptor() -> LocalRateLimitDescriptor {
    let entries = vec![Entry { key: "a".into(), value: "b".into() }];
    LocalRateLimitDescriptor { entries, token_bucket: Some(bucket()), shadow_mode: false }
}

pub fn rule() -> route::RateLimit {
    let actions =
        vec![rate_limit::Action { action_specifier: Some(ActionSpecifier::GenericKey(identity())) }];
    route::RateLimit { actions, ..Default::default() }
}

fn identity() -> action::GenericKey {
    action::GenericKey { descriptor_value: "%DOWNSTREAM_PEER_URI_SAN%".into(), ..Default::default() }
}

fn header_match() -> action::HeaderValueMatch {
    action::HeaderValueMatch {
        descriptor_value: "a".into(),
        headers: vec![route::HeaderMatcher { name: "a".into(), ..Default::default() }],
        ..Default::default()
    }
}

fn request_headers() -> action::RequestHeaders {
    action::RequestHeaders { header_name: "a".into(), descriptor_key: "a".into(), skip_if_absent: false }
}

fn metadata() -> action::MetaData {
    action::MetaData { descriptor_key: "a".into(), metadata_key: Some(claim()), ..Default::default() }
}

fn claim() -> MetadataKey {
    MetadataKey { key: "envoy.filters.http.jwt_authn".into(), path: vec![segment("jwt"), segment("sub")] }
}

fn segment(key: &str) -> PathSegment {
    PathSegment { segment: Some(Segment::Key(key.into())) }
}

fn query_parameters() -> action::QueryParameters {
    action::QueryParameters {
        query_parameter_name: "a".into(),
        descriptor_key: "a".into(),
        skip_if_absent: false,
    }
}

fn added() -> core::HeaderValueOption {
    core::HeaderValueOption {
        header: Some(core::HeaderValue { key: "a".into(), value: "b".into(), ..Default::default() }),
        ..Default::default()
    }
}

pub fn places() -> Vec<Place> {
    [filters(), descriptors()].into_iter().flatten().collect()
}

fn filters() -> Vec<Place> {
    vec![
        Place::new(
            "LocalRateLimit",
            "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            local(),
            in_local,
        )
        .probe("status", |of: &mut LocalRateLimit| of.status = Some(types::HttpStatus { code: 503 }))
        .probe("request_headers_to_add_when_not_enforced", |of: &mut LocalRateLimit| {
            of.request_headers_to_add_when_not_enforced = vec![added()];
        })
        .probe("response_headers_to_add", |of: &mut LocalRateLimit| {
            of.response_headers_to_add = vec![added()]
        })
        .probe("rate_limits", |of: &mut LocalRateLimit| of.rate_limits = vec![rule()])
        .probe("always_consume_default_token_bucket", |of: &mut LocalRateLimit| {
            of.always_consume_default_token_bucket = Some(BoolValue { value: false });
        })
        .harmless(COUNTED, &["stat_prefix"]),
        Place::new("RateLimit", "envoy.extensions.filters.http.ratelimit.v3.RateLimit", global(), in_global)
            .probe("request_type", |of: &mut RateLimit| of.request_type = "internal".into())
            .probe("rate_limited_status", |of: &mut RateLimit| {
                of.rate_limited_status = Some(types::HttpStatus { code: 503 });
            })
            .probe("status_on_error", |of: &mut RateLimit| {
                of.status_on_error = Some(types::HttpStatus { code: 503 });
            })
            .probe("response_headers_to_add", |of: &mut RateLimit| of.response_headers_to_add = vec![added()])
            .probe("filter_enabled", |of: &mut RateLimit| of.filter_enabled = half())
            .probe("filter_enforced", |of: &mut RateLimit| of.filter_enforced = half())
            .probe("failure_mode_deny_percent", |of: &mut RateLimit| of.failure_mode_deny_percent = half())
            .probe("rate_limits", |of: &mut RateLimit| of.rate_limits = vec![rule()])
            .harmless(COUNTED, &["stat_prefix"])
            .harmless("no filter reads metadata", &["metadata_namespace"]),
        Place::new(
            "RateLimitServiceConfig",
            "envoy.config.ratelimit.v3.RateLimitServiceConfig",
            service(),
            |of| in_global(RateLimit { rate_limit_service: Some(of), ..global() }),
        )
        .harmless("there is only V3", &["transport_api_version"]),
        Place::new(
            "RateLimitPerRoute",
            "envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute",
            RateLimitPerRoute::default(),
            |of| {
                let any = packed(type_url::RATE_LIMIT_PER_ROUTE, &of);
                let typed_per_filter_config = [("limit".to_owned(), any)].into();
                in_route(route::Route { typed_per_filter_config, ..forward(CART) })
            },
        )
        .probe("rate_limits", |of: &mut RateLimitPerRoute| of.rate_limits = vec![rule()]),
    ]
}

fn descriptors() -> Vec<Place> {
    let action =
        |of: ActionSpecifier| move |to: &mut rate_limit::Action| to.action_specifier = Some(of.clone());
    vec![
        Place::new("TokenBucket", "envoy.type.v3.TokenBucket", bucket(), |of| {
            in_local(LocalRateLimit { token_bucket: Some(of), ..local() })
        }),
        Place::new(
            "LocalRateLimitDescriptor",
            "envoy.extensions.common.ratelimit.v3.LocalRateLimitDescriptor",
            descriptor(),
            in_descriptor,
        ),
        Place::new(
            "RateLimitDescriptor.Entry",
            "envoy.extensions.common.ratelimit.v3.RateLimitDescriptor.Entry",
            Entry { key: "a".into(), value: "b".into() },
            |of| in_descriptor(LocalRateLimitDescriptor { entries: vec![of], ..descriptor() }),
        ),
        Place::new("RateLimit (route)", "envoy.config.route.v3.RateLimit", rule(), in_rule)
            .harmless(RUNTIME, &["disable_key"]),
        Place::new(
            "RateLimit.Action",
            "envoy.config.route.v3.RateLimit.Action",
            rate_limit::Action { action_specifier: Some(ActionSpecifier::GenericKey(identity())) },
            in_action,
        )
        .probe("request_headers", action(ActionSpecifier::RequestHeaders(request_headers())))
        .probe("metadata", action(ActionSpecifier::Metadata(metadata())))
        .probe("query_parameters", action(ActionSpecifier::QueryParameters(query_parameters())))
        .probe("header_value_match", action(ActionSpecifier::HeaderValueMatch(header_match()))),
        Place::new(
            "RateLimit.Action.GenericKey",
            "envoy.config.route.v3.RateLimit.Action.GenericKey",
            identity(),
            |of| does(ActionSpecifier::GenericKey(of)),
        ),
        Place::new(
            "RateLimit.Action.HeaderValueMatch",
            "envoy.config.route.v3.RateLimit.Action.HeaderValueMatch",
            header_match(),
            |of| does(ActionSpecifier::HeaderValueMatch(of)),
        )
        .probe("expect_match", |of: &mut action::HeaderValueMatch| {
            of.expect_match = Some(BoolValue { value: false });
        })
        .harmless("for values of substitution commands, which are refused", &["default_value"]),
        Place::new(
            "RateLimit.Action.RequestHeaders",
            "envoy.config.route.v3.RateLimit.Action.RequestHeaders",
            request_headers(),
            |of| does(ActionSpecifier::RequestHeaders(of)),
        ),
        Place::new(
            "RateLimit.Action.QueryParameters",
            "envoy.config.route.v3.RateLimit.Action.QueryParameters",
            query_parameters(),
            |of| does(ActionSpecifier::QueryParameters(of)),
        ),
        Place::new(
            "RateLimit.Action.MetaData",
            "envoy.config.route.v3.RateLimit.Action.MetaData",
            metadata(),
            |of| does(ActionSpecifier::Metadata(of)),
        )
        .probe("metadata_key", |of: &mut action::MetaData| {
            of.metadata_key.as_mut().unwrap().path.push(segment("inner"));
        })
        .refuses(&["source"]),
        Place::new("MetadataKey", "envoy.type.metadata.v3.MetadataKey", claim(), |of| {
            does(ActionSpecifier::Metadata(action::MetaData { metadata_key: Some(of), ..metadata() }))
        })
        .probe("path", |of: &mut MetadataKey| of.path.push(segment("inner")))
        .refuses(&["key"]),
        Place::new(
            "MetadataKey.PathSegment",
            "envoy.type.metadata.v3.MetadataKey.PathSegment",
            segment("sub"),
            |of| {
                let metadata_key = Some(MetadataKey { path: vec![segment("jwt"), of], ..claim() });
                does(ActionSpecifier::Metadata(action::MetaData { metadata_key, ..metadata() }))
            },
        ),
        Place::new(
            "RateLimit.Action.MaskedRemoteAddress",
            "envoy.config.route.v3.RateLimit.Action.MaskedRemoteAddress",
            action::MaskedRemoteAddress::default(),
            |of| does(ActionSpecifier::MaskedRemoteAddress(of)),
        ),
    ]
}
