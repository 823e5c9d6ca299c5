//! The inbound resources of a registered workload: listeners with TLS, and the clusters of its application.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use outrigger_core::Name;
use outrigger_core::alpn;
use outrigger_core::inbound_name::{INBOUND_PREFIX, inbound_name};
use outrigger_proto::xds::cluster::Cluster;
use outrigger_proto::xds::cluster::cluster::{ClusterDiscoveryType, DiscoveryType};
use outrigger_proto::xds::core::TrafficDirection;
use outrigger_proto::xds::endpoint::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use outrigger_proto::xds::hcm::http_connection_manager::RouteSpecifier;
use outrigger_proto::xds::listener::{FilterChain, FilterChainMatch, Listener};
use outrigger_proto::xds::route::route_action::ClusterSpecifier as RouteCluster;
use outrigger_proto::xds::route::{Route, RouteAction, route::Action};
use outrigger_proto::xds::sds_secret;
use outrigger_proto::xds::tcp_proxy::tcp_proxy::ClusterSpecifier;
use outrigger_proto::xds::tls::common_tls_context::ValidationContextType;
use outrigger_proto::xds::tls::{CommonTlsContext, DownstreamTlsContext};
use outrigger_proto::xds::type_url;

use super::destination::Target;
use super::listener::{connection_manager, leads_to, network_filter, tcp_filter};
use super::scope::Scope;
use super::wire::{any, boolean, duration, secret, socket_address, transport_socket, uint};
use super::{cluster, defaults, matching, route};
use crate::model::mesh::Mesh;
use crate::model::registration::{WorkloadEntry, WorkloadPort};
use crate::model::route::RouteTable;
use crate::model::service::AppProtocol;

/// Translates the listener of this name, for all ports of the workload that share its address.
pub(super) fn listener(scope: Scope<'_>, workload: &WorkloadEntry, name: &str) -> Option<Listener> {
    let ports: Vec<_> = workload.ports.iter().filter(|port| *inbound_name(port.listen) == *name).collect();
    let address = ports.first()?.listen;
    let transparent = ports.iter().any(|port| port.original_destination);
    let chains = ports.iter().flat_map(|port| chains(scope, port, transparent)).collect();
    Some(Listener {
        name: name.into(),
        address: socket_address(address),
        use_original_dst: boolean(true).filter(|_| transparent),
        filter_chains: chains,
        traffic_direction: TrafficDirection::Inbound as i32,
        ..Default::default()
    })
}

/// Translates the cluster of this name: the application behind one port.
pub(super) fn application(scope: Scope<'_>, workload: &WorkloadEntry, name: &str) -> Option<Cluster> {
    let port = workload.ports.iter().find(|port| *inbound_name(port.application) == *name)?;
    let kind = if port.original_destination { DiscoveryType::OriginalDst } else { DiscoveryType::Static };
    let endpoint = LbEndpoint {
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(Endpoint {
            address: socket_address(port.application),
            ..Default::default()
        })),
        ..Default::default()
    };
    let assignment = ClusterLoadAssignment {
        cluster_name: name.into(),
        endpoints: vec![LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..Default::default() }],
        ..Default::default()
    };
    Some(Cluster {
        name: name.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind as i32)),
        load_assignment: (!port.original_destination).then_some(assignment),
        connect_timeout: duration(defaults::CONNECT_TIMEOUT),
        circuit_breakers: Some(defaults::circuit_breakers()),
        // No outlier detection: there is no other instance.
        typed_extension_protocol_options: cluster::protocol_options(application_protocol(scope.mesh, port)),
        ..Default::default()
    })
}

/// Returns the names of the listeners of a workload, each once.
pub(super) fn listener_names(workload: &WorkloadEntry) -> Vec<Name> {
    names(workload, |port| port.listen)
}

/// Returns the names of the clusters of its application, each once.
pub(super) fn application_names(workload: &WorkloadEntry) -> Vec<Name> {
    names(workload, |port| port.application)
}

fn names(workload: &WorkloadEntry, of: fn(&WorkloadPort) -> SocketAddr) -> Vec<Name> {
    let names: BTreeMap<_, _> = workload.ports.iter().map(|port| (inbound_name(of(port)), ())).collect();
    names.into_keys().collect()
}

/// Returns true if a TCPRoute makes the port opaque for some clients, whatever the protocol of the application is.
fn has_tcp_route(mesh: &Mesh, port: &WorkloadPort) -> bool {
    let routes =
        port.services.iter().filter_map(|key| mesh.service(key)).flat_map(|entry| &entry.routes.ports);
    let mut tables = routes
        .filter(|(number, _)| *number == port.service_port)
        .flat_map(|(_, routes)| routes.producer.iter().chain(routes.consumers.values()));
    tables.any(|table| matches!(**table, RouteTable::Tcp(_)))
}

/// Returns the application's protocol: as registered, else that of the service's port.
fn application_protocol(mesh: &Mesh, port: &WorkloadPort) -> AppProtocol {
    let of_service = || {
        let entry = mesh.service(port.services.first()?)?;
        Some(entry.service.port(port.service_port)?.protocol)
    };
    port.protocol.or_else(of_service).unwrap_or(AppProtocol::Detect)
}

/// Returns the filter chains of one port. ALPN, which the peer's sidecar chose, distinguishes requests from opaque bytes.
fn chains(scope: Scope<'_>, port: &WorkloadPort, transparent: bool) -> Vec<FilterChain> {
    let protocol = application_protocol(scope.mesh, port);
    let Some(service) = port.services.first() else { return Vec::new() };
    let canonical = Target::service(service.clone(), port.service_port).name(scope.domain());
    let stat = format!("{INBOUND_PREFIX}{canonical}");
    let cluster = inbound_name(port.application);
    let chain = |word: &str, alpn: &[&str], filter| {
        let alpn: Vec<_> = alpn.iter().map(|name| String::from(*name)).collect();
        FilterChain {
            name: format!("{INBOUND_PREFIX}{}|{word}|{service}", port.service_port),
            filter_chain_match: Some(FilterChainMatch {
                destination_port: transparent.then(|| uint(port.application.port().into())).flatten(),
                application_protocols: alpn.clone(),
                ..Default::default()
            }),
            filters: vec![filter],
            transport_socket: transport_socket("envoy.transport_sockets.tls", downstream_tls(alpn)),
            metadata: leads_to(&canonical),
            ..Default::default()
        }
    };
    let http = || {
        let routes =
            RouteSpecifier::RouteConfig(route::configuration(&cluster, vec![to_application(&cluster)]));
        let manager = connection_manager(&stat, &canonical, routes, false);
        let manager = any(type_url::HTTP_CONNECTION_MANAGER, &manager);
        let filter = network_filter("envoy.filters.network.http_connection_manager", manager);
        chain("http", &[alpn::HTTP2, alpn::HTTP1], filter)
    };
    let tcp =
        || chain("tcp", &[alpn::OPAQUE], tcp_filter(&stat, ClusterSpecifier::Cluster(cluster.to_string())));
    match protocol {
        AppProtocol::Tcp => vec![tcp()],
        AppProtocol::Detect => vec![http(), tcp()],
        AppProtocol::Http | AppProtocol::H2c | AppProtocol::Grpc if has_tcp_route(scope.mesh, port) => {
            vec![http(), tcp()]
        }
        AppProtocol::Http | AppProtocol::H2c | AppProtocol::Grpc => vec![http()],
    }
}

/// Returns the route of all requests to the application, without timeouts and retries, which the client's sidecar applies.
fn to_application(cluster: &str) -> Route {
    Route {
        name: defaults::ROUTE.into(),
        r#match: Some(matching::everything()),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(RouteCluster::Cluster(cluster.into())),
            timeout: duration(std::time::Duration::ZERO),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn downstream_tls(alpn: Vec<String>) -> outrigger_proto::xds::protobuf::Any {
    let context = DownstreamTlsContext {
        require_client_certificate: boolean(true),
        common_tls_context: Some(CommonTlsContext {
            alpn_protocols: alpn,
            tls_certificate_sds_secret_configs: vec![secret(sds_secret::CERTIFICATE)],
            validation_context_type: Some(ValidationContextType::ValidationContextSdsSecretConfig(secret(
                sds_secret::ROOTS,
            ))),
            ..Default::default()
        }),
        ..Default::default()
    };
    any(type_url::DOWNSTREAM_TLS_CONTEXT, &context)
}
