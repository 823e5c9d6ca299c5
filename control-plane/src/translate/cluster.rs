//! CDS: the clusters of service ports.

use std::collections::{BTreeSet, HashMap};

use outrigger_core::alpn;
use outrigger_core::identity::{IdentityError, SpiffeId};
use outrigger_proto::xds::cluster::Cluster;
use outrigger_proto::xds::cluster::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, TransportSocketMatch,
};
use outrigger_proto::xds::core::{Http1ProtocolOptions, Http2ProtocolOptions};
use outrigger_proto::xds::metadata;
use outrigger_proto::xds::protobuf::{Any, Struct};
use outrigger_proto::xds::sds_secret;
use outrigger_proto::xds::tls::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use outrigger_proto::xds::tls::subject_alt_name_matcher::SanType;
use outrigger_proto::xds::tls::{
    CertificateValidationContext, CommonTlsContext, SubjectAltNameMatcher, UpstreamTlsContext,
};
use outrigger_proto::xds::type_url;
use outrigger_proto::xds::upstream_http::HttpProtocolOptions;
use outrigger_proto::xds::upstream_http::http_protocol_options::explicit_http_config::ProtocolConfig;
use outrigger_proto::xds::upstream_http::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
};

use super::balancing::load_balancing_policy;
use super::destination::{Target, host};
use super::endpoint::endpoints;
use super::scope::Scope;
use super::wire::{ads, any, duration, empty, exact, field, secret, transport_socket};
use super::{backend_traffic, defaults};
use crate::model::service::{AppProtocol, Service, ServicePort};

/// The key of HTTP options in a cluster's protocol options.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// The end of the SNI of every connection to a sidecar (docs/sidecar-contract.md). No application has such a name, so that a
/// permissive port distinguishes sidecars from clients of an application that serves TLS itself.
pub(super) const SNI_SUFFIX: &str = ".mtls.outrigger.internal";

/// Translates the cluster of a service port, or of one endpoint of it.
pub(super) fn cluster(scope: Scope<'_>, target: &Target, service: &Service, port: &ServicePort) -> Cluster {
    let name = target.name(scope.domain());
    let mut cluster = Cluster {
        name: name.to_string(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: ads(), ..Default::default() }),
        connect_timeout: duration(defaults::CONNECT_TIMEOUT),
        circuit_breakers: Some(defaults::circuit_breakers()),
        // With one endpoint there is no alternative: ejecting it would turn slow requests into failed ones.
        outlier_detection: target.only.is_none().then(defaults::outlier_detection),
        load_balancing_policy: Some(load_balancing_policy(&defaults::LOAD_BALANCER, None, scope.dialect())),
        typed_extension_protocol_options: protocol_options(port.protocol),
        transport_socket_matches: vec![
            TransportSocketMatch {
                name: "outrigger-mtls".into(),
                r#match: Some(field(metadata::TRANSPORT, metadata::MTLS)),
                transport_socket: transport_socket(
                    "envoy.transport_sockets.tls",
                    upstream_tls(scope, target, service),
                ),
            },
            TransportSocketMatch {
                name: "plaintext".into(),
                r#match: Some(Struct::default()),
                transport_socket: transport_socket(
                    "envoy.transport_sockets.raw_buffer",
                    empty(type_url::RAW_BUFFER),
                ),
            },
        ],
        ..Default::default()
    };
    backend_traffic::apply(scope, &mut cluster, target, port);
    cluster
}

/// Returns the protocol options for the application: the declared version of HTTP, or if none is declared, that of the client;
/// none for opaque bytes.
pub(super) fn protocol_options(protocol: AppProtocol) -> HashMap<String, Any> {
    let explicit = |config| {
        UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config: Some(config) })
    };
    let protocol = match protocol {
        AppProtocol::H2c | AppProtocol::Grpc => {
            explicit(ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default()))
        }
        AppProtocol::Http => explicit(ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default())),
        AppProtocol::Detect => {
            UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
                http_protocol_options: Some(Http1ProtocolOptions::default()),
                http2_protocol_options: Some(Http2ProtocolOptions::default()),
                ..Default::default()
            })
        }
        AppProtocol::Tcp => return HashMap::new(),
    };
    let options = HttpProtocolOptions { upstream_protocol_options: Some(protocol), ..Default::default() };
    HashMap::from([(HTTP_OPTIONS.into(), any(type_url::HTTP_PROTOCOL_OPTIONS, &options))])
}

fn upstream_tls(scope: Scope<'_>, target: &Target, service: &Service) -> Any {
    let san = |identity: &SpiffeId| SubjectAltNameMatcher {
        san_type: SanType::Uri as i32,
        matcher: Some(exact(identity.as_str())),
        ..Default::default()
    };
    let validation = CertificateValidationContext {
        match_typed_subject_alt_names: identities(scope, target, service).iter().map(san).collect(),
        ..Default::default()
    };
    let context = UpstreamTlsContext {
        sni: format!("{}{SNI_SUFFIX}", host(&target.service, scope.domain())),
        common_tls_context: Some(CommonTlsContext {
            // The proxy offers the one that it is going to use: for requests, upgrades or opaque bytes.
            alpn_protocols: [alpn::HTTP2, alpn::HTTP1, alpn::OPAQUE].map(String::from).to_vec(),
            tls_certificate_sds_secret_configs: vec![secret(sds_secret::CERTIFICATE)],
            validation_context_type: Some(ValidationContextType::CombinedValidationContext(
                CombinedCertificateValidationContext {
                    default_validation_context: Some(validation),
                    validation_context_sds_secret_config: Some(secret(sds_secret::ROOTS)),
                    ..Default::default()
                },
            )),
            ..Default::default()
        }),
        ..Default::default()
    };
    any(type_url::UPSTREAM_TLS_CONTEXT, &context)
}

/// Returns the accepted identities: the accounts that the service names, and those of its endpoints. If there are none, an
/// identity that no workload can have: an empty list would accept every identity of the mesh.
fn identities(scope: Scope<'_>, target: &Target, service: &Service) -> BTreeSet<SpiffeId> {
    let account = |name: &str| -> Result<SpiffeId, IdentityError> {
        SpiffeId::new(scope.settings.trust_domain.clone(), &service.key.namespace, name)
    };
    let serving = endpoints(scope.mesh, target);
    let mut all: BTreeSet<_> =
        serving.iter().filter_map(|endpoint| endpoint.peer.identity().cloned()).collect();
    all.extend(service.service_accounts.iter().filter_map(|name| account(name).ok()));
    if all.is_empty() {
        all.extend(account("nobody.outrigger.invalid"));
    }
    all
}
