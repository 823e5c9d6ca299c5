//! Peers of the mesh that speak TLS and HTTP/2 themselves, so that they can misbehave.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::identity::Authority;

/// A workload with a certificate of its own.
pub struct Peer {
    config: Arc<ClientConfig>,
}

impl Peer {
    pub fn new(authority: &Authority, account: &str, alpn: &str) -> Self {
        let key = Arc::clone(&authority.secrets(account).identity.key);
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::clone(&key))));
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        Self { config: Arc::new(config) }
    }

    /// A connection after its handshake.
    pub async fn connect(&self, to: SocketAddr) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from("app.shop.svc.cluster.local").unwrap();
        TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await.unwrap()
    }

    /// A connection that speaks HTTP/2.
    pub async fn http2(&self, to: SocketAddr) -> SendRequest<Bytes> {
        let stream = self.connect(to).await;
        let (sender, connection) =
            h2::client::Builder::new().initial_max_send_streams(1024).handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender
    }
}

/// A GET of `path`; its status.
pub async fn get(sender: &SendRequest<Bytes>, path: &str) -> u16 {
    let request = http::Request::get(format!("https://app{path}")).body(()).unwrap();
    let mut sender = sender.clone().ready().await.unwrap();
    let (response, _) = sender.send_request(request, true).unwrap();
    response.await.unwrap().status().as_u16()
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
