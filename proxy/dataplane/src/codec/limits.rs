//! What one peer may cost: sizes, counts and times. These are the proxy's own bounds, not configuration of a route.

use std::time::Duration;

/// How long a request's body is held back for a 100 that was asked for (RFC 9110 section 10.1.1 forbids to wait without
/// end).
pub(crate) const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// Bounds of one connection. Bodies have no bound: they are streamed, and what is buffered of them is bounded here.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a head (start line and fields), and of a trailer section. More: 431.
    pub head_bytes: usize,
    /// Fields of a head, and of a trailer section. More: 431.
    pub fields: usize,
    /// Bytes of a request target. More: 414.
    pub target_bytes: usize,
    /// Interim (1xx) responses to one request. More: the exchange fails (an endless 1xx holds a request forever).
    pub interim_responses: usize,
    /// From the first byte of a request's head to its last. Longer: 408.
    pub head_timeout: Duration,
    /// How long a connection may be without a request.
    pub idle_timeout: Duration,
    /// How long a connection may be there at all; then it ends when its requests are done. `None`: for ever.
    pub longest_life: Option<Duration>,
    /// Requests after which a connection ends. `None`: any number.
    pub requests: Option<u32>,
    /// How long a client that reads nothing may hold an answer before its connection is closed.
    pub write_timeout: Duration,
    /// Streams that one HTTP/2 client may have open.
    pub concurrent_streams: u32,
    /// HTTP/2 flow-control window of a stream, in bytes: what one stream may hold in memory.
    pub stream_window: u32,
    /// HTTP/2 flow-control window of a connection, in bytes: what one connection may hold in memory.
    pub connection_window: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 32 * 1024,
            fields: 100,
            target_bytes: 8 * 1024,
            interim_responses: 16,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(300),
            longest_life: None,
            requests: None,
            write_timeout: Duration::from_secs(60),
            concurrent_streams: 256,
            stream_window: 256 * 1024,
            connection_window: 2 * 1024 * 1024,
        }
    }
}
