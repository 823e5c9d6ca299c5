//! The channel to the control plane: gRPC over TLS 1.3, on a connection that reconnects by itself.
//!
//! The control plane is authenticated by its SPIFFE ID under the operator's roots, never by a DNS name. Each new connection
//! presents the current workload certificate, if there is one. The control plane accepts a stream only while the certificate of
//! its connection is valid. Therefore a renewal opens a new connection, and streams move to it once it is established. TLS
//! sessions are not resumed.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use outrigger_core::alpn;
use outrigger_core::identity::SpiffeId;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::{Service, http::Uri};
use tonic::transport::{Channel, Endpoint};

use crate::backoff::Backoff;
use crate::control_plane::certificate::{Certificate, Key};
use crate::control_plane::failure::ChannelError;
use crate::control_plane::trust::Roots;
use crate::dns::{Dns, DnsError};

/// Time limit to establish a connection, including TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time limit to resolve the name of the control plane. Shorter, so that the error says what did not answer.
const RESOLVE_TIMEOUT: Duration = Duration::from_millis(2500);
/// Interval and timeout of HTTP/2 keep-alive pings on a silent connection.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 windows, large enough that thousands of resources do not wait for window updates.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// The workload's certificate and its private key.
#[derive(Debug)]
pub(crate) struct Credential {
    pub(crate) certificate: Certificate,
    pub(crate) key: Arc<Key>,
}

/// The current credential; None until there is one.
pub(crate) type Credentials = watch::Receiver<Option<Arc<Credential>>>;

/// The current channel, with the newest certificate that has connected; None until there is a certificate. Both streams share
/// it and move when it is replaced.
pub(crate) type Channels = watch::Receiver<Option<Channel>>;

/// Returns the channel to open a stream on. Returns None if there will be none. Cancel-safe.
pub(crate) async fn current(channels: &mut Channels) -> Option<Channel> {
    channels.wait_for(Option::is_some).await.ok()?.clone()
}

/// The address and identity of the control plane. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ControlPlane(Arc<Address>);

#[derive(Debug)]
struct Address {
    host: String,
    port: u16,
    identity: SpiffeId,
    roots_file: PathBuf,
    /// The last roots that could be read. The file is reread for each connection, since roots rotate.
    roots: Mutex<Arc<Roots>>,
    dns: Dns,
    #[cfg(test)]
    memory: Option<tokio::sync::mpsc::UnboundedSender<tokio::io::DuplexStream>>,
}

impl ControlPlane {
    /// Reads the roots; returns an error if they cannot be used. `authority` is `HOST:PORT`.
    pub(crate) fn new(
        authority: &str,
        identity: SpiffeId,
        roots_file: PathBuf,
        dns: Dns,
    ) -> Result<Self, ChannelError> {
        let (host, port) = authority
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host, port.parse().ok()?)))
            .filter(|(host, port)| !host.is_empty() && *port != 0)
            .ok_or_else(|| ChannelError::Address(authority.into()))?;
        let roots = Mutex::new(Arc::new(Roots::from_file(&roots_file)?));
        Ok(Self(Arc::new(Address {
            host: host.trim_matches(['[', ']']).into(),
            port,
            identity,
            roots_file,
            roots,
            dns,
            #[cfg(test)]
            memory: None,
        })))
    }

    /// Returns a control plane that receives its connections in memory.
    #[cfg(test)]
    pub(crate) fn in_memory(
        roots_file: PathBuf,
        accept: tokio::sync::mpsc::UnboundedSender<tokio::io::DuplexStream>,
    ) -> Self {
        let identity = SpiffeId::parse(crate::testing::CONTROL_PLANE).unwrap();
        let mut address =
            Self::new("control-plane:1", identity, roots_file, Dns::from_system().unwrap()).unwrap();
        Arc::get_mut(&mut address.0).unwrap().memory = Some(accept);
        address
    }

    /// Returns a channel that presents the workload's certificate. It connects on first use and reconnects after a break.
    pub(crate) fn channel(&self, credentials: Credentials) -> Channel {
        self.endpoint().connect_with_connector_lazy(self.dial_with(Some(credentials)))
    }

    /// Returns a channel without a client certificate, for the first certificate request.
    pub(crate) fn anonymous(&self) -> Channel {
        self.endpoint().connect_with_connector_lazy(self.dial_with(None))
    }

    /// Sends `channels` a channel for the first certificate, and a connected one after each renewal. The previous channel stays
    /// until its successor is connected. Owned by the supervisor; ends with the identity.
    pub(crate) async fn follow(self, mut credentials: Credentials, channels: watch::Sender<Option<Channel>>) {
        if credentials.wait_for(Option::is_some).await.is_err() {
            return;
        }
        channels.send_replace(Some(self.channel(credentials.clone())));
        let mut backoff = Backoff::default();
        while credentials.changed().await.is_ok() {
            let connected = loop {
                let dial = self.dial_with(Some(credentials.clone()));
                match self.endpoint().connect_with_connector(dial).await {
                    Ok(connected) => break connected,
                    Err(error) => {
                        tracing::debug!(%error, "no connection with the new certificate yet");
                        tokio::time::sleep(backoff.next()).await;
                    }
                }
            };
            backoff.reset();
            channels.send_replace(Some(connected));
        }
    }

    /// Returns the current roots, or the last ones that could be read.
    pub(crate) fn roots(&self) -> Arc<Roots> {
        let mut last = self.0.roots.lock().unwrap_or_else(PoisonError::into_inner);
        match last.changed(&self.0.roots_file) {
            Ok(Some(roots)) => *last = Arc::new(roots),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "keeping the roots that were read before"),
        }
        Arc::clone(&last)
    }

    fn dial_with(&self, credentials: Option<Credentials>) -> Dial {
        Dial { to: self.clone(), credentials }
    }

    fn endpoint(&self) -> Endpoint {
        // With this scheme tonic adds no TLS of its own; the server sees `origin`.
        Endpoint::from_static("http://control-plane")
            .origin(Uri::from_static("https://control-plane"))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
    }

    async fn connect(self, credentials: Option<Credentials>) -> Result<Connection, ChannelError> {
        let credential = credentials.and_then(|credentials| credentials.borrow().clone());
        let config = self.client_config(credential.as_deref())?;
        let name = ServerName::try_from(self.0.host.clone())
            .map_err(|_| ChannelError::Address(self.0.host.clone()))?;
        let connected = async {
            let socket = self.dial().await?;
            let tls = TlsConnector::from(Arc::new(config));
            tls.connect(name, socket).await.map_err(|error| self.handshake_error(&error))
        };
        let stream =
            tokio::time::timeout(CONNECT_TIMEOUT, connected).await.map_err(|_| self.timed_out())??;
        Ok(TokioIo::new(stream))
    }

    fn client_config(&self, credential: Option<&Credential>) -> Result<ClientConfig, ChannelError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = self.roots().verifier(self.0.identity.clone());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match credential {
            Some(Credential { certificate, key }) => {
                builder.with_client_auth_cert(certificate.chain.clone(), key.private_key())?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn::HTTP2.into()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    /// Passes a connection to the in-memory control plane.
    #[cfg(test)]
    pub(crate) fn hand_over(&self, stream: tokio::io::DuplexStream) {
        let _ = self.0.memory.as_ref().unwrap().send(stream);
    }

    async fn dial(&self) -> Result<Socket, ChannelError> {
        #[cfg(test)]
        if let Some(accept) = &self.0.memory {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            accept.send(theirs).map_err(|_| self.timed_out())?;
            return Ok(Box::new(ours));
        }
        let mut failure = self.timed_out();
        for ip in self.addresses().await? {
            let address = SocketAddr::new(ip, self.0.port);
            let connected = TcpStream::connect(address).await;
            match connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
                Ok(stream) => return Ok(Box::new(stream)),
                Err(error) => failure = ChannelError::connect(address, error),
            }
        }
        Err(failure)
    }

    async fn addresses(&self) -> Result<Vec<IpAddr>, ChannelError> {
        let resolved = tokio::time::timeout(RESOLVE_TIMEOUT, self.0.dns.resolve(&self.0.host)).await;
        let silent = |_| DnsError::Unavailable {
            host: self.0.host.clone(),
            reason: format!("no name server has answered within {RESOLVE_TIMEOUT:?}"),
        };
        Ok(resolved.map_err(silent)??.addresses)
    }

    fn authority(&self) -> String {
        format!("{}:{}", self.0.host, self.0.port)
    }

    fn timed_out(&self) -> ChannelError {
        ChannelError::TimedOut(self.authority(), CONNECT_TIMEOUT)
    }

    fn handshake_error(&self, error: &std::io::Error) -> ChannelError {
        ChannelError::handshake(&self.authority(), &self.0.identity, &self.0.roots_file, error)
    }
}

/// A bidirectional byte stream; boxed, since a process has only one.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}
type Socket = Box<dyn Io>;
type Connection = TokioIo<TlsStream<Socket>>;

/// The connector that tonic calls for each new connection.
struct Dial {
    to: ControlPlane,
    credentials: Option<Credentials>,
}

impl Service<Uri> for Dial {
    type Response = Connection;
    type Error = ChannelError;
    type Future = Pin<Box<dyn Future<Output = Result<Connection, ChannelError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ChannelError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.to.clone().connect(self.credentials.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::control_plane::failure::describe;
    use crate::testing::{Ca, Proof, credential, fake_control_plane, relay};
    use outrigger_proto::istio_auth::IstioCertificateRequest;
    use outrigger_proto::istio_auth::istio_certificate_service_client::IstioCertificateServiceClient;
    use tokio::net::TcpListener;

    const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
    const STOCK: &str = "spiffe://cluster.local/ns/shop/sa/stock";

    async fn call(channel: &Channel) -> Result<(), String> {
        let csr = Key::generate().unwrap().signing_request().unwrap();
        let request = IstioCertificateRequest { csr, ..Default::default() };
        let mut client = IstioCertificateServiceClient::new(channel.clone());
        client.create_certificate(request).await.map(drop).map_err(|status| describe(&status))
    }

    #[tokio::test(start_paused = true)]
    async fn a_control_plane_under_other_roots_is_refused() {
        let (ca, other) = (Arc::new(Ca::new()), Ca::new());
        let fake = fake_control_plane(&ca, Clock::paused());
        std::fs::copy(other.roots_file(), ca.roots_file()).unwrap();
        let refusal = call(&fake.control_plane.anonymous()).await.unwrap_err();
        assert!(refusal.contains("certificate"), "{refusal}");
        assert_eq!(fake.issuance.lock().unwrap().refused, 0, "nothing was said to it");
    }

    #[tokio::test]
    async fn a_broken_connection_heals_and_shows_the_certificate_of_the_moment() {
        let ca = Arc::new(Ca::new());
        let fake = fake_control_plane(&ca, Clock::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let identity = SpiffeId::parse(crate::testing::CONTROL_PLANE).unwrap();
        let dns = Dns::from_system().unwrap();
        let there = ControlPlane::new(&address.to_string(), identity, ca.roots_file().into(), dns).unwrap();
        let (sender, credentials) = watch::channel(Some(credential(&ca, CART)));
        let channel = there.channel(credentials);

        let relayed = relay(listener, &fake.control_plane);
        call(&channel).await.unwrap();
        relayed.abort();
        assert!(relayed.await.is_err());
        sender.send_replace(Some(credential(&ca, STOCK)));
        assert!(call(&channel).await.is_err(), "nobody listens");
        let listener = TcpListener::bind(address).await.unwrap();
        let _relayed = relay(listener, &fake.control_plane);
        call(&channel).await.unwrap();

        let shown = |uri| Proof::Certificate(SpiffeId::parse(uri).unwrap());
        assert_eq!(fake.issuance.lock().unwrap().issued, [shown(CART), shown(STOCK)]);
    }

    #[tokio::test(start_paused = true)]
    async fn name_servers_that_do_not_answer_are_named_as_the_cause() {
        let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (ca, dns) = (Ca::new(), Dns::of_server(silent.local_addr().unwrap()));
        let identity = SpiffeId::parse(crate::testing::CONTROL_PLANE).unwrap();
        let there = ControlPlane::new("mesh.example:15010", identity, ca.roots_file().into(), dns).unwrap();
        let error = there.connect(None).await.err().unwrap().to_string();
        assert!(error.starts_with("\"mesh.example\" cannot be resolved now: no name server"), "{error}");
    }

    #[tokio::test]
    async fn an_address_without_a_port_is_refused() {
        let (ca, dns) = (Ca::new(), Dns::from_system().unwrap());
        let identity = SpiffeId::parse(crate::testing::CONTROL_PLANE).unwrap();
        for address in ["control-plane", "control-plane:", ":15010", "control-plane:0", "x:99999"] {
            let refused = ControlPlane::new(address, identity.clone(), ca.roots_file().into(), dns.clone());
            assert!(matches!(refused, Err(ChannelError::Address(_))), "{address}");
        }
    }
}
