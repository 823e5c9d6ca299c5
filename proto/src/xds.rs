//! Short names for Envoy's v3 API and for the well-known types that it uses.
//!
//! The types are generated and documented by the [xDS API](https://www.envoyproxy.io/docs/envoy/latest/api-v3/api).

use envoy_types::pb::envoy;

/// `google.protobuf`: `Any`, `Duration`, `Struct`, wrappers. Not the ones of `prost-types`.
pub use envoy_types::pb::google::protobuf;
/// `google.rpc`: `Status`, as a NACK's `error_detail`.
pub use envoy_types::pb::google::rpc;

/// `envoy.config.cluster.v3`.
pub use envoy::config::cluster::v3 as cluster;
/// `envoy.config.core.v3`: addresses, config sources, metadata, nodes.
pub use envoy::config::core::v3 as core;
/// `envoy.config.endpoint.v3`.
pub use envoy::config::endpoint::v3 as endpoint;
/// `envoy.config.listener.v3`.
pub use envoy::config::listener::v3 as listener;
/// `envoy.config.ratelimit.v3`: the service of global limits.
pub use envoy::config::ratelimit::v3 as ratelimit_config;
/// `envoy.config.rbac.v3`: permissions, principals and policies.
pub use envoy::config::rbac::v3 as rbac;
/// `envoy.config.route.v3`.
pub use envoy::config::route::v3 as route;
/// `envoy.data.dns.v3`: host names and their addresses.
pub use envoy::data::dns::v3 as dns;
/// `envoy.extensions.common.ratelimit.v3`.
pub use envoy::extensions::common::ratelimit::v3 as common_ratelimit;
/// `envoy.extensions.filters.common.fault.v3`: delays.
pub use envoy::extensions::filters::common::fault::v3 as common_fault;
/// `envoy.extensions.filters.http.api_key_auth.v3`.
pub use envoy::extensions::filters::http::api_key_auth::v3 as api_key_auth;
/// `envoy.extensions.filters.http.cors.v3`.
pub use envoy::extensions::filters::http::cors::v3 as cors;
/// `envoy.extensions.filters.http.ext_authz.v3`.
pub use envoy::extensions::filters::http::ext_authz::v3 as ext_authz;
/// `envoy.extensions.filters.http.fault.v3`.
pub use envoy::extensions::filters::http::fault::v3 as fault;
/// `envoy.extensions.filters.http.jwt_authn.v3`.
pub use envoy::extensions::filters::http::jwt_authn::v3 as jwt_authn;
/// `envoy.extensions.filters.http.local_ratelimit.v3`.
pub use envoy::extensions::filters::http::local_ratelimit::v3 as local_ratelimit;
/// `envoy.extensions.filters.http.ratelimit.v3`.
pub use envoy::extensions::filters::http::ratelimit::v3 as ratelimit;
/// `envoy.extensions.filters.http.rbac.v3`.
pub use envoy::extensions::filters::http::rbac::v3 as rbac_filter;
/// `envoy.extensions.filters.http.router.v3`.
pub use envoy::extensions::filters::http::router::v3 as router;
/// `envoy.extensions.filters.http.stateful_session.v3`.
pub use envoy::extensions::filters::http::stateful_session::v3 as stateful_session;
/// `envoy.extensions.filters.listener.http_inspector.v3`.
pub use envoy::extensions::filters::listener::http_inspector::v3 as http_inspector;
/// `envoy.extensions.filters.network.http_connection_manager.v3`.
pub use envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
/// `envoy.extensions.filters.network.rbac.v3`.
pub use envoy::extensions::filters::network::rbac::v3 as network_rbac;
/// `envoy.extensions.filters.network.tcp_proxy.v3`.
pub use envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
/// `envoy.extensions.filters.udp.dns_filter.v3`.
pub use envoy::extensions::filters::udp::dns_filter::v3 as dns_filter;
/// `envoy.extensions.http.stateful_session.cookie.v3`: sessions in a cookie.
pub use envoy::extensions::http::stateful_session::cookie::v3 as cookie_session;
/// `envoy.extensions.http.stateful_session.header.v3`: sessions in a header.
pub use envoy::extensions::http::stateful_session::header::v3 as header_session;
/// `envoy.extensions.load_balancing_policies.common.v3`: locality settings that several policies share.
pub use envoy::extensions::load_balancing_policies::common::v3 as lb_common;
/// `envoy.extensions.load_balancing_policies.least_request.v3`.
pub use envoy::extensions::load_balancing_policies::least_request::v3 as least_request;
/// `envoy.extensions.load_balancing_policies.maglev.v3`.
pub use envoy::extensions::load_balancing_policies::maglev::v3 as maglev;
/// `envoy.extensions.load_balancing_policies.random.v3`.
pub use envoy::extensions::load_balancing_policies::random::v3 as random;
/// `envoy.extensions.load_balancing_policies.ring_hash.v3`.
pub use envoy::extensions::load_balancing_policies::ring_hash::v3 as ring_hash;
/// `envoy.extensions.load_balancing_policies.round_robin.v3`.
pub use envoy::extensions::load_balancing_policies::round_robin::v3 as round_robin;
/// `envoy.extensions.load_balancing_policies.wrr_locality.v3`: a locality by weight, then a policy within it.
pub use envoy::extensions::load_balancing_policies::wrr_locality::v3 as wrr_locality;
/// `envoy.extensions.transport_sockets.raw_buffer.v3`.
pub use envoy::extensions::transport_sockets::raw_buffer::v3 as raw_buffer;
/// `envoy.extensions.transport_sockets.tls.v3`.
pub use envoy::extensions::transport_sockets::tls::v3 as tls;
/// `envoy.extensions.upstreams.http.v3`: `HttpProtocolOptions`.
pub use envoy::extensions::upstreams::http::v3 as upstream_http;
/// `envoy.service.auth.v3`.
pub use envoy::service::auth::v3 as auth_service;
/// `envoy.service.discovery.v3`: ADS, discovery requests and responses.
pub use envoy::service::discovery::v3 as discovery;
/// `envoy.service.ratelimit.v3`.
pub use envoy::service::ratelimit::v3 as ratelimit_service;
/// `envoy.type.http.v3`: cookies.
pub use envoy::r#type::http::v3 as http_types;
/// `envoy.type.matcher.v3`: string and regex matchers.
pub use envoy::r#type::matcher::v3 as matcher;
/// `envoy.type.metadata.v3`: where a value of metadata is.
pub use envoy::r#type::metadata::v3 as metadata_key;
/// `envoy.type.v3`: percentages, ranges.
pub use envoy::r#type::v3 as types;

/// `outrigger.lb.v1`: our own load balancing policy.
pub mod peak_ewma {
    use super::lb_common::SlowStartConfig;

    /// `outrigger.lb.v1.PeakEwma`: of two endpoints drawn at random, the one with the lower product of peak EWMA latency and requests in
    /// flight.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct PeakEwma {
        /// How an endpoint that is new begins. Without it, with its full weight.
        #[prost(message, optional, tag = "1")]
        pub slow_start_config: Option<SlowStartConfig>,
    }
}

/// Type URLs: the type of the message in an `Any`, and the type that a discovery request names.
pub mod type_url {
    /// LDS.
    pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
    /// RDS.
    pub const ROUTE_CONFIGURATION: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
    /// CDS.
    pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    /// EDS.
    pub const CLUSTER_LOAD_ASSIGNMENT: &str =
        "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
    /// The HTTP connection manager, in a filter chain or an `api_listener`.
    pub const HTTP_CONNECTION_MANAGER: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    /// The TCP proxy network filter.
    pub const TCP_PROXY: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    /// The router, the last HTTP filter.
    pub const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    /// The CORS HTTP filter.
    pub const CORS: &str = "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors";
    /// A route's CORS policy, in `typed_per_filter_config`.
    pub const CORS_POLICY: &str = "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy";
    /// The RBAC HTTP filter.
    pub const RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
    /// A route's configuration of the RBAC filter, in `typed_per_filter_config`.
    pub const RBAC_PER_ROUTE: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute";
    /// The fault injection HTTP filter, and its configuration in `typed_per_filter_config`.
    pub const HTTP_FAULT: &str = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";
    /// The API key HTTP filter.
    pub const API_KEY_AUTH: &str =
        "type.googleapis.com/envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth";
    /// A route's configuration of the API key filter, in `typed_per_filter_config`.
    pub const API_KEY_AUTH_PER_ROUTE: &str =
        "type.googleapis.com/envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuthPerRoute";
    /// The external authorization HTTP filter.
    pub const EXT_AUTHZ: &str = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz";
    /// A route's configuration of external authorization, in `typed_per_filter_config`.
    pub const EXT_AUTHZ_PER_ROUTE: &str =
        "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute";
    /// The JWT HTTP filter.
    pub const JWT_AUTHENTICATION: &str =
        "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication";
    /// A route's configuration of the JWT filter, in `typed_per_filter_config`.
    pub const JWT_PER_ROUTE: &str =
        "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig";
    /// The local rate limit HTTP filter, and its configuration in `typed_per_filter_config`.
    pub const LOCAL_RATE_LIMIT: &str =
        "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
    /// The global rate limit HTTP filter.
    pub const RATE_LIMIT: &str = "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit";
    /// A route's configuration of the global rate limit, in `typed_per_filter_config`.
    pub const RATE_LIMIT_PER_ROUTE: &str =
        "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute";
    /// The session persistence HTTP filter.
    pub const STATEFUL_SESSION: &str =
        "type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSession";
    /// A route's configuration of session persistence, in `typed_per_filter_config`.
    pub const STATEFUL_SESSION_PER_ROUTE: &str =
        "type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute";
    /// Sessions in a cookie.
    pub const COOKIE_SESSION: &str =
        "type.googleapis.com/envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState";
    /// Sessions in a header.
    pub const HEADER_SESSION: &str =
        "type.googleapis.com/envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState";
    /// The RBAC network filter.
    pub const NETWORK_RBAC: &str = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC";
    /// Wraps a filter's configuration in `typed_per_filter_config`, to make it optional or disable the filter.
    pub const FILTER_CONFIG: &str = "type.googleapis.com/envoy.config.route.v3.FilterConfig";
    /// The HTTP inspector listener filter.
    pub const HTTP_INSPECTOR: &str =
        "type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector";
    /// The TLS inspector listener filter.
    pub const TLS_INSPECTOR: &str =
        "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
    /// The listener filter that restores the destination of a redirected connection.
    pub const ORIGINAL_DST: &str =
        "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst";
    /// The listener filter that answers DNS queries.
    pub const DNS_FILTER: &str =
        "type.googleapis.com/envoy.extensions.filters.udp.dns_filter.v3.DnsFilterConfig";
    /// TLS towards the client of a listener.
    pub const DOWNSTREAM_TLS_CONTEXT: &str =
        "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
    /// TLS towards an upstream.
    pub const UPSTREAM_TLS_CONTEXT: &str =
        "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    /// Plaintext.
    pub const RAW_BUFFER: &str =
        "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
    /// A cluster's HTTP protocol options, in `typed_extension_protocol_options`.
    pub const HTTP_PROTOCOL_OPTIONS: &str =
        "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    /// P2C by queue length.
    pub const LEAST_REQUEST: &str =
        "type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest";
    /// Round robin.
    pub const ROUND_ROBIN: &str =
        "type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin";
    /// Any endpoint.
    pub const RANDOM: &str = "type.googleapis.com/envoy.extensions.load_balancing_policies.random.v3.Random";
    /// A ring of hashes.
    pub const RING_HASH: &str =
        "type.googleapis.com/envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash";
    /// Maglev.
    pub const MAGLEV: &str = "type.googleapis.com/envoy.extensions.load_balancing_policies.maglev.v3.Maglev";
    /// A locality by weight, then a policy within it.
    pub const WRR_LOCALITY: &str =
        "type.googleapis.com/envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality";
    /// P2C by peak EWMA of latency: our own policy, listed before `LeastRequest`.
    pub const PEAK_EWMA: &str = "type.googleapis.com/outrigger.lb.v1.PeakEwma";
}

/// Contents of a `Node` that describe a proxy.
pub mod node {
    /// `user_agent_name` of Outrigger's proxy.
    pub const USER_AGENT: &str = "outrigger";
    /// The metadata key for how the proxy chooses its resources: [`ON_DEMAND`] (the default) or [`WILDCARD`].
    pub const MODE: &str = "OUTRIGGER_MODE";
    /// Resources are subscribed to when a request needs them.
    pub const ON_DEMAND: &str = "on-demand";
    /// The proxy subscribes to all resources.
    pub const WILDCARD: &str = "wildcard";
    /// In `client_features`: the proxy knows `forward_client_cert_details`. Older ones refuse listeners that have it.
    pub const FORWARDS_CLIENT_CERTIFICATES: &str = "outrigger.forward-client-cert";
}

/// The conventional names of extensions, for clients that find an extension by its name.
pub mod extension {
    /// The CORS HTTP filter, and the key of its configuration in `typed_per_filter_config`.
    pub const CORS: &str = "envoy.filters.http.cors";
    /// The session persistence HTTP filter, and the key of its configuration in `typed_per_filter_config`.
    pub const STATEFUL_SESSION: &str = "envoy.filters.http.stateful_session";
    /// Sessions in a cookie.
    pub const COOKIE_SESSION: &str = "envoy.http.stateful_session.cookie";
    /// Sessions in a header.
    pub const HEADER_SESSION: &str = "envoy.http.stateful_session.header";
    /// The HTTP inspector listener filter.
    pub const HTTP_INSPECTOR: &str = "envoy.filters.listener.http_inspector";
    /// The TLS inspector listener filter.
    pub const TLS_INSPECTOR: &str = "envoy.filters.listener.tls_inspector";
    /// The listener filter that restores the destination of a redirected connection.
    pub const ORIGINAL_DST: &str = "envoy.filters.listener.original_dst";
    /// The listener filter that answers DNS queries.
    pub const DNS_FILTER: &str = "envoy.filters.udp.dns_filter";
}

/// The namespaces of `filter_metadata`, and their keys.
pub mod metadata {
    /// Of an endpoint: the criteria by which a cluster selects its transport socket (`Cluster.transport_socket_matches`).
    pub const TRANSPORT_SOCKET_MATCH: &str = "envoy.transport_socket_match";
    /// In [`TRANSPORT_SOCKET_MATCH`]: the criterion of an endpoint behind a sidecar, with the value [`MTLS`].
    pub const TRANSPORT: &str = "outrigger";
    /// The value of [`TRANSPORT`].
    pub const MTLS: &str = "mtls";
    /// Of an endpoint: its workload.
    pub const WORKLOAD: &str = "outrigger.workload";
    /// Of an endpoint: what Envoy's balancers read.
    pub const LB: &str = "envoy.lb";
    /// In [`LB`]: what is hashed instead of the endpoint's address.
    pub const HASH_KEY: &str = "hash_key";
    /// In [`WORKLOAD`]: the SPIFFE ID that its certificate must have.
    pub const SPIFFE_ID: &str = "spiffe_id";
    /// In [`WORKLOAD`]: the name of the instance.
    pub const INSTANCE: &str = "instance";
    /// In [`WORKLOAD`]: the version of the application.
    pub const VERSION: &str = "version";
    /// Of a listener or filter chain: its destination.
    pub const DESTINATION: &str = "outrigger.destination";
    /// Of a cluster: what is done about overload of the application behind it.
    pub const OVERLOAD: &str = "outrigger.overload";
    /// In [`OVERLOAD`]: `off`, `observe` or `enforce`.
    pub const MODE: &str = "mode";
    /// Of a cluster: when its requests are hedged.
    pub const HEDGING: &str = "outrigger.hedging";
    /// In [`HEDGING`]: the percentile of the latency, from 50 to 99.9.
    pub const PERCENTILE: &str = "percentile";
    /// In [`HEDGING`]: the minimum delay in milliseconds.
    pub const MIN_DELAY_MS: &str = "min_delay_ms";
    /// In [`HEDGING`]: the maximum delay in milliseconds.
    pub const MAX_DELAY_MS: &str = "max_delay_ms";
    /// In [`DESTINATION`]: the destination's canonical name.
    pub const NAME: &str = "name";
}

/// The names of the secrets (SDS) that a proxy provides itself. They are Istio's.
pub mod sds_secret {
    /// The workload's certificate and key.
    pub const CERTIFICATE: &str = "default";
    /// The trust roots.
    pub const ROOTS: &str = "ROOTCA";
}
