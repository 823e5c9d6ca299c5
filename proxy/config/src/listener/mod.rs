//! A listener with an address, and how its connections are handled.
//!
//! Sidecar or gateway, inbound or outbound: these are differences of configuration, not of code. Listeners come from LDS
//! (`envoy.config.listener.v3.Listener` with an address) or from the proxy's flags.

mod decode;
mod network_filters;
mod chain_match;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outrigger_core::Name;
use outrigger_core::record::Direction;
use outrigger_policy::filter::connection::ConnectionFilter;

pub use crate::handler::Handler;
use crate::http_manager::HttpSettings;
use crate::tls::{ClientCertificate, DownstreamTls};

pub use chain_match::{ChainMatcher, Cidr, ConnectionFacts, PLAINTEXT_PROTOCOLS, TransportProtocol};
pub(crate) use decode::Compiled;

/// A listening socket.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Its name: `inbound|10.0.0.7:80`.
    pub name: Name,
    /// The address that it listens on.
    pub address: SocketAddr,
    /// Inbound or outbound: for records and the drain order. Requests are not handled differently.
    pub direction: Direction,
    /// Whether connections are redirected here. Their original destination (SO_ORIGINAL_DST) then replaces the local address
    /// in chain matching.
    pub original_dst: bool,
    /// Timeout for the first bytes if a chain needs them (the TLS ClientHello, protocol detection).
    pub first_bytes_timeout: Duration,
    /// Whether a connection without first bytes in time is handled as plaintext of an unknown protocol; otherwise it is
    /// closed.
    pub continue_on_timeout: bool,
    /// Whether plaintext HTTP is detected, so that chains can match it.
    pub detects_http: bool,
    /// The filter chains, one of which is selected for each connection.
    pub chains: Box<[FilterChain]>,
    /// The chain for connections that match no other. Without it they are closed.
    pub default_chain: Option<FilterChain>,
}

/// How matching connections are handled.
#[derive(Debug, Clone)]
pub struct FilterChain {
    /// Its name: `inbound|80|http|cart`.
    pub name: Name,
    /// The connections that it matches.
    pub matcher: ChainMatcher,
    /// Downstream TLS; `None` for plaintext and for TLS passthrough.
    pub tls: Option<Arc<DownstreamTls>>,
    /// Timeout of the TLS handshake, from the selection of the chain. `None` is the data path's own limit.
    pub handshake_timeout: Option<Duration>,
    /// The network filters that decide about its connections, in order, before they are handled.
    pub connection_filters: Box<[ConnectionFilter]>,
    /// The handler of its connections.
    pub filter: NetworkFilter,
}

/// How a chain handles connections.
#[derive(Debug, Clone)]
pub enum NetworkFilter {
    /// The chain itself defines the handler.
    Handle(Handler),
    /// The connection, or each of its requests, names a destination, which defines the handler.
    Find(DestinationFinder),
}

/// How a destination is found.
#[derive(Debug, Clone)]
pub struct DestinationFinder {
    /// The source of its name.
    pub by: DestinationBy,
    /// What to do if the mesh does not have the destination.
    pub unknown: UnknownDestination,
    /// HTTP settings until the destination is known.
    pub http: Arc<HttpSettings>,
}

/// The source of a destination's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DestinationBy {
    /// Each HTTP request: its absolute target, CONNECT authority or `Host`.
    Authority,
    /// The original destination of the redirected connection. `Host` is ignored.
    OriginalDestination,
    /// The listener: every connection goes to this destination.
    Name(Name),
}

/// What to do if the mesh does not have a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownDestination {
    /// Forward to the requested host or address.
    PassThrough,
    /// Reject.
    Refuse,
}

impl Listener {
    /// Iterates over the names and handlers of its chains.
    pub(crate) fn handlers(&self) -> impl Iterator<Item = (&str, &Handler)> {
        self.chains.iter().chain(&self.default_chain).filter_map(|chain| match &chain.filter {
            NetworkFilter::Handle(handler) => Some((&*chain.name, handler)),
            NetworkFilter::Find(_) => None,
        })
    }

    /// Returns the chain for a connection by Envoy's rules: port, address, server name, transport, application protocol, in
    /// this order. At each step the most specific match wins, without backtracking.
    pub fn chain(&self, facts: &ConnectionFacts<'_>) -> Option<&FilterChain> {
        let criteria: [fn(&ChainMatcher, &ConnectionFacts<'_>) -> Option<u32>; 5] = [
            ChainMatcher::port,
            ChainMatcher::address,
            ChainMatcher::server_name,
            ChainMatcher::transport,
            ChainMatcher::application_protocol,
        ];
        let mut candidates: Vec<&FilterChain> = self.chains.iter().collect();
        for specificity in criteria {
            let best = candidates.iter().filter_map(|chain| specificity(&chain.matcher, facts)).max();
            candidates.retain(|chain| best.is_some() && specificity(&chain.matcher, facts) == best);
        }
        candidates.first().copied().or(self.default_chain.as_ref())
    }

    /// Returns the chain with this name.
    pub fn chain_named(&self, name: &str) -> Option<&FilterChain> {
        self.chains.iter().chain(&self.default_chain).find(|chain| *chain.name == *name)
    }

    /// Returns true if the selection of a chain needs the TLS ClientHello.
    pub fn needs_hello(&self) -> bool {
        self.chains.iter().chain(&self.default_chain).any(|chain| {
            chain.tls.is_some()
                || chain.matcher.transport.is_some()
                || !chain.matcher.server_names.is_empty()
                || !chain.matcher.application_protocols.is_empty()
        })
    }

    /// Returns true if only connections that begin with a TLS ClientHello are accepted.
    pub fn is_all_tls(&self) -> bool {
        self.chains.iter().chain(&self.default_chain).all(|chain| chain.tls.is_some())
    }

    /// Returns true if a chain requires a client certificate, so that its clients are those of a mesh.
    pub fn serves_mtls(&self) -> bool {
        let requires = |tls: &Arc<DownstreamTls>| tls.client_certificate == ClientCertificate::Required;
        self.chains.iter().chain(&self.default_chain).any(|chain| chain.tls.as_ref().is_some_and(requires))
    }

    /// Returns true if the selection of a chain needs detection of plaintext HTTP.
    pub fn needs_protocol(&self) -> bool {
        let named = |chain: &FilterChain| !chain.matcher.application_protocols.is_empty();
        self.detects_http && self.chains.iter().any(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(name: &str, matcher: ChainMatcher) -> FilterChain {
        let finder = DestinationFinder {
            by: DestinationBy::Authority,
            unknown: UnknownDestination::Refuse,
            http: Arc::default(),
        };
        let filter = NetworkFilter::Find(finder);
        let connection_filters = Box::default();
        FilterChain {
            name: name.into(),
            matcher,
            tls: None,
            handshake_timeout: None,
            connection_filters,
            filter,
        }
    }

    fn range(network: &str, length: u32) -> Box<[Cidr]> {
        Box::new([Cidr::new(network.parse().unwrap(), length).unwrap()])
    }

    fn chosen(chains: Vec<FilterChain>, destination: &str, server_name: Option<&str>) -> Option<String> {
        let listener = Listener {
            name: "l".into(),
            address: "127.0.0.1:1".parse().unwrap(),
            direction: Direction::Inbound,
            original_dst: true,
            first_bytes_timeout: Duration::from_secs(1),
            continue_on_timeout: true,
            detects_http: false,
            chains: chains.into(),
            default_chain: None,
        };
        let facts = ConnectionFacts {
            destination: destination.parse().unwrap(),
            transport: TransportProtocol::RawBuffer,
            server_name,
            application_protocols: &[],
        };
        listener.chain(&facts).map(|chain| chain.name.to_string())
    }

    #[test]
    fn the_most_specific_chain_serves_the_connection() {
        let prefix =
            |network, length| ChainMatcher { prefix_ranges: range(network, length), ..Default::default() };
        let chains = || {
            vec![
                chain("any", ChainMatcher::default()),
                chain("port", ChainMatcher { destination_port: Some(81), ..Default::default() }),
                chain("wide", prefix("10.0.0.0", 8)),
                chain("narrow", prefix("10.1.0.0", 16)),
                chain("v6", prefix("fd00::", 8)),
            ]
        };
        for (destination, expected) in [
            ("1.1.1.1:80", "any"),
            ("10.1.0.1:81", "port"),
            ("10.2.0.1:80", "wide"),
            ("10.1.0.1:80", "narrow"),
            ("[::ffff:10.1.0.1]:80", "narrow"),
            ("[fd00::1]:80", "v6"),
        ] {
            assert_eq!(chosen(chains(), destination, None).as_deref(), Some(expected), "{destination}");
        }
        let tls = ChainMatcher { transport: Some(TransportProtocol::Tls), ..Default::default() };
        assert_eq!(chosen(vec![chain("tls", tls)], "1.1.1.1:80", None), None);
    }

    #[test]
    fn server_names_match_exactly_before_they_match_by_suffix() {
        let named = |name: &str| ChainMatcher { server_names: Box::new([name.into()]), ..Default::default() };
        let chains = || {
            vec![
                chain("any", ChainMatcher::default()),
                chain("wild", named("*.shop")),
                chain("exact", named("a.shop")),
            ]
        };
        for (server_name, expected) in
            [(Some("A.shop"), "exact"), (Some("b.shop"), "wild"), (Some("shop"), "any"), (None, "any")]
        {
            assert_eq!(chosen(chains(), "1.1.1.1:80", server_name).as_deref(), Some(expected));
        }
    }
}
