//! Who a peer is, where capacity is shared between peers.
//!
//! A workload counts as one peer, however many connections and addresses it has. Who shows no identity is told apart by
//! address; an IPv6 host may choose among all addresses of its /64, so that these count as one.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr};

use crate::identity::SpiffeId;

/// The key under which a peer's use of a capacity is counted. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerKey {
    /// A verified identity.
    Identity(SpiffeId),
    /// An IPv4 address, or the first 64 bits of an IPv6 address.
    Address(IpAddr),
}

impl PeerKey {
    /// The key of a peer at `address`, whose verified identity is `identity` if it has shown one.
    pub fn new(identity: Option<&SpiffeId>, address: IpAddr) -> Self {
        match (identity, address.to_canonical()) {
            (Some(identity), _) => Self::Identity(identity.clone()),
            (None, IpAddr::V6(address)) => {
                let prefix = address.to_bits() & !u128::from(u64::MAX);
                Self::Address(Ipv6Addr::from_bits(prefix).into())
            }
            (None, address) => Self::Address(address),
        }
    }
}

impl Hash for PeerKey {
    /// Of an identity the URI alone, which has all of it.
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
