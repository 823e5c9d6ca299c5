//! `x-forwarded-client-cert`: what applications read of the callers, and what callers cannot claim.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::sync::Arc;

use outrigger_config::http_manager::{
    CertificateDetails, ForwardClientCertificate, HttpConnectionManager, HttpSettings,
};
use outrigger_config::listener::{DestinationBy, Handler, Listener, NetworkFilter, UnknownDestination};
use outrigger_config::snapshot::Snapshot;
use outrigger_test_support::application::Application;
use outrigger_test_support::authority::spiffe_uri;
use outrigger_test_support::client::Client;
use support::sidecar::inbound_listener;
use support::tls::{Authority, Peer};
use support::{Proxy, World, forward, manager};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const CLAIMED: &str = "By=spiffe://a;URI=spiffe://cluster.local/ns/shop/sa/admin";

const URI: CertificateDetails = CertificateDetails { subject: false, uri: true, dns: false };

fn inbound(mode: ForwardClientCertificate) -> Listener {
    let mut listener = inbound_listener();
    if let NetworkFilter::Handle(Handler::Http(manager)) = &mut listener.chains[0].filter {
        let manager: &mut HttpConnectionManager = Arc::make_mut(manager);
        manager.settings = Arc::new(HttpSettings { client_certificate: mode, ..HttpSettings::default() });
    }
    listener
}

fn start(authority: &Authority, mode: ForwardClientCertificate, application: &Application) -> Proxy {
    let world = World::new().own(inbound(mode)).cluster("app", &[application.address]);
    world.secrets.publish(authority.secrets("cart"));
    world.start()
}

async fn connect(authority: &Authority, to: &Proxy) -> TlsStream<TcpStream> {
    Peer::new(authority, "web", "http/1.1").connect(to.address(0)).await
}

/// The values of the field that the application receives from a client that claims another identity.
fn received(answer: &str) -> Vec<String> {
    let fields = answer.split("\r\n").filter_map(|line| line.strip_prefix("x-forwarded-client-cert: "));
    fields.map(ToOwned::to_owned).collect()
}

async fn ask(stream: &mut TlsStream<TcpStream>) -> Vec<String> {
    let request = format!("GET / HTTP/1.1\r\nhost: app\r\nX-Forwarded-Client-Cert: {CLAIMED}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The echo ends with the empty line of the request that the application received.
    while answer.windows(4).filter(|window| window == b"\r\n\r\n").count() < 2 {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{answer:?}");
    }
    received(&String::from_utf8(answer).unwrap())
}

#[tokio::test]
async fn the_application_reads_the_verified_identity_of_its_caller() {
    use ForwardClientCertificate::{AlwaysForwardOnly, AppendForward, ForwardOnly, Sanitize, SanitizeSet};
    let (authority, application) = (Authority::new(), Application::echo("app").await);
    let by = format!("By={};Hash=", spiffe_uri("cart"));
    let uri = format!("URI={}", spiffe_uri("web"));
    for (mode, claim, verified) in [
        (Sanitize, false, false),
        (ForwardOnly, true, false),
        (AppendForward(URI), true, true),
        (SanitizeSet(URI), false, true),
        (AlwaysForwardOnly, true, false),
    ] {
        let proxy = start(&authority, mode, &application);
        let mut stream = connect(&authority, &proxy).await;
        let first = ask(&mut stream).await;
        assert_eq!(ask(&mut stream).await, first, "each request of a connection says the same");
        let mut elements: Vec<_> = first.iter().flat_map(|value| value.split(',')).collect();
        assert_eq!(elements.first() == Some(&CLAIMED), claim, "{mode:?}: {first:?}");
        elements.retain(|element| *element != CLAIMED);
        assert_eq!(elements.len(), usize::from(verified), "{mode:?}: {first:?}");
        for element in elements {
            let (hash, rest) = element.strip_prefix(&by).unwrap().split_once(';').unwrap();
            assert!(hash.len() == 64 && rest == uri, "{element}");
        }
    }
}

#[tokio::test]
async fn subject_and_dns_names_are_forwarded_where_they_are_asked_for() {
    let (authority, application) = (Authority::new(), Application::echo("app").await);
    let details = CertificateDetails { subject: true, uri: false, dns: true };
    let proxy = start(&authority, ForwardClientCertificate::SanitizeSet(details), &application);
    let received = ask(&mut connect(&authority, &proxy).await).await;
    let [field] = &received[..] else { panic!("{received:?}") };
    assert!(field.contains(";Subject=\"") && !field.contains("URI="), "{field}");
}

#[tokio::test]
async fn a_connection_that_was_open_before_says_who_called_too() {
    let (authority, application) = (Authority::new(), Application::echo("app").await);
    let proxy = start(&authority, ForwardClientCertificate::Sanitize, &application);
    let mut stream = connect(&authority, &proxy).await;
    assert!(ask(&mut stream).await.is_empty());
    let mut snapshot = Snapshot::clone(&proxy.published.load());
    let listener = inbound(ForwardClientCertificate::SanitizeSet(URI));
    snapshot.listeners.insert("inbound".into(), Arc::new(listener));
    proxy.published.publish(Arc::new(snapshot));
    let expected = format!("By={};URI={}", spiffe_uri("cart"), spiffe_uri("web"));
    assert_eq!(ask(&mut stream).await, [expected]);
}

#[tokio::test]
async fn nobody_without_a_certificate_can_claim_one() {
    use ForwardClientCertificate::{AlwaysForwardOnly, AppendForward, ForwardOnly, Sanitize, SanitizeSet};
    let application = Application::echo("app").await;
    for (mode, passes) in [
        (Sanitize, false),
        (ForwardOnly, false),
        (AppendForward(URI), false),
        (SanitizeSet(URI), false),
        (AlwaysForwardOnly, true),
    ] {
        let mut manager = HttpConnectionManager::clone(&manager("app:80", forward("app")));
        manager.settings = Arc::new(HttpSettings { client_certificate: mode, ..HttpSettings::default() });
        let world = World::new().cluster("app", &[application.address]);
        let world = world.proxy().destination("app:80", Handler::Http(Arc::new(manager)));
        let proxy = world.listen(DestinationBy::Authority, UnknownDestination::PassThrough).start();
        let field = format!("X-Forwarded-Client-Cert: {CLAIMED}\r\n");
        let answer = Client::connect(proxy.address(0)).await.request("GET", "app", "/", &field).await;
        assert_eq!(received(&answer.body).len(), usize::from(passes), "{mode:?}: {answer:?}");
        let outside = format!("localhost:{}", application.address.port());
        let answer = Client::connect(proxy.address(1)).await.request("GET", &outside, "/", &field).await;
        assert_eq!((answer.status, received(&answer.body).len()), (200, 0), "{answer:?}");
    }
}
