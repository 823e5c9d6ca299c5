//! The inbound resources of a workload: listeners with TLS, and the clusters of its application.
//!
//! Each listener serves the ports that share its address. A pod has one, to which connections to all of its ports are
//! redirected; undeclared ports are served there too, by detection.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use outrigger_core::Name;
use outrigger_core::inbound_name::{INBOUND_PREFIX, inbound_name};
use outrigger_proto::xds::cluster::Cluster;
use outrigger_proto::xds::cluster::cluster::{ClusterDiscoveryType, DiscoveryType};
use outrigger_proto::xds::core::{Metadata, TrafficDirection};
use outrigger_proto::xds::endpoint::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use outrigger_proto::xds::extension;
use outrigger_proto::xds::listener::{FilterChain, Listener, ListenerFilter, listener_filter};
use outrigger_proto::xds::metadata;
use outrigger_proto::xds::protobuf::{Struct, Value, value};
use outrigger_proto::xds::type_url;

use super::destination::Target;
use super::inbound_chains::PortChains;
use super::port_policies::PortPolicies;
use super::scope::Scope;
use super::wire::{boolean, duration, empty, socket_address};
use super::{cluster, defaults, key_cluster};
use crate::model::mesh::Mesh;
use crate::model::registration::{MtlsMode, WorkloadEntry, WorkloadPort};
use crate::model::route::RouteTable;
use crate::model::service::{AppProtocol, Overload};

/// The destination of connections to undeclared ports in records and metrics.
const UNDECLARED: &str = "outrigger.undeclared";

/// The end of the name of the second cluster of a port whose protocol is not declared: the application over HTTP/2.
const HTTP2: &str = "|h2c";

/// Translates the listener of this name, for all ports of the workload that share its address.
pub(super) fn listener(scope: Scope<'_>, workload: &WorkloadEntry, name: &str) -> Option<Listener> {
    let capture = workload.capture.filter(|address| *inbound_name(*address) == *name);
    let ports: Vec<_> = workload.ports.iter().filter(|port| *inbound_name(port.listen) == *name).collect();
    let address = capture.or_else(|| Some(ports.first()?.listen))?;
    let transparent = capture.is_some() || ports.iter().any(|port| port.original_destination);
    let mut chains = Vec::new();
    let mut permissive = capture.is_some() && workload.mtls == MtlsMode::Permissive;
    for (at, port) in ports.iter().enumerate() {
        // A connection has a destination port, but no service: services that share a port of the application share its chains.
        let same = |other: &&WorkloadPort| transparent && other.application.port() == port.application.port();
        if ports[..at].iter().any(same) {
            continue;
        }
        let sharing: Vec<_> = ports[at..].iter().copied().filter(same).collect();
        let mode = port.mtls.unwrap_or(workload.mtls);
        permissive |= mode == MtlsMode::Permissive;
        let sharing = if sharing.is_empty() { vec![*port] } else { sharing };
        let policies = PortPolicies::of(scope, workload, Some(port.application.port()), &sharing);
        chains.extend(port_chains(scope, &sharing, mode, transparent, policies));
    }
    if capture.is_some() {
        let policies = PortPolicies::of(scope, workload, None, &[]);
        chains.extend(undeclared_chains(scope, workload.mtls, policies));
    }
    Some(Listener {
        name: name.into(),
        address: socket_address(address),
        use_original_dst: boolean(true).filter(|_| transparent),
        filter_chains: chains,
        traffic_direction: TrafficDirection::Inbound as i32,
        listener_filters: if permissive { inspectors() } else { Vec::new() },
        listener_filters_timeout: duration(defaults::FIRST_BYTES_TIMEOUT).filter(|_| permissive),
        // The client of a server that speaks first sends no bytes at first.
        continue_on_listener_filters_timeout: permissive,
        ..Default::default()
    })
}

/// Translates the cluster of this name: the application behind one port, or behind all undeclared ones, or where keys of tokens are.
pub(super) fn cluster(scope: Scope<'_>, workload: &WorkloadEntry, name: &str) -> Option<Cluster> {
    if let Some(keys) = key_cluster::translate(scope, workload, name) {
        return Some(keys);
    }
    let (base, http2) = name.strip_suffix(HTTP2).map_or((name, false), |base| (base, true));
    let is_undeclared = workload.capture.is_some() && base == undeclared();
    let port = workload.ports.iter().find(|port| *inbound_name(port.application) == *base);
    let protocol = match port {
        Some(port) => application_protocol(scope.mesh, port),
        None if is_undeclared => AppProtocol::Detect,
        None => return None,
    };
    let protocol = match (protocol, http2) {
        (AppProtocol::Detect, false) => AppProtocol::Http,
        (AppProtocol::Detect, true) => AppProtocol::H2c,
        (declared, false) => declared,
        (_, true) => return None,
    };
    let address = port.filter(|port| !port.original_destination).map(|port| port.application);
    let kind = if address.is_some() { DiscoveryType::Static } else { DiscoveryType::OriginalDst };
    Some(Cluster {
        name: name.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind as i32)),
        load_assignment: address.map(|address| one_endpoint(name, address)),
        connect_timeout: duration(defaults::CONNECT_TIMEOUT),
        circuit_breakers: Some(defaults::circuit_breakers()),
        // No outlier detection: there is no other instance.
        typed_extension_protocol_options: cluster::protocol_options(protocol),
        metadata: port.map(|port| overload_metadata(scope.mesh, port)),
        ..Default::default()
    })
}

/// Returns the names of the listeners of a workload, each once.
pub(super) fn listener_names(workload: &WorkloadEntry) -> Vec<Name> {
    let addresses: BTreeSet<_> =
        workload.ports.iter().map(|port| port.listen).chain(workload.capture).collect();
    addresses.into_iter().map(inbound_name).collect()
}

/// Returns the names of the clusters of its application and of keys of tokens, each once.
pub(super) fn cluster_names(mesh: &Mesh, workload: &WorkloadEntry) -> Vec<Name> {
    let mut names = BTreeSet::new();
    for port in &workload.ports {
        let name = inbound_name(port.application);
        if application_protocol(mesh, port) == AppProtocol::Detect {
            names.insert(format!("{name}{HTTP2}").into());
        }
        names.insert(name);
    }
    if workload.capture.is_some() {
        names.extend([undeclared().into(), format!("{}{HTTP2}", undeclared()).into()]);
    }
    names.extend(key_cluster::names(mesh, workload));
    names.into_iter().collect()
}

/// Returns the chains of the first of these ports, which share the port of the application.
fn port_chains(
    scope: Scope<'_>,
    sharing: &[&WorkloadPort],
    mode: MtlsMode,
    transparent: bool,
    policies: PortPolicies<'_>,
) -> Vec<FilterChain> {
    let [port, ..] = sharing else { return Vec::new() };
    let protocols: Vec<_> = sharing.iter().map(|port| application_protocol(scope.mesh, port)).collect();
    let is = |protocol| protocols.iter().all(|other| *other == protocol);
    let tcp_route = || sharing.iter().any(|port| has_tcp_route(scope.mesh, port));
    let service = port.services.first();
    let canonical = match service {
        Some(service) => Target::service(service.clone(), port.service_port).name(scope.domain()),
        None => UNDECLARED.into(),
    };
    let cluster = inbound_name(port.application);
    let http2 = format!("{cluster}{HTTP2}");
    PortChains {
        prefix: format!("{INBOUND_PREFIX}{}", port.service_port),
        suffix: service.map_or_else(|| "undeclared".into(), ToString::to_string),
        destination_port: transparent.then(|| port.application.port()),
        canonical: &canonical,
        cluster: &cluster,
        http2_cluster: (protocols[0] == AppProtocol::Detect).then_some(&http2),
        http: !is(AppProtocol::Tcp),
        opaque: !protocols.iter().all(is_http) || tcp_route(),
        mode,
        policies,
        tells_caller: scope.viewer.forwards_client_certificates,
    }
    .chains()
}

/// Returns the chains of the ports that no chain names.
fn undeclared_chains(scope: Scope<'_>, mode: MtlsMode, policies: PortPolicies<'_>) -> Vec<FilterChain> {
    let cluster = undeclared();
    let http2 = format!("{cluster}{HTTP2}");
    PortChains {
        prefix: format!("{INBOUND_PREFIX}*"),
        suffix: "undeclared".into(),
        destination_port: None,
        canonical: UNDECLARED,
        cluster: &cluster,
        http2_cluster: Some(&http2),
        http: true,
        opaque: true,
        mode,
        policies,
        tells_caller: scope.viewer.forwards_client_certificates,
    }
    .chains()
}

/// Returns the name of the cluster of all undeclared ports.
fn undeclared() -> String {
    format!("{INBOUND_PREFIX}undeclared")
}

/// Returns the listener filters that distinguish mTLS, TLS to the application, HTTP and other plain text.
fn inspectors() -> Vec<ListenerFilter> {
    let filter = |name: &str, type_url| ListenerFilter {
        name: name.into(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(empty(type_url))),
        ..Default::default()
    };
    vec![
        filter(extension::TLS_INSPECTOR, type_url::TLS_INSPECTOR),
        filter(extension::HTTP_INSPECTOR, type_url::HTTP_INSPECTOR),
    ]
}

/// Returns metadata for our own proxy: what it does about overload of the application. Other clients ignore it. The application
/// of undeclared ports has none, since several programs may serve them.
fn overload_metadata(mesh: &Mesh, port: &WorkloadPort) -> Metadata {
    let mut modes = port.services.iter().filter_map(|key| mesh.overload(key, port.service_port));
    let mode = modes.find(|mode| *mode != Overload::default());
    let mode = Value { kind: Some(value::Kind::StringValue(mode.unwrap_or_default().name().into())) };
    let fields = Struct { fields: [(metadata::MODE.into(), mode)].into() };
    Metadata { filter_metadata: [(metadata::OVERLOAD.into(), fields)].into(), ..Default::default() }
}

fn one_endpoint(cluster: &str, address: SocketAddr) -> ClusterLoadAssignment {
    let endpoint = LbEndpoint {
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(Endpoint {
            address: socket_address(address),
            ..Default::default()
        })),
        ..Default::default()
    };
    ClusterLoadAssignment {
        cluster_name: cluster.into(),
        endpoints: vec![LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..Default::default() }],
        ..Default::default()
    }
}

/// Returns true if the protocol is declared to be HTTP.
fn is_http(protocol: &AppProtocol) -> bool {
    matches!(protocol, AppProtocol::Http | AppProtocol::H2c | AppProtocol::Grpc)
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
