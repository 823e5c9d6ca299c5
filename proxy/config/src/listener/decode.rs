//! Decoding of listeners: those with an address, and destinations.

use std::sync::Arc;
use std::time::Duration;

use outrigger_core::Name;
use outrigger_core::record::Direction;
use outrigger_policy::field::{
    Unusable, duration, each, flag, non_empty, required, unpack, unsupported, unsupported_any,
};
use outrigger_proto::xds::{core, dns_filter, extension, listener as wire_listener, metadata, type_url};

use super::network_filters::network_filters;
use super::{ChainMatcher, FilterChain, Listener, NetworkFilter, PLAINTEXT_PROTOCOLS, TransportProtocol};
use crate::destination::Destination;
use crate::handler::Handler;
use crate::host::Host;
use crate::http_manager::HttpConnectionManager;
use crate::tls::{DownstreamTls, TransportSocket};
use crate::wire::{socket_address, string_field};

/// A decoded Listener resource.
#[derive(Debug, Clone)]
pub(crate) enum Compiled {
    /// A listener with an address.
    Bound(Arc<Listener>),
    /// A destination: a listener without an address.
    Destination(Arc<Destination>),
    /// A host and its addresses: a listener without an address, for the DNS answerer.
    Host(Arc<Host>),
}

impl Compiled {
    /// Decodes a listener.
    #[allow(deprecated)] // deprecated fields that Envoy still accepts must be decoded or rejected, not overlooked
    pub(crate) fn decode(wire: wire_listener::Listener) -> Result<Self, Unusable> {
        let wire_listener::Listener {
            name,
            address,
            additional_addresses,
            // Metrics use the listener's name.
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
            metadata,
            deprecated_v1,
            drain_type: _, // every listener drains on removal and on shutdown
            listener_filters,
            listener_filters_timeout,
            continue_on_listener_filters_timeout,
            transparent,
            freebind,
            socket_options,
            tcp_fast_open_queue_length: _, // only saves a round trip
            traffic_direction,
            udp_listener_config,
            api_listener,
            connection_balance_config: _, // workers balance connections themselves
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
            ("deprecated_v1", is_unbound(deprecated_v1)),
            ("enable_mptcp", enable_mptcp),
            ("internal_listener", listener_specifier.is_some()),
        ])?;
        let name: Name = non_empty("name", name)?.into();
        // Envoy's default is 15 s. 0 is no timeout, which would let silent clients hold connections.
        let first_bytes = duration("listener_filters_timeout", listener_filters_timeout)?
            .filter(|timeout| !timeout.is_zero())
            .unwrap_or(Duration::from_secs(15));
        let Inspections { detects, original_destination, dns } = inspections(listener_filters)?;
        if let Some(dns) = dns {
            unsupported_any(&[
                ("address", address.is_some()),
                ("api_listener", api_listener.is_some()),
                ("filter_chains", !filter_chains.is_empty()),
                ("default_filter_chain", default_filter_chain.is_some()),
            ])?;
            let host =
                Host::decode(name, dns).map_err(|bad| bad.within("listener_filters[0].typed_config"))?;
            return Ok(Self::Host(Arc::new(host)));
        }
        let Some(address) = address else {
            let default = default_filter_chain;
            unsupported("filter_chains", !filter_chains.is_empty())?;
            let canonical = destination_of(metadata);
            return destination(name, canonical, api_listener, default, detects.then_some(first_bytes));
        };
        unsupported("api_listener", api_listener.is_some())?;
        let mut chains = each("filter_chains", filter_chains, |chain| {
            let chain = FilterChain::decode(chain)?;
            can_match(&chain, detects).map(|()| chain)
        })?;
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
        // Records need a name for every chain.
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
                Ok(TrafficDirection::Inbound) => Direction::Inbound,
                Ok(TrafficDirection::Unspecified) => Direction::Unspecified,
                Err(_) => return Err(Unusable::new("traffic_direction", "is unknown")),
            },
            name,
            // In Envoy the filter reads the original destination and this flag selects another listener by it. Here they are one.
            original_dst: flag(use_original_dst) || original_destination,
            first_bytes_timeout: first_bytes,
            continue_on_timeout: continue_on_listener_filters_timeout,
            detects_http: detects,
            chains: chains.into(),
            default_chain,
        })))
    }
}

impl Compiled {
    /// Returns the handlers of its connections, with the names of their chains.
    pub(crate) fn handlers(&self) -> Vec<(&str, &Handler)> {
        match self {
            Self::Bound(listener) => listener.handlers().collect(),
            Self::Destination(destination) => vec![("", &destination.handler)],
            Self::Host(_) => Vec::new(),
        }
    }
}

/// The inspections that the listener filters request.
#[derive(Default)]
struct Inspections {
    /// Whether to detect HTTP.
    detects: bool,
    /// Whether to read the original destination from the kernel.
    original_destination: bool,
    /// The host whose addresses the listener has.
    dns: Option<dns_filter::DnsFilterConfig>,
}

/// Decodes the listener filters. The TLS ClientHello is read whenever it is needed, so the TLS inspector is accepted and has
/// no effect.
fn inspections(wire: Vec<wire_listener::ListenerFilter>) -> Result<Inspections, Unusable> {
    use wire_listener::listener_filter::ConfigType;
    let mut inspections = Inspections::default();
    each("listener_filters", wire, |filter| {
        let wire_listener::ListenerFilter { name, filter_disabled, config_type } = filter;
        unsupported("filter_disabled", filter_disabled.is_some())?;
        // The type of the message determines the filter; its name only if there is no message.
        let kind = match &config_type {
            Some(ConfigType::TypedConfig(any)) => any.type_url.as_str(),
            Some(ConfigType::ConfigDiscovery(_)) => {
                return Err(Unusable::new("config_discovery", "is not supported"));
            }
            None => name.as_str(),
        };
        match kind {
            type_url::HTTP_INSPECTOR | extension::HTTP_INSPECTOR => inspections.detects = true,
            type_url::ORIGINAL_DST | extension::ORIGINAL_DST => inspections.original_destination = true,
            type_url::DNS_FILTER => match &config_type {
                Some(ConfigType::TypedConfig(any)) => {
                    inspections.dns = Some(unpack(any, type_url::DNS_FILTER)?);
                }
                _ => return Err(Unusable::new("typed_config", "is required")),
            },
            // Its settings are about fingerprints and buffers.
            type_url::TLS_INSPECTOR | extension::TLS_INSPECTOR => {}
            _ => {
                return Err(Unusable::new(
                    "",
                    format_args!("listener filter {name:?} ({kind}) is not supported"),
                ));
            }
        }
        Ok(())
    })?;
    Ok(inspections)
}

/// Returns the canonical destination in the metadata of a listener or chain.
fn destination_of(metadata: Option<core::Metadata>) -> Option<Name> {
    let core::Metadata { filter_metadata, typed_filter_metadata: _ } = metadata?; // ours is untyped
    string_field(filter_metadata.get(metadata::DESTINATION)?, metadata::NAME).map(Name::from)
}

fn destination(
    name: Name,
    canonical: Option<Name>,
    api_listener: Option<wire_listener::ApiListener>,
    default_chain: Option<wire_listener::FilterChain>,
    detect: Option<Duration>,
) -> Result<Compiled, Unusable> {
    let http = api_listener.map(|wire_listener::ApiListener { api_listener }| {
        let read = || {
            let any = required("api_listener", api_listener)?;
            let wire =
                unpack(&any, type_url::HTTP_CONNECTION_MANAGER).map_err(|bad| bad.within("api_listener"))?;
            HttpConnectionManager::decode(wire).map_err(|bad| bad.within("api_listener"))
        };
        read().map(Arc::new).map_err(|bad| bad.within("api_listener"))
    });
    let tcp = default_chain.map(|wire| {
        let within = |bad: Unusable| bad.within("default_filter_chain");
        let chain = FilterChain::decode(wire).map_err(within)?;
        // They decide about the clients of a server; a destination has callers of this proxy only.
        unsupported("filters[0]", !chain.connection_filters.is_empty()).map_err(within)?;
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
    let canonical = canonical.unwrap_or_else(|| name.clone());
    let handler = handler.with_destination(Some(&canonical));
    Ok(Compiled::Destination(Arc::new(Destination { name, canonical, handler, usage: Default::default() })))
}

impl FilterChain {
    #[allow(deprecated)]
    fn decode(wire: wire_listener::FilterChain) -> Result<Self, Unusable> {
        let wire_listener::FilterChain {
            filter_chain_match,
            filters,
            use_proxy_proto,
            metadata,
            transport_socket,
            transport_socket_connect_timeout,
            name,
        } = wire;
        unsupported("use_proxy_proto", flag(use_proxy_proto))?;
        let matcher = filter_chain_match.map(ChainMatcher::decode).transpose();
        let tls = match transport_socket {
            Some(socket) => DownstreamTls::decode(socket).map_err(|bad| bad.within("transport_socket"))?,
            None => TransportSocket::Plain,
        };
        let (connection_filters, handler) = network_filters(filters)?;
        Ok(Self {
            name: name.into(),
            matcher: matcher.map_err(|bad| bad.within("filter_chain_match"))?.unwrap_or_default(),
            tls: match tls {
                TransportSocket::Plain => None,
                TransportSocket::Tls(tls) => Some(tls),
            },
            handshake_timeout: duration(
                "transport_socket_connect_timeout",
                transport_socket_connect_timeout,
            )?
            .filter(|timeout| !timeout.is_zero()),
            connection_filters,
            filter: NetworkFilter::Handle(handler.with_destination(destination_of(metadata).as_ref())),
        })
    }
}

/// Returns true if the deprecated setting disables binding to the port.
#[allow(deprecated)]
fn is_unbound(wire: Option<wire_listener::listener::DeprecatedV1>) -> bool {
    let bind = wire.and_then(|wire_listener::listener::DeprecatedV1 { bind_to_port }| bind_to_port);
    bind.is_some_and(|bind| !bind.value)
}

/// Returns an error for a chain whose protocols no connection can have: plaintext protocols are known only with the HTTP
/// inspector, and TLS passthrough is not HTTP.
fn can_match(chain: &FilterChain, detects: bool) -> Result<(), Unusable> {
    let protocols = &chain.matcher.application_protocols;
    let passes_tls = chain.matcher.transport != Some(TransportProtocol::RawBuffer)
        && !matches!(chain.filter, NetworkFilter::Handle(Handler::Http(_)));
    if protocols.is_empty() || chain.tls.is_some() || passes_tls {
        return Ok(());
    }
    let field = "filter_chain_match.application_protocols";
    if !detects {
        return Err(Unusable::new(
            field,
            "match in the clear only with the HTTP inspector in listener_filters",
        ));
    }
    match protocols.iter().any(|name| PLAINTEXT_PROTOCOLS.contains(&name.as_bytes())) {
        true => Ok(()),
        false => Err(Unusable::new(field, "match in the clear only as http/1.0, http/1.1 or h2c")),
    }
}

fn same_matcher(chains: &[FilterChain]) -> Option<(&Name, &Name)> {
    chains.iter().enumerate().find_map(|(at, first)| {
        let second = chains[at + 1..].iter().find(|second| second.matcher == first.matcher)?;
        Some((&first.name, &second.name))
    })
}
