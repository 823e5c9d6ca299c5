//! Clusters whose endpoints are the addresses of a name, reached over TLS that verifies the name.

use std::sync::Arc;
use std::time::Duration;

use outrigger_config::cluster::Cluster;
use outrigger_config::cluster::dns::{Answer, Resolution};
use outrigger_config::endpoint::Transport;
use outrigger_proto::xds::cluster as wire;
use outrigger_proto::xds::cluster::cluster::{ClusterDiscoveryType, DiscoveryType, DnsLookupFamily};
use outrigger_proto::xds::core::address::Address;
use outrigger_proto::xds::endpoint::lb_endpoint::HostIdentifier;
use outrigger_proto::xds::tls::common_tls_context::ValidationContextType;
use outrigger_proto::xds::{core, matcher, tls, type_url};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use tokio::time::{Instant, advance};

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

/// Ends the lookup that is due with these addresses, which are valid for `valid` seconds.
fn answer(cluster: &Cluster, addresses: &[&str], valid: u64) {
    let (_, lookup) = cluster.discovery.dns().unwrap().resolve();
    let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    lookup.unwrap().end(Ok(Answer { addresses, valid_until: Instant::now() + Duration::from_secs(valid) }));
}

#[test]
fn the_endpoints_of_a_name_are_the_addresses_of_the_answer() {
    for kind in [DiscoveryType::StrictDns, DiscoveryType::LogicalDns] {
        let cluster = decoded(named(kind, "issuer.example"));
        assert_eq!(cluster.discovery.dns().unwrap().host(), "issuer.example");
        assert_eq!(addresses(&cluster).len(), 0);
        answer(&cluster, &["10.0.0.2", "fd00::1", "10.0.0.1"], 0);
        assert_eq!(addresses(&cluster), ["10.0.0.1:8443", "10.0.0.2:8443"]);
        let before = Arc::clone(&cluster.endpoints.load());
        answer(&cluster, &["10.0.0.1", "10.0.0.2"], 0);
        assert!(Arc::ptr_eq(&before, &cluster.endpoints.load()), "the order of an answer is no change");
        answer(&cluster, &["10.0.0.3", "10.0.0.2"], 0);
        let after = Arc::clone(&cluster.endpoints.load());
        assert_eq!(addresses(&cluster), ["10.0.0.2:8443", "10.0.0.3:8443"]);
        assert!(Arc::ptr_eq(&before.list[1], &after.list[0]) && after.version > before.version);
    }
}

#[tokio::test(start_paused = true)]
async fn one_lookup_is_made_at_a_time_and_again_when_its_answer_is_no_longer_valid() {
    let cluster = decoded(named(DiscoveryType::StrictDns, "issuer.example"));
    let dns = cluster.discovery.dns().unwrap();
    let (Resolution::Awaited(first), Some(lookup)) = dns.resolve() else { panic!("no lookup") };
    let (Resolution::Awaited(second), None) = dns.resolve() else { panic!("another lookup") };
    assert!(first.until.is_none() && second.until.is_none(), "nothing is known");
    let valid_until = Instant::now() + Duration::from_secs(30);
    lookup.end(Ok(Answer { addresses: vec!["10.0.0.1".parse().unwrap()], valid_until }));
    assert_eq!((first.end().await, second.end().await), (Ok(()), Ok(())));

    advance(Duration::from_secs(29)).await;
    assert!(matches!(dns.resolve(), (Resolution::Known, None)));
    advance(Duration::from_secs(1)).await;
    let (Resolution::Awaited(third), Some(lookup)) = dns.resolve() else { panic!("no lookup") };
    assert_eq!(third.until, Some(Instant::now() + Duration::from_millis(100)));
    advance(Duration::from_millis(100)).await;
    assert!(matches!(dns.resolve(), (Resolution::Known, None)), "it is waited for shortly");
    assert_eq!(addresses(&cluster), ["10.0.0.1:8443"]);
    drop(lookup);
    assert!(third.end().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn known_addresses_stay_in_use_while_lookups_fail() {
    let cluster = decoded(named(DiscoveryType::StrictDns, "issuer.example"));
    let dns = cluster.discovery.dns().unwrap();
    answer(&cluster, &["10.0.0.1"], 0);
    let (Resolution::Awaited(awaited), Some(lookup)) = dns.resolve() else { panic!("no lookup") };
    assert!(lookup.end(Err("SERVFAIL".into())).is_some(), "the first one that fails");
    assert_eq!(&*awaited.end().await.unwrap_err(), "SERVFAIL");
    assert!(matches!(dns.resolve(), (Resolution::Known, None)), "the next one waits");
    advance(Duration::from_secs(1)).await;
    let (Resolution::Known, Some(lookup)) = dns.resolve() else { panic!("it is not waited for") };
    assert!(lookup.end(Err("SERVFAIL".into())).is_none(), "the second one that fails");
    assert_eq!(addresses(&cluster), ["10.0.0.1:8443"]);
    advance(Duration::from_secs(1)).await;
    let (Resolution::Known, Some(lookup)) = dns.resolve() else { panic!("it is not waited for") };
    let valid_until = Instant::now();
    let found = Ok(Answer { addresses: vec!["10.0.0.2".parse().unwrap()], valid_until });
    assert_eq!(lookup.end(found), Some(Ok(())));
    assert_eq!(addresses(&cluster), ["10.0.0.2:8443"]);
    assert!(matches!(dns.resolve(), (Resolution::Awaited(_), Some(_))), "that one is waited for");
}

#[tokio::test(start_paused = true)]
async fn a_failure_without_addresses_is_remembered_for_a_second() {
    let cluster = decoded(named(DiscoveryType::StrictDns, "issuer.example"));
    let dns = cluster.discovery.dns().unwrap();
    drop(dns.resolve());
    let (Resolution::Failed(why), None) = dns.resolve() else { panic!("no failure") };
    assert_eq!(&*why, "the lookup was given up");
    advance(Duration::from_secs(1)).await;
    assert!(matches!(dns.resolve(), (Resolution::Awaited(_), Some(_))));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_no_longer_exists_has_no_endpoints() {
    let cluster = decoded(named(DiscoveryType::StrictDns, "issuer.example"));
    let dns = cluster.discovery.dns().unwrap();
    answer(&cluster, &["10.0.0.1"], 0);
    answer(&cluster, &[], 30);
    assert_eq!(addresses(&cluster).len(), 0);
    let (Resolution::Failed(why), None) = dns.resolve() else { panic!("it has an address") };
    assert_eq!(&*why, "it has no address in DNS");
    advance(Duration::from_secs(30)).await;
    let (Resolution::Awaited(awaited), Some(lookup)) = dns.resolve() else { panic!("no lookup") };
    assert!(awaited.until.is_none(), "nothing is known");
    let valid_until = Instant::now() + Duration::from_secs(30);
    let found = Ok(Answer { addresses: vec!["10.0.0.2".parse().unwrap()], valid_until });
    assert_eq!((lookup.end(found), awaited.end().await), (Some(Ok(())), Ok(())));
    assert_eq!(addresses(&cluster), ["10.0.0.2:8443"]);
}

#[test]
fn a_changed_cluster_keeps_the_addresses_of_its_name_and_of_no_other() {
    let mut builder = Mesh::default();
    let mut current = |wire: wire::Cluster| {
        accept(&mut builder, CART, "1", cluster_body(wire));
        Arc::clone(build(&mut builder).cluster(CART).unwrap())
    };
    let first = current(named(DiscoveryType::StrictDns, "issuer.example"));
    answer(&first, &["10.0.0.2", "fd00::1"], 60);
    let v6 = DnsLookupFamily::V6Only.into();
    let changed = named(DiscoveryType::StrictDns, "issuer.example");
    let second = current(wire::Cluster { dns_lookup_family: v6, ..changed });
    assert_eq!(addresses(&second), ["[fd00::1]:8443"]);
    assert!(matches!(second.discovery.dns().unwrap().resolve(), (Resolution::Known, None)));
    assert_eq!(addresses(&first), ["10.0.0.2:8443"], "requests in flight use the version that they have");
    let third = current(named(DiscoveryType::StrictDns, "other.example"));
    assert_eq!(addresses(&third).len(), 0);
}

#[test]
fn a_host_outside_the_mesh_is_verified_by_its_name() {
    let mut wire = named(DiscoveryType::StrictDns, "issuer.example");
    wire.transport_socket_matches.clear();
    wire.transport_socket = socket(type_url::UPSTREAM_TLS_CONTEXT, &host_tls(validation()));
    let cluster = decoded(wire);
    answer(&cluster, &["10.0.0.1"], 0);
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
