//! HTTP protocol options of a cluster.

use std::collections::HashMap;

use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::{cluster, core, type_url, upstream_http};

use super::clusters::in_cluster;
use super::managers::http2;
use super::place::Place;
use crate::fixture::*;

use upstream_http::http_protocol_options::{
    AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
    explicit_http_config,
};

fn options() -> upstream_http::HttpProtocolOptions {
    let explicit = ExplicitHttpConfig {
        protocol_config: Some(explicit_http_config::ProtocolConfig::Http2ProtocolOptions(Default::default())),
    };
    spoken(UpstreamProtocolOptions::ExplicitHttpConfig(explicit))
}

fn spoken(of: UpstreamProtocolOptions) -> upstream_http::HttpProtocolOptions {
    upstream_http::HttpProtocolOptions { upstream_protocol_options: Some(of), ..Default::default() }
}

fn in_options(of: upstream_http::HttpProtocolOptions) -> (String, Any) {
    let typed = HashMap::from([("x".to_owned(), packed(type_url::HTTP_PROTOCOL_OPTIONS, &of))]);
    in_cluster(cluster::Cluster { typed_extension_protocol_options: typed, ..cart_cluster() })
}

const STRICT: &str = "reading is always strict";

pub fn places() -> Vec<Place> {
    let explicit = |of| in_options(spoken(UpstreamProtocolOptions::ExplicitHttpConfig(of)));
    let common_http = "spreads closings out";
    let wide = "is what is enforced";
    vec![
        Place::new(
            "HttpProtocolOptions (of a cluster, by extension)",
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            options(),
            in_options,
        )
        .probe("common_http_protocol_options", |of: &mut upstream_http::HttpProtocolOptions| {
            of.common_http_protocol_options =
                Some(core::HttpProtocolOptions { idle_timeout: seconds(7), ..Default::default() });
        })
        .probe("use_downstream_protocol_config", |of: &mut upstream_http::HttpProtocolOptions| {
            of.upstream_protocol_options =
                Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(Default::default()));
        })
        .probe("upstream_http_protocol_options", |of: &mut upstream_http::HttpProtocolOptions| {
            of.upstream_http_protocol_options =
                Some(core::UpstreamHttpProtocolOptions { auto_sni: true, ..Default::default() });
        }),
        Place::new(
            "HttpProtocolOptions.ExplicitHttpConfig",
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig",
            ExplicitHttpConfig {
                protocol_config: Some(explicit_http_config::ProtocolConfig::Http2ProtocolOptions(
                    Default::default(),
                )),
            },
            explicit,
        ),
        Place::new(
            "HttpProtocolOptions.UseDownstreamHttpConfig",
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.UseDownstreamHttpConfig",
            UseDownstreamHttpConfig::default(),
            |of| in_options(spoken(UpstreamProtocolOptions::UseDownstreamProtocolConfig(of))),
        )
        .probe("http_protocol_options", |of: &mut UseDownstreamHttpConfig| {
            of.http_protocol_options =
                Some(core::Http1ProtocolOptions { send_fully_qualified_url: true, ..Default::default() });
        })
        .probe("http2_protocol_options", |of: &mut UseDownstreamHttpConfig| {
            of.http2_protocol_options =
                Some(core::Http2ProtocolOptions { max_concurrent_streams: number(7), ..Default::default() });
        })
        .harmless("is for clients that speak HTTP/3, which listeners refuse", &["http3_protocol_options"]),
        Place::new(
            "HttpProtocolOptions.AutoHttpConfig",
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.AutoHttpConfig",
            AutoHttpConfig::default(),
            |of| in_options(spoken(UpstreamProtocolOptions::AutoConfig(of))),
        )
        .probe("http_protocol_options", |of: &mut AutoHttpConfig| {
            of.http_protocol_options =
                Some(core::Http1ProtocolOptions { send_fully_qualified_url: true, ..Default::default() });
        })
        .probe("http2_protocol_options", |of: &mut AutoHttpConfig| {
            of.http2_protocol_options =
                Some(core::Http2ProtocolOptions { max_concurrent_streams: number(7), ..Default::default() });
        })
        .harmless(
            "where HTTP/3 is not known to be spoken Envoy takes the others, as is done here always",
            &["http3_protocol_options", "alternate_protocols_cache_options"],
        ),
        Place::new(
            "HttpProtocolOptions (of a cluster)",
            "envoy.config.core.v3.HttpProtocolOptions",
            core::HttpProtocolOptions::default(),
            |of| {
                in_options(upstream_http::HttpProtocolOptions {
                    common_http_protocol_options: Some(of),
                    ..options()
                })
            },
        )
        .harmless(common_http, &["max_connection_duration_jitter"])
        .harmless("is for requests of clients", &["headers_with_underscores_action"])
        .probe("max_headers_count", |of: &mut core::HttpProtocolOptions| of.max_headers_count = number(100))
        .probe("max_headers_count", |of: &mut core::HttpProtocolOptions| of.max_headers_count = number(7))
        .probe("max_response_headers_kb", |of: &mut core::HttpProtocolOptions| {
            of.max_response_headers_kb = number(60)
        })
        .probe("max_response_headers_kb", |of: &mut core::HttpProtocolOptions| {
            of.max_response_headers_kb = number(7)
        })
        .harmless(wide, &["max_headers_count", "max_response_headers_kb"])
        .refuses(&["max_headers_count", "max_response_headers_kb"]),
        Place::new(
            "Http1ProtocolOptions (of a cluster)",
            "envoy.config.core.v3.Http1ProtocolOptions",
            core::Http1ProtocolOptions::default(),
            move |of| {
                explicit(ExplicitHttpConfig {
                    protocol_config: Some(explicit_http_config::ProtocolConfig::HttpProtocolOptions(of)),
                })
            },
        )
        .harmless(
            "is about requests of clients",
            &["allow_absolute_url", "accept_http_10", "default_host_for_http_10", "ignore_http_11_upgrade"],
        )
        .harmless("trailers always pass", &["enable_trailers"])
        .harmless(STRICT, &["override_stream_error_on_invalid_http_message"])
        .harmless("is about Envoy's parsers", &["use_balsa_parser"])
        .harmless("any method that is a token passes", &["allow_custom_methods"]),
        http2("Http2ProtocolOptions (of a cluster)", move |of| {
            explicit(ExplicitHttpConfig {
                protocol_config: Some(explicit_http_config::ProtocolConfig::Http2ProtocolOptions(of)),
            })
        }),
    ]
}
