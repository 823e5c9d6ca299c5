//! Small resources in the form of Outrigger's control plane.

use std::sync::Arc;

use outrigger_config::compiled::{Compiled, Raw};
use outrigger_config::resources::Resources;
use outrigger_proto::kind::Kind;
use outrigger_proto::xds::cluster::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
use outrigger_proto::xds::core::address::Address as AddressKind;
use outrigger_proto::xds::core::config_source::ConfigSourceSpecifier;
use outrigger_proto::xds::core::socket_address::PortSpecifier;
use outrigger_proto::xds::core::{Address, AggregatedConfigSource, ConfigSource, SocketAddress};
use outrigger_proto::xds::endpoint::lb_endpoint::HostIdentifier;
use outrigger_proto::xds::hcm::http_connection_manager::RouteSpecifier;
use outrigger_proto::xds::hcm::{HttpFilter, Rds, http_filter};
use outrigger_proto::xds::listener::filter::ConfigType;
use outrigger_proto::xds::protobuf::{Any, Duration, UInt32Value};
use outrigger_proto::xds::route::route::Action;
use outrigger_proto::xds::route::route_action::ClusterSpecifier;
use outrigger_proto::xds::route::route_match::PathSpecifier;
use outrigger_proto::xds::{cluster, endpoint, hcm, listener, route, router, tcp_proxy, type_url};
use prost::Message;

/// Returns these resources, each in version 1.
pub(crate) fn resources<const N: usize>(resources: [(Kind, &str, Any); N]) -> Resources {
    let mut all = Resources::default();
    for (kind, name, body) in resources {
        put(&mut all, kind, name, "1", body);
    }
    all
}

/// Adds a resource.
pub(crate) fn put(all: &mut Resources, kind: Kind, name: &str, version: &str, body: Any) {
    all.insert(kind, Arc::new(compiled(kind, name, version, body, all.get(kind, name).map(Arc::as_ref))));
}

/// Returns a compiled resource.
pub(crate) fn compiled(
    kind: Kind,
    name: &str,
    version: &str,
    body: Any,
    before: Option<&Compiled>,
) -> Compiled {
    let raw = Raw { name: name.into(), aliases: vec![], version: version.into(), body };
    Compiled::new(kind, raw, before).unwrap()
}

/// An HTTP destination whose routes come over RDS.
pub(crate) fn destination(name: &str, routes: &str) -> Any {
    let specifier = RouteSpecifier::Rds(Rds { config_source: Some(ads()), route_config_name: routes.into() });
    let api = listener::ApiListener { api_listener: Some(manager(routes, specifier)) };
    resource(
        Kind::Listener,
        listener::Listener { name: name.into(), api_listener: Some(api), ..Default::default() },
    )
}

/// A TCP destination.
pub(crate) fn tcp_destination(name: &str, cluster: &str) -> Any {
    let proxy = tcp_proxy::TcpProxy {
        stat_prefix: cluster.into(),
        cluster_specifier: Some(tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster(cluster.into())),
        ..Default::default()
    };
    let default_filter_chain = Some(chain(any(type_url::TCP_PROXY, proxy)));
    resource(
        Kind::Listener,
        listener::Listener { name: name.into(), default_filter_chain, ..Default::default() },
    )
}

/// A plaintext inbound listener with inline routes to one cluster.
pub(crate) fn inbound(name: &str, cluster: &str) -> Any {
    listener_at(name, "127.0.0.1:15006", cluster)
}

/// The same, at a given address.
pub(crate) fn listener_at(name: &str, at: &str, cluster: &str) -> Any {
    let routes = RouteSpecifier::RouteConfig(configuration(name, &[cluster]));
    let filter_chains = vec![chain(manager(name, routes))];
    let address = Some(address(at));
    resource(
        Kind::Listener,
        listener::Listener { name: name.into(), address, filter_chains, ..Default::default() },
    )
}

/// Routes, one per cluster.
pub(crate) fn route(name: &str, clusters: &[&str]) -> Any {
    resource(Kind::Route, configuration(name, clusters))
}

/// A cluster whose endpoints come over EDS, under the cluster's name.
pub(crate) fn cluster(name: &str) -> Any {
    let eds = EdsClusterConfig { eds_config: Some(ads()), service_name: String::new() };
    resource(
        Kind::Cluster,
        cluster::Cluster {
            name: name.into(),
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
            eds_cluster_config: Some(eds),
            connect_timeout: Some(Duration { seconds: 1, nanos: 0 }),
            ..Default::default()
        },
    )
}

/// A cluster with one inline endpoint.
pub(crate) fn static_cluster(name: &str) -> Any {
    resource(
        Kind::Cluster,
        cluster::Cluster {
            name: name.into(),
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
            load_assignment: Some(assignment(name, &["127.0.0.1:8080"])),
            connect_timeout: Some(Duration { seconds: 1, nanos: 0 }),
            ..Default::default()
        },
    )
}

/// The endpoints of a cluster.
pub(crate) fn endpoints(cluster: &str, addresses: &[&str]) -> Any {
    resource(Kind::Endpoints, assignment(cluster, addresses))
}

/// A body with the right type URL that cannot be decoded.
pub(crate) fn broken(kind: Kind) -> Any {
    Any { type_url: kind.type_url().into(), value: vec![0xff; 9] }
}

fn assignment(cluster: &str, addresses: &[&str]) -> endpoint::ClusterLoadAssignment {
    let lb_endpoints = addresses.iter().map(|a| endpoint::LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(endpoint::Endpoint {
            address: Some(address(a)),
            ..Default::default()
        })),
        ..Default::default()
    });
    let locality = endpoint::LocalityLbEndpoints {
        lb_endpoints: lb_endpoints.collect(),
        load_balancing_weight: Some(UInt32Value { value: 1 }),
        ..Default::default()
    };
    endpoint::ClusterLoadAssignment {
        cluster_name: cluster.into(),
        endpoints: vec![locality],
        ..Default::default()
    }
}

fn configuration(name: &str, clusters: &[&str]) -> route::RouteConfiguration {
    let routes = clusters.iter().map(|cluster| route::Route {
        r#match: Some(route::RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".into())),
            ..Default::default()
        }),
        action: Some(Action::Route(route::RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster((*cluster).into())),
            ..Default::default()
        })),
        ..Default::default()
    });
    let host = route::VirtualHost {
        name: name.into(),
        domains: vec!["*".into()],
        routes: routes.collect(),
        ..Default::default()
    };
    route::RouteConfiguration { name: name.into(), virtual_hosts: vec![host], ..Default::default() }
}

fn manager(stat_prefix: &str, routes: RouteSpecifier) -> Any {
    let router = HttpFilter {
        name: "envoy.filters.http.router".into(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(
            type_url::ROUTER,
            router::Router::default(),
        ))),
        ..Default::default()
    };
    let manager = hcm::HttpConnectionManager {
        stat_prefix: stat_prefix.into(),
        route_specifier: Some(routes),
        http_filters: vec![router],
        ..Default::default()
    };
    any(type_url::HTTP_CONNECTION_MANAGER, manager)
}

fn chain(filter: Any) -> listener::FilterChain {
    let filter =
        listener::Filter { name: "filter".into(), config_type: Some(ConfigType::TypedConfig(filter)) };
    listener::FilterChain { filters: vec![filter], ..Default::default() }
}

fn address(address: &str) -> Address {
    let (ip, port) = address.rsplit_once(':').unwrap();
    let socket = SocketAddress {
        address: ip.into(),
        port_specifier: Some(PortSpecifier::PortValue(port.parse().unwrap())),
        ..Default::default()
    };
    Address { address: Some(AddressKind::SocketAddress(socket)) }
}

fn ads() -> ConfigSource {
    ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    }
}

fn resource(kind: Kind, message: impl Message) -> Any {
    any(kind.type_url(), message)
}

fn any(type_url: &str, message: impl Message) -> Any {
    Any { type_url: type_url.into(), value: message.encode_to_vec() }
}
