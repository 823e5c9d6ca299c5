//! Addresses of services that have none: no cluster IP, and not headless or external. A client that resolves such a service gets its
//! automatic addresses, and its sidecar finds the service by them.
//!
//! They are a function of the names of these services, so they are equal on every replica and after every restart. Service `S` of
//! namespace `N` has as its candidates `n` = 0, 1, ... bytes of the SHA-256 of `N/S/n`: 24 bits of an IPv4 address in 240.0.0.0/8 and 64
//! bits of an IPv6 address in fd6f:7574:7269::/64. In order of namespace and name, each service gets the first candidate of which
//! no service before it has an address.
//!
//! So a service keeps its addresses when others come and go, unless one before it has the same candidate. Of 200 services, two have the
//! same with a probability of 1 in 800. In a range of 16 bits, like Istio's 240.240.0.0/16, that would be 1 in 4.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sha2::{Digest, Sha256};

use super::service::{Service, ServiceKey, ServiceType};

/// The first byte of IPv4 addresses: reserved (RFC 1112 section 4), so no host on the Internet has one.
const IPV4_PREFIX: u8 = 240;
/// The prefix of IPv6 addresses: unique local ones (RFC 4193).
const IPV6_PREFIX: u128 = 0xfd6f_7574_7269 << 80;

/// The automatic addresses of all services that need them.
#[derive(Debug, Default)]
pub(super) struct AutomaticAddresses {
    assigned: BTreeMap<ServiceKey, Pair>,
    /// Whether the services are not those that `assigned` was made for.
    stale: bool,
}

/// An address of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair(Ipv4Addr, Ipv6Addr);

impl AutomaticAddresses {
    /// Records the new version of a service, or its removal.
    pub(super) fn update(&mut self, key: &ServiceKey, service: Option<&Service>) {
        let needed = service.is_some_and(is_without_address);
        if needed != self.assigned.contains_key(key) {
            self.stale = true;
            match needed {
                true => self.assigned.insert(key.clone(), Pair::candidate(key, 0)),
                false => self.assigned.remove(key),
            };
        }
    }

    /// Assigns addresses after updates. Returns the services whose addresses were changed by others.
    pub(super) fn assign(&mut self) -> BTreeSet<ServiceKey> {
        let mut moved = BTreeSet::new();
        if std::mem::take(&mut self.stale) {
            let (mut ipv4, mut ipv6) = (HashSet::new(), HashSet::new());
            for (key, assigned) in &mut self.assigned {
                let free = |Pair(four, six): &Pair| !ipv4.contains(four) && !ipv6.contains(six);
                let Some(pair) = (0..u32::MAX).map(|n| Pair::candidate(key, n)).find(free) else { continue };
                ipv4.insert(pair.0);
                ipv6.insert(pair.1);
                if *assigned != pair {
                    *assigned = pair;
                    moved.insert(key.clone());
                }
            }
        }
        moved
    }

    /// Returns the service with its automatic addresses, if it needs them.
    pub(super) fn complete(&self, service: &Service) -> Service {
        match self.assigned.get(&service.key) {
            Some(&Pair(four, six)) => {
                let ips = vec![IpAddr::V4(four), IpAddr::V6(six)];
                Service { service_type: ServiceType::ClusterIps(ips), ..service.clone() }
            }
            None => service.clone(),
        }
    }
}

fn is_without_address(service: &Service) -> bool {
    matches!(&service.service_type, ServiceType::ClusterIps(ips) if ips.is_empty())
}

impl Pair {
    fn candidate(key: &ServiceKey, number: u32) -> Self {
        let digest = Sha256::digest(format!("{}/{}/{number}", key.namespace, key.name));
        let [a, b, c, d, e, f, g, h, i, j, k, ..] = <[u8; 32]>::from(digest);
        let host = u64::from_be_bytes([d, e, f, g, h, i, j, k]);
        Self(Ipv4Addr::new(IPV4_PREFIX, a, b, c), Ipv6Addr::from_bits(IPV6_PREFIX | u128::from(host)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::mesh_builder::MeshBuilder;
    use crate::model::mesh_builder::testing::service as yaml;

    fn addresses(builder: &MeshBuilder, name: &str) -> Vec<String> {
        let mesh = builder.mesh();
        let key = ServiceKey::new("shop", name);
        let ips = mesh.service(&key).unwrap().service.cluster_ips().to_vec();
        assert!(ips.iter().all(|ip| mesh.service_by_ip(ip) == Some(&key)), "connections lead to it");
        ips.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_service_has_the_addresses_that_its_name_says_whatever_else_there_is() {
        let mut builder = MeshBuilder::default();
        builder.with(&[&yaml("cart", 80, "http")]);
        let cart = addresses(&builder, "cart");
        assert_eq!(
            cart,
            ["240.196.8.120", "fd6f:7574:7269:0:65ab:8535:ad9f:45aa"],
            "written down: it must never change"
        );
        for n in 0..50 {
            builder.with(&[&yaml(&format!("a{n}"), 80, "http")]);
        }
        assert_eq!(addresses(&builder, "cart"), cart);
        builder.without(&yaml("a7", 80, "http"));
        assert_eq!(addresses(&builder, "cart"), cart);
        let mut replica = MeshBuilder::default();
        replica.with(&[&yaml("a1", 80, "http"), &yaml("cart", 80, "http")]);
        assert_eq!(addresses(&replica, "cart"), cart);
        assert_eq!(addresses(&replica, "a1"), addresses(&builder, "a1"));
    }

    #[test]
    fn a_service_with_an_address_and_a_headless_one_get_none() {
        let mut builder = MeshBuilder::default();
        let with = |spec: &str| yaml("cart", 80, "http").replace("spec: {", &format!("spec: {{{spec}, "));
        for (spec, expected) in [("clusterIP: 10.0.0.1", &["10.0.0.1"][..]), ("clusterIP: None", &[])] {
            builder.with(&[&with(spec)]);
            assert_eq!(addresses(&builder, "cart"), expected);
        }
        builder.with(&[&yaml("cart", 80, "http")]);
        assert_eq!(addresses(&builder, "cart").len(), 2, "when its own is removed");
    }

    /// The addresses of services with these names, assigned after all or after each.
    fn assigned(names: &[&str]) -> AutomaticAddresses {
        let mut all = AutomaticAddresses::default();
        for name in names {
            let key = ServiceKey::new("shop", *name);
            all.assigned.insert(key, Pair(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED));
        }
        all.stale = true;
        all.assign();
        all
    }

    #[test]
    fn of_two_services_with_the_same_candidate_the_first_by_name_has_it() {
        let [one, other] = ["s119", "s5094"];
        let key = |name: &str| ServiceKey::new("shop", name);
        let same = Pair::candidate(&key(one), 0).0;
        assert_eq!(same, Pair::candidate(&key(other), 0).0);
        let both = assigned(&[other, one]);
        assert_eq!(both.assigned[&key(one)].0, same);
        assert_eq!(both.assigned[&key(other)], Pair::candidate(&key(other), 1));
        let mut left = both;
        left.update(&key(one), None);
        assert_eq!(left.assign(), BTreeSet::from([key(other)]));
        assert_eq!(left.assigned[&key(other)].0, same);
    }
}
