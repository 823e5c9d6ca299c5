//! How HTTP is spoken with a listener's clients, and where its routes come from
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
    /// What it leads to, in records and metrics: the canonical name, as our control plane's metadata says it. `None` in a
    /// chain of another control plane, whose `stat_prefix` may be anything: the chosen cluster's name is taken then.
    pub destination: Option<Name>,
    /// In which version of HTTP its clients speak.
    pub codec: Codec,
    /// Where its routes are; see [`crate::snapshot::Snapshot::table`].
    pub routes: RouteSource,
    /// What a request passes before it is forwarded, in order. The router, which is always last, is not among them.
    pub filters: Box<[HttpFilter]>,
    /// Which upgrades pass, where a route says nothing of them.
    pub upgrades: Upgrades,
    /// How it speaks with the client.
    pub settings: Arc<HttpSettings>,
}

/// In which version of HTTP clients speak (`HttpConnectionManager.codec_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// As ALPN says; without it, as the first bytes say.
    Auto,
    /// HTTP/1. Anything else is malformed.
    Http1,
    /// HTTP/2. Anything else is malformed.
    Http2,
}

/// Where routes are.
#[derive(Debug, Clone)]
pub enum RouteSource {
    /// In the manager itself.
    Inline(Arc<RouteTable>),
    /// In the snapshot, under this name (RDS).
    Named(Name),
}

/// A stage between the codec and the router. Routes carry each filter's own settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpFilter {
    /// [`outrigger_policy::cors`].
    Cors,
}

/// How HTTP is spoken with a client. `None` is no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// Whether HTTP/1.0 clients are answered.
    pub accept_http_10: bool,
    /// Whom an HTTP/1.0 request is for that does not say it.
    pub default_host_for_http_10: Option<Authority>,
    /// The largest head of a request, in bytes.
    pub max_request_headers: usize,
    /// The most header fields of a request.
    pub max_headers_count: usize,
    /// From the first byte of a head to its last.
    pub request_headers_timeout: Option<Duration>,
    /// From the first byte of a request to the last of its body.
    pub request_timeout: Option<Duration>,
    /// A stream without a byte in either direction; routes may say otherwise.
    pub stream_idle_timeout: Option<Duration>,
    /// From the first byte of a request to the last of its response.
    pub max_stream_duration: Option<Duration>,
    /// A connection without a request.
    pub idle_timeout: Option<Duration>,
    /// The life of a connection, after which it drains.
    pub max_connection_duration: Option<Duration>,
    /// Requests of a connection, after which it drains.
    pub max_requests_per_connection: Option<u32>,
    /// Streams of one HTTP/2 connection at a time.
    pub max_concurrent_streams: u32,
    /// HTTP/2 flow control window of a stream, in bytes.
    pub initial_stream_window: u32,
    /// HTTP/2 flow control window of a connection, in bytes.
    pub initial_connection_window: u32,
}

impl Default for HttpSettings {
    /// Envoy's defaults where they are bounded, ours (memory bounds and hygiene) where they are not. HTTP/1.0 is for the
    /// proxy's own ports; a listener that is decoded says itself whether it is served.
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
    /// Reads an HTTP connection manager.
    #[allow(deprecated)] // fields that Envoy still takes must be read or refused, not overlooked
    pub(crate) fn decode(wire: hcm::HttpConnectionManager) -> Result<Self, Unusable> {
        use hcm::http_connection_manager::{RouteSpecifier, StripPortMode};
        let hcm::HttpConnectionManager {
            codec_type,
            stat_prefix,
            http_filters,
            add_user_agent,
            // Traces, logs and their sampling are set by the proxy's flags and OTEL_* variables, for all listeners alike.
            tracing: _,
            access_log: _,
            access_log_flush_interval: _,
            flush_access_log_on_new_request: _,
            access_log_options: _,
            common_http_protocol_options,
            http1_safe_max_connection_duration: _, // connections always end between requests
            http_protocol_options,
            http2_protocol_options,
            http3_protocol_options: _, // for QUIC, which is not spoken
            // The application's `server` header passes as it is; a transparent proxy has none of its own.
            server_name: _,
            server_header_transformation: _,
            scheme_header_transformation,
            max_request_headers_kb,
            stream_idle_timeout,
            stream_flush_timeout,
            request_timeout,
            request_headers_timeout,
            // The time between the two GOAWAYs of a draining connection: here a round trip, which is what it stands for.
            drain_timeout: _,
            drain_timeout_jitter: _,
            delayed_close_timeout: _, // how long a closed connection is read from; the codec has its own bound
            use_remote_address,
            xff_num_trusted_hops,
            original_ip_detection_extensions,
            early_header_mutation_extensions,
            // Which clients are internal: decides only about headers of Envoy's own, which are not read here.
            internal_address_config: _,
            skip_xff_append,
            via,
            generate_request_id,
            preserve_external_request_id: _, // one that comes is kept
            always_set_request_id_in_response,
            forward_client_cert_details,
            set_current_client_cert_details: _, // read with the mode above only
            forward_client_cert_matcher,
            proxy_100_continue: _,                                // 1xx always pass
            represent_ipv4_remote_address_as_ipv4_mapped_ipv6: _, // changes a log line
            upgrade_configs,
            // The codec always does it, whatever is asked: docs/routing.md.
            normalize_path: _,
            merge_slashes,
            path_with_escaped_slashes_action,
            request_id_extension,
            local_reply_config,
            strip_matching_host_port,
            // Malformed messages end the stream or connection as the RFC says, whatever is asked.
            stream_error_on_invalid_http_message: _,
            path_normalization_options,
            strip_trailing_host_dot,
            proxy_status_config,
            typed_header_validation_config,
            append_x_forwarded_port,
            append_local_overload: _, // a header on answers of an overload manager, which is not there
            add_proxy_protocol_connection_state: _, // for the PROXY protocol, which is not spoken
            forward_proto_config,
            route_specifier,
            strip_port_mode,
        } = wire;
        unsupported_any(&[
            ("add_user_agent", flag(add_user_agent)),
            // The idle timeout covers what cannot be written too, and nothing shorter does.
            ("stream_flush_timeout", stream_flush_timeout.is_some()),
            // The client's address is appended, and a request ID made where there is none, before it is known whose routes count.
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
            // Paths decide what is allowed, so that a promise to clean them further must be kept or refused.
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
        non_empty("stat_prefix", stat_prefix)?; // as in Envoy; it says nothing here
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

/// Reads the filters, of which the router must be the last.
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
    /// Not known, and optional; or disabled.
    Skipped,
}

/// An unknown filter is skipped when the message says that it may be, and refused by its name when not.
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
                // Statistics, spans and logs, which are the proxy's own.
                dynamic_stats: _,
                start_child_span: _,
                upstream_log: _,
                upstream_log_options: _,
                suppress_grpc_request_failure_code_stats: _,
                // Headers of Envoy's own, which are neither read nor written here.
                suppress_envoy_headers: _,
                strict_check_headers: _,
                respect_expected_rq_timeout: _,
                upstream_http_filters,
                reject_connect_request_early_data: _, // a CONNECT is answered before its bytes are read
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
    // Disabled filters could be enabled again by a route; routes cannot do that here.
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
            max_connection_duration_jitter: _, // connections that began at different times end at different times
            max_headers_count,
            max_response_headers_kb: _, // about responses: the data path has its own bound
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
            override_stream_error_on_invalid_http_message: _, // reading is always strict
            send_fully_qualified_url: _,                      // about requests to upstreams
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
            // Names go out in lower case, as Envoy's do by default.
            ("header_key_format", header_key_format.is_some()),
            // Both framings in one message is how requests are smuggled (RFC 9112, section 6.3).
            ("allow_chunked_length", allow_chunked_length),
            ("ignore_http_11_upgrade", !ignore_http_11_upgrade.is_empty()),
        ])
    }
}
