//! A client that speaks mutual TLS to a sidecar with whatever certificate it is given, and believes anybody.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::patience::in_time;

/// Connects with the certificate in a sidecar's state directory, or without any, and offers one protocol.
pub async fn connect(
    address: SocketAddr,
    certificate: Option<&Path>,
    protocol: &str,
) -> io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)));
    let mut config = match certificate {
        None => config.with_no_client_auth(),
        Some(state) => {
            let chain = CertificateDer::pem_file_iter(state.join("identity.pem")).unwrap();
            let key = PrivateKeyDer::from_pem_file(state.join("identity.key")).unwrap();
            config.with_client_auth_cert(chain.collect::<Result<_, _>>().unwrap(), key).unwrap()
        }
    };
    config.alpn_protocols = vec![protocol.into()];
    let name = ServerName::try_from("app.shop.svc.cluster.local").unwrap();
    let stream = TcpStream::connect(address).await?;
    in_time("a handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

/// Writes `bytes` on a new connection and reads until the end. In TLS 1.3 a client learns only by its first read that its
/// certificate was refused.
pub async fn exchange(
    address: SocketAddr,
    certificate: Option<&Path>,
    protocol: &str,
    bytes: &[u8],
) -> io::Result<Vec<u8>> {
    let mut stream = connect(address, certificate, protocol).await?;
    stream.write_all(bytes).await?;
    let mut answer = Vec::new();
    match in_time("the end", stream.read_to_end(&mut answer)).await {
        // Not every peer says goodbye.
        Err(error) if answer.is_empty() => Err(error),
        _ => Ok(answer),
    }
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

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
        Err(Error::General("TLS 1.3 alone".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
