//! How a listener handles HTTP connections, and where its routes come from
//! (`envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`).

use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use outrigger_core::Name;
use outrigger_policy::field::{Unusable, duration, each, flag, non_empty, number, required, unsupported_any};
use outrigger_policy::upgrade::Upgrades;
use outrigger_proto::xds::{core, cors, hcm, router, type_url};

use crate::cluster::Http2Settings;
use crate::route::RouteTable;
use crate::wire::{from_ads, open};

/// An HTTP connection manager.
#[derive(Debug, Clone)]
pub struct HttpConnectionManager {
    /// The destination that records and metrics name: the canonical name from our control plane's metadata. `None` with
    /// another control plane, whose `stat_prefix` may be anything; the name of the chosen cluster is used then.
    pub destination: Option<Name>,
    /// The HTTP version of its clients.
    pub codec: Codec,
    /// The source of its routes; see [`crate::snapshot::Snapshot::table`].
    pub routes: RouteSource,
    /// The filters that a request passes, in order. The router, which is always last, is not included.
    pub filters: Box<[HttpFilter]>,
    /// The upgrades that are accepted; routes can override them.
    pub upgrades: Upgrades,
    /// Protocol settings for downstream connections.
    pub settings: Arc<HttpSettings>,
}

/// The HTTP version of downstream connections (`HttpConnectionManager.codec_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Determined by ALPN, or by the first bytes if there is none.
    Auto,
    /// HTTP/1 only. Anything else is malformed.
    Http1,
    /// HTTP/2 only. Anything else is malformed.
    Http2,
}

/// The source of routes.
#[derive(Debug, Clone)]
pub enum RouteSource {
    /// The manager itself.
    Inline(Arc<RouteTable>),
    /// The route table with this name in the snapshot (RDS).
    Named(Name),
}

/// An HTTP filter between the codec and the router. Routes carry the settings of each filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpFilter {
    /// [`outrigger_policy::cors`].
    Cors,
}

/// Protocol settings for downstream HTTP connections. `None` is no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// Whether HTTP/1.0 is accepted.
    pub accept_http_10: bool,
    /// The host of HTTP/1.0 requests without a `Host` field.
    pub default_host_for_http_10: Option<Authority>,
    /// Maximum size of a request head, in bytes.
    pub max_request_headers: usize,
    /// Maximum number of header fields of a request.
    pub max_headers_count: usize,
    /// Timeout from the first byte of a request head to its last.
    pub request_headers_timeout: Option<Duration>,
    /// Timeout from the first byte of a request to the last of its body.
    pub request_timeout: Option<Duration>,
    /// Timeout of a stream without a byte in either direction; routes can override it.
    pub stream_idle_timeout: Option<Duration>,
    /// Timeout from the first byte of a request to the last of its response.
    pub max_stream_duration: Option<Duration>,
    /// Timeout of a connection without a request.
    pub idle_timeout: Option<Duration>,
    /// The lifetime of a connection, after which it drains.
    pub max_connection_duration: Option<Duration>,
    /// The number of requests after which a connection drains.
    pub max_requests_per_connection: Option<u32>,
    /// Maximum number of concurrent streams of an HTTP/2 connection.
    pub max_concurrent_streams: u32,
    /// HTTP/2 flow control window of a stream, in bytes.
    pub initial_stream_window: u32,
    /// HTTP/2 flow control window of a connection, in bytes.
    pub initial_connection_window: u32,
}

impl Default for HttpSettings {
    /// Envoy's defaults where they are bounded, and bounds of ours where they are not. HTTP/1.0 is accepted for the proxy's
    /// own ports; a decoded listener sets it explicitly.
    fn default() -> Self {
        Self {
            accept_http_10: true,
            default_host_for_http_10: None,
            max_request_headers: 60 * 1024,
            max_headers_count: 100,
            request_headers_timeout: Some(Duration::from_secs(10)),
            request_timeout: None,
            stream_idle_timeout: Some(Duration::from_secs(300)),
            max_stream_duration: None,
            idle_timeout: Some(Duration::from_secs(3600)),
            max_connection_duration: None,
            max_requests_per_connection: None,
            max_concurrent_streams: 1024,
            initial_stream_window: 256 * 1024,
            initial_connection_window: 16 * 1024 * 1024,
        }
    }
}

impl HttpConnectionManager {
    /// Decodes an HTTP connection manager.
    #[allow(deprecated)] // deprecated fields that Envoy still accepts must be decoded or rejected, not overlooked
    pub(crate) fn decode(wire: hcm::HttpConnectionManager) -> Result<Self, Unusable> {
        use hcm::http_connection_manager::{RouteSpecifier, StripPortMode};
        let hcm::HttpConnectionManager {
            codec_type,
            stat_prefix,
            http_filters,
            add_user_agent,
            // Traces, logs and their sampling are configured by the proxy's flags and OTEL_* variables, for all listeners.
            tracing: _,
            access_log: _,
            access_log_flush_interval: _,
            flush_access_log_on_new_request: _,
            access_log_options: _,
            common_http_protocol_options,
            http1_safe_max_connection_duration: _, // connections always end between requests
            http_protocol_options,
            http2_protocol_options,
            http3_protocol_options: _, // for QUIC, which is not supported
            // The application's `server` header passes unchanged; a transparent proxy adds none.
            server_name: _,
            server_header_transformation: _,
            scheme_header_transformation,
            max_request_headers_kb,
            stream_idle_timeout,
            stream_flush_timeout,
            request_timeout,
            request_headers_timeout,
            // The time between the two GOAWAYs of a draining connection: here one round trip, which it approximates.
            drain_timeout: _,
            drain_timeout_jitter: _,
            delayed_close_timeout: _, // how long to read from a closed connection; the codec has its own bound
            use_remote_address,
            xff_num_trusted_hops,
            original_ip_detection_extensions,
            early_header_mutation_extensions,
            // Which clients are internal: affects only Envoy's own headers, which are not read here.
            internal_address_config: _,
            skip_xff_append,
            via,
            generate_request_id,
            preserve_external_request_id: _, // a received ID is always kept
            always_set_request_id_in_response,
            forward_client_cert_details,
            set_current_client_cert_details: _, // applies only with the mode above
            forward_client_cert_matcher,
            proxy_100_continue: _,                                // 1xx always pass
            represent_ipv4_remote_address_as_ipv4_mapped_ipv6: _, // changes a log line
            upgrade_configs,
            // The codec always normalizes paths: docs/routing.md.
            normalize_path: _,
            merge_slashes,
            path_with_escaped_slashes_action,
            request_id_extension,
            local_reply_config,
            strip_matching_host_port,
            // Malformed messages always end the stream or connection as the RFCs require.
            stream_error_on_invalid_http_message: _,
            path_normalization_options,
            strip_trailing_host_dot,
            proxy_status_config,
            typed_header_validation_config,
            append_x_forwarded_port,
            append_local_overload: _, // a header for the overload manager, which does not exist here
            add_proxy_protocol_connection_state: _, // for the PROXY protocol, which is not supported
            forward_proto_config,
            route_specifier,
            strip_port_mode,
        } = wire;
        unsupported_any(&[
            ("add_user_agent", flag(add_user_agent)),
            // The idle timeout also covers blocked writes; there is no shorter timeout for them.
            ("stream_flush_timeout", stream_flush_timeout.is_some()),
            // The client's address and a missing request ID are added before the route table is known.
            ("skip_xff_append", skip_xff_append),
            ("generate_request_id", generate_request_id.is_some_and(|generate| !generate.value)),
            ("scheme_header_transformation", scheme_header_transformation.is_some()),
            ("use_remote_address", flag(use_remote_address)),
            ("xff_num_trusted_hops", xff_num_trusted_hops != 0),
            ("original_ip_detection_extensions", !original_ip_detection_extensions.is_empty()),
            ("early_header_mutation_extensions", !early_header_mutation_extensions.is_empty()),
            ("via", !via.is_empty()),
            ("always_set_request_id_in_response", always_set_request_id_in_response),
            ("forward_client_cert_details", forward_client_cert_details != 0),
            ("forward_client_cert_matcher", forward_client_cert_matcher.is_some()),
            // Authorization depends on paths, so a request for further normalization must be honoured or rejected.
            ("merge_slashes", merge_slashes),
            ("path_with_escaped_slashes_action", path_with_escaped_slashes_action > 1),
            (
                "path_normalization_options",
                path_normalization_options.is_some_and(|of| of != Default::default()),
            ),
            ("request_id_extension", request_id_extension.is_some()),
            ("local_reply_config", local_reply_config.is_some_and(|config| config != Default::default())),
            ("strip_matching_host_port", strip_matching_host_port),
            ("strip_trailing_host_dot", strip_trailing_host_dot),
            ("proxy_status_config", proxy_status_config.is_some()),
            ("typed_header_validation_config", typed_header_validation_config.is_some()),
            ("append_x_forwarded_port", append_x_forwarded_port),
            ("forward_proto_config", forward_proto_config.is_some()),
            ("strip_any_host_port", matches!(strip_port_mode, Some(StripPortMode::StripAnyHostPort(true)))),
        ])?;
        use hcm::http_connection_manager::CodecType;
        let codec = match CodecType::try_from(codec_type) {
            Ok(CodecType::Auto) => Codec::Auto,
            Ok(CodecType::Http1) => Codec::Http1,
            Ok(CodecType::Http2) => Codec::Http2,
            Ok(CodecType::Http3) => return Err(Unusable::new("codec_type", "HTTP3 is not supported")),
            Err(_) => return Err(Unusable::new("codec_type", "is unknown")),
        };
        non_empty("stat_prefix", stat_prefix)?; // required as in Envoy, but not used
        let mut settings = HttpSettings { accept_http_10: false, ..HttpSettings::default() };
        let limit = |value: Duration| (!value.is_zero()).then_some(value);
        let set = |field, value, to: &mut Option<Duration>| -> Result<(), Unusable> {
            if let Some(value) = duration(field, value)? {
                *to = limit(value);
            }
            Ok(())
        };
        match number(max_request_headers_kb) {
            Some(kb @ 1..=8192) => settings.max_request_headers = kb as usize * 1024,
            Some(_) => return Err(Unusable::new("max_request_headers_kb", "is not between 1 and 8192")),
            None => {}
        }
        set("stream_idle_timeout", stream_idle_timeout, &mut settings.stream_idle_timeout)?;
        set("request_timeout", request_timeout, &mut settings.request_timeout)?;
        set("request_headers_timeout", request_headers_timeout, &mut settings.request_headers_timeout)?;
        if let Some(common) = common_http_protocol_options {
            settings.common(common).map_err(|bad| bad.within("common_http_protocol_options"))?;
        }
        if let Some(http1) = http_protocol_options {
            settings.http1(http1).map_err(|bad| bad.within("http_protocol_options"))?;
        }
        if let Some(http2) = http2_protocol_options {
            let http2 = Http2Settings::decode(http2)?;
            settings.max_concurrent_streams =
                http2.max_concurrent_streams.unwrap_or(settings.max_concurrent_streams);
            settings.initial_stream_window = http2.stream_window.unwrap_or(settings.initial_stream_window);
            settings.initial_connection_window =
                http2.connection_window.unwrap_or(settings.initial_connection_window);
        }
        let routes = match required("route_specifier", route_specifier)? {
            RouteSpecifier::Rds(hcm::Rds { config_source, route_config_name }) => {
                from_ads("config_source", config_source).map_err(|bad| bad.within("rds"))?;
                RouteSource::Named(non_empty("rds.route_config_name", route_config_name)?.into())
            }
            RouteSpecifier::RouteConfig(table) => {
                let table = RouteTable::decode(table).map_err(|bad| bad.within("route_config"))?;
                RouteSource::Inline(Arc::new(table))
            }
            RouteSpecifier::ScopedRoutes(_) => {
                return Err(Unusable::new("scoped_routes", "is not supported"));
            }
        };
        Ok(Self {
            destination: None,
            codec,
            routes,
            filters: filters(http_filters)?,
            upgrades: Upgrades::of_listener(upgrade_configs)?,
            settings: Arc::new(settings),
        })
    }
}

/// Decodes the filters. The router must be the last.
fn filters(wire: Vec<hcm::HttpFilter>) -> Result<Box<[HttpFilter]>, Unusable> {
    let last = wire.len().checked_sub(1);
    let mut at = 0;
    let filters = each("http_filters", wire, |filter| {
        let is_last = Some(at) == last;
        at += 1;
        match http_filter(filter)? {
            Stage::Router if is_last => Ok(None),
            Stage::Router => Err(Unusable::new("", "the router must be the last filter")),
            _ if is_last => Err(Unusable::new("", "the last filter must be the router")),
            Stage::Filter(filter) => Ok(Some(filter)),
            Stage::Skipped => Ok(None),
        }
    })?;
    if last.is_none() {
        return Err(Unusable::new("http_filters", "must hold the router"));
    }
    Ok(filters.into_iter().flatten().collect())
}

enum Stage {
    Filter(HttpFilter),
    Router,
    /// Unknown and optional, or disabled.
    Skipped,
}

/// Decodes a filter. An unknown one is skipped if it is optional, and otherwise rejected by its name.
#[allow(deprecated)]
fn http_filter(wire: hcm::HttpFilter) -> Result<Stage, Unusable> {
    use hcm::http_filter::ConfigType;
    let hcm::HttpFilter { name, is_optional, disabled, config_type } = wire;
    let any = match config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        _ if is_optional => return Ok(Stage::Skipped),
        Some(ConfigType::ConfigDiscovery(_)) => {
            return Err(Unusable::new(
                "config_discovery",
                format_args!("of filter {name:?} is not supported"),
            ));
        }
        None => return Err(Unusable::new("typed_config", format_args!("is required by filter {name:?}"))),
    };
    let stage = match any.type_url.as_str() {
        type_url::ROUTER => {
            let router::Router {
                // Statistics, spans and logs, which are configured for the whole proxy.
                dynamic_stats: _,
                start_child_span: _,
                upstream_log: _,
                upstream_log_options: _,
                suppress_grpc_request_failure_code_stats: _,
                // Envoy's own headers, which are neither read nor written here.
                suppress_envoy_headers: _,
                strict_check_headers: _,
                respect_expected_rq_timeout: _,
                upstream_http_filters,
                reject_connect_request_early_data: _, // CONNECT is answered before its data is read
            } = open(&any, type_url::ROUTER).map_err(|bad| bad.within("typed_config"))?;
            unsupported_any(&[("typed_config.upstream_http_filters", !upstream_http_filters.is_empty())])?;
            Stage::Router
        }
        type_url::CORS => {
            let cors::Cors {} = open(&any, type_url::CORS).map_err(|bad| bad.within("typed_config"))?;
            Stage::Filter(HttpFilter::Cors)
        }
        _ if is_optional => Stage::Skipped,
        other => {
            return Err(Unusable::new(
                "typed_config",
                format_args!("filter {name:?} ({other}) is not supported"),
            ));
        }
    };
    // In Envoy a route can enable a disabled filter; here it cannot.
    if disabled && !matches!(stage, Stage::Router) {
        return Ok(Stage::Skipped);
    }
    Ok(stage)
}

impl HttpSettings {
    fn common(&mut self, wire: core::HttpProtocolOptions) -> Result<(), Unusable> {
        let core::HttpProtocolOptions {
            idle_timeout,
            max_connection_duration,
            max_connection_duration_jitter: _, // connections that began at different times already end at different times
            max_headers_count,
            max_response_headers_kb: _, // for responses; the data path has its own bound
            max_stream_duration,
            headers_with_underscores_action,
            max_requests_per_connection,
        } = wire;
        unsupported_any(&[("headers_with_underscores_action", headers_with_underscores_action != 0)])?;
        let limit = |value: Duration| (!value.is_zero()).then_some(value);
        if let Some(idle) = duration("idle_timeout", idle_timeout)? {
            self.idle_timeout = limit(idle);
        }
        self.max_connection_duration =
            duration("max_connection_duration", max_connection_duration)?.and_then(limit);
        self.max_stream_duration = duration("max_stream_duration", max_stream_duration)?.and_then(limit);
        match number(max_headers_count) {
            Some(0) => return Err(Unusable::new("max_headers_count", "must be at least 1")),
            Some(count) => self.max_headers_count = count as usize,
            None => {}
        }
        self.max_requests_per_connection = number(max_requests_per_connection).filter(|max| *max > 0);
        Ok(())
    }

    #[allow(deprecated)]
    fn http1(&mut self, wire: core::Http1ProtocolOptions) -> Result<(), Unusable> {
        let core::Http1ProtocolOptions {
            allow_absolute_url: _, // RFC 9112, section 3.2.2: a server must accept it
            accept_http_10,
            default_host_for_http_10,
            header_key_format,
            enable_trailers: _, // trailers always pass
            allow_chunked_length,
            override_stream_error_on_invalid_http_message: _, // parsing is always strict
            send_fully_qualified_url: _,                      // for requests to upstreams
            use_balsa_parser: _,                              // which parser Envoy uses
            allow_custom_methods: _,                          // any method that is a token passes
            ignore_http_11_upgrade,
        } = wire;
        self.accept_http_10 = accept_http_10;
        if !default_host_for_http_10.is_empty() {
            let host = Authority::try_from(default_host_for_http_10.as_str());
            let host = host.map_err(|error| Unusable::new("default_host_for_http_10", error))?;
            self.default_host_for_http_10 = Some(host);
        }
        unsupported_any(&[
            // Names are sent in lower case, as by Envoy's default.
            ("header_key_format", header_key_format.is_some()),
            // Both framings in one message allow request smuggling (RFC 9112, section 6.3).
            ("allow_chunked_length", allow_chunked_length),
            ("ignore_http_11_upgrade", !ignore_http_11_upgrade.is_empty()),
        ])
    }
}
