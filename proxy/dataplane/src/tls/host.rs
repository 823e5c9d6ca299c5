//! Client TLS with hosts outside the mesh, version 1.3 or 1.2: a host is verified by its DNS name, as rustls does by default (RFC 9525), and gets no
//! certificate of the workload.
//!
//! The configurations are those of a worker. No session is resumed, since the connections are few.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::host_tls::HostTls;
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::version::{TLS12, TLS13};
use tokio::net::TcpStream;

use super::handshake::{self, Negotiated};
use crate::socket::stream::Stream;

/// The maximum number of configurations of a worker; beyond it, all are rebuilt.
const MAX_CONFIGS: usize = 32;

/// The client configurations of one worker, by host and offered protocols.
#[derive(Default)]
pub(crate) struct HostConfigs(Vec<Known>);

struct Known {
    tls: Arc<HostTls>,
    alpn: Vec<Vec<u8>>,
    config: Arc<ClientConfig>,
}

impl HostConfigs {
    /// Returns the configuration for a host, built on first use. Returns an error if the machine has no roots.
    pub(crate) fn config(
        &mut self,
        tls: &Arc<HostTls>,
        alpn: Vec<Vec<u8>>,
    ) -> Result<Arc<ClientConfig>, Failure> {
        if let Some(known) = self.0.iter().find(|known| known.tls == *tls && known.alpn == alpn) {
            return Ok(Arc::clone(&known.config));
        }
        if self.0.len() >= MAX_CONFIGS {
            self.0.clear();
        }
        let config = build(tls, alpn.clone())?;
        self.0.push(Known { tls: Arc::clone(tls), alpn, config: Arc::clone(&config) });
        Ok(config)
    }
}

impl fmt::Debug for HostConfigs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HostConfigs").field(&self.0.len()).finish()
    }
}

fn build(tls: &HostTls, alpn: Vec<Vec<u8>>) -> Result<Arc<ClientConfig>, Failure> {
    if tls.roots.is_empty() {
        let why = "this machine has no trusted root certificates; SSL_CERT_FILE names a file of them";
        return Err(Failure::local(Reason::UpstreamTlsFailure, why));
    }
    let versions: &[_] = if tls.accepts_tls12 { &[&TLS13, &TLS12] } else { &[&TLS13] };
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .map_err(|error| Failure::local(Reason::LocalError, error))?
        .with_root_certificates(Arc::clone(&tls.roots))
        .with_no_client_auth();
    config.alpn_protocols = alpn;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Dials TLS on `stream` within `timeout`. The host's certificate must have the name `server_name`. The host has no identity.
pub(crate) async fn connect(
    stream: TcpStream,
    timeout: Duration,
    config: Arc<ClientConfig>,
    server_name: &str,
) -> Result<(Stream, Negotiated), Failure> {
    let stream = handshake::handshake(stream, timeout, config, server_name).await?;
    let state = stream.get_ref().1;
    let alpn = state.alpn_protocol().map(<[u8]>::to_vec);
    let negotiated = Negotiated { peer: None, alpn, tls: handshake::session(state) };
    Ok((Stream::TlsClient(Box::new(stream)), negotiated))
}
