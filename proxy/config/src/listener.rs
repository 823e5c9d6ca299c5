//! A socket that the proxy serves, and what becomes of its connections.
//!
//! Sidecar or gateway, inbound or outbound: all of it is data in here, so that no code asks which. Listeners come over LDS
//! (`envoy.config.listener.v3.Listener` with an address) or from the server's flags.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use outrigger_core::Name;
use outrigger_core::record::Direction;
use outrigger_policy::field::{
    Unusable, duration, each, flag, non_empty, number, required, unsupported, unsupported_any,
};
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::{core, hcm, listener as wire_listener, tcp_proxy, type_url};

use crate::destination::Destination;
pub use crate::handler::Handler;
use crate::http_manager::{HttpConnectionManager, HttpSettings};
use crate::tcp_proxy::TcpProxy;
use crate::tls::DownstreamTls;
use crate::tls::Socket;
use crate::wire::{open, socket_address};

/// A listening socket.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Its name: `inbound|10.0.0.7:80`.
    pub name: Name,
    /// Where it listens.
    pub address: SocketAddr,
    /// On which side of the application it stands; for records, never for decisions.
    pub direction: Direction,
    /// Whether connections were redirected here, so that their real destination is asked of the kernel (SO_ORIGINAL_DST)
    /// and stands for the local address in chain matching.
    pub original_dst: bool,
    /// The longest wait for the first bytes where a chain needs them (the TLS hello, protocol detection).
    pub first_bytes_timeout: Duration,
    /// The chains, one of which is chosen for each connection.
    pub chains: Box<[FilterChain]>,
    /// The chain for connections that match none. Without one they are closed.
    pub default_chain: Option<FilterChain>,
}

/// What becomes of the connections that match.
#[derive(Debug, Clone)]
pub struct FilterChain {
    /// Its name: `inbound|80|http|cart`.
    pub name: Name,
    /// Which connections it takes.
    pub matcher: ChainMatcher,
    /// TLS towards the client; `None` for plaintext.
    pub tls: Option<Arc<DownstreamTls>>,
    /// What handles the bytes.
    pub filter: NetworkFilter,
}

/// What handles a connection's bytes.
#[derive(Debug, Clone)]
pub enum NetworkFilter {
    /// The chain itself says what is done.
    Handle(Handler),
    /// The connection or each of its requests says where it wants to go; the destination says what is done.
    Find(DestinationFinder),
}

/// How a destination is found.
#[derive(Debug, Clone)]
pub struct DestinationFinder {
    /// What names it.
    pub by: DestinationBy,
    /// What becomes of a destination that the mesh does not have.
    pub unknown: UnknownDestination,
    /// How HTTP is spoken with the client until the destination is known.
    pub http: Arc<HttpSettings>,
}

/// What names a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DestinationBy {
    /// Each HTTP request: its absolute target, CONNECT authority or `Host`.
    Authority,
    /// The address that the connection was made to before it was redirected. The `Host` never decides.
    OriginalDestination,
    /// The listener: every connection goes to this asked name.
    Name(Name),
}

/// What becomes of a destination that the mesh does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownDestination {
    /// It is passed on to the host or address that was asked for.
    PassThrough,
    /// It is refused.
    Refuse,
}

/// Which connections a chain takes (`envoy.config.listener.v3.FilterChainMatch`). Empty means any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChainMatcher {
    /// The port of the (original) destination.
    pub destination_port: Option<u16>,
    /// Ranges that hold the (original) destination's address.
    pub prefix_ranges: Box<[Cidr]>,
    /// Server names in the TLS hello: `cart.shop`, `*.shop`.
    pub server_names: Box<[Name]>,
    /// Whether the connection speaks TLS.
    pub transport: Option<TransportProtocol>,
    /// Protocols in the TLS hello's ALPN extension.
    pub application_protocols: Box<[Name]>,
}

/// Whether a connection begins with a TLS hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportProtocol {
    /// It does.
    Tls,
    /// It does not.
    RawBuffer,
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    network: IpAddr,
    length: u8,
}

/// What is known of a connection when its chain is chosen.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionFacts<'a> {
    /// The original destination where connections are redirected, else the local address.
    pub destination: SocketAddr,
    /// Whether it speaks TLS.
    pub transport: TransportProtocol,
    /// The TLS hello's server name.
    pub server_name: Option<&'a str>,
    /// The TLS hello's ALPN protocols, in its order.
    pub application_protocols: &'a [&'a [u8]],
}

impl Listener {
    /// What handles the connections of its chains.
    pub(crate) fn handlers(&self) -> impl Iterator<Item = &Handler> {
        self.chains.iter().chain(&self.default_chain).filter_map(|chain| match &chain.filter {
            NetworkFilter::Handle(handler) => Some(handler),
            NetworkFilter::Find(_) => None,
        })
    }

    /// The chain for a connection, by Envoy's rules: port, address, server name, transport, application protocol, in
    /// this order; at each the most specific criterion that holds wins, without turning back.
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

    /// Whether a chain can only be chosen with the TLS hello in hand.
    pub fn needs_hello(&self) -> bool {
        self.chains.iter().chain(&self.default_chain).any(|chain| {
            chain.tls.is_some()
                || chain.matcher.transport.is_some()
                || !chain.matcher.server_names.is_empty()
                || !chain.matcher.application_protocols.is_empty()
        })
    }
}

/// Each criterion: `None` when it excludes the connection, else how specific it is; 0 when it says nothing.
impl ChainMatcher {
    fn port(&self, facts: &ConnectionFacts<'_>) -> Option<u32> {
        match self.destination_port {
            None => Some(0),
            Some(port) => (port == facts.destination.port()).then_some(1),
        }
    }

    fn address(&self, facts: &ConnectionFacts<'_>) -> Option<u32> {
        if self.prefix_ranges.is_empty() {
            return Some(0);
        }
        let holding = self.prefix_ranges.iter().filter(|range| range.holds(facts.destination.ip()));
        holding.map(|range| u32::from(range.length) + 1).max()
    }

    fn server_name(&self, facts: &ConnectionFacts<'_>) -> Option<u32> {
        if self.server_names.is_empty() {
            return Some(0);
        }
        let asked = facts.server_name?.to_ascii_lowercase();
        let specificity = |name: &Name| match name.strip_prefix('*') {
            None => (**name == asked).then_some(u32::MAX),
            Some(suffix) => {
                (asked.len() > suffix.len() && asked.ends_with(suffix)).then_some(suffix.len() as u32 + 1)
            }
        };
        self.server_names.iter().filter_map(specificity).max()
    }

    fn transport(&self, facts: &ConnectionFacts<'_>) -> Option<u32> {
        match self.transport {
            None => Some(0),
            Some(transport) => (transport == facts.transport).then_some(1),
        }
    }

    fn application_protocol(&self, facts: &ConnectionFacts<'_>) -> Option<u32> {
        if self.application_protocols.is_empty() {
            return Some(0);
        }
        // The client's order decides between chains: its first protocol that any chain names.
        let place = |asked: &&[u8]| self.application_protocols.iter().any(|name| name.as_bytes() == *asked);
        facts.application_protocols.iter().position(place).map(|at| u32::MAX - at as u32)
    }
}

impl Cidr {
    /// A range. `None` when `length` is more than the address has bits. Bits beyond `length` do not matter.
    pub fn new(network: IpAddr, length: u32) -> Option<Self> {
        let bits = if network.is_ipv4() { 32 } else { 128 };
        (length <= bits).then_some(Self { network, length: length as u8 })
    }

    /// Whether the address is in the range. IPv4 written as IPv6 counts as IPv4.
    pub fn holds(&self, address: IpAddr) -> bool {
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.length);
                (u32::from(network) ^ u32::from(address)).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.length);
                (u128::from(network) ^ u128::from(address)).checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// What a Listener resource is.
#[derive(Debug, Clone)]
pub(crate) enum Compiled {
    /// A socket.
    Bound(Arc<Listener>),
    /// Something to call.
    Destination(Arc<Destination>),
}

impl Compiled {
    /// Reads a listener: with an address a socket, without one a destination.
    #[allow(deprecated)] // fields that Envoy still takes must be read or refused, not overlooked
    pub(crate) fn decode(wire: wire_listener::Listener) -> Result<Self, Unusable> {
        let wire_listener::Listener {
            name,
            address,
            additional_addresses,
            // Metrics are named by the listener itself.
            stat_prefix: _,
            stats_matcher: _,
            filter_chains,
            fcds_config,
            filter_chain_matcher,
            use_original_dst,
            default_filter_chain,
            // Buffers are bounded by HTTP/2 windows and by the data path's own sizes.
            per_connection_buffer_limit_bytes: _,
            per_connection_buffer_high_watermark_timeout: _,
            // For other filters to read; ours read none.
            metadata: _,
            deprecated_v1: _, // `bind_to_port`, below
            drain_type: _,    // every listener drains when it is removed or the proxy ends
            listener_filters,
            listener_filters_timeout,
            continue_on_listener_filters_timeout: _, // a server may always speak first
            transparent,
            freebind,
            socket_options,
            tcp_fast_open_queue_length: _, // saves a round trip or does not
            traffic_direction,
            udp_listener_config,
            api_listener,
            connection_balance_config: _, // workers share connections in their own way
            reuse_port: _,
            enable_reuse_port: _,
            access_log: _, // set by the proxy's flags, for all listeners alike
            tcp_backlog_size: _,
            max_connections_to_accept_per_socket_event: _,
            bind_to_port,
            enable_mptcp,
            ignore_global_conn_limit: _, // there is none
            bypass_overload_manager: _,  // there is none
            tcp_keepalive: _,            // finds dead peers earlier than idle timeouts do
            listener_specifier,
        } = wire;
        unsupported_any(&[
            ("additional_addresses", !additional_addresses.is_empty()),
            ("fcds_config", fcds_config.is_some()),
            ("filter_chain_matcher", filter_chain_matcher.is_some()),
            ("transparent", flag(transparent)),
            ("freebind", flag(freebind)),
            ("socket_options", !socket_options.is_empty()),
            ("udp_listener_config", udp_listener_config.is_some()),
            ("bind_to_port", bind_to_port.is_some_and(|bind| !bind.value)),
            ("enable_mptcp", enable_mptcp),
            ("listener_specifier", listener_specifier.is_some()),
        ])?;
        let name: Name = non_empty("name", name)?.into();
        // Envoy waits 15 s when nothing is said; 0 waits for ever, which would let silent clients hold connections.
        let first_bytes = duration("listener_filters_timeout", listener_filters_timeout)?
            .filter(|timeout| !timeout.is_zero())
            .unwrap_or(Duration::from_secs(15));
        let detects = inspects(listener_filters)?;
        let Some(address) = address else {
            let default = default_filter_chain;
            unsupported("filter_chains", !filter_chains.is_empty())?;
            return destination(name, api_listener, default, detects.then_some(first_bytes));
        };
        unsupported("api_listener", api_listener.is_some())?;
        let mut chains = each("filter_chains", filter_chains, FilterChain::decode)?;
        let mut default_chain = default_filter_chain
            .map(|chain| FilterChain::decode(chain).map_err(|bad| bad.within("default_filter_chain")))
            .transpose()?;
        if chains.is_empty() && default_chain.is_none() {
            return Err(Unusable::new("filter_chains", "must not be empty"));
        }
        if let Some((first, second)) = same_matcher(&chains) {
            let problem = format_args!("{first:?} and {second:?} match the same connections");
            return Err(Unusable::new("filter_chains", problem));
        }
        // Chains named for the record even when the message does not.
        for (at, chain) in chains.iter_mut().chain(&mut default_chain).enumerate() {
            if chain.name.is_empty() {
                chain.name = format!("{name}#{at}").into();
            }
        }
        use core::TrafficDirection;
        Ok(Self::Bound(Arc::new(Listener {
            address: socket_address(address).map_err(|bad| bad.within("address"))?,
            direction: match TrafficDirection::try_from(traffic_direction) {
                Ok(TrafficDirection::Outbound) => Direction::Outbound,
                Ok(TrafficDirection::Inbound | TrafficDirection::Unspecified) => Direction::Inbound,
                Err(_) => return Err(Unusable::new("traffic_direction", "is unknown")),
            },
            name,
            original_dst: flag(use_original_dst),
            first_bytes_timeout: first_bytes,
            chains: chains.into(),
            default_chain,
        })))
    }
}

impl Compiled {
    /// What handles its connections.
    pub(crate) fn handlers(&self) -> Vec<&Handler> {
        match self {
            Self::Bound(listener) => listener.handlers().collect(),
            Self::Destination(destination) => vec![&destination.handler],
        }
    }
}

/// Reads the listener filters; says whether HTTP is to be told from other bytes.
///
/// The TLS hello and the original destination are read wherever they are needed, so that the filters that ask for them are
/// accepted and change nothing.
fn inspects(wire: Vec<wire_listener::ListenerFilter>) -> Result<bool, Unusable> {
    use wire_listener::listener_filter::ConfigType;
    let found = each("listener_filters", wire, |filter| {
        let wire_listener::ListenerFilter { name, filter_disabled, config_type } = filter;
        unsupported("filter_disabled", filter_disabled.is_some())?;
        match (name.as_str(), config_type) {
            (_, Some(ConfigType::TypedConfig(any))) if any.type_url == type_url::HTTP_INSPECTOR => Ok(true),
            ("envoy.filters.listener.http_inspector", None) => Ok(true),
            ("envoy.filters.listener.tls_inspector" | "envoy.filters.listener.original_dst", _) => Ok(false),
            _ => Err(Unusable::new("", format_args!("listener filter {name:?} is not supported"))),
        }
    })?;
    Ok(found.contains(&true))
}

fn destination(
    name: Name,
    api_listener: Option<wire_listener::ApiListener>,
    default_chain: Option<wire_listener::FilterChain>,
    detect: Option<Duration>,
) -> Result<Compiled, Unusable> {
    let http = api_listener.map(|wire_listener::ApiListener { api_listener }| {
        let read = || {
            let any = required("api_listener", api_listener)?;
            let wire =
                open(&any, type_url::HTTP_CONNECTION_MANAGER).map_err(|bad| bad.within("api_listener"))?;
            HttpConnectionManager::decode(wire).map_err(|bad| bad.within("api_listener"))
        };
        read().map(Arc::new).map_err(|bad| bad.within("api_listener"))
    });
    let tcp = default_chain.map(|wire| {
        let within = |bad: Unusable| bad.within("default_filter_chain");
        let chain = FilterChain::decode(wire).map_err(within)?;
        match chain.filter {
            NetworkFilter::Handle(Handler::Tcp(tcp)) if chain.tls.is_none() => Ok(tcp),
            _ => Err(within(Unusable::new("filters", "must hold a TCP proxy, in the clear"))),
        }
    });
    let handler = match (http.transpose()?, tcp.transpose()?) {
        (Some(http), Some(tcp)) => {
            let within = detect.ok_or_else(|| {
                Unusable::new(
                    "listener_filters",
                    "must hold the HTTP inspector where both HTTP and TCP are served",
                )
            })?;
            Handler::Detect { http, tcp, within }
        }
        (Some(http), None) => Handler::Http(http),
        (None, Some(tcp)) => Handler::Tcp(tcp),
        (None, None) => {
            return Err(Unusable::new(
                "address",
                "is required unless there is an api_listener or default_filter_chain",
            ));
        }
    };
    let canonical = handler.canonical().clone();
    Ok(Compiled::Destination(Arc::new(Destination { name, canonical, handler, usage: Default::default() })))
}

impl FilterChain {
    #[allow(deprecated)]
    fn decode(wire: wire_listener::FilterChain) -> Result<Self, Unusable> {
        let wire_listener::FilterChain {
            filter_chain_match,
            filters,
            use_proxy_proto,
            metadata: _, // for other filters to read; ours read none
            transport_socket,
            // The handshake has the listener's time for first bytes.
            transport_socket_connect_timeout: _,
            name,
        } = wire;
        unsupported("use_proxy_proto", flag(use_proxy_proto))?;
        let matcher = filter_chain_match.map(ChainMatcher::decode).transpose();
        let tls = match transport_socket {
            Some(socket) => DownstreamTls::decode(socket).map_err(|bad| bad.within("transport_socket"))?,
            None => Socket::Plain,
        };
        let mut handlers = each("filters", filters, network_filter)?;
        let handler = handlers.pop().ok_or_else(|| Unusable::new("filters", "must not be empty"))?;
        unsupported("filters[1]", !handlers.is_empty())?;
        Ok(Self {
            name: name.into(),
            matcher: matcher.map_err(|bad| bad.within("filter_chain_match"))?.unwrap_or_default(),
            tls: match tls {
                Socket::Plain => None,
                Socket::Tls(tls) => Some(tls),
            },
            filter: NetworkFilter::Handle(handler),
        })
    }
}

fn network_filter(wire: wire_listener::Filter) -> Result<Handler, Unusable> {
    use wire_listener::filter::ConfigType;
    let wire_listener::Filter { name, config_type } = wire;
    let Some(ConfigType::TypedConfig(any)) = config_type else {
        return Err(Unusable::new("typed_config", "is required"));
    };
    handler(&name, &any).map_err(|bad| bad.within("typed_config"))
}

fn handler(name: &str, any: &Any) -> Result<Handler, Unusable> {
    match any.type_url.as_str() {
        type_url::HTTP_CONNECTION_MANAGER => {
            let wire: hcm::HttpConnectionManager = open(any, type_url::HTTP_CONNECTION_MANAGER)?;
            Ok(Handler::Http(Arc::new(HttpConnectionManager::decode(wire)?)))
        }
        type_url::TCP_PROXY => {
            let wire: tcp_proxy::TcpProxy = open(any, type_url::TCP_PROXY)?;
            Ok(Handler::Tcp(Arc::new(TcpProxy::decode(wire)?)))
        }
        other => Err(Unusable::new("", format_args!("filter {name:?} ({other}) is not supported"))),
    }
}

fn same_matcher(chains: &[FilterChain]) -> Option<(&Name, &Name)> {
    chains.iter().enumerate().find_map(|(at, first)| {
        let second = chains[at + 1..].iter().find(|second| second.matcher == first.matcher)?;
        Some((&first.name, &second.name))
    })
}

impl ChainMatcher {
    fn decode(wire: wire_listener::FilterChainMatch) -> Result<Self, Unusable> {
        let wire_listener::FilterChainMatch {
            destination_port,
            prefix_ranges,
            address_suffix,
            suffix_len,
            direct_source_prefix_ranges,
            source_type,
            source_prefix_ranges,
            source_ports,
            server_names,
            transport_protocol,
            application_protocols,
        } = wire;
        unsupported_any(&[
            ("address_suffix", !address_suffix.is_empty()),
            ("suffix_len", suffix_len.is_some()),
            ("direct_source_prefix_ranges", !direct_source_prefix_ranges.is_empty()),
            ("source_type", source_type != 0),
            ("source_prefix_ranges", !source_prefix_ranges.is_empty()),
            ("source_ports", !source_ports.is_empty()),
        ])?;
        let destination_port = match number(destination_port) {
            Some(port @ 1..=0xffff) => Some(port as u16),
            Some(port) => return Err(Unusable::new("destination_port", format_args!("{port} is no port"))),
            None => None,
        };
        let prefix_ranges = each("prefix_ranges", prefix_ranges, |wire| {
            let core::CidrRange { address_prefix, prefix_len } = wire;
            let network: IpAddr = address_prefix.parse().map_err(|_| {
                Unusable::new("address_prefix", format_args!("{address_prefix:?} is no address"))
            })?;
            Cidr::new(network, number(prefix_len).unwrap_or(0))
                .ok_or_else(|| Unusable::new("prefix_len", "is longer than the address"))
        })?;
        let server_names = each("server_names", server_names, |name| {
            let rest = name.strip_prefix("*.").unwrap_or(&name);
            if rest.is_empty() || rest.contains('*') {
                return Err(Unusable::new("", format_args!("{name:?} is no server name")));
            }
            Ok(Name::from(name.to_ascii_lowercase()))
        })?;
        let transport = match transport_protocol.as_str() {
            "" => None,
            "tls" => Some(TransportProtocol::Tls),
            "raw_buffer" => Some(TransportProtocol::RawBuffer),
            other => {
                return Err(Unusable::new("transport_protocol", format_args!("{other:?} is not supported")));
            }
        };
        Ok(Self {
            destination_port,
            prefix_ranges: prefix_ranges.into(),
            server_names: server_names.into(),
            transport,
            application_protocols: application_protocols.into_iter().map(Name::from).collect(),
        })
    }
}
