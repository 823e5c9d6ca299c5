//! TLS handshakes of servers and clients, with timeouts. A failed handshake is a connection failure; no byte of a request was
//! read or written.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use outrigger_config::verify::{peer_identity, rejection};
use outrigger_core::error::{Failure, Reached, Side};
use outrigger_core::identity::SpiffeId;
use outrigger_core::reason::Reason;
use outrigger_core::record::TlsSession;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{Accepted, Acceptor};
use rustls::{ClientConfig, CommonState, HandshakeKind, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::server::StartHandshake;
use x509_parser::parse_x509_certificate;
use x509_parser::time::ASN1Time;

use crate::socket::stream::Stream;

/// The result of a handshake.
#[derive(Debug, Clone)]
pub(crate) struct Negotiated {
    /// The peer's verified identity. `None` if the configuration asked for no certificate, and for a host outside the mesh.
    pub peer: Option<SpiffeId>,
    /// The application protocol, such as `h2`.
    pub alpn: Option<Vec<u8>>,
    /// The session.
    pub tls: TlsSession,
}

/// A fatal alert `unrecognized_name` as a record (RFC 8446 sections 5.1 and 6).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Reads a ClientHello into `first`, which may contain part of it. Nothing is answered yet, so that a listener that only
/// forwards the bytes has all of them there. A malformed ClientHello is answered with an alert.
pub(crate) async fn hello(stream: &mut TcpStream, first: &mut BytesMut) -> Result<Accepted, Failure> {
    let mut acceptor = Acceptor::default();
    let mut taken = 0;
    loop {
        while taken < first.len() {
            taken += acceptor.read_tls(&mut &first[taken..]).map_err(refused_client)?;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok(accepted),
            Ok(None) => {}
            Err((error, mut alert)) => {
                let mut bytes = Vec::new();
                // Writing to memory does not fail, and the client may be gone: it is refused either way.
                let _ = alert.write_all(&mut bytes);
                let _ = stream.write_all(&bytes).await;
                return Err(refused_client(error));
            }
        }
        match stream.read_buf(first).await {
            Ok(0) => {
                return Err(refused_client("the client closed the connection before its hello was complete"));
            }
            Ok(_) => {}
            Err(error) => return Err(refused_client(error)),
        }
    }
}

/// Completes the handshake with a client whose ClientHello was read. The caller applies the timeout.
pub(crate) async fn accept(
    stream: TcpStream,
    accepted: Accepted,
    config: Arc<ServerConfig>,
) -> Result<(Stream, Negotiated), Failure> {
    let start = StartHandshake::from_parts(accepted, stream);
    let stream = start.into_stream(config).await.map_err(|error| refused_client(cause(&error)))?;
    let mut negotiated = negotiated(stream.get_ref().1, refused_client)?;
    negotiated.tls.mutual = negotiated.peer.is_some();
    Ok((Stream::TlsServer(Box::new(stream)), negotiated))
}

/// Refuses a client because nothing is served under the server name that it requested.
pub(crate) async fn refuse(mut stream: TcpStream, accepted: &Accepted) -> Failure {
    // Fails when the client is gone; it was refused either way.
    let _ = stream.write_all(&UNRECOGNIZED_NAME).await;
    refused_client(format!("nothing is served under the name {:?}", accepted.client_hello().server_name()))
}

/// The failure of a handshake that takes too long.
pub(crate) fn late(timeout: Duration) -> Failure {
    refused_client(format!("no TLS handshake within {} ms", timeout.as_millis()))
}

/// Dials TLS on `stream` within `timeout`. `server_name` is sent for routing only; the peer is known by its identity.
pub(crate) async fn connect(
    stream: TcpStream,
    timeout: Duration,
    config: Arc<ClientConfig>,
    server_name: &str,
) -> Result<(Stream, Negotiated), Failure> {
    let stream = handshake(stream, timeout, config, server_name).await?;
    let negotiated = negotiated(stream.get_ref().1, refused_server)?;
    Ok((Stream::TlsClient(Box::new(stream)), negotiated))
}

/// Completes a client's handshake within `timeout`.
pub(super) async fn handshake(
    stream: TcpStream,
    timeout: Duration,
    config: Arc<ClientConfig>,
    server_name: &str,
) -> Result<TlsStream<TcpStream>, Failure> {
    let server_name = ServerName::try_from(server_name.to_owned())
        .map_err(|_| Failure::local(Reason::LocalError, format!("{server_name:?} is no TLS server name")))?;
    let handshake = TlsConnector::from(config).connect(server_name, stream);
    tokio::time::timeout(timeout, handshake)
        .await
        .map_err(|_| refused_server(format!("no TLS handshake within {} ms", timeout.as_millis())))?
        .map_err(|error| {
            let side = if refuses_us(&error) { Side::Local } else { Side::Upstream };
            Failure { side, ..refused_server(cause(&error)) }
        })
}

fn negotiated(state: &CommonState, refused: fn(String) -> Failure) -> Result<Negotiated, Failure> {
    let resumed = state.handshake_kind() == Some(HandshakeKind::Resumed);
    let chain = state.peer_certificates().unwrap_or_default();
    // A full handshake has just verified the chain; of a resumed session it may have expired meanwhile.
    if resumed && !is_current(chain) {
        return Err(refused("the certificate of a resumed session has expired".into()));
    }
    let peer: Option<SpiffeId> =
        chain.first().map(peer_identity).transpose().map_err(|error| refused(error.to_string()))?;
    Ok(Negotiated { peer, alpn: state.alpn_protocol().map(<[u8]>::to_vec), tls: session(state) })
}

/// Returns the session of a connection. Whether it is mutual is for the caller to say.
pub(super) fn session(state: &CommonState) -> TlsSession {
    let version = state.protocol_version().map_or(0, u16::from);
    let cipher = state.negotiated_cipher_suite().map_or(0, |suite| suite.suite().into());
    TlsSession { version, cipher, mutual: false }
}

/// Returns whether all certificates of a chain are valid at this moment.
fn is_current(chain: &[CertificateDer<'_>]) -> bool {
    let now = ASN1Time::now();
    chain
        .iter()
        .all(|der| parse_x509_certificate(der).is_ok_and(|(_, found)| found.validity().is_valid_at(now)))
}

/// Returns the cause of a failed handshake: our own verdict on the peer, or the error.
fn cause(error: &io::Error) -> String {
    rejection(error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn refused_client(error: impl fmt::Display) -> Failure {
    Failure::downstream(Reason::DownstreamTlsFailure, error)
}

/// Returns whether an error of a connection is an alert that the peer does not accept our certificate (RFC 8446 section 6.2).
/// In TLS 1.3 it arrives after the handshake, with the first read.
pub(crate) fn refuses_us(error: &io::Error) -> bool {
    use rustls::AlertDescription as Alert;
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(
        inner,
        Some(rustls::Error::AlertReceived(
            Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::CertificateRequired
                | Alert::UnknownCA
                | Alert::AccessDenied
        ))
    )
}

fn refused_server(error: impl fmt::Display) -> Failure {
    Failure::upstream(Reason::UpstreamTlsFailure, Reached::NotWritten, error)
}

#[cfg(test)]
mod tests {
    use outrigger_config::secrets::Roots;
    use outrigger_config::tls::{ClientCertificate, DownstreamTls};
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
    use rustls::RootCertStore;
    use rustls::sign::CertifiedKey;
    use rustls::{NamedGroup, ProtocolVersion};
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::tls::config::{ALPN_H2, ClientConfigs, Expectation, server_config};
    use crate::tls::credentials::Credentials;

    const PATIENCE: Duration = Duration::from_secs(5);

    struct Authority(CertifiedIssuer<'static, KeyPair>);

    impl Authority {
        fn new() -> Self {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
        }

        fn credentials(&self, uris: &[&str], trusting: &Authority) -> Credentials {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.subject_alt_names =
                uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
            let leaf = params.signed_by(&key, &self.0).unwrap();
            let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(
                &rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
            let mut roots = RootCertStore::empty();
            roots.add(trusting.0.der().clone()).unwrap();
            let identity = id("web");
            let by_domain = [(identity.trust_domain().clone(), Arc::new(roots))].into_iter().collect();
            Credentials {
                identity,
                certified: Arc::new(CertifiedKey::new(vec![leaf.der().clone()], signer)),
                roots: Arc::new(Roots { generation: 1, by_domain }),
            }
        }
    }

    fn id(account: &str) -> SpiffeId {
        SpiffeId::parse(&uri(account)).unwrap()
    }

    fn uri(account: &str) -> String {
        format!("spiffe://cluster.local/ns/shop/sa/{account}")
    }

    fn required(alpn: &[&str]) -> DownstreamTls {
        let alpn = alpn.iter().map(|name| (*name).into()).collect();
        DownstreamTls { alpn, client_certificate: ClientCertificate::Required, peers: None, tickets: true }
    }

    type Ends = (Result<(Stream, Negotiated), Failure>, Result<(Stream, Negotiated), Failure>);

    /// What both ends make of a handshake: the server's first.
    async fn shake(
        server: &Credentials,
        client: &Credentials,
        configs: &mut ClientConfigs,
        expected: &str,
    ) -> Ends {
        let server = server_config(server, &required(&["h2", "outrigger-tcp"])).unwrap();
        shake_with(server, client, configs, expected).await
    }

    async fn shake_with(
        server: Arc<ServerConfig>,
        client: &Credentials,
        configs: &mut ClientConfigs,
        expected: &str,
    ) -> Ends {
        let expectation = Expectation { identities: [id(expected)].into(), alpn: vec![ALPN_H2.into()] };
        let config = configs.config(client, &expectation).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let accepting = async {
            let (mut accepted, mut first) = (accepted, BytesMut::new());
            let hello = hello(&mut accepted, &mut first).await?;
            assert_eq!(hello.client_hello().server_name(), Some("cart.shop"));
            assert_eq!(hello.client_hello().alpn().unwrap().collect::<Vec<_>>(), [ALPN_H2]);
            accept(accepted, hello, server).await
        };
        tokio::join!(accepting, connect(dialled, PATIENCE, config, "cart.shop"))
    }

    fn tls_state(client: &Stream) -> &CommonState {
        let Stream::TlsClient(stream) = client else { panic!("{client:?} is no TLS client") };
        stream.get_ref().1
    }

    fn is_resumed(client: &Stream) -> bool {
        tls_state(client).handshake_kind() == Some(HandshakeKind::Resumed)
    }

    #[tokio::test]
    async fn both_sides_learn_the_peers_identity() {
        let ca = Authority::new();
        let (server, client) = (ca.credentials(&[&uri("cart")], &ca), ca.credentials(&[&uri("web")], &ca));
        let (server, client) = shake(&server, &client, &mut ClientConfigs::default(), "cart").await;
        let ((mut server, seen), (mut client, facts)) = (server.unwrap(), client.unwrap());
        assert_eq!((seen.peer, facts.peer), (Some(id("web")), Some(id("cart"))));
        assert_eq!(facts.alpn.as_deref(), Some(ALPN_H2));
        for (tls, mutual) in [(seen.tls, true), (facts.tls, false)] {
            let expected = (Some("1.3"), Some("TLS_AES_128_GCM_SHA256"), mutual);
            assert_eq!((tls.version(), tls.cipher(), tls.mutual), expected);
        }
        let state = tls_state(&client);
        assert_eq!(state.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        let group = state.negotiated_key_exchange_group().map(|group| group.name());
        assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
        client.write_all(b"hello").await.unwrap();
        let mut read = [0; 5];
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"hello");
    }

    #[tokio::test]
    async fn a_server_with_another_identity_is_refused_before_anything_is_written() {
        let ca = Authority::new();
        let (server, client) = (ca.credentials(&[&uri("stock")], &ca), ca.credentials(&[&uri("web")], &ca));
        let (_, client) = shake(&server, &client, &mut ClientConfigs::default(), "cart").await;
        let failure = client.unwrap_err();
        assert_eq!((failure.reason, failure.reached), (Reason::UpstreamTlsFailure, Reached::NotWritten));
        assert!(
            failure.detail.starts_with("the peer is spiffe://cluster.local/ns/shop/sa/stock, expected "),
            "{failure}"
        );
    }

    #[tokio::test]
    async fn certificates_of_another_authority_are_refused_on_both_sides() {
        let (ca, other) = (Authority::new(), Authority::new());
        let ours = ca.credentials(&[&uri("cart")], &ca);
        let client = other.credentials(&[&uri("web")], &ca);
        let (server, _) = shake(&ours, &client, &mut ClientConfigs::default(), "cart").await;
        assert_eq!(server.unwrap_err().reason, Reason::DownstreamTlsFailure);
        let server = other.credentials(&[&uri("cart")], &ca);
        let client = ca.credentials(&[&uri("web")], &ca);
        assert!(shake(&server, &client, &mut ClientConfigs::default(), "cart").await.1.is_err());
    }

    #[tokio::test]
    async fn a_certificate_has_exactly_one_identity_of_a_known_trust_domain() {
        let ca = Authority::new();
        let client = ca.credentials(&[&uri("web")], &ca);
        let (cart, web) = (uri("cart"), uri("web"));
        for uris in [&[][..], &[&*cart, &*web], &["spiffe://other/ns/shop/sa/cart"], &["https://cart"]] {
            let server = ca.credentials(uris, &ca);
            let (_, client) = shake(&server, &client, &mut ClientConfigs::default(), "cart").await;
            assert!(client.is_err(), "{uris:?}");
        }
    }

    #[tokio::test]
    async fn a_session_is_resumed_under_the_same_credentials_only() {
        let ca = Authority::new();
        let server = ca.credentials(&[&uri("cart")], &ca);
        let mut client = ca.credentials(&[&uri("web")], &ca);
        let serving = server_config(&server, &required(&["h2"])).unwrap();
        let mut configs = ClientConfigs::default();
        for (generation, resumed) in [(1, false), (1, true), (2, false)] {
            let by_domain = client.roots.by_domain.clone();
            client.roots = Arc::new(Roots { generation, by_domain });
            let (server, client) = shake_with(serving.clone(), &client, &mut configs, "cart").await;
            let ((mut server, _), (mut client, facts)) = (server.unwrap(), client.unwrap());
            assert_eq!((is_resumed(&client), facts.peer), (resumed, Some(id("cart"))));
            // The ticket comes with the first bytes.
            server.write_all(b"x").await.unwrap();
            client.read_u8().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_plaintext_client_and_one_that_hangs_up_are_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for bytes in [&b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n"[..], b""] {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            client.write_all(bytes).await.unwrap();
            client.shutdown().await.unwrap();
            let (mut accepted, _) = listener.accept().await.unwrap();
            let failure = hello(&mut accepted, &mut BytesMut::new()).await.unwrap_err();
            assert_eq!(failure.reason, Reason::DownstreamTlsFailure);
        }
    }

    #[tokio::test]
    async fn a_server_without_tickets_sends_none() {
        let ca = Authority::new();
        let (server, client) = (ca.credentials(&[&uri("cart")], &ca), ca.credentials(&[&uri("web")], &ca));
        let serving = server_config(&server, &DownstreamTls { tickets: false, ..required(&["h2"]) }).unwrap();
        let mut configs = ClientConfigs::default();
        for _ in 0..2 {
            let (server, client) = shake_with(serving.clone(), &client, &mut configs, "cart").await;
            let ((mut server, _), (mut client, _)) = (server.unwrap(), client.unwrap());
            assert!(!is_resumed(&client));
            server.write_all(b"x").await.unwrap();
            client.read_u8().await.unwrap();
        }
    }
}
