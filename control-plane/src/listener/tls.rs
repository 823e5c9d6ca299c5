//! TLS towards callers: TLS 1.3 alone, ALPN h2, a client certificate asked for but not required.
//!
//! A workload has no certificate before its first, so the port lets callers in without one and each service refuses
//! them itself. A certificate that is shown must verify, or the handshake fails.

use std::sync::Arc;

use outrigger_core::alpn;
use rustls::RootCertStore;
use rustls::server::{NoServerSessionStorage, ServerConfig, VerifierBuilderError, WebPkiClientVerifier};
use thiserror::Error;

use super::server_certificate::ServerCertificate;
use crate::ca::authority::TrustRoots;

/// Why TLS cannot be set up: only a defect of the roots.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A root that is none.
    #[error("a trust root cannot be used: {0}")]
    Root(#[from] rustls::Error),
    /// No verifier can be made of the roots.
    #[error("the trust roots cannot be used: {0}")]
    Verifier(#[from] VerifierBuilderError),
}

/// The TLS settings of the port. Callers are verified against `roots`.
pub(crate) fn server_config(
    certificate: Arc<ServerCertificate>,
    roots: &TrustRoots,
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut store = RootCertStore::empty();
    for root in roots.values().flatten() {
        store.add(root.clone())?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![alpn::HTTP2.into()];
    // No resumption: a ticket would carry an identity past the life of its certificate.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}
