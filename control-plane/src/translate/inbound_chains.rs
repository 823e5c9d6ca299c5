//! The filter chains of a port: for sidecars, with mTLS, and if the port is permissive, for clients without mTLS.
//!
//! SNI distinguishes the mTLS of a sidecar from TLS to the application, which a permissive port passes through. ALPN, which
//! the client's sidecar chose, distinguishes requests from opaque bytes.

use outrigger_core::alpn;
use outrigger_core::inbound_name::INBOUND_PREFIX;
use outrigger_proto::xds::hcm::http_connection_manager::{
    ForwardClientCertDetails, RouteSpecifier, SetCurrentClientCertDetails,
};
use outrigger_proto::xds::listener::{Filter, FilterChain, FilterChainMatch};
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::route::route_action::ClusterSpecifier as RouteCluster;
use outrigger_proto::xds::route::{Route, RouteAction, RouteMatch, route::Action};
use outrigger_proto::xds::sds_secret;
use outrigger_proto::xds::tcp_proxy::tcp_proxy::ClusterSpecifier;
use outrigger_proto::xds::tls::common_tls_context::ValidationContextType;
use outrigger_proto::xds::tls::{CommonTlsContext, DownstreamTlsContext};
use outrigger_proto::xds::type_url;

use super::listener::{connection_manager, leads_to, network_filter, tcp_filter};
use super::port_policies::PortPolicies;
use super::wire::{any, boolean, duration, secret, transport_socket, uint};
use super::{cluster, defaults, matching, route};
use crate::model::registration::MtlsMode;

/// What the chains of a port are made of.
pub(super) struct PortChains<'a> {
    /// Begins the name of each chain: `inbound|80`.
    pub(super) prefix: String,
    /// Ends the name of each chain: the service.
    pub(super) suffix: String,
    /// The destination port that they match. None for every port.
    pub(super) destination_port: Option<u16>,
    /// The destination, for records and metrics.
    pub(super) canonical: &'a str,
    /// The cluster of the application.
    pub(super) cluster: &'a str,
    /// The cluster of the application over HTTP/2, if its version of HTTP is not declared.
    pub(super) http2_cluster: Option<&'a str>,
    /// Whether it serves requests.
    pub(super) http: bool,
    /// Whether it serves opaque bytes.
    pub(super) opaque: bool,
    /// Whether it requires mTLS.
    pub(super) mode: MtlsMode,
    /// What applies to its requests and connections.
    pub(super) policies: PortPolicies<'a>,
    /// Whether the application is told who called.
    pub(super) tells_caller: bool,
}

impl PortChains<'_> {
    /// Returns the chains.
    pub(super) fn chains(&self) -> Vec<FilterChain> {
        let mut chains = self.with_mtls();
        if self.mode == MtlsMode::Permissive {
            chains.extend(self.without_mtls());
        }
        chains
    }

    fn with_mtls(&self) -> Vec<FilterChain> {
        let sidecar = |protocols: &[&str]| FilterChainMatch {
            application_protocols: strings(protocols),
            // All clients of a strict port are sidecars.
            server_names: match self.mode {
                MtlsMode::Strict => Vec::new(),
                MtlsMode::Permissive => vec![format!("*{}", cluster::SNI_SUFFIX)],
            },
            ..Default::default()
        };
        let mtls = |kind, protocols: &[&str], filter| FilterChain {
            transport_socket: transport_socket(
                "envoy.transport_sockets.tls",
                downstream_tls(strings(protocols)),
            ),
            ..self.chain(kind, sidecar(protocols), filter)
        };
        let http = self.http.then(|| {
            let grpc = self.http2_cluster.map(|cluster| to_application(matching::grpc(), cluster));
            let others = to_application(matching::everything(), self.cluster);
            mtls("http", &[alpn::HTTP2, alpn::HTTP1], self.requests(grpc.into_iter().chain([others])))
        });
        let tcp = self.opaque.then(|| mtls("tcp", &[alpn::OPAQUE], self.bytes()));
        http.into_iter().chain(tcp).collect()
    }

    /// If no version of HTTP is declared, plaintext requests reach the application in the version in which they came. TLS to
    /// the application is opaque, whatever the protocol of the port is.
    fn without_mtls(&self) -> Vec<FilterChain> {
        let plain = |kind, protocols: &[&str], filter| {
            let matcher = FilterChainMatch {
                transport_protocol: "raw_buffer".into(),
                application_protocols: strings(protocols),
                ..Default::default()
            };
            self.chain(kind, matcher, filter)
        };
        let requests = |cluster| self.requests([to_application(matching::everything(), cluster)]);
        let tls = FilterChainMatch { transport_protocol: "tls".into(), ..Default::default() };
        let mut chains = vec![self.chain("tls-passthrough", tls, self.bytes())];
        match (self.http, self.opaque) {
            (true, false) => chains.push(plain("plaintext-http", &[], requests(self.cluster))),
            (false, _) => chains.push(plain("plaintext-tcp", &[], self.bytes())),
            (true, true) => {
                chains.push(plain("plaintext-http", &["http/1.0", alpn::HTTP1], requests(self.cluster)));
                let http2 = self.http2_cluster.unwrap_or(self.cluster);
                chains.push(plain("plaintext-h2c", &["h2c"], requests(http2)));
                chains.push(plain("plaintext-tcp", &[], self.bytes()));
            }
        }
        chains
    }

    fn chain(&self, kind: &str, matcher: FilterChainMatch, filters: Vec<Filter>) -> FilterChain {
        FilterChain {
            name: format!("{}|{kind}|{}", self.prefix, self.suffix),
            filter_chain_match: Some(FilterChainMatch {
                destination_port: self.destination_port.and_then(|port| uint(port.into())),
                ..matcher
            }),
            filters,
            metadata: leads_to(self.canonical),
            ..Default::default()
        }
    }

    fn stat(&self) -> String {
        format!("{INBOUND_PREFIX}{}", self.canonical)
    }

    fn requests(&self, routes: impl IntoIterator<Item = Route>) -> Vec<Filter> {
        let routes = routes.into_iter().flat_map(|route| self.policies.split(route)).collect();
        let routes = RouteSpecifier::RouteConfig(route::configuration(self.cluster, routes));
        let mut manager = connection_manager(&self.stat(), self.canonical, routes, false);
        manager.http_filters.splice(0..0, self.policies.http_filters());
        if self.tells_caller {
            manager.forward_client_cert_details = ForwardClientCertDetails::SanitizeSet.into();
            manager.set_current_client_cert_details =
                Some(SetCurrentClientCertDetails { uri: true, ..Default::default() });
        }
        let manager = any(type_url::HTTP_CONNECTION_MANAGER, &manager);
        vec![network_filter("envoy.filters.network.http_connection_manager", manager)]
    }

    fn bytes(&self) -> Vec<Filter> {
        let mut filters = self.policies.network_filters(&self.stat(), self.http);
        filters.push(tcp_filter(&self.stat(), ClusterSpecifier::Cluster(self.cluster.into())));
        filters
    }
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| String::from(*name)).collect()
}

/// Returns a route to the application, without timeouts and retries, which the client's sidecar applies.
fn to_application(matcher: RouteMatch, cluster: &str) -> Route {
    Route {
        name: defaults::ROUTE.into(),
        r#match: Some(matcher),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(RouteCluster::Cluster(cluster.into())),
            timeout: duration(std::time::Duration::ZERO),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn downstream_tls(alpn: Vec<String>) -> Any {
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
