//! TLS configurations made from credentials: a server's, and per worker a cache of clients'.
//!
//! Each has a session store of its own, so that no session outlives the certificate and roots under which it was made.

use std::fmt;
use std::sync::{Arc, OnceLock};

use foldhash::{HashMap, HashMapExt};
use outrigger_config::tls::{ClientCertificate, DownstreamTls};
use outrigger_config::verify::PeerVerifier;
use outrigger_core::alpn;
use outrigger_core::error::Failure;
use outrigger_core::identity::SpiffeId;
use outrigger_core::reason::Reason;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use super::credentials::Credentials;

/// ALPN of requests between sidecars.
pub(crate) const ALPN_H2: &[u8] = alpn::HTTP2.as_bytes();
/// ALPN of HTTP/1.1, which upgrades need.
pub(crate) const ALPN_HTTP1: &[u8] = alpn::HTTP1.as_bytes();
/// ALPN of opaque bytes between sidecars.
pub(crate) const ALPN_TCP: &[u8] = alpn::OPAQUE.as_bytes();

/// Sessions that a client keeps for one expectation.
const SESSIONS: usize = 8;
/// Client configurations of one worker; beyond, all are rebuilt. A bound, not a tuning.
const MAX_CONFIGS: usize = 512;

/// The configuration of an inbound listener: TLS 1.3, and of `tls` whether a client certificate is asked for, whether there
/// are tickets, and ALPN in order of preference.
///
/// Every identity of a known trust domain may connect; who may do what is a policy above. Make it again when the credentials
/// change, and share it between workers; live connections keep theirs. Fails only when the machine has no randomness.
pub(crate) fn server_config(
    credentials: &Credentials,
    tls: &DownstreamTls,
) -> Result<Arc<ServerConfig>, Failure> {
    let builder =
        ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]).map_err(failed)?;
    let verifier = PeerVerifier::new(Arc::clone(&credentials.roots), None);
    let mut config = match tls.client_certificate {
        ClientCertificate::NotRequested => builder.with_no_client_auth(),
        ClientCertificate::Optional => builder.with_client_cert_verifier(Arc::new(verifier.optional())),
        ClientCertificate::Required => builder.with_client_cert_verifier(Arc::new(verifier)),
    }
    .with_cert_resolver(Arc::new(SingleCertAndKey::from(credentials.certified.clone())));
    config.alpn_protocols = tls.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(failed)?;
    // Clients hold their connections; a second ticket would only cost.
    config.send_tls13_tickets = usize::from(tls.tickets);
    Ok(Arc::new(config))
}

/// Whom a connection may reach, and what is spoken on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Expectation {
    /// Identities that the endpoint may have, compared whole. Empty: nobody, the connection fails.
    pub identities: Arc<[SpiffeId]>,
    /// The protocols offered, preferred first. Empty: none is negotiated.
    pub alpn: Vec<Vec<u8>>,
}

/// Client configurations of one worker, by expectation, under the credentials of the moment.
#[derive(Default)]
pub(crate) struct ClientConfigs {
    credentials: Option<Credentials>,
    configs: HashMap<Expectation, Arc<ClientConfig>>,
}

impl ClientConfigs {
    /// The configuration for `expectation` under `credentials`, made on first use. Those of earlier credentials are forgotten,
    /// and their sessions with them.
    pub(crate) fn config(
        &mut self,
        credentials: &Credentials,
        expectation: &Expectation,
    ) -> Result<Arc<ClientConfig>, Failure> {
        if !self.credentials.as_ref().is_some_and(|known| known.is_same(credentials)) {
            self.configs.clear();
            self.credentials = Some(credentials.clone());
        }
        if let Some(config) = self.configs.get(expectation) {
            return Ok(config.clone());
        }
        if self.configs.len() >= MAX_CONFIGS {
            self.configs = HashMap::new();
        }
        let config = client_config(credentials, expectation)?;
        self.configs.insert(expectation.clone(), config.clone());
        Ok(config)
    }
}

impl fmt::Debug for ClientConfigs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfigs").field("configs", &self.configs.len()).finish_non_exhaustive()
    }
}

fn client_config(credentials: &Credentials, expectation: &Expectation) -> Result<Arc<ClientConfig>, Failure> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(failed)?
        .dangerous() // the verifier below is stricter than the usual one: exact identity, own trust domain's roots
        .with_custom_certificate_verifier(verifier(credentials, Some(expectation.identities.clone())))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(credentials.certified.clone())));
    config.alpn_protocols = expectation.alpn.clone();
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Ok(Arc::new(config))
}

fn verifier(credentials: &Credentials, peers: Option<Arc<[SpiffeId]>>) -> Arc<PeerVerifier> {
    Arc::new(PeerVerifier::new(Arc::clone(&credentials.roots), peers))
}

/// AES-128-GCM first, the cheapest with hardware; X25519MLKEM768 first, so that what is recorded today stays secret.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let make = || {
        let cipher_suites = vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        let kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1];
        Arc::new(CryptoProvider { cipher_suites, kx_groups, ..aws_lc_rs::default_provider() })
    };
    PROVIDER.get_or_init(make).clone()
}

fn failed(error: rustls::Error) -> Failure {
    Failure::local(Reason::LocalError, error)
}
