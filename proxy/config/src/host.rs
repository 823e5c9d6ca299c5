//! A host name and its addresses, for the DNS answerer: a Listener without an address whose listener filter is Envoy's DNS filter
//! (`envoy.extensions.filters.udp.dns_filter.v3.DnsFilterConfig`) with a table of this one name.
//!
//! It is subscribed to like a destination, when a client asks for the name. The name of the resource is that of
//! [`outrigger_core::dns_name`].

use std::net::IpAddr;
use std::time::Duration;

use outrigger_core::Name;
use outrigger_core::dns_name::dns_name;
use outrigger_policy::field::{Unusable, duration, each, required, unsupported};
use outrigger_proto::xds::dns::dns_table::dns_endpoint::EndpointConfig;
use outrigger_proto::xds::dns::dns_table::{AddressList, DnsEndpoint, DnsVirtualDomain};
use outrigger_proto::xds::dns::{self};
use outrigger_proto::xds::dns_filter::DnsFilterConfig;
use outrigger_proto::xds::dns_filter::dns_filter_config::ServerContextConfig;
use outrigger_proto::xds::dns_filter::dns_filter_config::server_context_config::ConfigSource;

use crate::destination::Usage;

/// The TTL of a table without one, as in Envoy.
const DEFAULT_TTL: Duration = Duration::from_secs(300);

/// A host.
#[derive(Debug)]
pub struct Host {
    /// The name of the resource: `dns|cart.shop`.
    pub name: Name,
    /// Its addresses. Empty if the name exists without an address: an endpoint that is not set.
    pub addresses: Box<[IpAddr]>,
    /// How long a client may keep them.
    pub ttl: Duration,
    /// Whether it was used since the last sweep.
    pub usage: Usage,
}

impl Host {
    /// Decodes the configuration of the DNS filter in the listener `name`.
    pub(crate) fn decode(name: Name, wire: DnsFilterConfig) -> Result<Self, Unusable> {
        let DnsFilterConfig {
            stat_prefix: _, // metrics are named by the proxy itself
            server_config,
            client_config,
            access_log: _,       // set by the proxy's flags
            case_insensitive: _, // names are compared without case (RFC 4343)
        } = wire;
        unsupported("client_config", client_config.is_some())?;
        let ServerContextConfig { config_source } = required("server_config", server_config)?;
        let table = match required("config_source", config_source) {
            Ok(ConfigSource::InlineDnsTable(table)) => table,
            Ok(ConfigSource::ExternalDnsTable(_)) => {
                return Err(Unusable::new("server_config.external_dns_table", "is not supported"));
            }
            Err(missing) => return Err(missing.within("server_config")),
        };
        Self::of_table(name, table).map_err(|bad| bad.within("server_config.inline_dns_table"))
    }

    #[allow(deprecated)] // the deprecated field must be decoded or rejected, not overlooked
    fn of_table(resource: Name, wire: dns::DnsTable) -> Result<Self, Unusable> {
        let dns::DnsTable {
            external_retry_count: _, // the name servers are set by the proxy's flags
            virtual_domains,
            known_suffixes: _, // without effect in Envoy too
        } = wire;
        let mut domains = each("virtual_domains", virtual_domains, |domain| {
            let DnsVirtualDomain { name, endpoint, answer_ttl } = domain;
            if dns_name(&name) != *resource {
                let problem = format_args!("is {name:?}, but the resource is {resource:?}");
                return Err(Unusable::new("name", problem));
            }
            let ttl = duration("answer_ttl", answer_ttl)?.unwrap_or(DEFAULT_TTL);
            let addresses = match endpoint {
                Some(DnsEndpoint { endpoint_config }) => {
                    addresses(endpoint_config).map_err(|bad| bad.within("endpoint"))?
                }
                // An `AddressList` may not be empty.
                None => Box::default(),
            };
            Ok((addresses, ttl))
        })?;
        let (addresses, ttl) =
            domains.pop().ok_or_else(|| Unusable::new("virtual_domains", "must not be empty"))?;
        unsupported("virtual_domains[1]", !domains.is_empty())?;
        Ok(Self { name: resource, addresses, ttl, usage: Usage::default() })
    }
}

fn addresses(wire: Option<EndpointConfig>) -> Result<Box<[IpAddr]>, Unusable> {
    let AddressList { address } = match required("endpoint_config", wire)? {
        EndpointConfig::AddressList(list) => list,
        EndpointConfig::ClusterName(_) => return Err(Unusable::new("cluster_name", "is not supported")),
        EndpointConfig::ServiceList(_) => return Err(Unusable::new("service_list", "is not supported")),
    };
    let addresses = each("address_list.address", address, |text| {
        text.parse().map_err(|_| Unusable::new("", format_args!("{text:?} is no IP address")))
    })?;
    match addresses.is_empty() {
        true => Err(Unusable::new("address_list.address", "must not be empty")),
        false => Ok(addresses.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(endpoint: Option<EndpointConfig>) -> Result<Host, Unusable> {
        let endpoint = endpoint.map(|config| DnsEndpoint { endpoint_config: Some(config) });
        let domain = DnsVirtualDomain { name: "db.shop".into(), endpoint, answer_ttl: None };
        let table = dns::DnsTable { virtual_domains: vec![domain], ..Default::default() };
        let server_config = ServerContextConfig { config_source: Some(ConfigSource::InlineDnsTable(table)) };
        let wire = DnsFilterConfig { server_config: Some(server_config), ..Default::default() };
        Host::decode("dns|db.shop".into(), wire)
    }

    #[test]
    fn a_name_without_endpoint_exists_without_address_and_an_empty_list_is_refused_as_by_envoy() {
        assert!(decode(None).unwrap().addresses.is_empty());
        let list =
            |address: &[&str]| AddressList { address: address.iter().map(ToString::to_string).collect() };
        let one = decode(Some(EndpointConfig::AddressList(list(&["10.0.0.1"])))).unwrap();
        assert_eq!((&one.addresses[..], one.ttl), (&[IpAddr::from([10, 0, 0, 1])][..], DEFAULT_TTL));
        for bad in [list(&[]), list(&["10.0.0.256"])] {
            assert!(decode(Some(EndpointConfig::AddressList(bad))).is_err());
        }
        assert!(decode(Some(EndpointConfig::ClusterName("db".into()))).is_err());
    }
}
