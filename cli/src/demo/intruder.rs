//! Clients that do not belong to the mesh: one in plaintext, and one with a certificate of another CA.
//!
//! Both connect to a sidecar's inbound port as its real callers do; [`Refusal`] says how they were refused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

const REQUEST: &[u8] = b"GET /cart HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n";
const TIMEOUT: Duration = Duration::from_secs(5);

/// How a sidecar refused.
pub(super) type Refusal = String;

/// Sends a request in plaintext. Returns an error if it is answered.
pub(super) async fn plaintext(inbound: SocketAddr) -> Result<Refusal, String> {
    let stream = TcpStream::connect(inbound).await.map_err(|error| format!("{inbound}: {error}"))?;
    refused(stream).await
}

/// Claims to be `identity` with a certificate of another CA. Returns an error if the request is answered.
pub(super) async fn foreign_certificate(inbound: SocketAddr, identity: &str) -> Result<Refusal, String> {
    let config = forged(identity).map_err(|error| format!("cannot forge a certificate: {error}"))?;
    let stream = TcpStream::connect(inbound).await.map_err(|error| format!("{inbound}: {error}"))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("cart").map_err(|error| error.to_string())?;
    match tokio::time::timeout(TIMEOUT, connector.connect(name, stream)).await {
        // In TLS 1.3 the client's handshake ends before the server verifies its certificate: the alert comes with the first read.
        Ok(Ok(stream)) => refused(stream).await,
        Ok(Err(error)) => Ok(error.to_string()),
        Err(_) => Err("not refused: the handshake did not end".into()),
    }
}

async fn refused(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<Refusal, String> {
    let exchange = async {
        stream.write_all(REQUEST).await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    match tokio::time::timeout(TIMEOUT, exchange).await {
        Ok(Ok(answer)) if answer.starts_with(b"HTTP/") => {
            Err(format!("answered: {}", String::from_utf8_lossy(&answer).lines().next().unwrap_or_default()))
        }
        Ok(Ok(_)) => Ok("connection closed".into()),
        Ok(Err(error)) => Ok(error.to_string()),
        Err(_) => Err("neither answered nor refused".into()),
    }
}

fn forged(identity: &str) -> Result<rustls::ClientConfig, Box<dyn std::error::Error>> {
    let authority_key = rcgen::KeyPair::generate()?;
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate()?;
    let mut leaf = rcgen::CertificateParams::default();
    leaf.subject_alt_names = vec![rcgen::SanType::URI(identity.try_into()?)];
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = leaf.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptsAny(provider)))
        .with_client_auth_cert(vec![certificate.der().clone()], key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Accepts every server certificate.
#[derive(Debug)]
struct AcceptsAny(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AcceptsAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
