//! Endpoints that are the addresses of a name in DNS (clusters of type `STRICT_DNS` and `LOGICAL_DNS`).
//!
//! The data path resolves the name each time that it uses the cluster, through the resolver's cache, and stores the addresses here. If DNS
//! does not answer, the last ones stay.

use std::net::{IpAddr, SocketAddr};

use outrigger_core::Name;
use outrigger_policy::field::{Unusable, required};
use outrigger_proto::xds::cluster::cluster::DnsLookupFamily;
use outrigger_proto::xds::{core, endpoint as wire_endpoint};

use super::EndpointsHandle;
use crate::endpoint::{Assignment, EndpointSettings};

/// The endpoints of a name.
#[derive(Debug)]
pub struct DnsEndpoints {
    host: Name,
    family: DnsLookupFamily,
    /// One endpoint, which stands for each address.
    template: Assignment,
    settings: EndpointSettings,
}

impl DnsEndpoints {
    /// Decodes the only endpoint of a cluster, whose address is a name.
    pub(super) fn decode(
        wire: Option<wire_endpoint::ClusterLoadAssignment>,
        family: i32,
        settings: &EndpointSettings,
    ) -> Result<Self, Unusable> {
        let mut wire = required("load_assignment", wire)?;
        let host = take_host(&mut wire).ok_or_else(|| {
            Unusable::new(
                "load_assignment",
                "must have one endpoint with a socket address in a cluster of this type",
            )
        })?;
        if host.is_empty() {
            return Err(Unusable::new("load_assignment", "has an endpoint without a name"));
        }
        let family = DnsLookupFamily::try_from(family)
            .map_err(|_| Unusable::new("dns_lookup_family", "is unknown"))?;
        let template = Assignment::decode(wire).map_err(|bad| bad.within("load_assignment"))?;
        Ok(Self { host: host.into(), family, template, settings: settings.clone() })
    }

    /// Returns the name to resolve.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Replaces the endpoints of the cluster by those at `addresses`, if they differ. The order of addresses does not matter.
    pub fn store(&self, endpoints: &EndpointsHandle, addresses: &[IpAddr]) {
        let addresses = of_family(self.family, addresses);
        let version = endpoints.load().version + 1;
        let at = |port| addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        endpoints.update(&self.template.copies(at), &self.settings, || version);
    }
}

/// Two values are equal if they are the same one.
impl PartialEq for DnsEndpoints {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for DnsEndpoints {}

/// Takes the name of the only endpoint, and puts an address in its place.
fn take_host(wire: &mut wire_endpoint::ClusterLoadAssignment) -> Option<String> {
    use core::address::Address;
    use wire_endpoint::lb_endpoint::HostIdentifier;
    let [locality] = &mut wire.endpoints[..] else { return None };
    let [endpoint] = &mut locality.lb_endpoints[..] else { return None };
    let Some(HostIdentifier::Endpoint(endpoint)) = &mut endpoint.host_identifier else { return None };
    let Some(Address::SocketAddress(socket)) = &mut endpoint.address.as_mut()?.address else { return None };
    Some(std::mem::replace(&mut socket.address, "0.0.0.0".into()))
}

/// Returns the addresses that are used, in order (`Cluster.DnsLookupFamily`).
fn of_family(family: DnsLookupFamily, addresses: &[IpAddr]) -> Vec<IpAddr> {
    let (mut v4, mut v6): (Vec<_>, Vec<_>) = addresses.iter().partition(|address| address.is_ipv4());
    v4.sort_unstable();
    v6.sort_unstable();
    match family {
        DnsLookupFamily::V4Only => v4,
        DnsLookupFamily::V6Only => v6,
        DnsLookupFamily::V4Preferred if v4.is_empty() => v6,
        DnsLookupFamily::V4Preferred => v4,
        DnsLookupFamily::Auto if v6.is_empty() => v4,
        DnsLookupFamily::Auto => v6,
        DnsLookupFamily::All => [v4, v6].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_family_chooses_the_addresses() {
        let all: [IpAddr; 3] = ["fd00::1", "10.0.0.2", "10.0.0.1"].map(|ip| ip.parse().unwrap());
        let text = |family, of: &[IpAddr]| {
            of_family(family, of).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        for (family, expected, of_v4, of_v6) in [
            (DnsLookupFamily::V4Only, "10.0.0.1 10.0.0.2", "10.0.0.1 10.0.0.2", ""),
            (DnsLookupFamily::V6Only, "fd00::1", "", "fd00::1"),
            (DnsLookupFamily::V4Preferred, "10.0.0.1 10.0.0.2", "10.0.0.1 10.0.0.2", "fd00::1"),
            (DnsLookupFamily::Auto, "fd00::1", "10.0.0.1 10.0.0.2", "fd00::1"),
            (DnsLookupFamily::All, "10.0.0.1 10.0.0.2 fd00::1", "10.0.0.1 10.0.0.2", "fd00::1"),
        ] {
            assert_eq!(text(family, &all), expected, "{family:?}");
            assert_eq!((&*text(family, &all[1..]), &*text(family, &all[..1])), (of_v4, of_v6), "{family:?}");
        }
    }
}
