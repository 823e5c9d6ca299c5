//! Ports that serve clients with and without mTLS, and ports that refuse those without.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::listener::{
    ChainMatcher, FilterChain, Handler, Listener, NetworkFilter, TransportProtocol,
};
use outrigger_config::tls::ClientCertificate;
use outrigger_core::reason::Reason;
use outrigger_core::record::{Direction, Protocol};
use outrigger_dataplane::metrics::WithoutMtls;
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::{http2, tls};
use support::tls::{Authority, chain, get, spiffe};
use support::{Proxy, World, forward, manager, tcp_proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_rustls::client::TlsStream;

/// The server name that sidecars send.
const SIDECAR: &str = "app.shop.svc.cluster.local.mtls.outrigger.internal";

const FIRST_BYTES: Duration = Duration::from_millis(200);

fn http() -> Handler {
    Handler::Http(manager("app:80", forward("app")))
}

fn tcp() -> Handler {
    Handler::Tcp(tcp_proxy("app:80", "app"))
}

/// Chains as the control plane translates a port without a declared protocol.
fn permissive() -> Listener {
    let names = |names: &[&str]| names.iter().map(|name| (*name).into()).collect();
    let mtls = |name: &str, alpn: &[&str], handler| FilterChain {
        matcher: ChainMatcher {
            server_names: names(&["*.mtls.outrigger.internal"]),
            application_protocols: names(alpn),
            ..Default::default()
        },
        ..chain(name, alpn, ClientCertificate::Required, handler)
    };
    let other = |name: &str, transport, protocols: &[&str], handler| FilterChain {
        name: name.into(),
        matcher: ChainMatcher {
            transport: Some(transport),
            application_protocols: names(protocols),
            ..Default::default()
        },
        tls: None,
        handshake_timeout: None,
        connection_filters: Box::default(),
        filter: NetworkFilter::Handle(handler),
    };
    let chains = [
        mtls("http", &["h2", "http/1.1"], http()),
        mtls("tcp", &["outrigger-tcp"], tcp()),
        other("tls-passthrough", TransportProtocol::Tls, &[], tcp()),
        other("plaintext-http", TransportProtocol::RawBuffer, &["http/1.0", "http/1.1", "h2c"], http()),
        other("plaintext-tcp", TransportProtocol::RawBuffer, &[], tcp()),
    ];
    inbound(chains.into())
}

/// A port that requires mTLS.
fn strict() -> Listener {
    inbound(Box::new([chain("http", &["h2", "http/1.1"], ClientCertificate::Required, http())]))
}

fn inbound(chains: Box<[FilterChain]>) -> Listener {
    Listener {
        direction: Direction::Inbound,
        first_bytes_timeout: FIRST_BYTES,
        detects_http: true,
        chains,
        default_chain: None,
        ..support::listener("inbound", NetworkFilter::Handle(tcp()))
    }
}

fn start(listener: Listener, authority: &Authority, application: SocketAddr) -> Proxy {
    let world = World::new().own(listener).cluster("app", &[application]);
    world.secrets.publish(authority.secrets("app"));
    world.start()
}

/// A connection after a handshake with this server name and ALPN protocol, with the certificate of `web`.
async fn handshake(
    authority: &Authority,
    stream: TcpStream,
    name: &'static str,
    alpn: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let key = Arc::clone(&authority.secrets("web").identity.key);
    tls::connector(None, Some(key), &[alpn]).connect(name.try_into().unwrap(), stream).await
}

async fn connect(to: &Proxy) -> TcpStream {
    TcpStream::connect(to.address(0)).await.unwrap()
}

/// The connections without mTLS so far: permitted and refused.
fn without_mtls(proxy: &Proxy) -> [u64; 2] {
    [true, false].map(|permitted| {
        let client = Some(([127, 0, 0, 1].into(), proxy.address(0).port()));
        proxy.totals().without_mtls.get(&WithoutMtls { client, permitted }).copied().unwrap_or_default()
    })
}

#[tokio::test]
async fn a_permissive_port_serves_sidecars_by_mtls_and_other_clients_in_plain_text() {
    let (authority, application) = (Authority::new(), Application::echo("app").await);
    let mut proxy = start(permissive(), &authority, application.address);
    let sidecar = handshake(&authority, connect(&proxy).await, SIDECAR, "h2").await.unwrap();
    assert_eq!(get(&http2::over(sidecar).await, "/").await, 200);
    let record = proxy.record().await;
    assert_eq!((&record.source, record.tls.is_some_and(|tls| tls.mutual)), (&Some(spiffe("web")), true));
    assert_eq!(without_mtls(&proxy), [0, 0]);

    let answer = Client::connect(proxy.address(0)).await.get("app", "/plain").await;
    assert!(answer.status == 200 && answer.body.contains("traceparent"), "{answer:?}");
    let record = proxy.record().await;
    assert_eq!((record.protocol, &record.source, record.tls), (Protocol::Http11, &None, None));
    assert_eq!(without_mtls(&proxy), [1, 0]);
}

#[tokio::test]
async fn tls_to_an_application_that_serves_it_itself_passes_through_a_permissive_port() {
    let (authority, application) = (Authority::new(), Application::echo("app").await);
    // The application is a server that speaks TLS and HTTP/2, with another certificate.
    let world = World::new().own(strict()).cluster("app", &[application.address]);
    world.secrets.publish(authority.secrets("own"));
    let serving_tls = world.start();
    let mut proxy = start(permissive(), &authority, serving_tls.address(0));
    for (name, account) in [("app.shop.svc.cluster.local", "own"), (SIDECAR, "app")] {
        let stream = handshake(&authority, connect(&proxy).await, name, "h2").await.unwrap();
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        assert_eq!(outrigger_config::verify::peer_identity(&shown).unwrap(), spiffe(account), "{name}");
        drop(stream);
        if account == "own" {
            assert_eq!(proxy.record().await.protocol, Protocol::Tcp);
        }
    }
    assert_eq!(without_mtls(&proxy), [1, 0]);
}

#[tokio::test]
async fn opaque_plain_text_passes_a_permissive_port() {
    let (authority, application) = (Authority::new(), Application::repeater().await);
    let proxy = start(permissive(), &authority, application.address);
    let mut client = Client::connect(proxy.address(0)).await;
    client.send("*1\r\n$4\r\nPING\r\n").await;
    client.finish().await;
    assert_eq!(client.rest().await, b"*1\r\n$4\r\nPING\r\n");
    assert_eq!(without_mtls(&proxy), [1, 0]);
}

#[tokio::test]
async fn a_server_that_speaks_first_greets_plaintext_clients_of_a_permissive_port() {
    let authority = Authority::new();
    let greeter = Application::raw(|mut connection| async move {
        let _ = connection.send("220 hello\r\n").await;
        let mut rest = Vec::new();
        let _ = connection.stream.read_to_end(&mut rest).await;
    })
    .await;
    let mut proxy = start(permissive(), &authority, greeter.address);
    let mut client = connect(&proxy).await;
    let mut greeting = [0; 11];
    client.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 hello\r\n");
    client.write_all(b"QUIT\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    let record = proxy.record().await;
    assert_eq!((record.protocol, record.bytes_received, record.bytes_sent), (Protocol::Tcp, 6, 11));
    assert_eq!(without_mtls(&proxy), [1, 0]);

    let stream = connect(&proxy).await;
    let mut sidecar = handshake(&authority, stream, SIDECAR, "outrigger-tcp").await.unwrap();
    sidecar.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 hello\r\n");
    assert_eq!(without_mtls(&proxy), [1, 0]);
}

#[tokio::test]
async fn a_client_that_is_slow_to_send_is_served_by_what_it_sends_in_the_end() {
    let (authority, application) = (Authority::new(), Application::echo("app").await);
    let proxy = start(permissive(), &authority, application.address);
    let stream = connect(&proxy).await;
    let mut plain = Client::connect(proxy.address(0)).await;
    sleep(FIRST_BYTES * 2).await;
    let sidecar = handshake(&authority, stream, SIDECAR, "h2").await.unwrap();
    assert_eq!(get(&http2::over(sidecar).await, "/").await, 200);
    assert_eq!(plain.get("app", "/").await.status, 200);
    // A request line in two parts is still a request.
    let mut slow = Client::connect(proxy.address(0)).await;
    slow.send("GET /slow HT").await;
    sleep(FIRST_BYTES * 2).await;
    slow.send("TP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n").await;
    assert!(slow.rest().await.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn a_strict_port_refuses_clients_without_mtls_and_counts_them() {
    let (authority, application) = (Authority::new(), Application::echo("app").await);
    let mut proxy = start(strict(), &authority, application.address);
    let mut client = Client::connect(proxy.address(0)).await;
    client.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
    assert!(!client.rest().await.starts_with(b"HTTP"));
    let record = proxy.record().await;
    assert_eq!((record.reason, record.status), (Some(Reason::DownstreamTlsFailure), 0));
    assert_eq!(without_mtls(&proxy), [0, 1]);
    // TLS of the application's own, which names none of the sidecars' protocols.
    let stream = connect(&proxy).await;
    handshake(&authority, stream, "app.shop", "postgresql").await.unwrap_err();
    let sidecar = handshake(&authority, connect(&proxy).await, SIDECAR, "h2").await.unwrap();
    assert_eq!(get(&http2::over(sidecar).await, "/").await, 200);
    assert_eq!(application.connections(), 1);
}

/// Publishes another version of the listener.
fn update(proxy: &Proxy, listener: Listener) {
    let mut snapshot = outrigger_config::snapshot::Snapshot::clone(&proxy.published.load());
    snapshot.generation += 1;
    snapshot.listeners.insert("inbound".into(), Arc::new(listener));
    proxy.published.publish(Arc::new(snapshot));
}

#[tokio::test]
async fn a_port_that_becomes_strict_drains_connections_without_mtls_and_keeps_those_with_it() {
    let (authority, application) = (Authority::new(), Application::echo("app").await);
    let proxy = start(permissive(), &authority, application.address);
    let sidecar = handshake(&authority, connect(&proxy).await, SIDECAR, "h2").await.unwrap();
    let sidecar = http2::over(sidecar).await;
    let mut plain = Client::connect(proxy.address(0)).await;
    assert_eq!(plain.get("app", "/").await.status, 200);
    update(&proxy, permissive());
    assert_eq!(plain.get("app", "/").await.status, 200, "an update that permits it leaves it open");
    update(&proxy, strict());
    assert_eq!(plain.rest().await, b"", "it is idle");
    assert_eq!(without_mtls(&proxy), [1, 1]);
    assert_eq!(get(&sidecar, "/").await, 200);
}

#[tokio::test]
async fn chains_without_mtls_for_other_ports_do_not_keep_a_connection_to_a_port_that_becomes_strict() {
    let (authority, application) = (Authority::new(), Application::echo("app").await);
    let proxy = start(permissive(), &authority, application.address);
    let mut plain = Client::connect(proxy.address(0)).await;
    assert_eq!(plain.get("app", "/").await.status, 200);
    let of_port = ChainMatcher { destination_port: Some(proxy.address(0).port()), ..Default::default() };
    let of_port = FilterChain {
        matcher: of_port,
        ..chain("port", &["h2", "http/1.1"], ClientCertificate::Required, http())
    };
    let chains = permissive().chains.into_iter().chain([of_port]).collect();
    update(&proxy, inbound(chains));
    assert_eq!(plain.rest().await, b"", "it is idle");
    assert_eq!(without_mtls(&proxy), [1, 1]);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn what_is_left_without_mtls_is_closed_thirty_seconds_after_a_port_became_strict() {
    let (authority, application) = (Authority::new(), Application::repeater().await);
    let world = World::new().own(permissive()).cluster("app", &[application.address]);
    world.secrets.publish(authority.secrets("app"));
    let proxy = world.start_here();
    let mut client = connect(&proxy).await;
    let mut echo = [0; 4];
    client.write_all(b"*1\r\n").await.unwrap();
    client.read_exact(&mut echo).await.unwrap();
    let began = Instant::now();
    update(&proxy, strict());
    client.read_to_end(&mut Vec::new()).await.unwrap_or_default();
    assert_eq!(began.elapsed().as_secs(), 30);
}

#[tokio::test]
async fn a_captured_connection_to_the_proxy_itself_is_refused() {
    let (authority, application) = (Authority::new(), Application::echo("app").await);
    let listener = Listener { original_dst: true, ..permissive() };
    let mut proxy = start(listener, &authority, application.address);
    let mut client = Client::connect(proxy.address(0)).await;
    client.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
    assert_eq!(client.rest().await, b"");
    assert_eq!(proxy.record().await.reason, Some(Reason::NoDestination));
    assert_eq!(application.connections(), 0);
}
