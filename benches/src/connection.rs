//! A connection to a control plane as a sidecar's: TLS 1.3 and HTTP/2 with its settings. For the simulated proxies of `scale` and the clients
//! of `heartbeats`. A connection may come from an address of loopback of its own: the control plane bounds what one address may do.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint, Uri};

/// Time limit of a connection with its handshake, as in a sidecar.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A sidecar's interval and timeout of HTTP/2 PINGs.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// A sidecar's HTTP/2 windows.
const WINDOW: u32 = 1 << 20;

/// How to connect to a control plane.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    address: SocketAddr,
    provider: Arc<CryptoProvider>,
    verifier: Arc<WebPkiServerVerifier>,
    anonymous: Arc<ClientConfig>,
}

/// The certificate of a proxy and its key.
pub(crate) struct Credential {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl ControlPlane {
    /// Reads the trust roots of the control plane at `address`. Returns an error if the file has none.
    pub(crate) fn new(address: SocketAddr, roots: &Path) -> Result<Self, String> {
        let pem = std::fs::read(roots).map_err(|error| format!("{}: {error}", roots.display()))?;
        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(&pem) {
            store.add(root.map_err(text)?).map_err(text)?;
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider));
        let verifier = verifier.build().map_err(text)?;
        let anonymous = Arc::new(config(&provider, &verifier, None)?);
        Ok(Self { address, provider, verifier, anonymous })
    }

    /// Connects from `source`, if it is given, with a certificate if there is one. Returns an error if that fails or takes longer than a sidecar
    /// waits.
    pub(crate) async fn connect(
        &self,
        source: Option<Ipv4Addr>,
        credential: Option<&Credential>,
    ) -> Result<Channel, String> {
        let config = match credential {
            None => Arc::clone(&self.anonymous),
            Some(_) => Arc::new(config(&self.provider, &self.verifier, credential)?),
        };
        let connector = Connector { source, address: self.address, tls: TlsConnector::from(config) };
        let endpoint = Endpoint::from_static("http://control-plane")
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .http2_keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1)
            .keep_alive_while_idle(true);
        let connected = endpoint.connect_with_connector(connector);
        match tokio::time::timeout(CONNECT_TIMEOUT, connected).await {
            Ok(connected) => connected.map_err(|error| cause(&error)),
            Err(_) => Err(format!("no connection within {CONNECT_TIMEOUT:?}")),
        }
    }
}

fn config(
    provider: &Arc<CryptoProvider>,
    verifier: &Arc<WebPkiServerVerifier>,
    credential: Option<&Credential>,
) -> Result<ClientConfig, String> {
    let config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(text)?
        .with_webpki_verifier(Arc::clone(verifier));
    let mut config = match credential {
        None => config.with_no_client_auth(),
        Some(Credential { chain, key }) => {
            config.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(text)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Returns the text of the error at the end of the chain, which says what happened.
pub(crate) fn cause(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// Dials the control plane; ignores the URI.
struct Connector {
    source: Option<Ipv4Addr>,
    address: SocketAddr,
    tls: TlsConnector,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let (source, address, tls) = (self.source, self.address, self.tls.clone());
        Box::pin(async move {
            let socket = TcpSocket::new_v4()?;
            if let Some(source) = source {
                socket.bind((source, 0).into())?;
            }
            let stream = socket.connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(tls.connect(ServerName::IpAddress(address.ip().into()), stream).await?))
        })
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
