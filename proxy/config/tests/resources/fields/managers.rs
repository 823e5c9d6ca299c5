//! HTTP connection managers and their filters.

use outrigger_proto::xds::hcm::http_connection_manager::{
    ForwardClientCertDetails, SetCurrentClientCertDetails,
};
use outrigger_proto::xds::protobuf::{self, Any};
use outrigger_proto::xds::{core, hcm, listener, router, type_url};

use super::listeners::{LOGS, SPREAD, in_listener};
use super::place::Place;
use crate::fixture::*;

fn in_manager(wire: hcm::HttpConnectionManager) -> (String, Any) {
    let mut listener = destination("cart:80");
    let api_listener = Some(packed(type_url::HTTP_CONNECTION_MANAGER, &wire));
    listener.api_listener = Some(listener::ApiListener { api_listener });
    in_listener(listener)
}

pub fn in_http_filter(filter: hcm::HttpFilter) -> (String, Any) {
    let mut wire = manager(rds(CART));
    wire.http_filters.insert(0, filter);
    in_manager(wire)
}

fn forwarding(
    mode: ForwardClientCertDetails,
    details: SetCurrentClientCertDetails,
) -> hcm::HttpConnectionManager {
    hcm::HttpConnectionManager {
        forward_client_cert_details: mode.into(),
        set_current_client_cert_details: Some(details),
        ..manager(rds(CART))
    }
}

fn details(uri: bool) -> SetCurrentClientCertDetails {
    SetCurrentClientCertDetails { uri, ..Default::default() }
}

#[expect(deprecated, reason = "older forms are still sent")]
pub fn places() -> Vec<Place> {
    use hcm::http_connection_manager::RouteSpecifier;
    let upgrade = hcm::http_connection_manager::UpgradeConfig {
        upgrade_type: "websocket".into(),
        ..Default::default()
    };
    vec![
        Place::new(
            "HttpConnectionManager",
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            manager(rds(CART)),
            in_manager,
        )
        .probe("route_config", |of: &mut hcm::HttpConnectionManager| {
            of.route_specifier = Some(RouteSpecifier::RouteConfig(table("inline", CART)));
        })
        .probe("http_filters", |of: &mut hcm::HttpConnectionManager| {
            let cors = http_filter("cors", Any { type_url: type_url::CORS.into(), value: vec![] });
            of.http_filters.insert(0, cors);
        })
        .probe("upgrade_configs", {
            let upgrade = upgrade.clone();
            move |of: &mut hcm::HttpConnectionManager| of.upgrade_configs = vec![upgrade.clone()]
        })
        .probe("http_protocol_options", |of: &mut hcm::HttpConnectionManager| {
            of.http_protocol_options = Some(core::Http1ProtocolOptions {
                default_host_for_http_10: "cart".into(),
                ..Default::default()
            });
        })
        .probe("http2_protocol_options", |of: &mut hcm::HttpConnectionManager| {
            let max_concurrent_streams = number(7);
            of.http2_protocol_options =
                Some(core::Http2ProtocolOptions { max_concurrent_streams, ..Default::default() });
        })
        .probe("common_http_protocol_options", |of: &mut hcm::HttpConnectionManager| {
            of.common_http_protocol_options =
                Some(core::HttpProtocolOptions { idle_timeout: seconds(7), ..Default::default() });
        })
        .probe("local_reply_config", |of: &mut hcm::HttpConnectionManager| {
            let mappers = vec![Default::default()];
            of.local_reply_config = Some(hcm::LocalReplyConfig { mappers, ..Default::default() });
        })
        .probe("path_normalization_options", |of: &mut hcm::HttpConnectionManager| {
            let forwarding_transformation = Some(Default::default());
            of.path_normalization_options = Some(hcm::http_connection_manager::PathNormalizationOptions {
                forwarding_transformation,
                ..Default::default()
            });
        })
        .probe("generate_request_id", |of: &mut hcm::HttpConnectionManager| {
            of.generate_request_id = Some(protobuf::BoolValue { value: false });
        })
        .harmless(
            "spans and their sampling are set by the proxy's flags and `OTEL_*` variables",
            &["tracing"],
        )
        .harmless(
            LOGS,
            &[
                "access_log",
                "access_log_flush_interval",
                "flush_access_log_on_new_request",
                "access_log_options",
            ],
        )
        .harmless("names statistics of Envoy's", &["stat_prefix"])
        .harmless("connections always end between requests", &["http1_safe_max_connection_duration"])
        .harmless(
            "the application's own `server` passes as it is: a transparent proxy has no name",
            &["server_name", "server_header_transformation"],
        )
        .harmless("is for QUIC, which is not spoken", &["http3_protocol_options"])
        .harmless(
            "between the two GOAWAYs of a draining connection stands one round trip",
            &["drain_timeout"],
        )
        .harmless(SPREAD, &["drain_timeout_jitter"])
        .harmless(
            "the codec bounds how long a connection that it closes is read from",
            &["delayed_close_timeout"],
        )
        .harmless("decides about headers of Envoy's own, which are not read", &["internal_address_config"])
        .harmless("a request ID that comes is kept", &["preserve_external_request_id"])
        .probe("set_current_client_cert_details", |of: &mut hcm::HttpConnectionManager| {
            *of = forwarding(ForwardClientCertDetails::AppendForward, details(true));
        })
        .probe("forward_client_cert_details", |of: &mut hcm::HttpConnectionManager| {
            *of = forwarding(ForwardClientCertDetails::SanitizeSet, details(false));
        })
        .harmless("interim responses always pass", &["proxy_100_continue"])
        .harmless("changes a log line", &["represent_ipv4_remote_address_as_ipv4_mapped_ipv6"])
        .harmless("paths are always normalized", &["normalize_path"])
        .harmless("escaped slashes stay as they are", &["path_with_escaped_slashes_action"])
        .harmless(
            "malformed messages end the stream or connection as the RFC says",
            &["stream_error_on_invalid_http_message"],
        )
        .harmless("there is no overload manager", &["append_local_overload"])
        .harmless("the PROXY protocol is not spoken", &["add_proxy_protocol_connection_state"])
        .refuses(&["codec_type"]),
        Place::new(
            "SetCurrentClientCertDetails",
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.SetCurrentClientCertDetails",
            details(false),
            |of| in_manager(forwarding(ForwardClientCertDetails::SanitizeSet, of)),
        ),
        Place::new(
            "Rds",
            "envoy.extensions.filters.network.http_connection_manager.v3.Rds",
            hcm::Rds { config_source: ads(), route_config_name: CART.into() },
            |of| in_manager(manager(RouteSpecifier::Rds(of))),
        ),
        Place::new("ConfigSource", "envoy.config.core.v3.ConfigSource", ads().unwrap(), |of| {
            in_manager(manager(RouteSpecifier::Rds(hcm::Rds {
                config_source: Some(of),
                route_config_name: CART.into(),
            })))
        })
        .probe("path", |of: &mut core::ConfigSource| {
            of.config_source_specifier = Some(core::config_source::ConfigSourceSpecifier::Path("x".into()));
        })
        .harmless("is the stream that the resource came on, as `ads`", &["self"])
        .harmless("names other servers, which are refused", &["authorities"])
        .harmless("each name is waited for 15 s", &["initial_fetch_timeout"])
        .harmless("there is only v3 left to ask for", &["resource_api_version"]),
        Place::new(
            "HttpFilter",
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
            http_filter("cors", Any { type_url: type_url::CORS.into(), value: vec![] }),
            in_http_filter,
        )
        .probe("is_optional", |of: &mut hcm::HttpFilter| {
            *of = http_filter("unknown", packed("type.googleapis.com/unknown", &()));
            of.is_optional = true;
        }),
        Place::new(
            "Router",
            "envoy.extensions.filters.http.router.v3.Router",
            router::Router::default(),
            |of| {
                let mut wire = manager(rds(CART));
                wire.http_filters = vec![http_filter("router", packed(type_url::ROUTER, &of))];
                in_manager(wire)
            },
        )
        .harmless(
            "statistics, spans and logs are the proxy's own",
            &[
                "dynamic_stats",
                "start_child_span",
                "upstream_log",
                "upstream_log_options",
                "suppress_grpc_request_failure_code_stats",
            ],
        )
        .harmless(
            "headers of Envoy's own are neither read nor written",
            &["suppress_envoy_headers", "strict_check_headers", "respect_expected_rq_timeout"],
        )
        .harmless("a CONNECT is answered before its bytes are read", &["reject_connect_request_early_data"]),
        Place::new(
            "HttpConnectionManager.UpgradeConfig",
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.UpgradeConfig",
            upgrade,
            |of| in_manager(hcm::HttpConnectionManager { upgrade_configs: vec![of], ..manager(rds(CART)) }),
        )
        .probe("enabled", |of: &mut hcm::http_connection_manager::UpgradeConfig| {
            of.enabled = Some(protobuf::BoolValue { value: false })
        }),
        Place::new(
            "HttpProtocolOptions (of a listener)",
            "envoy.config.core.v3.HttpProtocolOptions",
            core::HttpProtocolOptions::default(),
            |of| {
                in_manager(hcm::HttpConnectionManager {
                    common_http_protocol_options: Some(of),
                    ..manager(rds(CART))
                })
            },
        )
        .harmless(SPREAD, &["max_connection_duration_jitter"])
        .harmless("is about responses: the cluster says it", &["max_response_headers_kb"]),
        Place::new(
            "Http1ProtocolOptions (of a listener)",
            "envoy.config.core.v3.Http1ProtocolOptions",
            core::Http1ProtocolOptions::default(),
            |of| {
                in_manager(hcm::HttpConnectionManager {
                    http_protocol_options: Some(of),
                    ..manager(rds(CART))
                })
            },
        )
        .harmless("a server must accept it (RFC 9112 section 3.2.2)", &["allow_absolute_url"])
        .harmless("trailers always pass", &["enable_trailers"])
        .harmless("reading is always strict", &["override_stream_error_on_invalid_http_message"])
        .harmless("is about requests to upstreams", &["send_fully_qualified_url"])
        .harmless("is about Envoy's parsers", &["use_balsa_parser"])
        .harmless("any method that is a token passes", &["allow_custom_methods"]),
        http2("Http2ProtocolOptions (of a listener)", |of| {
            in_manager(hcm::HttpConnectionManager { http2_protocol_options: Some(of), ..manager(rds(CART)) })
        }),
    ]
}

/// The options of HTTP/2, which are the same on both sides.
pub fn http2(
    title: &'static str,
    embed: impl Fn(core::Http2ProtocolOptions) -> (String, Any) + 'static,
) -> Place {
    Place::new(
        title,
        "envoy.config.core.v3.Http2ProtocolOptions",
        core::Http2ProtocolOptions::default(),
        embed,
    )
    .probe("initial_stream_window_size", |of: &mut core::Http2ProtocolOptions| {
        of.initial_stream_window_size = number(70_000)
    })
    .probe("initial_connection_window_size", |of: &mut core::Http2ProtocolOptions| {
        of.initial_connection_window_size = number(70_000)
    })
    .harmless("extended CONNECT is always offered; what routes do not allow is refused", &["allow_connect"])
    .harmless(
        "a bound against floods: the codec has its own",
        &[
            "hpack_table_size",
            "max_outbound_frames",
            "max_outbound_control_frames",
            "max_consecutive_inbound_frames_with_empty_payload",
            "max_inbound_priority_frames_per_stream",
            "max_inbound_window_update_frames_per_data_frame_sent",
            "max_metadata_size",
            "max_header_field_size_kb",
            "stream_reset_burst",
            "stream_reset_rate",
        ],
    )
    .harmless(
        "reading is always strict",
        &[
            "stream_error_on_invalid_http_messaging",
            "override_stream_error_on_invalid_http_message",
            "disallow_obs_text",
        ],
    )
    .harmless("whether a connection is alive is found out without being asked", &["connection_keepalive"])
    .harmless(
        "is about how bytes are made, not what they mean",
        &["use_oghttp2_codec", "enable_huffman_encoding"],
    )
}
