//! The key of a peer, for capacity that is shared between peers.
//!
//! A workload is one peer, however many connections and addresses it has. A peer without an identity is distinguished by
//! its network: an IPv6 host can use every address of its /64, so a /64 is one peer.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr};

use crate::identity::SpiffeId;

/// The key by which a peer's use of a capacity is counted. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerKey {
    /// A verified identity.
    Identity(SpiffeId),
    /// The [`network`] of its address.
    Address(IpAddr),
}

impl PeerKey {
    /// Returns the key of a peer at `address`. `identity` is its verified identity, if it has one.
    pub fn new(identity: Option<&SpiffeId>, address: IpAddr) -> Self {
        match identity {
            Some(identity) => Self::Identity(identity.clone()),
            None => Self::Address(network(address)),
        }
    }
}

/// Returns the network that a client without an identity counts for: its IPv4 address, or the first 64 bits of its IPv6 address.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

impl Hash for PeerKey {
    /// Hashes only the URI of an identity, which contains all of its parts.
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Identity(identity) => identity.as_str().hash(state),
            Self::Address(address) => address.hash(state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> PeerKey {
        PeerKey::new(None, address.parse().unwrap())
    }

    #[test]
    fn an_identity_is_one_peer_at_every_address() {
        let web = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap();
        let key = |address: &str| PeerKey::new(Some(&web), address.parse().unwrap());
        assert_eq!(key("10.0.0.1"), key("10.0.0.2"));
        assert_ne!(key("10.0.0.1"), at("10.0.0.1"));
    }

    #[test]
    fn a_host_is_one_peer_under_all_of_its_addresses() {
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
        assert_ne!(at("10.0.0.1"), at("10.0.0.2"));
    }
}
