//! The messages of a small mesh, in the form of the control plane's contract.

use std::collections::HashMap;
use std::sync::Arc;

use outrigger_config::build::Builder;
use outrigger_config::compiled::{Compiled, Raw, Unusable};
use outrigger_config::listener::Listener;
use outrigger_config::resources::Resources;
use outrigger_config::snapshot::Snapshot;
use outrigger_proto::kind::Kind;
use outrigger_proto::xds::protobuf::{self, Any};
use outrigger_proto::xds::{
    cluster, core, endpoint, hcm, listener, matcher, raw_buffer, route, router, tcp_proxy, tls, type_url,
    upstream_http,
};
use prost::Message;

pub const CART: &str = "cart.shop.svc.cluster.local:80";
pub const CART_ID: &str = "spiffe://cluster.local/ns/shop/sa/cart";

pub fn packed(type_url: &str, message: &impl Message) -> Any {
    Any { type_url: type_url.into(), value: message.encode_to_vec() }
}

pub fn raw(name: &str, version: &str, body: Any) -> Raw {
    Raw { name: name.into(), aliases: vec![], version: version.into(), body }
}

/// Published resources and the builder that makes snapshots of them.
#[derive(Default)]
pub struct Mesh {
    pub resources: Resources,
    before: Resources,
    builder: Builder,
}

impl Mesh {
    pub fn with_own(own: Arc<Listener>) -> Self {
        Self { builder: Builder::new(vec![own]), ..Self::default() }
    }

    /// Adds a resource of the body's type. A refused resource changes nothing.
    pub fn take(&mut self, raw: Raw) -> Result<(), Unusable> {
        let kind = Kind::from_type_url(&raw.body.type_url).unwrap();
        let before = self.resources.get(kind, &raw.name).cloned();
        self.resources.insert(kind, Arc::new(Compiled::new(kind, raw, before.as_deref())?));
        Ok(())
    }

    /// Builds a snapshot. Returns `None` if only endpoints have changed.
    pub fn build(&mut self) -> Option<Arc<Snapshot>> {
        let snapshot = self.builder.build(&self.before, &self.resources);
        self.before = self.resources.clone();
        snapshot
    }
}

/// Applies one resource of the body's type. Returns the error if it is refused.
pub fn apply(mesh: &mut Mesh, name: &str, version: &str, body: Any) -> Option<Unusable> {
    mesh.take(raw(name, version, body)).err()
}

/// Applies a resource that must be accepted.
pub fn accept(mesh: &mut Mesh, name: &str, version: &str, body: Any) {
    assert_eq!(apply(mesh, name, version, body), None);
}

/// Builds the snapshot of a mesh in which more than endpoints has changed.
pub fn build(mesh: &mut Mesh) -> Arc<Snapshot> {
    mesh.build().unwrap()
}

/// A mesh with all resources of `cart`.
pub fn cart() -> Mesh {
    let mut builder = Mesh::default();
    accept(&mut builder, CART, "1", cluster_body(cart_cluster()));
    accept(&mut builder, CART, "1", endpoints(CART, &["10.0.0.7:8080"]));
    accept(&mut builder, "cart:80", "1", listener_body(destination("cart:80")));
    accept(&mut builder, CART, "1", table_body(table(CART, CART)));
    builder
}

pub fn ads() -> Option<core::ConfigSource> {
    let specifier = core::config_source::ConfigSourceSpecifier::Ads(Default::default());
    Some(core::ConfigSource { config_source_specifier: Some(specifier), ..Default::default() })
}

pub fn number(value: u32) -> Option<protobuf::UInt32Value> {
    Some(protobuf::UInt32Value { value })
}

pub fn seconds(seconds: i64) -> Option<protobuf::Duration> {
    Some(protobuf::Duration { seconds, nanos: 0 })
}

fn text_struct(fields: &[(&str, &str)]) -> protobuf::Struct {
    let value = |text: &str| protobuf::Value { kind: Some(protobuf::value::Kind::StringValue(text.into())) };
    protobuf::Struct { fields: fields.iter().map(|(name, text)| ((*name).into(), value(text))).collect() }
}

pub fn secret(name: &str) -> tls::SdsSecretConfig {
    tls::SdsSecretConfig { name: name.into(), sds_config: ads() }
}

pub fn common_tls(alpn: &[&str], identities: &[&str]) -> tls::CommonTlsContext {
    use tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
    let names = identities.iter().map(|uri| tls::SubjectAltNameMatcher {
        san_type: tls::subject_alt_name_matcher::SanType::Uri.into(),
        matcher: Some(matcher::StringMatcher {
            ignore_case: false,
            match_pattern: Some(matcher::string_matcher::MatchPattern::Exact((*uri).into())),
        }),
        oid: String::new(),
    });
    let context = tls::CertificateValidationContext {
        match_typed_subject_alt_names: names.collect(),
        ..Default::default()
    };
    let combined = CombinedCertificateValidationContext {
        default_validation_context: Some(context),
        validation_context_sds_secret_config: Some(secret("ROOTCA")),
        ..Default::default()
    };
    tls::CommonTlsContext {
        alpn_protocols: alpn.iter().map(|protocol| (*protocol).into()).collect(),
        tls_certificate_sds_secret_configs: vec![secret("default")],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(combined)),
        ..Default::default()
    }
}

pub fn socket(type_url: &str, message: &impl Message) -> Option<core::TransportSocket> {
    let config = core::transport_socket::ConfigType::TypedConfig(packed(type_url, message));
    Some(core::TransportSocket { name: "socket".into(), config_type: Some(config) })
}

pub fn upstream_tls(identities: &[&str]) -> tls::UpstreamTlsContext {
    tls::UpstreamTlsContext {
        common_tls_context: Some(common_tls(&["h2", "http/1.1", "outrigger-tcp"], identities)),
        sni: "cart.shop.svc.cluster.local".into(),
        ..Default::default()
    }
}

pub fn cart_cluster() -> cluster::Cluster {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, TransportSocketMatch};
    use upstream_http::http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config,
    };
    let explicit = ExplicitHttpConfig {
        protocol_config: Some(explicit_http_config::ProtocolConfig::Http2ProtocolOptions(Default::default())),
    };
    let options = upstream_http::HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..Default::default()
    };
    let policy = |type_url: &str| cluster::load_balancing_policy::Policy {
        typed_extension_config: Some(core::TypedExtensionConfig {
            name: "policy".into(),
            typed_config: Some(Any { type_url: type_url.into(), value: vec![] }),
        }),
    };
    cluster::Cluster {
        name: CART.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: ads(), service_name: String::new() }),
        connect_timeout: seconds(1),
        circuit_breakers: Some(cluster::CircuitBreakers {
            thresholds: vec![cluster::circuit_breakers::Thresholds {
                max_connections: number(1024),
                max_requests: number(10_000),
                retry_budget: Some(Default::default()),
                ..Default::default()
            }],
            ..Default::default()
        }),
        outlier_detection: Some(cluster::OutlierDetection {
            enforcing_success_rate: number(0),
            split_external_local_origin_errors: true,
            max_ejection_percent: number(50),
            ..Default::default()
        }),
        load_balancing_policy: Some(cluster::LoadBalancingPolicy {
            policies: vec![policy(type_url::PEAK_EWMA), policy(type_url::LEAST_REQUEST)],
        }),
        typed_extension_protocol_options: HashMap::from([(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".into(),
            packed(type_url::HTTP_PROTOCOL_OPTIONS, &options),
        )]),
        transport_socket_matches: vec![
            TransportSocketMatch {
                name: "outrigger-mtls".into(),
                r#match: Some(text_struct(&[("outrigger", "mtls")])),
                transport_socket: socket(type_url::UPSTREAM_TLS_CONTEXT, &upstream_tls(&[CART_ID])),
            },
            TransportSocketMatch {
                name: "plaintext".into(),
                r#match: Some(Default::default()),
                transport_socket: socket(type_url::RAW_BUFFER, &raw_buffer::RawBuffer {}),
            },
        ],
        ..Default::default()
    }
}

pub fn cluster_body(cluster: cluster::Cluster) -> Any {
    packed(type_url::CLUSTER, &cluster)
}

pub fn address(address: &str) -> Option<core::Address> {
    let address: std::net::SocketAddr = address.parse().unwrap();
    let socket = core::SocketAddress {
        address: address.ip().to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(address.port().into())),
        ..Default::default()
    };
    Some(core::Address { address: Some(core::address::Address::SocketAddress(socket)) })
}

/// Endpoints that have a sidecar.
pub fn assignment(name: &str, addresses: &[&str]) -> endpoint::ClusterLoadAssignment {
    let metadata = core::Metadata {
        filter_metadata: HashMap::from([
            ("envoy.transport_socket_match".into(), text_struct(&[("outrigger", "mtls")])),
            ("outrigger.workload".into(), text_struct(&[("spiffe_id", CART_ID), ("instance", "cart-1")])),
        ]),
        ..Default::default()
    };
    let endpoint = |of: &&str| endpoint::LbEndpoint {
        metadata: Some(metadata.clone()),
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: address(of),
            ..Default::default()
        })),
        ..Default::default()
    };
    let locality = endpoint::LocalityLbEndpoints {
        lb_endpoints: addresses.iter().map(endpoint).collect(),
        ..Default::default()
    };
    endpoint::ClusterLoadAssignment {
        cluster_name: name.into(),
        endpoints: vec![locality],
        ..Default::default()
    }
}

pub fn endpoints(name: &str, addresses: &[&str]) -> Any {
    packed(type_url::CLUSTER_LOAD_ASSIGNMENT, &assignment(name, addresses))
}

pub fn http_filter(name: &str, body: Any) -> hcm::HttpFilter {
    let config_type = Some(hcm::http_filter::ConfigType::TypedConfig(body));
    hcm::HttpFilter { name: name.into(), config_type, ..Default::default() }
}

pub fn manager(routes: hcm::http_connection_manager::RouteSpecifier) -> hcm::HttpConnectionManager {
    hcm::HttpConnectionManager {
        stat_prefix: "of.the.control.plane".into(),
        route_specifier: Some(routes),
        http_filters: vec![http_filter(
            "envoy.filters.http.router",
            packed(type_url::ROUTER, &router::Router::default()),
        )],
        ..Default::default()
    }
}

pub fn rds(name: &str) -> hcm::http_connection_manager::RouteSpecifier {
    hcm::http_connection_manager::RouteSpecifier::Rds(hcm::Rds {
        config_source: ads(),
        route_config_name: name.into(),
    })
}

pub fn network_filter(type_url: &str, message: &impl Message) -> listener::Filter {
    let config_type = Some(listener::filter::ConfigType::TypedConfig(packed(type_url, message)));
    listener::Filter { name: "filter".into(), config_type }
}

pub fn tcp(cluster: &str) -> tcp_proxy::TcpProxy {
    tcp_proxy::TcpProxy {
        stat_prefix: "of.the.control.plane".into(),
        cluster_specifier: Some(tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster(cluster.into())),
        ..Default::default()
    }
}

/// The metadata with which our control plane names the destination of a listener or chain.
pub fn leads_to(destination: &str) -> Option<core::Metadata> {
    let name = protobuf::Value { kind: Some(protobuf::value::Kind::StringValue(destination.into())) };
    let fields = protobuf::Struct { fields: [("name".into(), name)].into() };
    Some(core::Metadata {
        filter_metadata: [("outrigger.destination".into(), fields)].into(),
        ..Default::default()
    })
}

pub fn destination(name: &str) -> listener::Listener {
    listener::Listener {
        name: name.into(),
        metadata: leads_to(CART),
        api_listener: Some(listener::ApiListener {
            api_listener: Some(packed(type_url::HTTP_CONNECTION_MANAGER, &manager(rds(CART)))),
        }),
        ..Default::default()
    }
}

pub fn listener_body(listener: listener::Listener) -> Any {
    packed(type_url::LISTENER, &listener)
}

pub fn forward(cluster: &str) -> route::Route {
    use route::route_action::ClusterSpecifier;
    use route::route_match::PathSpecifier;
    route::Route {
        name: format!("default/{CART}"),
        r#match: Some(route::RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".into())),
            ..Default::default()
        }),
        action: Some(route::route::Action::Route(route::RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.into())),
            ..Default::default()
        })),
        ..Default::default()
    }
}

pub fn table(name: &str, cluster: &str) -> route::RouteConfiguration {
    route::RouteConfiguration {
        name: name.into(),
        virtual_hosts: vec![route::VirtualHost {
            name: "any".into(),
            domains: vec!["*".into()],
            routes: vec![forward(cluster)],
            ..Default::default()
        }],
        ..Default::default()
    }
}

pub fn table_body(table: route::RouteConfiguration) -> Any {
    packed(type_url::ROUTE_CONFIGURATION, &table)
}

/// The inbound listener of a workload: HTTP and opaque bytes by ALPN, both over mutual TLS.
pub fn inbound() -> listener::Listener {
    let app = "inbound|127.0.0.1:8080";
    let tls = |alpn: &[&str]| tls::DownstreamTlsContext {
        common_tls_context: Some(common_tls(alpn, &[])),
        require_client_certificate: Some(protobuf::BoolValue { value: true }),
        ..Default::default()
    };
    let chain = |name: &str, alpn: &[&str], filter| listener::FilterChain {
        name: name.into(),
        filter_chain_match: Some(listener::FilterChainMatch {
            application_protocols: alpn.iter().map(|protocol| (*protocol).into()).collect(),
            ..Default::default()
        }),
        transport_socket: socket(type_url::DOWNSTREAM_TLS_CONTEXT, &tls(alpn)),
        filters: vec![filter],
        ..Default::default()
    };
    let inline = hcm::http_connection_manager::RouteSpecifier::RouteConfig(table("", app));
    listener::Listener {
        name: "inbound|10.0.0.7:80".into(),
        address: address("10.0.0.7:80"),
        traffic_direction: core::TrafficDirection::Inbound.into(),
        filter_chains: vec![
            chain(
                "inbound|80|http|cart",
                &["h2", "http/1.1"],
                network_filter(type_url::HTTP_CONNECTION_MANAGER, &manager(inline)),
            ),
            chain("inbound|80|tcp|cart", &["outrigger-tcp"], network_filter(type_url::TCP_PROXY, &tcp(app))),
        ],
        ..Default::default()
    }
}

pub fn app_cluster() -> cluster::Cluster {
    cluster::Cluster {
        name: "inbound|127.0.0.1:8080".into(),
        load_assignment: Some(assignment("inbound|127.0.0.1:8080", &["127.0.0.1:8080"])),
        ..Default::default()
    }
}
