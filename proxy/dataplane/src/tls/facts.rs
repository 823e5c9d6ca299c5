//! What a finished handshake established.

use std::time::Duration;

use outrigger_core::identity::SpiffeId;
use rustls::{NamedGroup, ProtocolVersion};

/// Facts of a TLS connection.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The peer's identity, verified. `None` when the configuration asked for no certificate.
    pub peer: Option<SpiffeId>,
    /// The protocol that both agreed on, such as `h2`.
    pub alpn: Option<Vec<u8>>,
    /// The name that the client asked for. Only known when we are the server.
    pub server_name: Option<String>,
    /// The TLS version.
    pub version: Option<ProtocolVersion>,
    /// The key exchange group; `None` when the session was resumed.
    pub key_exchange: Option<NamedGroup>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// How long the handshake took.
    pub took: Duration,
}
