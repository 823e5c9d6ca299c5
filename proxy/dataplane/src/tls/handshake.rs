//! TLS handshakes on both sides, bounded in time. A failed one is a failure of the connection; no byte of a request was
//! read or written.

use std::sync::Arc;
use std::time::Duration;

use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;
use rustls::{ClientConfig, ServerConfig};
use tokio::net::TcpStream;

use super::facts::Facts;
use crate::socket::stream::Stream;

/// What a client asks for before anything is agreed.
#[derive(Debug)]
pub struct Hello<'a> {
    /// The server name, lower-case; `None` when absent.
    pub server_name: Option<&'a str>,
    /// The protocols offered, in the client's order.
    pub alpn: Vec<&'a [u8]>,
}

/// Answers a TLS client within `timeout`. `select` picks the configuration by what the client asks for; with `None` the
/// client gets the alert `unrecognized_name` and the connection fails.
pub async fn accept(
    stream: TcpStream,
    timeout: Duration,
    select: impl FnOnce(&Hello<'_>) -> Option<Arc<ServerConfig>>,
) -> Result<(Stream, Facts), Failure> {
    let _ = (stream, timeout, select);
    Err(Failure::downstream(Reason::DownstreamProtocolError, "no handshake"))
}

/// Dials TLS on `stream` within `timeout`. `server_name` is sent for routing only; the peer is known by its identity.
pub async fn connect(
    stream: TcpStream,
    timeout: Duration,
    config: Arc<ClientConfig>,
    server_name: &str,
) -> Result<(Stream, Facts), Failure> {
    let _ = (stream, timeout, config, server_name);
    Err(Failure::upstream(Reason::UpstreamTlsFailure, Reached::NotWritten, "no handshake"))
}
