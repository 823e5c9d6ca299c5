//! What a listener or endpoint demands of TLS, as data
//! (`envoy.extensions.transport_sockets.tls.v3.{DownstreamTlsContext, UpstreamTlsContext}`).
//!
//! Certificates and roots are the workload's own ([`crate::secrets`]); the data path makes rustls configurations of both.

use std::sync::Arc;

use outrigger_core::Name;
use outrigger_core::identity::SpiffeId;

/// TLS towards a listener's clients. Version 1.3, certificate and roots of the workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownstreamTls {
    /// Protocols, preferred first.
    pub alpn: Box<[Name]>,
    /// Whether a client without a certificate is refused. One that it shows is always verified.
    pub require_client_certificate: bool,
    /// Who may call; `None` for everybody whose trust domain has roots.
    pub peers: Option<Arc<[SpiffeId]>>,
}

/// TLS towards an endpoint. Version 1.3, certificate and roots of the workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// Protocols that may be offered: the data path takes those that its use of the connection needs.
    pub alpn: Box<[Name]>,
    /// The server name in the hello.
    pub sni: Option<Name>,
    /// Who may answer. Never empty: a certificate that anybody may hold proves nothing.
    pub peers: Arc<[SpiffeId]>,
}
