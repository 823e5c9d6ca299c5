//! Builds TLS configurations from credentials: one for servers, and per worker a cache for clients.
//!
//! Each has its own session store, so that no session outlives the certificate and roots under which it was established.

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

/// The number of sessions that a client keeps per expectation.
const SESSIONS: usize = 8;
/// The maximum number of client configurations of a worker; beyond it, all are rebuilt.
const MAX_CONFIGS: usize = 512;

/// Builds the configuration of an inbound listener: TLS 1.3; whether a client certificate is required, whether tickets are
/// issued, and ALPN in order of preference come from `tls`.
///
/// Any identity of a known trust domain may connect; authorization is a policy. To be rebuilt when the credentials change, and
/// shared between workers; existing connections keep theirs. Returns an error only if the machine has no randomness.
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

/// The expected peer of a connection, and its protocols.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Expectation {
    /// The identities that the endpoint may have, compared as a whole. If empty, the connection fails.
    pub identities: Arc<[SpiffeId]>,
    /// The offered protocols in order of preference. If empty, none is negotiated.
    pub alpn: Vec<Vec<u8>>,
}

/// The client configurations of one worker, by expectation, for the current credentials.
#[derive(Default)]
pub(crate) struct ClientConfigs {
    credentials: Option<Credentials>,
    configs: HashMap<Expectation, Arc<ClientConfig>>,
}

impl ClientConfigs {
    /// Returns the configuration for `expectation` with `credentials`, built on first use. Configurations of earlier
    /// credentials are dropped with their sessions.
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
