//! Two sidecars with mutual TLS between them, configured as our control plane does it.

use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_config::endpoint::Endpoint;
use outrigger_config::http_manager::{
    CertificateDetails, ForwardClientCertificate, HttpConnectionManager, HttpSettings,
};
use outrigger_config::listener::{
    ChainMatcher, DestinationBy, FilterChain, Handler, Listener, UnknownDestination,
};
use outrigger_config::tls::ClientCertificate;
use outrigger_core::record::Direction;

use super::tls::{self, Authority};
use super::{Proxy, World, cluster, forward, manager, tcp_proxy};

/// The listener of an inbound sidecar: requests and opaque bytes go to the cluster `app`, by ALPN.
pub fn inbound_listener() -> Listener {
    let chain = |name: &str, alpn: &[&str], handler| FilterChain {
        matcher: ChainMatcher {
            application_protocols: alpn.iter().map(|name| (*name).into()).collect(),
            ..Default::default()
        },
        ..tls::chain(name, alpn, ClientCertificate::Required, handler)
    };
    let uri = CertificateDetails { subject: false, uri: true, dns: false };
    let client_certificate = ForwardClientCertificate::SanitizeSet(uri);
    let http = HttpConnectionManager {
        settings: Arc::new(HttpSettings { client_certificate, ..HttpSettings::default() }),
        ..HttpConnectionManager::clone(&manager("app:80", forward("app")))
    };
    let chains = [
        chain("http", &["h2", "http/1.1"], Handler::Http(Arc::new(http))),
        chain("tcp", &["outrigger-tcp"], Handler::Tcp(tcp_proxy("app:80", "app"))),
    ];
    let any = super::listener("inbound", chains[1].filter.clone());
    Listener { direction: Direction::Inbound, default_chain: None, chains: Box::new(chains), ..any }
}

/// A sidecar of `account`, whose application is at `application`.
pub fn inbound(authority: &Authority, account: &str, application: SocketAddr) -> Proxy {
    let world = World::new().own(inbound_listener()).cluster("app", &[application]);
    world.secrets.publish(authority.secrets(account));
    world.start()
}

/// An endpoint with a sidecar, which has one of these identities.
pub fn endpoint(address: SocketAddr, accounts: &[&str]) -> Endpoint {
    tls::endpoint(address, &["h2", "http/1.1", "outrigger-tcp"], accounts)
}

/// A sidecar of `web` that calls `endpoints`: HTTP on its first port, opaque bytes on its second.
pub fn outbound(authority: &Authority, endpoints: Vec<Endpoint>) -> Proxy {
    let world = World::new()
        .proxy()
        .listen(DestinationBy::Name("raw:9000".into()), UnknownDestination::Refuse)
        .cluster_of(cluster("app", endpoints))
        .http("app:80", forward("app"))
        .tcp("raw:9000", "app");
    world.secrets.publish(authority.secrets("web"));
    world.start()
}
