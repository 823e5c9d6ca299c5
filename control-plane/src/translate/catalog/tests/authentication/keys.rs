//! Keys of tokens outside the mesh: their clusters, and the algorithms that their tokens may have.

use outrigger_proto::xds::core::data_source::Specifier;
use outrigger_proto::xds::core::transport_socket::ConfigType;
use outrigger_proto::xds::hcm::http_filter;
use outrigger_proto::xds::jwt_authn::JwtAuthentication;
use outrigger_proto::xds::jwt_authn::jwt_provider::JwksSourceSpecifier;
use outrigger_proto::xds::listener::filter;
use outrigger_proto::xds::rbac_filter;
use outrigger_proto::xds::tls::common_tls_context::ValidationContextType;
use outrigger_proto::xds::tls::{CertificateValidationContext, UpstreamTlsContext};

use super::super::inbound::serving_from;
use super::super::*;
use crate::model::mesh_builder::MeshBuilder;
use crate::model::mesh_builder::testing::service;

fn policy(keys: &str, more: &str) -> String {
    format!(
        "{{apiVersion: outrigger.dev/v1alpha1, kind: AuthenticationPolicy, metadata: {{name: a, namespace: shop}},
           spec: {{jwt: {{issuers: [{{issuer: i, keys: {{{keys}}}{more}}}]}}}}}}"
    )
}

fn serving(resources: &[&str]) -> Catalog {
    let mut builder = MeshBuilder::default();
    builder.with(&[&service("cart", 80, "http")]).with(resources);
    serving_from(builder.mesh())
}

fn keys_clusters(catalog: &Catalog) -> Vec<Name> {
    let mut names = catalog.wildcard(&shop(), Kind::Cluster);
    names.retain(|name| name.starts_with("inbound|keys|"));
    names
}

fn validation(catalog: &Catalog, viewer: &Viewer, name: &str) -> (String, CertificateValidationContext) {
    let cluster: Cluster = catalog.resource(viewer, Kind::Cluster, name).unwrap().decode();
    let socket = cluster.transport_socket.unwrap();
    let Some(ConfigType::TypedConfig(any)) = socket.config_type else { panic!("{socket:?}") };
    let tls = UpstreamTlsContext::decode(any.value.as_slice()).unwrap();
    match tls.common_tls_context.unwrap().validation_context_type {
        Some(ValidationContextType::ValidationContext(context)) => (tls.sni, context),
        other => panic!("{other:?}"),
    }
}

#[test]
fn keys_outside_the_mesh_are_fetched_from_a_name_that_is_verified() {
    let catalog = serving(&[&policy("uri: 'https://Issuer.example:8443/keys'", "")]);
    assert_eq!(keys_clusters(&catalog), [Name::from("inbound|keys|issuer.example:8443")]);
    let name = "inbound|keys|issuer.example:8443";
    let cluster: Cluster = read(&catalog, Kind::Cluster, name);
    let strict = ClusterDiscoveryType::Type(DiscoveryType::StrictDns.into());
    assert_eq!(cluster.cluster_discovery_type, Some(strict));
    let (sni, ours) = validation(&catalog, &shop(), name);
    assert_eq!(sni, "issuer.example");
    assert!(ours.system_root_certs.is_some() && ours.match_typed_subject_alt_names.len() == 1);
    let envoy = Viewer { dialect: Dialect::Envoy, ..shop() };
    let (_, theirs) = validation(&catalog, &envoy, name);
    let file = theirs.trusted_ca.unwrap().specifier.unwrap();
    assert_eq!(file, Specifier::Filename("/etc/ssl/certs/ca-certificates.crt".into()));
    let other = viewer("office", Mode::OnDemand);
    assert!(catalog.resource(&other, Kind::Cluster, name).is_none(), "no policy of it needs the keys");
}

#[test]
fn a_private_authority_makes_a_cluster_of_its_own() {
    let pem = rcgen::generate_simple_self_signed(Vec::<String>::new()).unwrap().cert.pem();
    let keys = format!("uri: 'https://issuer.example/keys', caCertificates: {pem:?}");
    let catalog = serving(&[&policy(&keys, "")]);
    let [name] = &keys_clusters(&catalog)[..] else { panic!() };
    let hash = name.strip_prefix("inbound|keys|issuer.example:443|").unwrap();
    assert_eq!(hash.len(), 16);
    let (_, context) = validation(&catalog, &shop(), name);
    assert_eq!(context.trusted_ca.unwrap().specifier, Some(Specifier::InlineString(pem)));
    assert!(context.system_root_certs.is_none());
}

#[test]
fn keys_of_a_service_that_does_not_exist_are_nowhere() {
    let keys = "service: {name: idp, port: 80, path: /keys}";
    let catalog = serving(&[&policy(keys, "")]);
    assert_eq!(keys_clusters(&catalog), [Name::from("inbound|keys|nowhere")]);
    let cluster: Cluster = read(&catalog, Kind::Cluster, "inbound|keys|nowhere");
    assert!(cluster.load_assignment.is_none() && cluster.transport_socket.is_none());
    let catalog = serving(&[&policy(keys, ""), &service("idp", 80, "http")]);
    assert!(keys_clusters(&catalog).is_empty());
}

#[test]
fn algorithms_of_a_set_that_is_elsewhere_are_enforced_after_the_tokens_were_verified() {
    let filters = |keys: &str| {
        let catalog = serving(&[&policy(keys, ", algorithms: [ES256]")]);
        let listener: Listener = read(&catalog, Kind::Listener, "inbound|127.0.0.1:9000");
        let Some(filter::ConfigType::TypedConfig(any)) = &listener.filter_chains[0].filters[0].config_type
        else {
            panic!("{listener:?}")
        };
        HttpConnectionManager::decode(any.value.as_slice()).unwrap().http_filters
    };
    let names = |keys: &str| {
        let names = filters(keys).into_iter().map(|filter| filter.name);
        names.filter(|name| name.starts_with("outrigger.")).collect::<Vec<_>>()
    };
    let elsewhere = "uri: 'https://issuer.example/keys'";
    let inline = r#"inline: '{"keys": [{"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}'"#;
    let tokens = "outrigger.authentication.jwt";
    assert_eq!(names(elsewhere), [tokens, "outrigger.authentication.algorithms"]);
    assert_eq!(names(inline), [tokens], "its keys say which algorithms they are for");
    let value = |filter: &outrigger_proto::xds::hcm::HttpFilter| match &filter.config_type {
        Some(http_filter::ConfigType::TypedConfig(any)) => any.value.clone(),
        other => panic!("{other:?}"),
    };
    let all = filters(elsewhere);
    let provider = JwtAuthentication::decode(&*value(&all[0])).unwrap().providers.remove("shop/a/0").unwrap();
    assert_eq!(provider.header_in_metadata, "header of shop/a/0");
    let rules = rbac_filter::Rbac::decode(&*value(&all[1])).unwrap().rules.unwrap();
    assert_eq!(rules.policies.keys().collect::<Vec<_>>(), ["shop/a/0 (algorithms)"]);
    let provider = JwtAuthentication::decode(&*value(&filters(inline)[0])).unwrap();
    let Some(JwksSourceSpecifier::LocalJwks(keys)) = &provider.providers["shop/a/0"].jwks_source_specifier
    else {
        panic!("{provider:?}")
    };
    let Some(Specifier::InlineString(set)) = &keys.specifier else { panic!("{keys:?}") };
    assert!(set.contains("\"alg\":\"ES256\""), "{set}");
}
