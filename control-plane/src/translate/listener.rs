//! LDS: the listener of a destination, without an address, in the form that gRPC clients use (`api_listener`).

use outrigger_core::Name;
use outrigger_proto::xds::core::{Http1ProtocolOptions, Metadata, TrafficDirection};
use outrigger_proto::xds::extension;
use outrigger_proto::xds::hcm::http_connection_manager::{RouteSpecifier, UpgradeConfig};
use outrigger_proto::xds::hcm::{HttpConnectionManager, HttpFilter, Rds, http_filter};
use outrigger_proto::xds::listener::{
    ApiListener, Filter, FilterChain, Listener, ListenerFilter, filter, listener_filter,
};
use outrigger_proto::xds::metadata;
use outrigger_proto::xds::protobuf::{Struct, Value, value};
use outrigger_proto::xds::route::RouteConfiguration;
use outrigger_proto::xds::tcp_proxy::TcpProxy;
use outrigger_proto::xds::tcp_proxy::tcp_proxy::weighted_cluster::ClusterWeight;
use outrigger_proto::xds::tcp_proxy::tcp_proxy::{ClusterSpecifier, WeightedCluster};
use outrigger_proto::xds::type_url;

use super::action::{INVALID_BACKEND, cluster_name, uses_cors};
use super::defaults::{DETECTION_TIMEOUT, NO_IDLE_TIMEOUT, UPGRADES};
use super::destination::Target;
use super::external_auth::ExternalAuths;
use super::scope::Scope;
use super::wire::{ads, any, boolean, duration, empty};
use super::{route, sessions};
use crate::model::route::{RouteTable, TcpRoute};
use crate::model::service::{AppProtocol, ServicePort};

/// Translates the listener of a requested name.
pub(super) fn destination(scope: Scope<'_>, asked: &str, target: &Target, port: &ServicePort) -> Listener {
    let canonical = target.name(scope.domain());
    let table = route::table(scope, target);
    let mut listener = Listener {
        name: asked.into(),
        traffic_direction: TrafficDirection::Outbound as i32,
        metadata: leads_to(&canonical),
        ..Default::default()
    };
    let (http, tcp) = match (table, port.protocol) {
        (Some(RouteTable::Tcp(_)), _) | (_, AppProtocol::Tcp) => (false, true),
        // A route for requests makes the port HTTP: other bytes would bypass it.
        (Some(RouteTable::Http(_)), AppProtocol::Detect) => (true, false),
        (None, AppProtocol::Detect) => (true, true),
        (_, AppProtocol::Http | AppProtocol::H2c | AppProtocol::Grpc) => (true, false),
    };
    if http {
        let authorization = ExternalAuths::of(table);
        let cors = matches!(table, Some(RouteTable::Http(routes)) if uses_cors(routes));
        // A listener and its routes change together, so that no request passes between them without authorization.
        let inline = (!authorization.is_empty()).then(|| route::route_configuration(scope, target)).flatten();
        let routes = match inline {
            Some(table) => {
                RouteSpecifier::RouteConfig(RouteConfiguration { validate_clusters: boolean(false), ..table })
            }
            None => {
                RouteSpecifier::Rds(Rds { config_source: ads(), route_config_name: canonical.to_string() })
            }
        };
        let mut manager = connection_manager(&canonical, &canonical, routes, cors);
        // After CORS, which answers preflight requests, and before the router.
        let at = manager.http_filters.len().saturating_sub(1);
        let filters = authorization.filters(scope.domain(), None);
        let filters = filters.chain(sessions::filter(scope, target, table));
        manager.http_filters.splice(at..at, filters);
        listener.api_listener =
            Some(ApiListener { api_listener: Some(any(type_url::HTTP_CONNECTION_MANAGER, &manager)) });
    }
    if tcp {
        let clusters = match table {
            Some(RouteTable::Tcp(route)) => weighted(route, target, scope.domain()),
            Some(RouteTable::Http(_)) | None => ClusterSpecifier::Cluster(canonical.to_string()),
        };
        let proxy = tcp_filter(&canonical, clusters);
        listener.default_filter_chain = Some(FilterChain { filters: vec![proxy], ..Default::default() });
    }
    if http && tcp {
        listener.listener_filters = vec![ListenerFilter {
            name: extension::HTTP_INSPECTOR.into(),
            config_type: Some(listener_filter::ConfigType::TypedConfig(empty(type_url::HTTP_INSPECTOR))),
            ..Default::default()
        }];
        listener.listener_filters_timeout = duration(DETECTION_TIMEOUT);
        // A client of a server that speaks first sends no bytes at first: after the timeout they are opaque.
        listener.continue_on_listener_filters_timeout = true;
    }
    listener
}

/// Returns metadata with the destination of a listener or chain, for records and metrics of our proxy. Other clients ignore it.
pub(super) fn leads_to(canonical: &str) -> Option<Metadata> {
    let name = Value { kind: Some(value::Kind::StringValue(canonical.into())) };
    let fields = Struct { fields: [(metadata::NAME.into(), name)].into() };
    Some(Metadata { filter_metadata: [(metadata::DESTINATION.into(), fields)].into(), ..Default::default() })
}

/// Returns an HTTP connection manager with the default filters. `canonical` is the destination, and also the host of HTTP/1.0
/// requests that have none.
pub(super) fn connection_manager(
    stat: &str,
    canonical: &str,
    routes: RouteSpecifier,
    cors: bool,
) -> HttpConnectionManager {
    let filter = |name: &str, type_url| HttpFilter {
        name: name.into(),
        config_type: Some(http_filter::ConfigType::TypedConfig(empty(type_url))),
        ..Default::default()
    };
    let cors = cors.then(|| filter(extension::CORS, type_url::CORS));
    HttpConnectionManager {
        stat_prefix: stat.into(),
        route_specifier: Some(routes),
        http_filters: cors
            .into_iter()
            .chain([filter("envoy.filters.http.router", type_url::ROUTER)])
            .collect(),
        stream_idle_timeout: duration(NO_IDLE_TIMEOUT),
        http_protocol_options: Some(Http1ProtocolOptions {
            accept_http_10: true,
            default_host_for_http_10: canonical.into(),
            ..Default::default()
        }),
        upgrade_configs: UPGRADES
            .iter()
            .map(|name| UpgradeConfig { upgrade_type: String::from(*name), ..Default::default() })
            .collect(),
        ..Default::default()
    }
}

/// Returns the TCP proxy as a network filter.
pub(super) fn tcp_filter(stat: &str, clusters: ClusterSpecifier) -> Filter {
    let proxy = TcpProxy {
        stat_prefix: stat.into(),
        cluster_specifier: Some(clusters),
        idle_timeout: duration(NO_IDLE_TIMEOUT),
        ..Default::default()
    };
    network_filter("envoy.filters.network.tcp_proxy", any(type_url::TCP_PROXY, &proxy))
}

/// Returns a network filter.
pub(super) fn network_filter(name: &str, config: outrigger_proto::xds::protobuf::Any) -> Filter {
    Filter { name: name.into(), config_type: Some(filter::ConfigType::TypedConfig(config)) }
}

/// Returns the weighted clusters of a TCP route. The share of an invalid backend goes to a cluster that does not exist, and so
/// is refused.
fn weighted(route: &TcpRoute, of: &Target, cluster_domain: &str) -> ClusterSpecifier {
    let live = route.backends.iter().filter(|backend| backend.weight > 0);
    let mut clusters: Vec<_> = live
        .map(|backend| ClusterWeight {
            name: cluster_name(&backend.target, of, cluster_domain),
            weight: backend.weight,
            ..Default::default()
        })
        .collect();
    match clusters.len() {
        0 => ClusterSpecifier::Cluster(INVALID_BACKEND.into()),
        1 => ClusterSpecifier::Cluster(clusters.remove(0).name),
        _ => ClusterSpecifier::WeightedClusters(WeightedCluster { clusters }),
    }
}

/// Returns the names of a service in a wildcard subscription: the canonical names of its ports.
pub(super) fn canonical_names(
    service: &crate::model::service::Service,
    cluster_domain: &str,
) -> impl Iterator<Item = Name> {
    let target = |port: &ServicePort| Target::service(service.key.clone(), port.number).name(cluster_domain);
    service.ports.iter().map(target)
}
