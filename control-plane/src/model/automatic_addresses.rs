//! Addresses of services that have none: no cluster IP, and not headless or external. A client that resolves such a service gets its
//! automatic addresses, and its sidecar finds the service by them.
//!
//! They are a function of the names of these services, so they are equal on every replica and after every restart. Service `S` of
//! namespace `N` has four candidates of each family, `n` = 0 to 3: bytes of the SHA-256 of `N/S/n`, 24 bits of an IPv4 address in
//! 240.0.0.0/8 and 64 bits of an IPv6 address in fd6f:7574:7269::/64. It has the first of each family that no other service claims;
//! a service claims all its candidates, and a cluster IP that is one.
//!
//! So no service gets the address of another, whatever its name: an address that two claim belongs to neither. One of 200 services lacks
//! its first IPv4 candidate with a probability of 1 in 100. In a range of 16 bits, like Istio's 240.240.0.0/16, two or three would.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sha2::{Digest, Sha256};

use super::address_index::AddressIndex;
use super::service::{Service, ServiceKey, ServiceType};

/// The first byte of IPv4 addresses: reserved (RFC 1112 section 4), so no host on the Internet has one.
const IPV4_PREFIX: u8 = 240;
/// The prefix of IPv6 addresses: unique local ones (RFC 4193).
const IPV6_PREFIX: u128 = 0xfd6f_7574_7269 << 80;
const IPV6_HOST_BITS: u32 = 64;
/// How many candidates of each family a service has.
const CANDIDATES: u32 = 4;

/// The automatic addresses of all services that need them.
#[derive(Debug, Default)]
pub(super) struct AutomaticAddresses {
    /// What each service claims, if it claims anything.
    claims: BTreeMap<ServiceKey, Vec<IpAddr>>,
    claimants: AddressIndex<IpAddr, ServiceKey>,
}

impl AutomaticAddresses {
    /// Records the new version of a service, or its removal. Returns the services whose automatic addresses it may change.
    pub(super) fn update(&mut self, key: &ServiceKey, service: Option<&Service>) -> BTreeSet<ServiceKey> {
        let new = service.map(claims).unwrap_or_default();
        let old = if new.is_empty() {
            self.claims.remove(key)
        } else {
            self.claims.insert(key.clone(), new.clone())
        };
        let old = old.unwrap_or_default();
        if old == new {
            return BTreeSet::new();
        }
        old.iter().for_each(|ip| self.claimants.remove(ip, key));
        new.iter().for_each(|ip| self.claimants.insert(*ip, key.clone()));
        old.iter().chain(&new).flat_map(|ip| self.claimants.of(ip)).cloned().collect()
    }

    /// Returns the service with its automatic addresses, if it needs them, and without external IPs that are in their range: any service
    /// may claim any external IP.
    pub(super) fn complete(&self, service: &Service) -> Service {
        let mut complete = service.clone();
        complete.external_ips.retain(|ip| !is_automatic(ip));
        if is_without_address(service) {
            let claims = self.claims.get(&service.key).map(Vec::as_slice).unwrap_or_default();
            let own = |is_family: fn(&IpAddr) -> bool| {
                claims.iter().find(|ip| is_family(ip) && self.claimants.of(ip).nth(1).is_none()).copied()
            };
            let ips = [own(IpAddr::is_ipv4), own(IpAddr::is_ipv6)].into_iter().flatten().collect();
            complete.service_type = ServiceType::ClusterIps(ips);
        }
        complete
    }
}

fn is_without_address(service: &Service) -> bool {
    matches!(&service.service_type, ServiceType::ClusterIps(ips) if ips.is_empty())
}

/// Returns the addresses that a service claims: all its candidates if it needs one, else those of its own that may be a candidate of
/// another.
fn claims(service: &Service) -> Vec<IpAddr> {
    match is_without_address(service) {
        true => (0..CANDIDATES).flat_map(|number| candidates(&service.key, number)).collect(),
        false => service.cluster_ips().iter().copied().filter(is_automatic).collect(),
    }
}

/// Returns the candidates of each family with this number.
fn candidates(key: &ServiceKey, number: u32) -> [IpAddr; 2] {
    let digest = Sha256::digest(format!("{}/{}/{number}", key.namespace, key.name));
    let [a, b, c, d, e, f, g, h, i, j, k, ..] = <[u8; 32]>::from(digest);
    let host = u64::from_be_bytes([d, e, f, g, h, i, j, k]);
    [Ipv4Addr::new(IPV4_PREFIX, a, b, c).into(), Ipv6Addr::from_bits(IPV6_PREFIX | u128::from(host)).into()]
}

fn is_automatic(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets().starts_with(&[IPV4_PREFIX]),
        IpAddr::V6(ip) => ip.to_bits() >> IPV6_HOST_BITS == IPV6_PREFIX >> IPV6_HOST_BITS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::mesh_builder::MeshBuilder;
    use crate::model::mesh_builder::testing::service as yaml;
    use crate::model::service::AppProtocol;

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

    /// Names with the IPv4 address of `cart` as their candidate 0 and 1, found by computing some million.
    const RIVALS: [&str; 2] = ["t2290589", "t7481692"];

    #[test]
    fn an_address_that_two_services_claim_belongs_to_neither_whichever_was_first() {
        let cart = yaml("cart", 80, "http");
        for rival in RIVALS {
            let other = yaml(rival, 80, "http");
            for [first, second] in [[&cart, &other], [&other, &cart]] {
                let mut builder = MeshBuilder::default();
                builder.with(&[first]);
                builder.with(&[second]);
                let lost = candidates(&ServiceKey::new("shop", "cart"), 0)[0];
                assert_eq!(builder.mesh().service_by_ip(&lost), None);
                let second = candidates(&ServiceKey::new("shop", "cart"), 1)[0].to_string();
                let first_ipv6 = candidates(&ServiceKey::new("shop", "cart"), 0)[1].to_string();
                assert_eq!(addresses(&builder, "cart"), [second, first_ipv6], "each family by itself");
                assert_ne!(addresses(&builder, rival)[0], lost.to_string());
                builder.without(&other);
                assert_eq!(addresses(&builder, "cart")[0], lost.to_string());
            }
        }
    }

    #[test]
    fn a_stated_cluster_ip_is_a_claim_and_an_external_ip_is_none() {
        let mut builder = MeshBuilder::default();
        let with = |spec: &str| yaml("other", 80, "http").replace("spec: {", &format!("spec: {{{spec}, "));
        builder.with(&[&yaml("cart", 80, "http"), &with("externalIPs: [240.196.8.120, 192.0.2.1]")]);
        assert_eq!(addresses(&builder, "cart")[0], "240.196.8.120");
        let ip = |text: &str| text.parse().unwrap();
        let mesh = builder.mesh();
        assert_eq!(mesh.service_by_ip(&ip("240.196.8.120")), Some(&ServiceKey::new("shop", "cart")));
        assert_eq!(mesh.service_by_ip(&ip("192.0.2.1")), Some(&ServiceKey::new("shop", "other")));
        builder.with(&[&with("clusterIP: 240.196.8.120")]);
        assert_eq!(addresses(&builder, "other"), ["240.196.8.120"], "the API server may have assigned it");
        assert_eq!(addresses(&builder, "cart")[0], "240.106.182.172");
    }

    #[test]
    fn of_thousands_of_services_none_gets_the_address_of_another() {
        let service =
            |name: &String| Service { ports: vec![], ..Service::of_shop(name, 80, AppProtocol::Http) };
        let names: Vec<_> = (0..6000).map(|n| format!("s{n}")).collect();
        let mut all = AutomaticAddresses::default();
        let add = |all: &mut AutomaticAddresses, names: &[String]| {
            names.iter().for_each(|name| drop(all.update(&service(name).key, Some(&service(name)))));
        };
        let owners = |all: &AutomaticAddresses, names: &[String]| -> BTreeMap<IpAddr, String> {
            let own = |name: &String| all.complete(&service(name)).cluster_ips().to_vec();
            names.iter().flat_map(|name| own(name).into_iter().map(|ip| (ip, name.clone()))).collect()
        };
        add(&mut all, &names[..3000]);
        let before = owners(&all, &names[..3000]);
        add(&mut all, &names[3000..]);
        let after = owners(&all, &names);
        assert_eq!((before.len(), after.len()), (6000, 12000), "each has two of its own");
        let (kept, lost): (Vec<_>, Vec<_>) = before.iter().partition(|(ip, _)| after.contains_key(ip));
        assert!(kept.iter().all(|(ip, name)| after[*ip] == **name));
        assert!((1..20).contains(&lost.len()), "{lost:?}");
    }
}
