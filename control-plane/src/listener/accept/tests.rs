//! Which connections are admitted when many arrive at the same time.

use std::net::Ipv4Addr;

use rustls_pki_types::ServerName;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::ca::authority::Authority;
use crate::listener::server_certificate::{ServerCertificate, usual_names};
use crate::listener::tls::server_configs;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[test]
fn an_identity_expires_with_its_certificate_while_the_connection_stays_open() {
    let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
    let minute = Duration::from_secs(60);
    let request = |not_after| {
        let certificate = Some(LeafCertificate { identity: identity.clone(), not_after });
        let mut request = Request::new(());
        let address = ([127, 0, 0, 1], 1).into();
        request.extensions_mut().insert(ConnectedPeer { address, certificate });
        identify(request).unwrap()
    };
    let now = SystemTime::now();
    let (good, late) = (request(now + minute), request(now - minute));
    let peer = PeerIdentity { identity: identity.clone(), not_after: now + minute };
    assert_eq!(good.extensions().get(), Some(&peer));
    assert_eq!(late.extensions().get::<PeerIdentity>(), None);
    assert_eq!(late.extensions().get(), Some(&ExpiredPeer(identity)));
}

/// A listener with few handshakes at a time, whose connections are accepted and held.
struct Listening {
    address: SocketAddr,
    client: Arc<rustls::ClientConfig>,
    metrics: Arc<Metrics>,
    established: mpsc::Receiver<io::Result<Connection>>,
}

impl Listening {
    const HANDSHAKES: usize = 4;

    /// Listens. Nothing is accepted before the future is polled.
    async fn start() -> (Self, impl Future<Output = ()>) {
        let authority = Arc::new(Authority::for_tests());
        let certificate =
            ServerCertificate::new(Arc::clone(&authority), &[], &usual_names(LOCALHOST)).unwrap();
        let (tls, _) = server_configs(Arc::new(certificate), Arc::clone(&authority)).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(authority.roots().into_values().flatten());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Arc::new(Metrics::default());
        let trust_domain = authority.trust_domain().clone();
        let port = ListenerConfig { tls, trust_domain, metrics: Arc::clone(&metrics) };
        let (sender, established) = mpsc::channel(100);
        let bounds = Bounds { waiting: 100, handshakes: Self::HANDSHAKES, anonymous: 100 };
        (
            Self { address, client: Arc::new(client), metrics, established },
            accept(listener, port, bounds, sender),
        )
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn handshake(&self, stream: TcpStream) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.client));
        connector.connect(ServerName::IpAddress(LOCALHOST.into()), stream).await
    }

    /// Connects and sends a ClientHello, and nothing more.
    async fn stall(&self) -> TcpStream {
        let name = ServerName::IpAddress(LOCALHOST.into());
        let mut client = rustls::ClientConnection::new(Arc::clone(&self.client), name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        let mut stream = self.connect().await;
        stream.write_all(&hello).await.unwrap();
        stream
    }
}

#[tokio::test]
async fn many_that_connect_at_once_wait_for_each_other() {
    let (mut listening, accepts) = Listening::start().await;
    let waiting = 10 * Listening::HANDSHAKES;
    // All of them are in the backlog before the first is accepted.
    let mut streams = Vec::new();
    for _ in 0..waiting {
        streams.push(listening.connect().await);
    }
    let clients = async {
        let handshakes = streams.into_iter().map(|stream| listening.handshake(stream));
        futures_util::future::try_join_all(handshakes).await.unwrap()
    };
    let clients = tokio::select! {
        clients = clients => clients,
        () = accepts => panic!("accepts no more"),
    };
    assert_eq!(clients.len(), waiting);
    assert_eq!(listening.metrics.connections_refused("crowded"), 0);
    assert!(listening.established.recv().await.unwrap().is_ok());
}

#[tokio::test]
async fn peers_that_stall_hold_no_handshake_for_longer_than_its_grace_while_others_wait() {
    let (listening, accepts) = Listening::start().await;
    let begin = tokio::time::Instant::now();
    let client = async {
        let mut held = Vec::new();
        for _ in 0..2 * Listening::HANDSHAKES {
            held.push(listening.stall().await);
            // A peer that has sent nothing takes no turn.
            held.push(listening.connect().await);
        }
        let client = listening.handshake(listening.connect().await).await;
        (client, held)
    };
    let (client, _held) = tokio::select! {
        client = client => client,
        () = accepts => panic!("accepts no more"),
    };
    client.unwrap();
    // It waits for those that came before it, two rounds of stalled ones.
    let waited = begin.elapsed();
    assert!((HANDSHAKE_GRACE..HANDSHAKE_TIMEOUT).contains(&waited), "{waited:?}");
    assert!(listening.metrics.connections_refused("crowded") > Listening::HANDSHAKES as u64);
}

#[tokio::test]
async fn no_handshake_is_made_for_a_peer_that_has_gone() {
    let (listening, accepts) = Listening::start().await;
    let gone = 10 * Listening::HANDSHAKES;
    for _ in 0..gone {
        drop(listening.stall().await);
    }
    let client = async { listening.handshake(listening.connect().await).await.unwrap() };
    let _client = tokio::select! {
        client = client => client,
        () = accepts => panic!("accepts no more"),
    };
    // All but those whose turn came at once.
    let refused = listening.metrics.connections_refused("gone");
    assert!(refused >= (gone - Listening::HANDSHAKES) as u64, "{refused}");
}
