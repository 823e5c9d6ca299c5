//! Listeners that have the addresses of a host.

use outrigger_proto::xds::dns::dns_table::dns_endpoint::EndpointConfig;
use outrigger_proto::xds::dns::dns_table::{AddressList, DnsEndpoint, DnsVirtualDomain};
use outrigger_proto::xds::dns::{self};
use outrigger_proto::xds::dns_filter::DnsFilterConfig;
use outrigger_proto::xds::dns_filter::dns_filter_config::ServerContextConfig;
use outrigger_proto::xds::dns_filter::dns_filter_config::server_context_config::ConfigSource;
use outrigger_proto::xds::protobuf::{self, Any};
use outrigger_proto::xds::{listener, type_url};

use super::listeners::{LOGS, METRICS, in_listener, typed};
use super::place::Place;

const CART: &str = "cart.shop";

fn in_filter(filter: DnsFilterConfig) -> (String, Any) {
    let name = match filter.server_config.as_ref().and_then(|config| config.config_source.as_ref()) {
        Some(ConfigSource::InlineDnsTable(table)) => &*table.virtual_domains[0].name,
        _ => CART,
    };
    in_listener(listener::Listener {
        name: format!("dns|{name}"),
        listener_filters: vec![typed("dns", type_url::DNS_FILTER, prost::Message::encode_to_vec(&filter))],
        ..Default::default()
    })
}

fn with_source(config_source: ConfigSource) -> DnsFilterConfig {
    DnsFilterConfig {
        server_config: Some(ServerContextConfig { config_source: Some(config_source) }),
        ..Default::default()
    }
}

fn in_table(table: dns::DnsTable) -> (String, Any) {
    in_filter(with_source(ConfigSource::InlineDnsTable(table)))
}

fn with_domain(domain: DnsVirtualDomain) -> dns::DnsTable {
    dns::DnsTable { virtual_domains: vec![domain], ..Default::default() }
}

fn with_endpoint(endpoint_config: EndpointConfig) -> DnsVirtualDomain {
    DnsVirtualDomain {
        name: CART.into(),
        endpoint: Some(DnsEndpoint { endpoint_config: Some(endpoint_config) }),
        answer_ttl: Some(protobuf::Duration { seconds: 30, nanos: 0 }),
    }
}

fn addresses() -> AddressList {
    AddressList { address: vec!["240.0.0.1".into()] }
}

fn domain() -> DnsVirtualDomain {
    with_endpoint(EndpointConfig::AddressList(addresses()))
}

pub fn places() -> Vec<Place> {
    let table = || with_domain(domain());
    let filter = || with_source(ConfigSource::InlineDnsTable(table()));
    let other = || AddressList { address: vec!["240.0.0.2".into(), "fd00::1".into()] };
    vec![
        Place::new(
            "DnsFilterConfig",
            "envoy.extensions.filters.udp.dns_filter.v3.DnsFilterConfig",
            filter(),
            in_filter,
        )
        .probe("server_config", move |of: &mut DnsFilterConfig| {
            let domain = with_endpoint(EndpointConfig::AddressList(other()));
            *of = with_source(ConfigSource::InlineDnsTable(with_domain(domain)));
        })
        .harmless(METRICS, &["stat_prefix"])
        .harmless(LOGS, &["access_log"])
        .harmless("names are compared without case", &["case_insensitive"]),
        Place::new(
            "DnsFilterConfig.ServerContextConfig",
            "envoy.extensions.filters.udp.dns_filter.v3.DnsFilterConfig.ServerContextConfig",
            filter().server_config.unwrap(),
            |of| in_filter(DnsFilterConfig { server_config: Some(of), ..Default::default() }),
        )
        .probe("inline_dns_table", move |of: &mut ServerContextConfig| {
            let domain = with_endpoint(EndpointConfig::AddressList(other()));
            of.config_source = Some(ConfigSource::InlineDnsTable(with_domain(domain)));
        }),
        Place::new("DnsTable", "envoy.data.dns.v3.DnsTable", table(), in_table)
            .probe("virtual_domains", move |of: &mut dns::DnsTable| {
                *of = with_domain(with_endpoint(EndpointConfig::AddressList(other())));
            })
            .harmless("the name servers are set by the proxy's flags", &["external_retry_count"])
            .harmless("has no effect in Envoy either", &["known_suffixes"]),
        Place::new("DnsVirtualDomain", "envoy.data.dns.v3.DnsTable.DnsVirtualDomain", domain(), |of| {
            in_table(with_domain(of))
        })
        .probe("endpoint", move |of: &mut DnsVirtualDomain| {
            *of = with_endpoint(EndpointConfig::AddressList(other()));
        }),
        Place::new(
            "DnsEndpoint",
            "envoy.data.dns.v3.DnsTable.DnsEndpoint",
            domain().endpoint.unwrap(),
            |of| in_table(with_domain(DnsVirtualDomain { endpoint: Some(of), ..domain() })),
        )
        .probe("address_list", move |of: &mut DnsEndpoint| {
            of.endpoint_config = Some(EndpointConfig::AddressList(other()));
        }),
        Place::new("AddressList", "envoy.data.dns.v3.DnsTable.AddressList", addresses(), |of| {
            in_table(with_domain(with_endpoint(EndpointConfig::AddressList(of))))
        })
        .probe("address", move |of: &mut AddressList| *of = other()),
    ]
}
