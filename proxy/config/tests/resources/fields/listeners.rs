//! Listeners, their chains and filters.

use outrigger_proto::xds::protobuf::{self, Any};
use outrigger_proto::xds::{core, http_inspector, listener, tcp_proxy, type_url};

use super::place::Place;
use crate::fixture::*;

pub fn in_listener(wire: listener::Listener) -> (String, Any) {
    (wire.name.clone(), listener_body(wire))
}

fn in_chain(chain: listener::FilterChain) -> (String, Any) {
    in_listener(listener::Listener { filter_chains: vec![chain], ..inbound() })
}

pub fn in_socket(socket: core::TransportSocket) -> (String, Any) {
    let mut chain = inbound().filter_chains.remove(0);
    chain.transport_socket = Some(socket);
    in_chain(chain)
}

fn in_filter(filter: listener::ListenerFilter) -> (String, Any) {
    in_listener(listener::Listener { listener_filters: vec![filter], ..inbound() })
}

pub fn in_tcp(wire: tcp_proxy::TcpProxy) -> (String, Any) {
    let chain = listener::FilterChain {
        filters: vec![network_filter(type_url::TCP_PROXY, &wire)],
        ..Default::default()
    };
    in_listener(listener::Listener {
        name: "cart:81".into(),
        default_filter_chain: Some(chain),
        ..Default::default()
    })
}

pub fn typed(name: &str, url: &str, value: Vec<u8>) -> listener::ListenerFilter {
    let config = listener::listener_filter::ConfigType::TypedConfig(Any { type_url: url.into(), value });
    listener::ListenerFilter { name: name.into(), config_type: Some(config), ..Default::default() }
}

fn leads_to(name: &str) -> core::Metadata {
    let kind = Some(protobuf::value::Kind::StringValue(name.into()));
    let fields = [("name".to_owned(), protobuf::Value { kind })].into();
    let filter_metadata = [("outrigger.destination".to_owned(), protobuf::Struct { fields })].into();
    core::Metadata { filter_metadata, ..Default::default() }
}

const INSPECTOR: &str = "envoy.filters.listener.http_inspector";

pub const METRICS: &str = "metrics are named by the proxy itself";
pub const LOGS: &str = "access logs are set by the proxy's flags, for all listeners alike";
const BUFFERS: &str = "buffers are bounded by HTTP/2 windows and by the data path's own sizes";
const KERNEL: &str = "changes how sockets are used, not what becomes of connections";
pub const SPREAD: &str = "connections that began at different times end at different times";

#[expect(deprecated, reason = "older forms are still sent")]
pub fn places() -> Vec<Place> {
    let chain = || inbound().filter_chains.remove(0);
    let lone = |filter: listener::Filter| {
        let mut chain = inbound().filter_chains.remove(0);
        chain.filters = vec![filter];
        chain
    };
    vec![
        Place::new("Listener", "envoy.config.listener.v3.Listener", inbound(), in_listener)
            .probe("api_listener", |of: &mut listener::Listener| {
                *of = listener::Listener { address: None, filter_chains: vec![], ..of.clone() };
                of.api_listener = destination("x").api_listener;
            })
            .probe("listener_filters", |of: &mut listener::Listener| {
                of.listener_filters =
                    vec![listener::ListenerFilter { name: INSPECTOR.into(), ..Default::default() }];
            })
            .probe("default_filter_chain", |of: &mut listener::Listener| {
                of.default_filter_chain =
                    Some(listener::FilterChain { name: "x".into(), ..of.filter_chains[0].clone() });
            })
            .probe("bind_to_port", |of: &mut listener::Listener| {
                of.bind_to_port = Some(protobuf::BoolValue { value: false });
            })
            .probe("deprecated_v1", |of: &mut listener::Listener| {
                let bind_to_port = Some(protobuf::BoolValue { value: false });
                of.deprecated_v1 = Some(listener::listener::DeprecatedV1 { bind_to_port });
            })
            .harmless(METRICS, &["stat_prefix", "stats_matcher"])
            .harmless(
                BUFFERS,
                &["per_connection_buffer_limit_bytes", "per_connection_buffer_high_watermark_timeout"],
            )
            .harmless(
                "says what a listener without an address leads to (`outrigger.destination`)",
                &["metadata"],
            )
            .harmless("every listener drains when it is removed and when the proxy ends", &["drain_type"])
            .harmless(LOGS, &["access_log"])
            .harmless(
                KERNEL,
                &[
                    "tcp_fast_open_queue_length",
                    "connection_balance_config",
                    "reuse_port",
                    "enable_reuse_port",
                    "tcp_backlog_size",
                    "max_connections_to_accept_per_socket_event",
                ],
            )
            .harmless("every connection has keepalive", &["tcp_keepalive"])
            .harmless(
                "there is no such limit or manager",
                &["ignore_global_conn_limit", "bypass_overload_manager"],
            ),
        Place::new(
            "ApiListener",
            "envoy.config.listener.v3.ApiListener",
            destination("cart:80").api_listener.unwrap(),
            |of| in_listener(listener::Listener { api_listener: Some(of), ..destination("cart:80") }),
        ),
        Place::new(
            "ListenerFilter",
            "envoy.config.listener.v3.ListenerFilter",
            typed(INSPECTOR, type_url::HTTP_INSPECTOR, vec![]),
            in_filter,
        )
        .probe("typed_config", |of: &mut listener::ListenerFilter| {
            let url = "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst";
            *of = typed("x", url, vec![]);
        })
        .harmless("the type of its configuration says what it is", &["name"]),
        Place::new(
            "HttpInspector",
            "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
            http_inspector::HttpInspector {},
            |of| in_filter(typed(INSPECTOR, type_url::HTTP_INSPECTOR, prost::Message::encode_to_vec(&of))),
        ),
        Place::new("FilterChain", "envoy.config.listener.v3.FilterChain", chain(), in_chain)
            .probe("use_proxy_proto", |of: &mut listener::FilterChain| {
                of.use_proxy_proto = Some(protobuf::BoolValue { value: true })
            })
            .probe("metadata", |of: &mut listener::FilterChain| of.metadata = Some(leads_to("x"))),
        Place::new(
            "FilterChainMatch",
            "envoy.config.listener.v3.FilterChainMatch",
            chain().filter_chain_match.unwrap(),
            move |of| {
                let mut chain = inbound().filter_chains.remove(0);
                chain.filter_chain_match = Some(of);
                in_chain(chain)
            },
        )
        .probe("transport_protocol", |of: &mut listener::FilterChainMatch| {
            of.transport_protocol = "tls".into()
        })
        .probe("prefix_ranges", |of: &mut listener::FilterChainMatch| {
            of.prefix_ranges =
                vec![core::CidrRange { address_prefix: "10.0.0.0".into(), prefix_len: number(8) }];
        }),
        Place::new(
            "CidrRange",
            "envoy.config.core.v3.CidrRange",
            core::CidrRange { address_prefix: "10.0.0.0".into(), prefix_len: number(8) },
            |of| {
                let mut chain = inbound().filter_chains.remove(0);
                chain.filter_chain_match.as_mut().unwrap().prefix_ranges = vec![of];
                in_chain(chain)
            },
        )
        .probe("address_prefix", |of: &mut core::CidrRange| of.address_prefix = "11.0.0.0".into()),
        Place::new("Filter", "envoy.config.listener.v3.Filter", chain().filters.remove(0), move |of| {
            in_chain(lone(of))
        })
        .harmless("the type of its configuration says what it is", &["name"]),
        Place::new("Address", "envoy.config.core.v3.Address", inbound().address.unwrap(), |of| {
            in_listener(listener::Listener { address: Some(of), ..inbound() })
        }),
        Place::new(
            "SocketAddress",
            "envoy.config.core.v3.SocketAddress",
            socket_of(inbound().address.unwrap()),
            |of| {
                let address =
                    Some(core::Address { address: Some(core::address::Address::SocketAddress(of)) });
                in_listener(listener::Listener { address, ..inbound() })
            },
        )
        .probe("address", |of: &mut core::SocketAddress| of.address = "10.0.0.9".into())
        .harmless("who wants both families binds two listeners", &["ipv4_compat"]),
        Place::new("TcpProxy", "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", tcp(CART), in_tcp)
            .probe("weighted_clusters", |of: &mut tcp_proxy::TcpProxy| {
                of.cluster_specifier =
                    Some(tcp_proxy::tcp_proxy::ClusterSpecifier::WeightedClusters(tcp_weights()));
            })
            .harmless(
                LOGS,
                &[
                    "access_log",
                    "access_log_flush_interval",
                    "flush_access_log_on_connected",
                    "access_log_options",
                ],
            )
            .harmless("names statistics of Envoy's", &["stat_prefix"])
            .harmless("each attempt goes to another endpoint, at once", &["backoff_options"])
            .harmless(SPREAD, &["max_downstream_connection_duration_jitter_percentage"])
            .harmless("goes with `proxy_protocol_tlvs`", &["proxy_protocol_tlv_merge_policy"])
            .harmless("goes with `upstream_connect_mode`", &["max_early_data_bytes"])
            .probe("hash_policy", |of: &mut tcp_proxy::TcpProxy| {
                of.hash_policy = vec![super::hashing::of_address()]
            })
            .harmless("draining closes connections at its deadline", &["check_drain_close"]),
        Place::new(
            "TcpProxy.WeightedCluster",
            "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster",
            tcp_weights(),
            |of| {
                in_tcp(tcp_proxy::TcpProxy {
                    cluster_specifier: Some(tcp_proxy::tcp_proxy::ClusterSpecifier::WeightedClusters(of)),
                    ..tcp(CART)
                })
            },
        ),
        Place::new(
            "TcpProxy.WeightedCluster.ClusterWeight",
            "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight",
            tcp_weights().clusters.remove(0),
            |of| {
                let clusters = vec![of];
                let specifier = tcp_proxy::tcp_proxy::ClusterSpecifier::WeightedClusters(
                    tcp_proxy::tcp_proxy::WeightedCluster { clusters },
                );
                in_tcp(tcp_proxy::TcpProxy { cluster_specifier: Some(specifier), ..tcp(CART) })
            },
        ),
    ]
}

fn tcp_weights() -> tcp_proxy::tcp_proxy::WeightedCluster {
    let weight = tcp_proxy::tcp_proxy::weighted_cluster::ClusterWeight {
        name: CART.into(),
        weight: 3,
        metadata_match: None,
    };
    tcp_proxy::tcp_proxy::WeightedCluster { clusters: vec![weight] }
}

pub fn socket_of(address: core::Address) -> core::SocketAddress {
    let Some(core::address::Address::SocketAddress(socket)) = address.address else { panic!() };
    socket
}
