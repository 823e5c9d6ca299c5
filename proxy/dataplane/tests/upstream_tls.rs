//! TLS to servers that are not sidecars: the cluster's configuration determines ALPN and the version of HTTP.

mod support;

use std::net::SocketAddr;

use outrigger_config::cluster::{Cluster, UpstreamProtocol};
use outrigger_config::endpoint::Endpoint;
use outrigger_config::listener::{DestinationBy, Handler, UnknownDestination};
use outrigger_config::tls::ClientCertificate;
use outrigger_core::reason::Reason;
use outrigger_core::record::Protocol;
use outrigger_policy::circuit_breaker::CircuitBreakers;
use outrigger_proto::xds::{cluster as wire, protobuf};
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use support::tls::{Authority, spiffe};
use support::{Proxy, World, cluster, forward, manager, tcp_proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A TLS server in front of `application` that negotiates `alpn`.
fn server(authority: &Authority, alpn: &[&str], handler: Handler, application: SocketAddr) -> Proxy {
    let listener = support::tls::listener(alpn, ClientCertificate::NotRequested, handler);
    let world = World::new().own(listener).cluster("app", &[application]);
    world.secrets.publish(authority.secrets("cart"));
    world.start()
}

fn over_tls(address: SocketAddr, alpn: &[&str]) -> Endpoint {
    support::tls::endpoint(address, alpn, &["cart"])
}

/// A proxy whose cluster speaks TLS with `server`: HTTP on its first port, opaque bytes on its second.
fn client(authority: &Authority, server: &Proxy, alpn: &[&str], protocol: UpstreamProtocol) -> Proxy {
    let app = Cluster { protocol, ..cluster("app", [over_tls(server.address(0), alpn)]) };
    let world = World::new()
        .proxy()
        .listen(DestinationBy::Name("raw:9000".into()), UnknownDestination::Refuse)
        .cluster_of(app)
        .http("app:80", forward("app"))
        .tcp("raw:9000", "app");
    world.secrets.publish(authority.secrets("web"));
    world.start()
}

#[tokio::test]
async fn requests_are_spoken_as_the_cluster_says() {
    use UpstreamProtocol::{AsDownstream, Http1, Http2, Negotiated};
    let (h1, h2, both) = (&["http/1.1"][..], &["h2"][..], &["h2", "http/1.1"][..]);
    let (one, two) = (Some(Protocol::Http11), Some(Protocol::Http2));
    for (served, protocol, alpn, expected) in [
        (h1, Http1, &[][..], one),
        (both, Http1, &[], one),
        (both, Http1, both, one),
        (&[], Http1, &[], one),
        (h2, Http2, &[], two),
        (both, Http2, both, two),
        (&[], Http2, &[], two),
        (h1, Http2, &[], None),
        (both, Negotiated, &[], two),
        (h1, Negotiated, &[], one),
        (both, Negotiated, h1, one),
        (&[], Negotiated, &[], one),
        // The client speaks HTTP/1.
        (both, AsDownstream, both, one),
    ] {
        let (authority, echo) = (Authority::new(), Application::echo("app").await);
        let handler = Handler::Http(manager("server", forward("app")));
        let mut server = server(&authority, served, handler, echo.address);
        let mut client = client(&authority, &server, alpn, protocol);
        let case = format!("{protocol:?} with {alpn:?} to {served:?}");
        let mut user = Client::connect(client.address(0)).await;
        for _ in 0..3 {
            let answer = user.post("app", "/order", "body").await;
            match expected {
                Some(expected) => {
                    assert!(
                        answer.status == 200 && answer.body.ends_with("\r\n\r\nbody"),
                        "{case}: {answer:?}"
                    );
                    assert_eq!(server.record().await.protocol, expected, "{case}");
                    assert_eq!(client.record().await.attempts[0].peer.as_ref().unwrap(), &spiffe("cart"));
                }
                None => {
                    assert_eq!(answer.status, 503, "{case}");
                    assert_eq!(client.record().await.reason, Some(Reason::UpstreamTlsFailure), "{case}");
                }
            }
        }
    }
}

#[tokio::test]
async fn opaque_bytes_are_relayed_over_tls_with_the_clusters_alpn_or_none() {
    for (served, alpn) in [(&[][..], &[][..]), (&["db"], &["db"]), (&[], &["db"]), (&["db"], &[])] {
        let (authority, echo) = (Authority::new(), Application::echo("app").await);
        let handler = Handler::Tcp(tcp_proxy("server", "app"));
        let server = server(&authority, served, handler, echo.address);
        let client = client(&authority, &server, alpn, UpstreamProtocol::Http1);
        let mut user = TcpStream::connect(client.address(1)).await.unwrap();
        user.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut read = [0; 12];
        user.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"HTTP/1.1 200", "{alpn:?} to {served:?}");
    }
}

#[tokio::test]
async fn what_is_negotiated_is_learned_for_each_host() {
    let (authority, echo) = (Authority::new(), Application::echo("app").await);
    let handler = || Handler::Http(manager("server", forward("app")));
    let mut old = server(&authority, &["h2", "http/1.1"], handler(), echo.address);
    let mut new = server(&authority, &["http/1.1"], handler(), echo.address);
    let client = client(&authority, &old, &[], UpstreamProtocol::Negotiated);
    let mut user = Client::connect(client.address(0)).await;
    assert_eq!(user.get("app", "/").await.status, 200);
    assert_eq!(old.record().await.protocol, Protocol::Http2);
    let endpoints = support::endpoints([over_tls(new.address(0), &[])]);
    client.published.load().clusters["app"].endpoints.store(endpoints);
    assert_eq!(user.get("app", "/").await.status, 200);
    assert_eq!(new.record().await.protocol, Protocol::Http11);
}

#[tokio::test]
async fn the_connection_on_which_the_version_is_learned_is_used_and_within_the_bound() {
    for served in [&["h2", "http/1.1"][..], &["http/1.1"]] {
        let (authority, echo) = (Authority::new(), Application::echo("app").await);
        let handler = Handler::Http(manager("server", forward("app")));
        let server = server(&authority, served, handler, echo.address);
        let max_connections = Some(protobuf::UInt32Value { value: 1 });
        let thresholds = vec![wire::circuit_breakers::Thresholds { max_connections, ..Default::default() }];
        let breakers = wire::CircuitBreakers { thresholds, ..Default::default() };
        let breakers = CircuitBreakers::decode(Some(breakers)).unwrap();
        let app = Cluster {
            protocol: UpstreamProtocol::Negotiated,
            breakers,
            ..cluster("app", [over_tls(server.address(0), &[])])
        };
        let world = World::new().proxy().cluster_of(app).http("app:80", forward("app"));
        world.secrets.publish(authority.secrets("web"));
        let client = world.start();
        let mut users = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let mut user = Client::connect(client.address(0)).await;
            users.spawn(async move { user.get("app", "/").await.status });
        }
        assert_eq!(users.join_all().await, [200; 8]);
        assert_eq!(server.totals().process.downstream_connections_total, 1, "{served:?}");
    }
}
