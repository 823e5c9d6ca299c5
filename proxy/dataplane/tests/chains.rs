//! Which filter chain a connection matches: by its first bytes, and by the identity of the client.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::http_manager::{Codec, HttpConnectionManager};
use outrigger_config::listener::{
    ChainMatcher, FilterChain, Handler, Listener, NetworkFilter, TransportProtocol,
};
use outrigger_config::tls::{ClientCertificate, DownstreamTls};
use outrigger_core::record::Protocol;
use outrigger_policy::direct_response::DirectResponse;
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use support::tls::{Authority, spiffe};
use support::{World, forward, manager, tcp_proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn handled(name: &str, protocols: &[&str], handler: Handler) -> FilterChain {
    let matcher = ChainMatcher {
        application_protocols: protocols.iter().map(|name| (*name).into()).collect(),
        ..Default::default()
    };
    let filter = NetworkFilter::Handle(handler);
    let connection_filters = Box::default();
    FilterChain { name: name.into(), matcher, tls: None, handshake_timeout: None, connection_filters, filter }
}

fn listening(chains: Vec<FilterChain>, default_chain: Option<FilterChain>) -> Listener {
    let any = NetworkFilter::Handle(Handler::Tcp(tcp_proxy("nobody", "nobody")));
    Listener { chains: chains.into(), default_chain, detects_http: true, ..support::listener("inbound", any) }
}

/// Answers every connection with `word` at once.
async fn says(word: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(word.as_bytes()).await.unwrap();
        }
    });
    address
}

async fn answer(address: SocketAddr, first: &[u8], length: usize) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(first).await.unwrap();
    let mut read = vec![0; length];
    let got = tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut read)).await.unwrap();
    got.map(|_| String::from_utf8(read).unwrap()).unwrap_or_default()
}

#[tokio::test]
async fn chains_match_the_protocol_that_is_spoken_in_the_clear() {
    let [http10, http11, h2c, other] =
        [says("ten").await, says("one").await, says("two").await, says("any").await];
    let tcp = |cluster: &str| Handler::Tcp(tcp_proxy(cluster, cluster));
    let chains = vec![
        handled("http10", &["http/1.0"], tcp("http10")),
        handled("http11", &["http/1.1", "unknown"], tcp("http11")),
        handled("h2c", &["h2c"], tcp("h2c")),
    ];
    let proxy = World::new()
        .own(listening(chains, Some(handled("other", &[], tcp("other")))))
        .cluster("http10", &[http10])
        .cluster("http11", &[http11])
        .cluster("h2c", &[h2c])
        .cluster("other", &[other])
        .start();
    for (first, expected) in [
        (&b"GET / HTTP/1.0\r\n"[..], "ten"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "one"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "two"),
        (b"*1\r\n$4\r\nPING\r\n", "any"),
        (b"", "any"),
    ] {
        assert_eq!(answer(proxy.address(0), first, 3).await, expected, "{first:?}");
    }
}

#[tokio::test]
async fn a_silent_client_is_closed_where_the_listener_says_so() {
    let server = says("any").await;
    let tcp = |cluster: &str| Handler::Tcp(tcp_proxy(cluster, cluster));
    let mut listener =
        listening(vec![handled("http", &["http/1.1"], tcp("app"))], Some(handled("other", &[], tcp("app"))));
    listener.continue_on_timeout = false;
    listener.first_bytes_timeout = Duration::from_millis(50);
    let proxy = World::new().own(listener).cluster("app", &[server]).start();
    assert_eq!(answer(proxy.address(0), b"", 3).await, "");
    assert_eq!(answer(proxy.address(0), b"*1\r\n", 3).await, "any");
}

#[tokio::test]
async fn what_was_read_to_choose_a_chain_reaches_the_application() {
    let echo = Application::echo("app").await;
    let chains = vec![handled("http", &["http/1.1"], Handler::Http(manager("app:80", forward("app"))))];
    let mut proxy = World::new().own(listening(chains, None)).cluster("app", &[echo.address]).start();
    let answer = Client::connect(proxy.address(0)).await.post("app", "/order", "body").await;
    assert!(answer.status == 200 && answer.body.ends_with("\r\n\r\nbody"), "{answer:?}");
    assert_eq!(proxy.record().await.protocol, Protocol::Http11);
}

fn tls(client_certificate: ClientCertificate, accounts: Option<&[&str]>) -> Arc<DownstreamTls> {
    let peers = accounts.map(|accounts| accounts.iter().map(|account| spiffe(account)).collect());
    Arc::new(DownstreamTls { alpn: Box::default(), client_certificate, peers, tickets: true })
}

/// Runs a TLS server in the proxy. Returns what a client with or without a certificate receives from it.
async fn shows(
    client_certificate: ClientCertificate,
    accounts: Option<&[&str]>,
    with: Option<&str>,
) -> (String, Option<String>) {
    let (authority, server) = (Authority::new(), says("any").await);
    let mut chain = handled("tls", &[], Handler::Tcp(tcp_proxy("app", "app")));
    chain.tls = Some(tls(client_certificate, accounts));
    let world = World::new().own(listening(vec![chain], None)).cluster("app", &[server]);
    world.secrets.publish(authority.secrets("cart"));
    let mut proxy = world.start();
    let tcp = TcpStream::connect(proxy.address(0)).await.unwrap();
    let connector = authority.connector(with.map(|account| authority.secrets(account)));
    let read = async {
        let mut stream = connector.connect("cart.shop".try_into().unwrap(), tcp).await?;
        let mut read = [0; 3];
        stream.read_exact(&mut read).await?;
        Ok::<_, std::io::Error>(String::from_utf8(read.into()).unwrap())
    };
    let read = tokio::time::timeout(Duration::from_secs(5), read).await.unwrap().unwrap_or_default();
    let source = proxy.record().await.source.as_ref().map(|source| source.to_string());
    (read, source)
}

#[tokio::test]
async fn a_client_certificate_is_demanded_only_where_it_is_required() {
    use ClientCertificate::{NotRequested, Optional, Required};
    let web = spiffe("web").to_string();
    for (mode, accounts, with, served, source) in [
        (Required, None, None, false, None),
        (Required, None, Some("web"), true, Some(&web)),
        (Optional, None, None, true, None),
        (Optional, None, Some("web"), true, Some(&web)),
        (Optional, Some(&["other"][..]), None, true, None),
        (Optional, Some(&["other"][..]), Some("web"), false, Some(&web)),
        (NotRequested, None, Some("web"), true, None),
    ] {
        let (read, seen) = shows(mode, accounts, with).await;
        assert_eq!((read == "any", seen.as_ref()), (served, source), "{mode:?} {accounts:?} {with:?}");
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_required_is_verified_when_it_is_shown() {
    let (authority, other, server) = (Authority::new(), Authority::new(), says("any").await);
    let mut chain = handled("tls", &[], Handler::Tcp(tcp_proxy("app", "app")));
    chain.tls = Some(tls(ClientCertificate::Optional, None));
    let world = World::new().own(listening(vec![chain], None)).cluster("app", &[server]);
    world.secrets.publish(authority.secrets("cart"));
    let proxy = world.start();
    let tcp = TcpStream::connect(proxy.address(0)).await.unwrap();
    let mut stream = authority
        .connector(Some(other.secrets("web")))
        .connect("cart.shop".try_into().unwrap(), tcp)
        .await
        .unwrap();
    assert!(stream.read_exact(&mut [0; 3]).await.is_err());
    assert_eq!(proxy.totals().process.downstream_tls_ok, 0);
}

/// TLS that some chains terminate and others pass through, by the server name that the client sends.
#[tokio::test]
async fn tls_is_passed_through_where_its_chain_has_none() {
    let authority = Authority::new();
    let mut inner = handled("tls", &[], Handler::Tcp(tcp_proxy("app", "app")));
    inner.tls = Some(tls(ClientCertificate::Required, None));
    let world = World::new().own(listening(vec![inner], None)).cluster("app", &[says("inner").await]);
    world.secrets.publish(authority.secrets("cart"));
    let inner = world.start();

    let named = |name: &str| ChainMatcher {
        server_names: Box::new([name.into()]),
        transport: Some(TransportProtocol::Tls),
        ..Default::default()
    };
    let mut ended = handled("ended", &[], Handler::Tcp(tcp_proxy("outer", "outer")));
    ended.matcher = named("outer.shop");
    ended.tls = Some(tls(ClientCertificate::Required, None));
    let mut passed = handled("passed", &[], Handler::Tcp(tcp_proxy("inner", "inner")));
    passed.matcher = named("inner.shop");
    let clear = handled("clear", &[], Handler::Tcp(tcp_proxy("clear", "clear")));
    let world = World::new()
        .own(listening(vec![ended, passed], Some(clear)))
        .cluster("outer", &[says("outer").await])
        .cluster("inner", &[inner.address(0)])
        .cluster("clear", &[says("clear").await]);
    world.secrets.publish(authority.secrets("gate"));
    let proxy = world.start();
    for (name, peer) in [("outer", "gate"), ("inner", "cart")] {
        let tcp = TcpStream::connect(proxy.address(0)).await.unwrap();
        let asked = format!("{name}.shop").try_into().unwrap();
        let mut stream =
            authority.connector(Some(authority.secrets("web"))).connect(asked, tcp).await.unwrap();
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        assert_eq!(outrigger_config::verify::peer_identity(&shown).unwrap(), spiffe(peer));
        let mut read = [0; 5];
        stream.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, name.as_bytes());
    }
    assert_eq!(answer(proxy.address(0), b"*1\r\n", 5).await, "clear");
}

fn with_codec(codec: Codec) -> Handler {
    let response = DirectResponse::decode(
        outrigger_proto::xds::route::DirectResponseAction { status: 204, ..Default::default() },
        0,
    );
    let action = outrigger_config::route::RouteAction::Respond(response.unwrap());
    let manager = manager("app:80", action);
    Handler::Http(Arc::new(HttpConnectionManager { codec, ..HttpConnectionManager::clone(&manager) }))
}

#[tokio::test]
async fn a_listener_speaks_the_version_that_its_codec_says() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for (codec, speaks1, speaks2) in
        [(Codec::Auto, true, true), (Codec::Http1, true, false), (Codec::Http2, false, true)]
    {
        let world = World::new();
        let listener =
            Listener { detects_http: false, ..listening(vec![handled("h", &[], with_codec(codec))], None) };
        let proxy = world.own(listener).start();
        let got = answer(proxy.address(0), GET, 12).await;
        assert_eq!(got == "HTTP/1.1 204", speaks1, "{codec:?}: {got:?}");
        let got = answer(proxy.address(0), PREFACE, 9).await;
        // A SETTINGS frame, whose type is the fourth byte, or an error in HTTP/1.
        assert_eq!(got.as_bytes().get(3) == Some(&4), speaks2, "{codec:?}: {got:?}");
    }
}
