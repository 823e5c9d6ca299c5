//! How HTTP is spoken with a listener's clients, and where its routes come from
//! (`envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`).

use std::sync::Arc;
use std::time::Duration;

use outrigger_core::Name;

use crate::route::RouteTable;

/// An HTTP connection manager.
#[derive(Debug, Clone)]
pub struct HttpConnectionManager {
    /// What it is called in records and metrics: the canonical destination.
    pub stat_prefix: Name,
    /// Where its routes are; see [`crate::snapshot::Snapshot::table`].
    pub routes: RouteSource,
    /// What a request passes before it is forwarded, in order. The router, which is always last, is not among them.
    pub filters: Box<[HttpFilter]>,
    /// How it speaks with the client.
    pub settings: Arc<HttpSettings>,
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
    /// The time between the two GOAWAY frames of a draining HTTP/2 connection.
    pub drain_timeout: Duration,
    /// Whether HTTP/1.0 is answered.
    pub accept_http_10: bool,
    /// Streams of one HTTP/2 connection at a time.
    pub max_concurrent_streams: u32,
    /// HTTP/2 flow control window of a stream, in bytes.
    pub initial_stream_window: u32,
    /// HTTP/2 flow control window of a connection, in bytes.
    pub initial_connection_window: u32,
}

impl Default for HttpSettings {
    /// Envoy's defaults where they are bounded, ours (memory bounds and hygiene) where they are not.
    fn default() -> Self {
        Self {
            max_request_headers: 60 * 1024,
            max_headers_count: 100,
            request_headers_timeout: Some(Duration::from_secs(10)),
            request_timeout: None,
            stream_idle_timeout: Some(Duration::from_secs(300)),
            max_stream_duration: None,
            idle_timeout: Some(Duration::from_secs(3600)),
            max_connection_duration: None,
            max_requests_per_connection: None,
            drain_timeout: Duration::from_secs(5),
            accept_http_10: true,
            max_concurrent_streams: 1024,
            initial_stream_window: 256 * 1024,
            initial_connection_window: 1024 * 1024,
        }
    }
}
