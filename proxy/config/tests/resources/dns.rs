//! Clusters whose endpoints are the addresses of a name, reached over TLS that verifies the name.

use std::net::IpAddr;
use std::sync::Arc;

use outrigger_config::cluster::{Cluster, Discovery};
use outrigger_config::endpoint::Transport;
use outrigger_proto::xds::cluster as wire;
use outrigger_proto::xds::cluster::cluster::{ClusterDiscoveryType, DiscoveryType, DnsLookupFamily};
use outrigger_proto::xds::core::address::Address;
use outrigger_proto::xds::endpoint::lb_endpoint::HostIdentifier;
use outrigger_proto::xds::tls::common_tls_context::ValidationContextType;
use outrigger_proto::xds::{core, matcher, tls, type_url};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use crate::fixture::*;

/// A cluster whose endpoints are those of a name.
pub fn named(kind: DiscoveryType, host: &str) -> wire::Cluster {
    let mut load_assignment = assignment(CART, &["10.0.0.9:8443"]);
    let endpoint = &mut load_assignment.endpoints[0].lb_endpoints[0];
    let Some(HostIdentifier::Endpoint(of)) = &mut endpoint.host_identifier else { panic!() };
    let Some(Address::SocketAddress(socket)) = &mut of.address.as_mut().unwrap().address else { panic!() };
    socket.address = host.into();
    wire::Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind.into())),
        eds_cluster_config: None,
        dns_lookup_family: DnsLookupFamily::V4Preferred.into(),
        load_assignment: Some(load_assignment),
        ..cart_cluster()
    }
}

/// Verification of the name `issuer.example` under an authority.
pub fn validation() -> tls::CertificateValidationContext {
    static AUTHORITY: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let pem = AUTHORITY.get_or_init(|| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    });
    let specifier = Some(core::data_source::Specifier::InlineString(pem.clone()));
    let exact = matcher::string_matcher::MatchPattern::Exact("issuer.example".into());
    tls::CertificateValidationContext {
        trusted_ca: Some(core::DataSource { specifier, ..Default::default() }),
        match_typed_subject_alt_names: vec![tls::SubjectAltNameMatcher {
            san_type: tls::subject_alt_name_matcher::SanType::Dns.into(),
            matcher: Some(matcher::StringMatcher { match_pattern: Some(exact), ..Default::default() }),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// TLS to `issuer.example`.
pub fn host_tls(validation: tls::CertificateValidationContext) -> tls::UpstreamTlsContext {
    let common = tls::CommonTlsContext {
        alpn_protocols: vec!["http/1.1".into()],
        validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
        ..Default::default()
    };
    tls::UpstreamTlsContext {
        sni: "issuer.example".into(),
        common_tls_context: Some(common),
        ..Default::default()
    }
}

fn decoded(wire: wire::Cluster) -> Arc<Cluster> {
    let mut builder = Mesh::default();
    accept(&mut builder, CART, "1", cluster_body(wire));
    Arc::clone(build(&mut builder).cluster(CART).unwrap())
}

fn addresses(cluster: &Cluster) -> Vec<String> {
    cluster.endpoints.load().list.iter().map(|endpoint| endpoint.address.to_string()).collect()
}

#[test]
fn the_endpoints_of_a_name_are_the_addresses_that_are_stored() {
    let ips = |texts: &[&str]| texts.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
    for kind in [DiscoveryType::StrictDns, DiscoveryType::LogicalDns] {
        let cluster = decoded(named(kind, "issuer.example"));
        let Discovery::Dns(dns) = &cluster.discovery else { panic!("{cluster:?}") };
        assert_eq!((dns.host(), addresses(&cluster).len()), ("issuer.example", 0));
        dns.store(&cluster.endpoints, &ips(&["10.0.0.2", "fd00::1", "10.0.0.1"]));
        assert_eq!(addresses(&cluster), ["10.0.0.1:8443", "10.0.0.2:8443"]);
        let before = Arc::clone(&cluster.endpoints.load());
        dns.store(&cluster.endpoints, &ips(&["10.0.0.1", "10.0.0.2"]));
        assert!(Arc::ptr_eq(&before, &cluster.endpoints.load()), "the order of an answer is no change");
        dns.store(&cluster.endpoints, &ips(&["10.0.0.3", "10.0.0.2"]));
        let after = Arc::clone(&cluster.endpoints.load());
        assert_eq!(addresses(&cluster), ["10.0.0.2:8443", "10.0.0.3:8443"]);
        assert!(Arc::ptr_eq(&before.list[1], &after.list[0]) && after.version > before.version);
    }
}

#[test]
fn a_host_outside_the_mesh_is_verified_by_its_name() {
    let mut wire = named(DiscoveryType::StrictDns, "issuer.example");
    wire.transport_socket_matches.clear();
    wire.transport_socket = socket(type_url::UPSTREAM_TLS_CONTEXT, &host_tls(validation()));
    let cluster = decoded(wire);
    let Discovery::Dns(dns) = &cluster.discovery else { panic!("{cluster:?}") };
    dns.store(&cluster.endpoints, &["10.0.0.1".parse().unwrap()]);
    let endpoint = Arc::clone(&cluster.endpoints.load().list[0]);
    let Transport::Host(tls) = &endpoint.transport else { panic!("{endpoint:?}") };
    assert_eq!((&*tls.name, tls.roots.len(), tls.accepts_tls12), ("issuer.example", 1, true));
    assert_eq!(endpoint.expected_peers(), None);
}

#[test]
fn a_name_needs_one_endpoint() {
    let refused = |change: fn(&mut wire::Cluster)| {
        let mut wire = named(DiscoveryType::StrictDns, "issuer.example");
        change(&mut wire);
        apply(&mut Mesh::default(), CART, "1", cluster_body(wire)).unwrap().field
    };
    assert_eq!(refused(|wire| wire.load_assignment = None), "load_assignment");
    assert_eq!(refused(|wire| wire.load_assignment = Some(assignment(CART, &[]))), "load_assignment");
    let two = |wire: &mut wire::Cluster| {
        wire.load_assignment = Some(assignment(CART, &["10.0.0.1:80", "10.0.0.2:80"]));
    };
    assert_eq!(refused(two), "load_assignment");
    assert_eq!(refused(|wire| wire.dns_lookup_family = 99), "dns_lookup_family");
}
