//! What a filter chain matches (`envoy.config.listener.v3.FilterChainMatch`).

use std::net::{IpAddr, SocketAddr};

use outrigger_core::Name;
use outrigger_core::alpn;
use outrigger_policy::field::{Unusable, each, number, unsupported_any};
use outrigger_proto::xds::{core, listener as wire_listener};

/// The connections that a chain matches (`envoy.config.listener.v3.FilterChainMatch`). Empty criteria match any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChainMatcher {
    /// The destination port (the original one if redirected).
    pub destination_port: Option<u16>,
    /// Ranges of the destination address (the original one if redirected).
    pub prefix_ranges: Box<[Cidr]>,
    /// Server names in the TLS ClientHello: `cart.shop`, `*.shop`.
    pub server_names: Box<[Name]>,
    /// Whether the connection uses TLS.
    pub transport: Option<TransportProtocol>,
    /// ALPN protocols in the TLS ClientHello; for plaintext, detected protocols ([`PLAINTEXT_PROTOCOLS`]).
    pub application_protocols: Box<[Name]>,
}

/// The names of detected protocols, as in Envoy's HTTP inspector: HTTP/1.0, HTTP/1.1, HTTP/2.
pub const PLAINTEXT_PROTOCOLS: [&[u8]; 3] = [b"http/1.0", alpn::HTTP1.as_bytes(), b"h2c"];

/// Whether a connection begins with a TLS ClientHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportProtocol {
    /// TLS.
    Tls,
    /// Plaintext.
    RawBuffer,
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    network: IpAddr,
    length: u8,
}

/// The properties of a connection that select its chain.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionFacts<'a> {
    /// The original destination if the connection was redirected, else the local address.
    pub destination: SocketAddr,
    /// Whether it uses TLS.
    pub transport: TransportProtocol,
    /// The server name in the TLS ClientHello.
    pub server_name: Option<&'a str>,
    /// The ALPN protocols in the TLS ClientHello, in its order; for plaintext, the detected protocol.
    pub application_protocols: &'a [&'a [u8]],
}

impl ChainMatcher {
    /// Decodes the criteria.
    pub(super) fn decode(wire: wire_listener::FilterChainMatch) -> Result<Self, Unusable> {
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

/// The result of each criterion: `None` if it excludes the connection, else its specificity; 0 if it is empty.
impl ChainMatcher {
    pub(super) fn port(&self, facts: &ConnectionFacts<'_>) -> Option<u32> {
        match self.destination_port {
            None => Some(0),
            Some(port) => (port == facts.destination.port()).then_some(1),
        }
    }

    pub(super) fn address(&self, facts: &ConnectionFacts<'_>) -> Option<u32> {
        if self.prefix_ranges.is_empty() {
            return Some(0);
        }
        let holding = self.prefix_ranges.iter().filter(|range| range.holds(facts.destination.ip()));
        holding.map(|range| u32::from(range.length) + 1).max()
    }

    pub(super) fn server_name(&self, facts: &ConnectionFacts<'_>) -> Option<u32> {
        if self.server_names.is_empty() {
            return Some(0);
        }
        let requested = facts.server_name?.to_ascii_lowercase();
        let specificity = |name: &Name| match name.strip_prefix('*') {
            None => (**name == requested).then_some(u32::MAX),
            Some(suffix) => (requested.len() > suffix.len() && requested.ends_with(suffix))
                .then_some(suffix.len() as u32 + 1),
        };
        self.server_names.iter().filter_map(specificity).max()
    }

    pub(super) fn transport(&self, facts: &ConnectionFacts<'_>) -> Option<u32> {
        match self.transport {
            None => Some(0),
            Some(transport) => (transport == facts.transport).then_some(1),
        }
    }

    pub(super) fn application_protocol(&self, facts: &ConnectionFacts<'_>) -> Option<u32> {
        if self.application_protocols.is_empty() {
            return Some(0);
        }
        // The client's order decides: its first protocol that any chain names.
        let matches_any =
            |requested: &&[u8]| self.application_protocols.iter().any(|name| name.as_bytes() == *requested);
        facts.application_protocols.iter().position(matches_any).map(|at| u32::MAX - at as u32)
    }
}

impl Cidr {
    /// Creates a range. Returns `None` if `length` exceeds the bits of the address. Bits beyond `length` are ignored.
    pub fn new(network: IpAddr, length: u32) -> Option<Self> {
        let bits = if network.is_ipv4() { 32 } else { 128 };
        (length <= bits).then_some(Self { network, length: length as u8 })
    }

    /// Returns true if the address is in the range. An IPv4-mapped IPv6 address counts as IPv4.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_its_addresses_and_no_others() {
        let range = |network: &str, length| Cidr::new(network.parse().unwrap(), length);
        assert!(range("0.0.0.0", 0).unwrap().holds("9.9.9.9".parse().unwrap()));
        assert!(range("9.9.9.9", 32).unwrap().holds("9.9.9.9".parse().unwrap()));
        assert!(!range("9.9.9.8", 32).unwrap().holds("9.9.9.9".parse().unwrap()));
        assert!(!range("0.0.0.0", 0).unwrap().holds("fd00::1".parse().unwrap()));
        assert!(range("::", 0).unwrap().holds("fd00::1".parse().unwrap()));
        assert!(range("0.0.0.0", 33).is_none() && range("::", 129).is_none());
    }
}
