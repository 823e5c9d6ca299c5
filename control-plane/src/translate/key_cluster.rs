//! The clusters that keys of tokens are fetched from, if they are outside the mesh: a name in DNS over verified TLS. They are among the inbound
//! resources of the workloads that the policies apply to.

use std::collections::BTreeMap;

use outrigger_core::Name;
use outrigger_core::inbound_name::INBOUND_PREFIX;
use outrigger_proto::xds::cluster::Cluster;
use outrigger_proto::xds::cluster::cluster::{ClusterDiscoveryType, DiscoveryType, DnsLookupFamily};
use outrigger_proto::xds::core::socket_address::PortSpecifier;
use outrigger_proto::xds::core::{Address, DataSource, SocketAddress, address, data_source};
use outrigger_proto::xds::endpoint::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::tls::certificate_validation_context::SystemRootCerts;
use outrigger_proto::xds::tls::common_tls_context::ValidationContextType;
use outrigger_proto::xds::tls::subject_alt_name_matcher::SanType;
use outrigger_proto::xds::tls::{
    CertificateValidationContext, CommonTlsContext, SubjectAltNameMatcher, UpstreamTlsContext,
};
use outrigger_proto::xds::type_url;
use sha2::{Digest, Sha256};

use super::scope::{Dialect, Scope};
use super::wire::{any, duration, exact, transport_socket};
use super::{cluster, defaults};
use crate::model::authentication::{Authentication, Issuer, KeySource, KeyUri};
use crate::model::mesh::Mesh;
use crate::model::policy::{Place, Policy, ROOT_NAMESPACE};
use crate::model::registration::{WorkloadEntry, WorkloadPort};
use crate::model::service::AppProtocol;

/// The cluster without endpoints, for keys of a Service that does not exist.
pub(super) const NOWHERE: &str = "inbound|keys|nowhere";

/// The file with the roots of the machine in most Linux distributions. Envoy ignores `system_root_certs`.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Returns the name of the cluster: `inbound|keys|issuer.example:443`, with the beginning of the hash of its roots if it has some.
pub(super) fn name(KeyUri { uri: _, host, port, roots }: &KeyUri) -> Name {
    let of_roots = roots.as_ref().map(|roots| {
        let hash = Sha256::digest(roots.as_bytes());
        hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>()
    });
    let of_roots = of_roots.map_or_else(String::new, |hash| format!("|{hash}"));
    format!("{INBOUND_PREFIX}keys|{host}:{port}{of_roots}").into()
}

/// Returns the names of the clusters that a workload needs.
pub(super) fn names(mesh: &Mesh, workload: &WorkloadEntry) -> Vec<Name> {
    sources(mesh, workload).into_keys().collect()
}

/// Translates the cluster of this name. Returns None unless the workload needs it.
pub(super) fn translate(scope: Scope<'_>, workload: &WorkloadEntry, name: &str) -> Option<Cluster> {
    let source = sources(scope.mesh, workload).remove(name)?;
    let empty = Cluster {
        name: name.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32)),
        connect_timeout: duration(defaults::CONNECT_TIMEOUT),
        ..Default::default()
    };
    let Some(uri) = source else { return Some(empty) };
    Some(Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns as i32)),
        dns_lookup_family: DnsLookupFamily::V4Preferred as i32,
        load_assignment: Some(one_name(name, uri)),
        connect_timeout: duration(TLS_TIMEOUT),
        circuit_breakers: Some(defaults::circuit_breakers()),
        transport_socket: transport_socket("envoy.transport_sockets.tls", verified_tls(scope.dialect(), uri)),
        typed_extension_protocol_options: cluster::protocol_options(AppProtocol::Http),
        ..empty
    })
}

/// How long a connection to another network may take.
const TLS_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3);

/// Returns what the policies that may apply to a workload name, by the names of the clusters. None is a Service that does not exist.
fn sources<'a>(mesh: &'a Mesh, workload: &WorkloadEntry) -> BTreeMap<Name, Option<&'a KeyUri>> {
    let (namespace, root) = (Name::from(workload.key.identity.namespace()), Name::from(ROOT_NAMESPACE));
    let ports: Vec<&WorkloadPort> = workload.ports.iter().collect();
    let applies = |place: &Place| match place {
        Place::Route { .. } => true,
        place => place.covers(workload, &ports),
    };
    let own = mesh.policies::<Authentication>(&namespace).iter();
    let own = own.filter(|policy: &&Policy<_>| policy.places.iter().any(applies));
    let of_mesh = mesh.policies::<Authentication>(&root).iter();
    let of_mesh = of_mesh.filter(|policy: &&Policy<_>| policy.places.contains(&Place::Namespace));
    let issuers = own.chain(of_mesh).flat_map(|policy| &policy.spec.issuers);
    let one = |issuer: &'a Issuer| match &issuer.keys {
        KeySource::Uri(uri) => Some((name(uri), Some(uri))),
        KeySource::Service { exists: false, .. } => Some((NOWHERE.into(), None)),
        KeySource::Service { .. } | KeySource::Inline(_) => None,
    };
    issuers.filter_map(one).collect()
}

/// The host is known by its name alone, and gets no certificate of the workload.
fn verified_tls(dialect: Dialect, uri: &KeyUri) -> Any {
    let data = |specifier| Some(DataSource { specifier: Some(specifier), ..Default::default() });
    let (trusted_ca, system_root_certs) = match (&uri.roots, dialect) {
        (Some(pem), _) => (data(data_source::Specifier::InlineString(pem.to_string())), None),
        (None, Dialect::Outrigger) => (None, Some(SystemRootCerts {})),
        (None, Dialect::Envoy) => (data(data_source::Specifier::Filename(SYSTEM_ROOTS.into())), None),
    };
    let validation = CertificateValidationContext {
        trusted_ca,
        system_root_certs,
        match_typed_subject_alt_names: vec![SubjectAltNameMatcher {
            san_type: SanType::Dns as i32,
            matcher: Some(exact(&uri.host)),
            ..Default::default()
        }],
        ..Default::default()
    };
    let context = UpstreamTlsContext {
        sni: uri.host.to_string(),
        common_tls_context: Some(CommonTlsContext {
            alpn_protocols: vec![outrigger_core::alpn::HTTP1.into()],
            validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
            ..Default::default()
        }),
        ..Default::default()
    };
    any(type_url::UPSTREAM_TLS_CONTEXT, &context)
}

fn one_name(cluster: &str, uri: &KeyUri) -> ClusterLoadAssignment {
    let socket = SocketAddress {
        address: uri.host.to_string(),
        port_specifier: Some(PortSpecifier::PortValue(uri.port.into())),
        ..Default::default()
    };
    let endpoint = Endpoint {
        address: Some(Address { address: Some(address::Address::SocketAddress(socket)) }),
        ..Default::default()
    };
    let endpoint = LbEndpoint {
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..Default::default()
    };
    ClusterLoadAssignment {
        cluster_name: cluster.into(),
        endpoints: vec![LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..Default::default() }],
        ..Default::default()
    }
}
