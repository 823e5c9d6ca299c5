//! TLS of the clients that connect to a proxy's mutual TLS port directly: what they offer, and their certificate.
//!
//! Such a client accepts every server: only what the proxy does is measured. It never resumes a session, and offers the key exchanges of
//! Outrigger's sidecars: X25519MLKEM768, and X25519 with a key share.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, Error};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::load::{AcceptAll, Tls};

/// Returns the settings of a client with this certificate, which speaks HTTP/2 and sends `server` as SNI.
pub(super) fn client(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    server: &str,
) -> Result<Tls, String> {
    let text = |error: Error| format!("TLS of the client: {error}");
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(text)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAll(provider)))
        .with_client_auth_cert(chain, key)
        .map_err(text)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    let server_name =
        ServerName::try_from(server.to_owned()).map_err(|error| format!("{server}: {error}"))?;
    Ok(Tls { config: Arc::new(config), server_name })
}
