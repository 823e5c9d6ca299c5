//! How a listener handles HTTP connections, and where its routes come from
//! (`envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`).

mod filters;
mod settings;
mod client_certificate;

use std::sync::Arc;
use std::time::Duration;

use outrigger_core::Name;
use outrigger_policy::field::{Unusable, duration, flag, non_empty, number, required, unsupported_any};
use outrigger_policy::filter::HttpFilter;
use outrigger_policy::upgrade::Upgrades;
use outrigger_proto::xds::hcm;

use crate::route::RouteTable;
use crate::wire::from_ads;

pub use client_certificate::{CertificateDetails, ForwardClientCertificate};
pub use settings::HttpSettings;
use settings::limit;

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
            set_current_client_cert_details,
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
        let client_certificate =
            ForwardClientCertificate::decode(forward_client_cert_details, set_current_client_cert_details)?;
        let mut settings =
            HttpSettings { accept_http_10: false, client_certificate, ..HttpSettings::default() };
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
            settings.http2(http2)?;
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
            filters: filters::decode(http_filters)?,
            upgrades: Upgrades::of_listener(upgrade_configs)?,
            settings: Arc::new(settings),
        })
    }
}
