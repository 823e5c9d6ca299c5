//! Workloads with certificates: for proxies, and for peers that speak TLS and HTTP/2 themselves, so that they can misbehave.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::client::SendRequest;
use outrigger_config::endpoint::{Endpoint, Transport};
use outrigger_config::listener::{ChainMatcher, FilterChain, Handler, Listener, NetworkFilter};
use outrigger_config::secrets::{Roots, Secrets, WorkloadIdentity};
use outrigger_config::tls::{ClientCertificate, DownstreamTls, UpstreamTls};
use outrigger_core::Name;
use outrigger_core::identity::SpiffeId;
use outrigger_test_support::authority::{self, spiffe_uri};
use outrigger_test_support::{http2, tls};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const SERVER_NAME: &str = "app.shop.svc.cluster.local";

/// The certificate authority of a mesh.
pub struct Authority(authority::Authority);

pub fn spiffe(account: &str) -> SpiffeId {
    SpiffeId::parse(&spiffe_uri(account)).unwrap()
}

impl Authority {
    pub fn new() -> Self {
        Self(authority::Authority::new())
    }

    /// A TLS client that trusts this authority and has the certificate of `secrets`, if any.
    pub fn connector(&self, secrets: Option<Secrets>) -> TlsConnector {
        tls::connector(Some(self.0.roots()), secrets.map(|secrets| Arc::clone(&secrets.identity.key)), &[])
    }

    /// A new certificate for `account`, and this authority's root.
    pub fn secrets(&self, account: &str) -> Secrets {
        let (id, now) = (spiffe(account), SystemTime::now());
        let by_domain = [(id.trust_domain().clone(), Arc::new(self.0.roots()))].into_iter().collect();
        Secrets {
            identity: Arc::new(WorkloadIdentity {
                key: Arc::new(self.0.issue(&[id.as_str()])),
                id,
                not_before: now,
                not_after: now + Duration::from_secs(3600),
                serial: "01".into(),
            }),
            roots: Arc::new(Roots { generation: 1, by_domain }),
        }
    }
}

fn names(alpn: &[&str]) -> Box<[Name]> {
    alpn.iter().map(|name| (*name).into()).collect()
}

/// A filter chain of TLS that negotiates `alpn`, if any.
pub fn chain(
    name: &str,
    alpn: &[&str],
    client_certificate: ClientCertificate,
    handler: Handler,
) -> FilterChain {
    FilterChain {
        name: name.into(),
        matcher: ChainMatcher::default(),
        tls: Some(Arc::new(DownstreamTls {
            alpn: names(alpn),
            client_certificate,
            peers: None,
            tickets: true,
        })),
        handshake_timeout: None,
        connection_filters: Box::default(),
        filter: NetworkFilter::Handle(handler),
    }
}

/// A listener with one such chain.
pub fn listener(alpn: &[&str], client_certificate: ClientCertificate, handler: Handler) -> Listener {
    let chain = chain("tls", alpn, client_certificate, handler);
    let any = super::listener("inbound", chain.filter.clone());
    Listener { default_chain: None, chains: Box::new([chain]), ..any }
}

/// An endpoint that speaks TLS and has one of these identities.
pub fn endpoint(address: SocketAddr, alpn: &[&str], accounts: &[&str]) -> Endpoint {
    let tls = UpstreamTls {
        alpn: names(alpn),
        sni: Some(SERVER_NAME.into()),
        peers: accounts.iter().map(|account| spiffe(account)).collect(),
    };
    Endpoint { transport: Transport::Tls(Arc::new(tls)), ..super::endpoint(address) }
}

/// A workload with a certificate of its own, which accepts every server.
pub struct Peer {
    connector: TlsConnector,
}

impl Peer {
    pub fn new(authority: &Authority, account: &str, alpn: &str) -> Self {
        let key = Arc::clone(&authority.secrets(account).identity.key);
        Self { connector: tls::connector(None, Some(key), &[alpn]) }
    }

    /// A connection after its handshake.
    pub async fn connect(&self, to: SocketAddr) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        self.connector.connect(ServerName::try_from(SERVER_NAME).unwrap(), stream).await.unwrap()
    }

    /// A connection that speaks HTTP/2.
    pub async fn http2(&self, to: SocketAddr) -> SendRequest<Bytes> {
        http2::over(self.connect(to).await).await
    }
}

/// Sends a GET of `path` and returns the status.
pub async fn get(sender: &SendRequest<Bytes>, path: &str) -> u16 {
    let request = http::Request::get(format!("https://app{path}")).body(()).unwrap();
    let mut sender = sender.clone().ready().await.unwrap();
    let (response, _) = sender.send_request(request, true).unwrap();
    response.await.unwrap().status().as_u16()
}
