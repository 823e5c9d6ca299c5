//! TLS connections to a sidecar with the certificate of any other sidecar, or without one.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use outrigger_test_support::tls::connector;
use outrigger_test_support::wait::in_time;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Connects with the certificate in a sidecar's state directory, or without one, and offers `protocol` by ALPN. Writes `bytes`
/// and returns what comes until the end of the connection.
///
/// Returns an error if the handshake fails, or if the connection breaks off before anything has come: in TLS 1.3 a client
/// learns only by its first read that its certificate was refused.
pub async fn exchange(
    address: SocketAddr,
    certificate: Option<&Path>,
    protocol: &str,
    bytes: &[u8],
) -> io::Result<Vec<u8>> {
    let connector = connector(None, certificate.map(read), &[protocol]);
    let name = ServerName::try_from("app.shop.svc.cluster.local").unwrap();
    let stream = TcpStream::connect(address).await?;
    let mut stream = in_time("a handshake", connector.connect(name, stream)).await?;
    stream.write_all(bytes).await?;
    let mut answer = Vec::new();
    match in_time("the end", stream.read_to_end(&mut answer)).await {
        // Some peers close without close_notify.
        Err(error) if answer.is_empty() => Err(error),
        _ => Ok(answer),
    }
}

/// Reads the certificate and the key of a state directory.
fn read(state: &Path) -> Arc<CertifiedKey> {
    let chain = CertificateDer::pem_file_iter(state.join("identity.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(state.join("identity.key")).unwrap();
    Arc::new(CertifiedKey::new(chain.collect::<Result<_, _>>().unwrap(), any_supported_type(&key).unwrap()))
}
