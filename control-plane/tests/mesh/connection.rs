//! A connection to a control plane as a proxy makes it: TLS 1.3, a chain to the roots, and the exact SPIFFE ID.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use outrigger_control_plane::ca::certificate::LeafCertificate;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::transport::Uri;

/// Connects to the control plane whatever the URI is.
pub(crate) struct Connector {
    pub(crate) address: SocketAddr,
    pub(crate) tls: TlsConnector,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let (address, tls) = (self.address, self.tls.clone());
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            let stream = tls.connect(ServerName::IpAddress(address.ip().into()), stream).await?;
            let chain = stream.get_ref().1.peer_certificates().unwrap();
            let identity = LeafCertificate::read(&chain[0]).unwrap().identity;
            assert_eq!(identity.as_str(), "spiffe://cluster.local/ns/outrigger-system/sa/control-plane");
            Ok(TokioIo::new(stream))
        })
    }
}
