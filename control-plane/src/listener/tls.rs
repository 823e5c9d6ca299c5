//! The TLS configuration of the listener: TLS 1.3 only, ALPN h2, and an optional client certificate.
//!
//! A workload has no certificate before its first one, so callers without a certificate are accepted and the services
//! decide about them. If a client certificate does not verify, the handshake fails.

use std::sync::Arc;

use outrigger_core::alpn;
use rustls::RootCertStore;
use rustls::server::{NoServerSessionStorage, ServerConfig, VerifierBuilderError, WebPkiClientVerifier};
use thiserror::Error;
use tokio::sync::watch;

use super::server_certificate::ServerCertificate;
use crate::ca::authority::{Authority, TrustRoots};

/// Why TLS cannot be configured: the trust roots are invalid.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A root is not a valid certificate.
    #[error("a trust root cannot be used: {0}")]
    Root(#[from] rustls::Error),
    /// The verifier cannot be built.
    #[error("the trust roots cannot be used: {0}")]
    Verifier(#[from] VerifierBuilderError),
}

/// Returns the TLS configuration of the listener, and a future that replaces it whenever the roots of the CA change.
pub(crate) fn server_configs(
    certificate: Arc<ServerCertificate>,
    authority: Arc<Authority>,
) -> Result<(watch::Receiver<Arc<ServerConfig>>, impl Future<Output = ()> + Send), TlsError> {
    let mut replacements = authority.subscribe();
    let first = server_config(Arc::clone(&certificate), &authority.roots())?;
    let (sender, configs) = watch::channel(Arc::new(first));
    let follow = async move {
        while replacements.changed().await.is_ok() {
            match server_config(Arc::clone(&certificate), &authority.roots()) {
                Ok(config) => drop(sender.send_replace(config.into())),
                Err(error) => tracing::error!(%error, "new trust roots are not used"),
            }
        }
    };
    Ok((configs, follow))
}

/// Returns a TLS configuration. Client certificates are verified against `roots`.
fn server_config(certificate: Arc<ServerCertificate>, roots: &TrustRoots) -> Result<ServerConfig, TlsError> {
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
    // No resumption: a ticket would extend an identity beyond the validity of its certificate.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}
