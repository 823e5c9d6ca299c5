//! The HTTP options of a cluster: those in the cluster itself (older) and in `HttpProtocolOptions`.

use std::collections::HashMap;
use std::time::Duration;

use outrigger_policy::field::{Unusable, duration, number, required, unpack, unsupported, unsupported_any};
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::{core, type_url, upstream_http};

use super::{ConnectionSettings, UpstreamProtocol};

/// The HTTP options of a cluster during decoding.
pub(super) struct HttpOptions {
    pub(super) protocol: UpstreamProtocol,
    pub(super) connections: ConnectionSettings,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            protocol: UpstreamProtocol::Http1,
            connections: ConnectionSettings {
                // An hour, as in Envoy (HttpProtocolOptions.idle_timeout).
                idle_timeout: Some(Duration::from_secs(3600)),
                max_duration: None,
                max_requests: None,
                max_concurrent_streams: 1024, // as in Envoy
                initial_stream_window: 256 * 1024,
                initial_connection_window: 16 * 1024 * 1024,
            },
        }
    }
}

impl HttpOptions {
    pub(super) fn typed(&mut self, options: HashMap<String, Any>) -> Result<(), Unusable> {
        for (name, any) in options {
            let field = || format!("typed_extension_protocol_options[{name:?}]");
            if any.type_url != type_url::HTTP_PROTOCOL_OPTIONS {
                return Err(Unusable::new(field(), format_args!("{:?} is not supported", any.type_url)));
            }
            unpack(&any, type_url::HTTP_PROTOCOL_OPTIONS)
                .and_then(|wire| self.protocol(wire))
                .map_err(|bad| bad.within(field()))?;
        }
        Ok(())
    }

    fn protocol(&mut self, wire: upstream_http::HttpProtocolOptions) -> Result<(), Unusable> {
        use upstream_http::http_protocol_options::explicit_http_config::ProtocolConfig;
        use upstream_http::http_protocol_options::{
            AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions as Wire, UseDownstreamHttpConfig,
        };
        let upstream_http::HttpProtocolOptions {
            common_http_protocol_options,
            upstream_http_protocol_options,
            http_filters,
            header_validation_config,
            outlier_detection,
            request_mirror_policies,
            hash_policy,
            retry_policy,
            upstream_protocol_options,
        } = wire;
        unsupported_any(&[
            (
                "upstream_http_protocol_options",
                upstream_http_protocol_options.is_some_and(|of| of != Default::default()),
            ),
            ("http_filters", !http_filters.is_empty()),
            ("header_validation_config", header_validation_config.is_some()),
            ("outlier_detection", outlier_detection.is_some()),
            ("request_mirror_policies", !request_mirror_policies.is_empty()),
            ("hash_policy", !hash_policy.is_empty()),
            ("retry_policy", retry_policy.is_some()),
        ])?;
        self.common(common_http_protocol_options)
            .map_err(|bad| bad.within("common_http_protocol_options"))?;
        match required("upstream_protocol_options", upstream_protocol_options)? {
            Wire::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config }) => {
                match required("explicit_http_config.protocol_config", protocol_config)? {
                    ProtocolConfig::HttpProtocolOptions(options) => {
                        self.protocol = UpstreamProtocol::Http1;
                        self.http1(Some(options))
                    }
                    ProtocolConfig::Http2ProtocolOptions(options) => {
                        self.protocol = UpstreamProtocol::Http2;
                        self.http2(options)
                    }
                    ProtocolConfig::Http3ProtocolOptions(_) => {
                        Err(Unusable::new("http3_protocol_options", "is not supported"))
                    }
                }
                .map_err(|bad| bad.within("explicit_http_config"))
            }
            Wire::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
                http_protocol_options,
                http2_protocol_options,
                // For HTTP/3 clients, which listeners do not accept.
                http3_protocol_options: _,
            }) => {
                self.protocol = UpstreamProtocol::AsDownstream;
                self.either(http_protocol_options, http2_protocol_options)
                    .map_err(|bad| bad.within("use_downstream_protocol_config"))
            }
            Wire::AutoConfig(AutoHttpConfig {
                http_protocol_options,
                http2_protocol_options,
                // Envoy uses the other versions unless HTTP/3 is known to work; here they are always used.
                http3_protocol_options: _,
                alternate_protocols_cache_options: _,
            }) => {
                self.protocol = UpstreamProtocol::Negotiated;
                self.either(http_protocol_options, http2_protocol_options)
                    .map_err(|bad| bad.within("auto_config"))
            }
        }
    }

    pub(super) fn common(&mut self, wire: Option<core::HttpProtocolOptions>) -> Result<(), Unusable> {
        let Some(core::HttpProtocolOptions {
            idle_timeout,
            max_connection_duration,
            // Spreads out closings; waiting for the last request of each connection does too.
            max_connection_duration_jitter: _,
            max_headers_count,
            max_response_headers_kb,
            max_stream_duration,
            headers_with_underscores_action: _, // for downstream requests
            max_requests_per_connection,
        }) = wire
        else {
            return Ok(());
        };
        unsupported("max_stream_duration", max_stream_duration.is_some())?;
        // Response heads have the data path's own bounds, which are Envoy's defaults.
        unsupported("max_headers_count", number(max_headers_count).is_some_and(|count| count != 100))?;
        unsupported("max_response_headers_kb", number(max_response_headers_kb).is_some_and(|kb| kb != 60))?;
        let limit = |value: Duration| (!value.is_zero()).then_some(value);
        if let Some(idle) = duration("idle_timeout", idle_timeout)? {
            self.connections.idle_timeout = limit(idle);
        }
        if let Some(max) = duration("max_connection_duration", max_connection_duration)? {
            self.connections.max_duration = limit(max);
        }
        if let Some(max) = number(max_requests_per_connection) {
            self.connections.max_requests = (max > 0).then_some(max);
        }
        Ok(())
    }

    #[allow(deprecated)]
    pub(super) fn http1(&mut self, wire: Option<core::Http1ProtocolOptions>) -> Result<(), Unusable> {
        let Some(core::Http1ProtocolOptions {
            // For downstream requests, or for lenient parsing; parsing is always strict.
            allow_absolute_url: _,
            accept_http_10: _,
            default_host_for_http_10: _,
            header_key_format,
            enable_trailers: _, // trailers always pass
            allow_chunked_length,
            override_stream_error_on_invalid_http_message: _,
            send_fully_qualified_url,
            use_balsa_parser: _,     // which parser Envoy uses
            allow_custom_methods: _, // any method that is a token passes
            ignore_http_11_upgrade: _,
        }) = wire
        else {
            return Ok(());
        };
        unsupported_any(&[
            ("http_protocol_options.allow_chunked_length", allow_chunked_length),
            ("http_protocol_options.send_fully_qualified_url", send_fully_qualified_url),
            // Names are sent in lower case, as by Envoy's default.
            ("http_protocol_options.header_key_format", header_key_format.is_some()),
        ])
    }

    fn either(
        &mut self,
        http1: Option<core::Http1ProtocolOptions>,
        http2: Option<core::Http2ProtocolOptions>,
    ) -> Result<(), Unusable> {
        self.http1(http1)?;
        http2.map_or(Ok(()), |options| self.http2(options))
    }

    /// Decodes the HTTP/2 options. The caller decides whether HTTP/2 is used.
    pub(super) fn http2(&mut self, wire: core::Http2ProtocolOptions) -> Result<(), Unusable> {
        let http2 = Http2Settings::decode(wire)?;
        let connections = &mut self.connections;
        connections.max_concurrent_streams =
            http2.max_concurrent_streams.unwrap_or(connections.max_concurrent_streams);
        connections.initial_stream_window = http2.stream_window.unwrap_or(connections.initial_stream_window);
        connections.initial_connection_window =
            http2.connection_window.unwrap_or(connections.initial_connection_window);
        Ok(())
    }
}

/// The supported `Http2ProtocolOptions`, downstream and upstream.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Http2Settings {
    pub(crate) max_concurrent_streams: Option<u32>,
    pub(crate) stream_window: Option<u32>,
    pub(crate) connection_window: Option<u32>,
}

impl Http2Settings {
    #[allow(deprecated)]
    pub(crate) fn decode(wire: core::Http2ProtocolOptions) -> Result<Self, Unusable> {
        let core::Http2ProtocolOptions {
            max_concurrent_streams,
            initial_stream_window_size,
            initial_connection_window_size,
            allow_metadata,
            custom_settings_parameters,
            // Extended CONNECT is always offered; routes reject unknown protocols.
            allow_connect: _,
            // Bounds against floods: the codec's own bounds cannot be relaxed.
            hpack_table_size: _,
            max_outbound_frames: _,
            max_outbound_control_frames: _,
            max_consecutive_inbound_frames_with_empty_payload: _,
            max_inbound_priority_frames_per_stream: _,
            max_inbound_window_update_frames_per_data_frame_sent: _,
            max_metadata_size: _,
            max_header_field_size_kb: _,
            stream_reset_burst: _,
            stream_reset_rate: _,
            // Parsing is always strict.
            stream_error_on_invalid_http_messaging: _,
            override_stream_error_on_invalid_http_message: _,
            disallow_obs_text: _,
            // The connection pool checks the liveness of its connections itself.
            connection_keepalive: _,
            // Selects Envoy's codec implementation.
            use_oghttp2_codec: _,
            enable_huffman_encoding: _,
        } = wire;
        unsupported_any(&[
            ("http2_protocol_options.allow_metadata", allow_metadata),
            ("http2_protocol_options.custom_settings_parameters", !custom_settings_parameters.is_empty()),
        ])?;
        // RFC 9113, section 6.9.1: a window is at most 2^31-1; Envoy requires at least 2^16-1.
        let window = |field, value| match number(value) {
            Some(window) if !(65_535..=0x7fff_ffff).contains(&window) => {
                Err(Unusable::new(field, "is not between 65535 and 2147483647"))
            }
            window => Ok(window),
        };
        Ok(Self {
            max_concurrent_streams: match number(max_concurrent_streams) {
                Some(0) => return Err(Unusable::new("max_concurrent_streams", "must be at least 1")),
                streams => streams,
            },
            stream_window: window("initial_stream_window_size", initial_stream_window_size)?,
            connection_window: window("initial_connection_window_size", initial_connection_window_size)?,
        })
    }
}
