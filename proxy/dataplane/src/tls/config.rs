//! TLS configurations made from credentials: a server's, and per worker a cache of clients'.

use std::sync::Arc;

use outrigger_core::error::Failure;
use outrigger_core::identity::SpiffeId;
use rustls::{ClientConfig, ServerConfig};

use super::credentials::Credentials;

/// ALPN of requests between sidecars.
pub const ALPN_H2: &[u8] = b"h2";
/// ALPN of HTTP/1.1, which upgrades need.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";
/// ALPN of opaque bytes between sidecars.
pub const ALPN_TCP: &[u8] = b"outrigger-tcp";

/// The configuration of an inbound listener: TLS 1.3, a client certificate required, `alpn` in order of preference.
///
/// Every identity of a known trust domain may connect; who may do what is a policy above. Make it anew for each
/// generation of credentials; live connections keep theirs.
pub fn server_config(credentials: &Credentials, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, Failure> {
    let _ = (credentials, alpn);
    Err(Failure::local(outrigger_core::reason::Reason::LocalError, "no configuration"))
}

/// Whom a connection may reach, and what is spoken on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Expectation {
    /// Identities that the endpoint may have, compared whole. Empty: nobody, the connection fails.
    pub identities: Arc<[SpiffeId]>,
    /// The one protocol asked for.
    pub alpn: &'static [u8],
}

/// Client configurations of one worker, by generation and expectation. Those of older generations are dropped.
#[derive(Debug, Default)]
pub struct ClientConfigs {}

impl ClientConfigs {
    /// The configuration for `expectation` under `credentials`, made on first use.
    pub fn config(
        &mut self,
        credentials: &Credentials,
        expectation: &Expectation,
    ) -> Result<Arc<ClientConfig>, Failure> {
        let _ = (credentials, expectation);
        Err(Failure::local(outrigger_core::reason::Reason::LocalError, "no configuration"))
    }
}
