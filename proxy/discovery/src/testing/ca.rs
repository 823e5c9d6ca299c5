//! A certificate authority that issues and serves the certificates of a fake control plane.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use outrigger_core::identity::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair, SanType,
};
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::control_plane::certificate::{Certificate, Key};
use crate::control_plane::channel::Credential;

/// The identity of every control plane.
pub(crate) const CONTROL_PLANE: &str = "spiffe://cluster.local/ns/outrigger-system/sa/control-plane";

/// A root that issues leaf certificates directly.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    dir: tempfile::TempDir,
    roots_file: PathBuf,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        let dir = tempfile::tempdir().unwrap();
        let roots_file = dir.path().join("roots.pem");
        std::fs::write(&roots_file, &pem).unwrap();
        Self { issuer: Issuer::new(params, key), pem, dir, roots_file }
    }

    pub(crate) fn roots_file(&self) -> &Path {
        &self.roots_file
    }

    /// Returns a directory that lives as long as the authority.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Issues a chain that is valid for an hour, leaf first, root last.
    pub(crate) fn issue(&self, request: &str, uri: &str) -> String {
        let now = SystemTime::now();
        self.issue_at(request, uri, now, Duration::from_secs(3600))
    }

    /// Issues a chain as our control plane does: valid from five minutes before `now`.
    pub(crate) fn issue_at(&self, request: &str, uri: &str, now: SystemTime, lifetime: Duration) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(request).unwrap();
        request.params = leaf(uri, now, lifetime);
        request.signed_by(&self.issuer).unwrap().pem() + &self.pem
    }

    pub(crate) fn server(&self, uri: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let params = leaf(uri, SystemTime::now(), Duration::from_secs(7 * 86400));
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }

    /// Returns an acceptor of TLS connections to the control plane.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .unwrap();
        let (certificate, key) = self.server(CONTROL_PLANE);
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Returns a credential that was issued earlier.
pub(crate) fn credential(ca: &Ca, uri: &str) -> Arc<Credential> {
    let key = Key::generate().unwrap();
    let pem = ca.issue(&key.signing_request().unwrap(), uri);
    let certificate = Certificate::from_pem(pem.as_bytes(), &key).unwrap();
    Arc::new(Credential { certificate, key: Arc::new(key) })
}

fn leaf(uri: &str, now: SystemTime, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.not_before = (now - Duration::from_secs(300)).into();
    params.not_after = (now + lifetime).into();
    params
}

/// An accepted connection.
pub(crate) struct Connection(pub(super) TlsStream<DuplexStream>);

impl Connected for Connection {
    type ConnectInfo = Option<SpiffeId>;
    fn connect_info(&self) -> Self::ConnectInfo {
        let chain = self.0.get_ref().1.peer_certificates()?;
        outrigger_config::verify::peer_identity(chain.first()?).ok()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
