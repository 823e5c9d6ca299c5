//! Protocol settings for downstream HTTP connections: limits and timeouts.

use std::time::Duration;

use http::uri::Authority;
use outrigger_policy::field::{Unusable, duration, number, unsupported_any};
use outrigger_proto::xds::core;

use super::client_certificate::ForwardClientCertificate;
use crate::cluster::Http2Settings;

/// Protocol settings for downstream HTTP connections. `None` is no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// Whether HTTP/1.0 is accepted.
    pub accept_http_10: bool,
    /// The host of HTTP/1.0 requests without a `Host` field.
    pub default_host_for_http_10: Option<Authority>,
    /// What becomes of `x-forwarded-client-cert`.
    pub client_certificate: ForwardClientCertificate,
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
            client_certificate: ForwardClientCertificate::Sanitize,
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

impl HttpSettings {
    /// Applies the options of all HTTP versions.
    pub(super) fn common(&mut self, wire: core::HttpProtocolOptions) -> Result<(), Unusable> {
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

    /// Applies the options of HTTP/1.
    #[allow(deprecated)]
    pub(super) fn http1(&mut self, wire: core::Http1ProtocolOptions) -> Result<(), Unusable> {
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
    /// Applies the options of HTTP/2.
    pub(super) fn http2(&mut self, wire: core::Http2ProtocolOptions) -> Result<(), Unusable> {
        let http2 = Http2Settings::decode(wire)?;
        self.max_concurrent_streams = http2.max_concurrent_streams.unwrap_or(self.max_concurrent_streams);
        self.initial_stream_window = http2.stream_window.unwrap_or(self.initial_stream_window);
        self.initial_connection_window = http2.connection_window.unwrap_or(self.initial_connection_window);
        Ok(())
    }
}

/// Returns the limit that a duration configures: zero is no limit.
pub(super) fn limit(value: Duration) -> Option<Duration> {
    (!value.is_zero()).then_some(value)
}
