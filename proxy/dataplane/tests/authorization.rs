//! Who may connect and call: network filters, changed policies on running connections, and audited policies.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::http_manager::HttpConnectionManager;
use outrigger_config::listener::{FilterChain, Handler, Listener, NetworkFilter};
use outrigger_config::snapshot::Snapshot;
use outrigger_core::reason::Reason;
use outrigger_core::record::{Authorization, Protocol};
use outrigger_policy::filter::connection::ConnectionFilter;
use outrigger_policy::filter::{FilterConfig, HttpFilter};
use outrigger_proto::xds::matcher::string_matcher::MatchPattern;
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::rbac::rbac::Action;
use outrigger_proto::xds::rbac::{permission::Rule, principal::Identifier};
use outrigger_proto::xds::{matcher, network_rbac, rbac, rbac_filter, type_url};
use outrigger_test_support::application::Application;
use outrigger_test_support::authority::spiffe_uri;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::ok;
use prost::Message;
use support::sidecar::inbound_listener;
use support::tls::{Authority, Peer, get, spiffe};
use support::{Proxy, World, tcp_proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

/// The ALPN protocol of opaque bytes between sidecars.
const OPAQUE: &str = "outrigger-tcp";

/// Rules with one policy, `owner`: everything from the identity of `account`.
fn rules(action: Action, account: &str) -> rbac::Rbac {
    let exact = MatchPattern::Exact(spiffe_uri(account));
    let principal_name = Some(matcher::StringMatcher { match_pattern: Some(exact), ignore_case: false });
    let owner = Identifier::Authenticated(rbac::principal::Authenticated { principal_name });
    let policy = rbac::Policy {
        permissions: vec![rbac::Permission { rule: Some(Rule::Any(true)) }],
        principals: vec![rbac::Principal { identifier: Some(owner) }],
        ..Default::default()
    };
    rbac::Rbac {
        action: action.into(),
        policies: [("owner".to_owned(), policy)].into(),
        ..Default::default()
    }
}

fn only(account: &str) -> Option<rbac::Rbac> {
    Some(rules(Action::Allow, account))
}

fn packed(type_url: &str, message: &impl Message) -> Any {
    Any { type_url: type_url.into(), value: message.encode_to_vec() }
}

/// A network filter with these rules.
fn on_connections(rules: Option<rbac::Rbac>, shadow_rules: Option<rbac::Rbac>) -> ConnectionFilter {
    let rbac = network_rbac::Rbac { rules, shadow_rules, stat_prefix: "tcp".into(), ..Default::default() };
    ConnectionFilter::decode(&packed(type_url::NETWORK_RBAC, &rbac)).unwrap().unwrap()
}

/// An HTTP filter with these rules.
fn on_requests(rules: Option<rbac::Rbac>, shadow_rules: Option<rbac::Rbac>) -> HttpFilter {
    let rbac = rbac_filter::Rbac { rules, shadow_rules, ..Default::default() };
    let config = FilterConfig::of_listener(&packed(type_url::RBAC, &rbac)).unwrap().unwrap();
    HttpFilter { name: "rbac".into(), config, disabled: false }
}

/// The inbound listener, with filters of its chains for HTTP and for opaque bytes.
fn inbound(connections: &[ConnectionFilter], requests: &[HttpFilter]) -> Listener {
    let mut listener = inbound_listener();
    for chain in &mut listener.chains {
        chain.connection_filters = connections.into();
        if let NetworkFilter::Handle(Handler::Http(manager)) = &mut chain.filter {
            let manager: &mut HttpConnectionManager = Arc::make_mut(manager);
            manager.filters = requests.into();
        }
    }
    listener
}

fn start(authority: &Authority, listener: Listener, application: &Application) -> Proxy {
    let world = World::new().own(listener).cluster("app", &[application.address]);
    world.secrets.publish(authority.secrets("stock"));
    world.start()
}

fn update(proxy: &Proxy, listener: Listener) {
    let mut snapshot = Snapshot::clone(&proxy.published.load());
    snapshot.generation += 1;
    snapshot.listeners.insert("inbound".into(), Arc::new(listener));
    proxy.published.publish(Arc::new(snapshot));
}

async fn connect(authority: &Authority, account: &str, to: &Proxy) -> TlsStream<TcpStream> {
    Peer::new(authority, account, OPAQUE).connect(to.address(0)).await
}

/// Sends a word. Returns whether it came back.
async fn is_served(stream: &mut TlsStream<TcpStream>) -> bool {
    let mut word = [0; 4];
    let exchange = async {
        stream.write_all(b"ping").await?;
        stream.flush().await?;
        stream.read_exact(&mut word).await
    };
    matches!(timeout(Duration::from_secs(5), exchange).await.unwrap(), Ok(4)) && word == *b"ping"
}

/// Ends a connection in order.
async fn end(mut stream: TlsStream<TcpStream>) {
    stream.shutdown().await.unwrap();
    closed(&mut stream).await;
}

/// Waits until the proxy closes a connection.
async fn closed(stream: &mut TlsStream<TcpStream>) {
    let read = timeout(Duration::from_secs(5), stream.read(&mut [0; 16])).await.unwrap();
    assert!(matches!(&read, Ok(0) | Err(_)), "{read:?}");
    if let Err(error) = read {
        assert!(matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof));
    }
}

fn denied_by(policy: &str) -> Option<Box<Authorization>> {
    Some(Box::new(Authorization { denied_by: Some(policy.into()), audit_denied_by: None }))
}

fn audited_by(policy: &str) -> Option<Box<Authorization>> {
    Some(Box::new(Authorization { denied_by: None, audit_denied_by: Some(policy.into()) }))
}

#[tokio::test]
async fn only_the_owners_identity_reaches_a_database_port() {
    let (authority, database) = (Authority::new(), Application::repeater().await);
    let listener = inbound(&[on_connections(only("stock-app"), None)], &[]);
    let mut proxy = start(&authority, listener, &database);
    let mut stranger = connect(&authority, "stranger", &proxy).await;
    // It may have written before it learns of the refusal.
    let _ = stranger.write_all(b"select *").await;
    closed(&mut stranger).await;
    let record = proxy.record().await;
    assert_eq!((record.reason, record.protocol), (Some(Reason::AccessDenied), Protocol::Tcp));
    assert_eq!((&record.source, &record.authorization), (&Some(spiffe("stranger")), &denied_by("none")));
    assert_eq!((record.destination.as_deref(), record.bytes_received), (Some("app:80"), 0));
    assert_eq!(database.connections(), 0, "the database does not see the connection");

    let mut owner = connect(&authority, "stock-app", &proxy).await;
    assert!(is_served(&mut owner).await);
    end(owner).await;
    let record = proxy.record().await;
    assert_eq!((record.reason, &record.authorization, record.bytes_sent), (None, &None, 4));
    let denials: Vec<_> = proxy.totals().denials.into_iter().collect();
    let [(labels, 1)] = &denials[..] else { panic!("{denials:?}") };
    assert!(labels.enforced && *labels.policy == *"none" && labels.source == Some(spiffe("stranger")));
}

#[tokio::test]
async fn a_connection_that_a_changed_policy_does_not_allow_is_cut_and_others_go_on() {
    let (authority, database) = (Authority::new(), Application::repeater().await);
    let mut proxy = start(&authority, inbound(&[], &[]), &database);
    let mut owner = connect(&authority, "stock-app", &proxy).await;
    let mut stranger = connect(&authority, "stranger", &proxy).await;
    assert!(is_served(&mut owner).await && is_served(&mut stranger).await);
    // Another change of the listener cuts nothing.
    update(&proxy, Listener { first_bytes_timeout: Duration::from_secs(2), ..inbound(&[], &[]) });
    assert!(is_served(&mut stranger).await);

    update(&proxy, inbound(&[on_connections(Some(rules(Action::Deny, "stranger")), None)], &[]));
    closed(&mut stranger).await;
    let record = proxy.record().await;
    assert_eq!((record.reason, &record.authorization), (Some(Reason::AccessDenied), &denied_by("owner")));
    assert_eq!((record.bytes_received, record.bytes_sent), (8, 8));
    assert!(is_served(&mut owner).await, "the owner's connection stays");
    let mut again = connect(&authority, "stranger", &proxy).await;
    closed(&mut again).await;
    update(&proxy, inbound(&[], &[]));
    assert!(is_served(&mut connect(&authority, "stranger", &proxy).await).await);
    assert!(is_served(&mut owner).await);
    assert_eq!(database.connections(), 3);
}

#[tokio::test]
async fn a_changed_policy_applies_to_the_next_request_of_an_http2_connection() {
    let (authority, application) = (Authority::new(), Application::http(|_| ok("app")).await);
    let mut proxy = start(&authority, inbound(&[], &[]), &application);
    let owner = Peer::new(&authority, "stock-app", "h2").http2(proxy.address(0)).await;
    let stranger = Peer::new(&authority, "stranger", "h2").http2(proxy.address(0)).await;
    for sender in [&owner, &stranger] {
        assert_eq!(get(sender, "/").await, 200);
        assert_eq!(proxy.record().await.reason, None);
    }
    let changed = [
        inbound(&[], &[on_requests(only("stock-app"), None)]),
        // Rules for connections apply to their requests too.
        inbound(&[on_connections(only("stock-app"), None)], &[]),
    ];
    for listener in changed {
        update(&proxy, listener);
        assert_eq!((get(&stranger, "/").await, get(&owner, "/").await), (403, 200));
        let record = proxy.record().await;
        assert_eq!((record.reason, &record.authorization), (Some(Reason::AccessDenied), &denied_by("none")));
        assert_eq!(proxy.record().await.reason, None);
        update(&proxy, inbound(&[], &[]));
        assert_eq!(get(&stranger, "/").await, 200);
        proxy.record().await;
    }
    assert_eq!(application.requests(), 6);
}

#[tokio::test]
async fn audited_rules_are_recorded_and_counted_and_refuse_nothing() {
    let (authority, application) = (Authority::new(), Application::http(|_| ok("app")).await);
    let listener = inbound(&[], &[on_requests(None, only("stock-app"))]);
    let mut proxy = start(&authority, listener, &application);
    let stranger = Peer::new(&authority, "stranger", "h2").http2(proxy.address(0)).await;
    let owner = Peer::new(&authority, "stock-app", "h2").http2(proxy.address(0)).await;
    assert_eq!((get(&stranger, "/").await, get(&owner, "/").await), (200, 200));
    let record = proxy.record().await;
    assert_eq!((record.status, record.reason, &record.authorization), (200, None, &audited_by("none")));
    assert_eq!(proxy.record().await.authorization, None);

    let database = Application::repeater().await;
    let listener = inbound(&[on_connections(None, Some(rules(Action::Deny, "stranger")))], &[]);
    let mut tcp = start(&authority, listener, &database);
    let mut stranger = connect(&authority, "stranger", &tcp).await;
    assert!(is_served(&mut stranger).await);
    end(stranger).await;
    let record = tcp.record().await;
    assert_eq!((record.reason, &record.authorization), (None, &audited_by("owner")));
    for (proxy, policy, route) in [(proxy, "none", true), (tcp, "owner", false)] {
        let denials: Vec<_> = proxy.totals().denials.into_iter().collect();
        let [(labels, 1)] = &denials[..] else { panic!("{denials:?}") };
        assert!(!labels.enforced && *labels.policy == *policy && labels.route.is_some() == route);
        assert_eq!(labels.source, Some(spiffe("stranger")));
    }
}

#[tokio::test]
async fn a_silent_client_that_may_not_connect_does_not_make_the_proxy_dial() {
    let (authority, database) = (Authority::new(), Application::repeater().await);
    let mtls = inbound_listener().chains;
    let plain = FilterChain {
        name: "plaintext".into(),
        tls: None,
        connection_filters: Box::new([on_connections(only("stock-app"), None)]),
        filter: NetworkFilter::Handle(Handler::Tcp(tcp_proxy("app:80", "app"))),
        ..mtls[0].clone()
    };
    let first_bytes_timeout = Duration::from_millis(50);
    let listener =
        Listener { chains: mtls, default_chain: Some(plain), first_bytes_timeout, ..inbound_listener() };
    let mut proxy = start(&authority, listener, &database);
    let mut silent = Client::connect(proxy.address(0)).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(database.connections(), 0);
    silent.send("select *").await;
    assert_eq!(silent.rest().await, b"");
    assert_eq!(proxy.record().await.authorization, denied_by("none"));
    assert_eq!(database.connections(), 0);
}
