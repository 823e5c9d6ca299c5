//! A group of endpoints that are called alike (`envoy.config.cluster.v3.Cluster`).
//!
//! State that outlives config (ejections, balances, what is in use) is kept by the data path under the cluster's name and the
//! endpoint's address, not here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use outrigger_core::Name;
use outrigger_policy::circuit_breaker::CircuitBreakers;
use outrigger_policy::field::{
    Unusable, duration, each, non_empty, number, positive_duration, required, unsupported, unsupported_any,
};
use outrigger_policy::outlier::OutlierDetection;
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::{cluster as wire_cluster, core, least_request, type_url, upstream_http};

use crate::endpoint::Assignment;
use crate::endpoint::{Endpoints, Transport};
use crate::tls::{Socket, UpstreamTls};
use crate::wire::{from_ads, open, text};

/// A cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its name: `cart.shop.svc.cluster.local:80`.
    pub name: Name,
    /// Where its endpoints come from.
    pub discovery: Discovery,
    /// Its endpoints of the moment. The handle outlives snapshots; take the list at each pick.
    pub endpoints: EndpointsHandle,
    /// From the first packet to a connection that can carry a request, the TLS handshake included.
    pub connect_timeout: Duration,
    /// Bounds on its use.
    pub breakers: CircuitBreakers,
    /// When endpoints are ejected; `None` for never.
    pub outlier: Option<OutlierDetection>,
    /// How an endpoint is picked.
    pub balancing: Balancing,
    /// What is spoken on connections that negotiate nothing, which are those without TLS.
    pub protocol: UpstreamProtocol,
    /// How its connections are kept.
    pub connections: ConnectionSettings,
}

/// Where a cluster's endpoints come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    /// The cluster itself.
    Static,
    /// EDS, under this name.
    Eds(Name),
    /// The address that the connection was made to before it was redirected; the transport says how it is called.
    OriginalDestination(Transport),
}

/// How an endpoint is picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balancing {
    /// The better of two by latency and requests in flight (`outrigger.lb.v1.PeakEwma`).
    PeakEwma,
    /// The one with fewer requests in flight, of so many drawn.
    LeastRequest {
        /// How many are drawn; at least 2.
        choices: u32,
    },
    /// In turn.
    RoundRobin,
    /// Any.
    Random,
}

/// What is spoken with endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// What the client speaks.
    AsDownstream,
}

/// How connections to endpoints are kept. `None` is no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// Closed after so long without a request.
    pub idle_timeout: Option<Duration>,
    /// Closed after so long, once its requests are done.
    pub max_duration: Option<Duration>,
    /// Closed after so many requests.
    pub max_requests: Option<u32>,
    /// Streams of one HTTP/2 connection at a time, where the endpoint allows more.
    pub max_concurrent_streams: u32,
    /// HTTP/2 flow control window of a stream, in bytes.
    pub initial_stream_window: u32,
    /// HTTP/2 flow control window of a connection, in bytes.
    pub initial_connection_window: u32,
}

/// A cluster's endpoints, which change without a new snapshot. Clones see the same.
#[derive(Debug, Clone, Default)]
pub struct EndpointsHandle(Arc<ArcSwap<Endpoints>>);

impl EndpointsHandle {
    /// The endpoints of this moment. Compare [`Endpoints::version`] to see whether they changed.
    pub fn load(&self) -> Guard<Arc<Endpoints>> {
        self.0.load()
    }

    /// Replaces them all.
    pub fn store(&self, endpoints: Endpoints) {
        self.0.store(Arc::new(endpoints));
    }

    /// Whether both are one handle.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A cluster as it came: what it is, and what its endpoints still need of it.
#[derive(Debug, Clone)]
pub(crate) struct Compiled {
    /// Has no endpoints yet.
    pub(crate) cluster: Cluster,
    /// Its own endpoints, where it does not get them over EDS.
    pub(crate) assignment: Option<Assignment>,
    pub(crate) transports: Transports,
}

/// How endpoints of a cluster are called, by what their metadata says.
#[derive(Debug, Clone)]
pub(crate) struct Transports {
    matches: Vec<(Vec<(String, String)>, Transport)>,
    otherwise: Transport,
}

impl Transports {
    /// The first whose every field the endpoint has (`Cluster.transport_socket_matches`).
    pub(crate) fn choose(&self, metadata: &[(String, String)]) -> Transport {
        let holds = |(criteria, _): &&(Vec<_>, _)| criteria.iter().all(|wanted| metadata.contains(wanted));
        self.matches.iter().find(holds).map_or(&self.otherwise, |(_, transport)| transport).clone()
    }
}

impl Compiled {
    /// Reads a cluster.
    #[allow(deprecated)] // fields that Envoy still takes must be read or refused, not overlooked
    pub(crate) fn decode(wire: wire_cluster::Cluster) -> Result<Self, Unusable> {
        let wire_cluster::Cluster {
            transport_socket_matches,
            transport_socket_matcher,
            name,
            // Metrics are named by the cluster itself.
            alt_stat_name: _,
            stats_matcher: _,
            eds_cluster_config,
            connect_timeout,
            // Buffers are bounded by HTTP/2 windows and by the data path's own sizes.
            per_connection_buffer_limit_bytes: _,
            per_connection_buffer_high_watermark_timeout: _,
            lb_policy,
            load_assignment,
            health_checks,
            max_requests_per_connection,
            circuit_breakers,
            upstream_http_protocol_options,
            common_http_protocol_options,
            http_protocol_options,
            http2_protocol_options,
            typed_extension_protocol_options,
            // How names are resolved: clusters with names are refused below.
            dns_refresh_rate: _,
            dns_jitter: _,
            dns_failure_refresh_rate: _,
            respect_dns_ttl: _,
            dns_lookup_family: _,
            dns_resolvers: _,
            use_tcp_for_dns_lookups: _,
            dns_resolution_config: _,
            typed_dns_resolver_config: _,
            // Every cluster is warmed before a route may name it.
            wait_for_warm_on_init: _,
            outlier_detection,
            // How long an original destination is remembered; nothing is kept of one here.
            cleanup_interval: _,
            upstream_bind_config,
            lb_subset_config,
            // Zone-aware balancing and panic thresholds come with the issue on balancing; until then every healthy endpoint of
            // the first priority gets requests, and all of them when none is healthy.
            common_lb_config: _,
            transport_socket,
            // For other filters to read; ours read none.
            metadata: _,
            protocol_selection,
            upstream_connection_options,
            // Requests on endpoints that turned unhealthy are finished and their connections then closed.
            close_connections_on_host_health_failure: _,
            // There are no active health checks whose verdict could outlast an endpoint.
            ignore_health_on_host_removal: _,
            filters,
            load_balancing_policy,
            // Load reports go to nobody yet; their absence changes no request.
            lrs_server: _,
            lrs_report_endpoint_metrics: _,
            // More statistics.
            track_timeout_budgets: _,
            track_cluster_stats: _,
            upstream_config,
            // Only warms connections ahead of use.
            preconnect_policy: _,
            connection_pool_per_downstream_connection,
            queuing_policies,
            cluster_discovery_type,
            lb_config,
        } = wire;
        unsupported_any(&[
            ("transport_socket_matcher", transport_socket_matcher.is_some()),
            ("health_checks", !health_checks.is_empty()),
            ("upstream_bind_config", upstream_bind_config.is_some()),
            ("lb_subset_config", lb_subset_config.is_some()),
            ("filters", !filters.is_empty()),
            ("upstream_config", upstream_config.is_some()),
            ("connection_pool_per_downstream_connection", connection_pool_per_downstream_connection),
            ("queuing_policies", queuing_policies.is_some()),
        ])?;
        if let Some(options) = upstream_connection_options {
            upstream_connection(options).map_err(|bad| bad.within("upstream_connection_options"))?;
        }
        let transports = Transports {
            matches: each("transport_socket_matches", transport_socket_matches, transport_match)?,
            otherwise: match transport_socket {
                Some(socket) => transport(socket).map_err(|bad| bad.within("transport_socket"))?,
                None => Transport::Plain,
            },
        };
        let name: Name = non_empty("name", name)?.into();
        let discovery =
            discovery(&name, cluster_discovery_type, eds_cluster_config, &lb_config, &transports)?;
        let assignment = match (load_assignment, &discovery) {
            (Some(wire), Discovery::Static) => {
                Some(Assignment::decode(wire).map_err(|bad| bad.within("load_assignment"))?)
            }
            (None, Discovery::Static) => Some(Assignment::default()),
            (Some(_), _) => return Err(Unusable::new("load_assignment", "is only for static clusters")),
            (None, _) => None,
        };
        let mut http = HttpOptions::default();
        http.common(common_http_protocol_options)
            .map_err(|bad| bad.within("common_http_protocol_options"))?;
        http.http1(http_protocol_options).map_err(|bad| bad.within("http_protocol_options"))?;
        if let Some(options) = http2_protocol_options {
            http.http2(options).map_err(|bad| bad.within("http2_protocol_options"))?;
        }
        if protocol_selection == wire_cluster::cluster::ClusterProtocolSelection::UseDownstreamProtocol as i32
        {
            http.protocol = UpstreamProtocol::AsDownstream;
        }
        unsupported("upstream_http_protocol_options", upstream_http_protocol_options.is_some())?;
        if let Some(max) = number(max_requests_per_connection) {
            http.connections.max_requests = (max > 0).then_some(max);
        }
        http.typed(typed_extension_protocol_options)?;
        let cluster = Cluster {
            name,
            discovery,
            endpoints: EndpointsHandle::default(),
            connect_timeout: positive_duration("connect_timeout", connect_timeout)?
                .unwrap_or(Duration::from_secs(5)),
            breakers: CircuitBreakers::decode(circuit_breakers)
                .map_err(|bad| bad.within("circuit_breakers"))?,
            outlier: OutlierDetection::decode(outlier_detection)
                .map_err(|bad| bad.within("outlier_detection"))?,
            balancing: balancing(lb_policy, load_balancing_policy, lb_config)?,
            protocol: http.protocol,
            connections: http.connections,
        };
        Ok(Self { cluster, assignment, transports })
    }
}

fn upstream_connection(wire: wire_cluster::UpstreamConnectionOptions) -> Result<(), Unusable> {
    let wire_cluster::UpstreamConnectionOptions {
        // Idle connections are closed by time and broken ones by the first use; probes would only find them earlier.
        tcp_keepalive: _,
        // Only costs or saves a system call.
        set_local_interface_name_on_upstream_connections: _,
        happy_eyeballs_config,
    } = wire;
    unsupported("happy_eyeballs_config", happy_eyeballs_config.is_some())
}

fn transport(wire: core::TransportSocket) -> Result<Transport, Unusable> {
    Ok(match UpstreamTls::decode(wire)? {
        Socket::Plain => Transport::Plain,
        Socket::Tls(tls) => Transport::Tls(tls),
    })
}

fn transport_match(
    wire: wire_cluster::cluster::TransportSocketMatch,
) -> Result<(Vec<(String, String)>, Transport), Unusable> {
    let wire_cluster::cluster::TransportSocketMatch { name: _, r#match, transport_socket } = wire; // a name for statistics
    let criteria = r#match.unwrap_or_default();
    let texts = criteria.fields.keys().map(|key| match text(&criteria, key) {
        Some(value) => Ok((key.clone(), value.to_owned())),
        None => Err(Unusable::new(format!("match.{key}"), "is no text")),
    });
    let texts = texts.collect::<Result<_, _>>()?;
    let socket = required("transport_socket", transport_socket)?;
    Ok((texts, transport(socket).map_err(|bad| bad.within("transport_socket"))?))
}

fn discovery(
    name: &Name,
    wire: Option<wire_cluster::cluster::ClusterDiscoveryType>,
    eds: Option<wire_cluster::cluster::EdsClusterConfig>,
    lb_config: &Option<wire_cluster::cluster::LbConfig>,
    transports: &Transports,
) -> Result<Discovery, Unusable> {
    use wire_cluster::cluster::{ClusterDiscoveryType, DiscoveryType, LbConfig};
    let kind = match wire {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => {
            DiscoveryType::try_from(kind).map_err(|_| Unusable::new("type", "is unknown"))?
        }
        Some(ClusterDiscoveryType::ClusterType(_)) => {
            return Err(Unusable::new("cluster_type", "is not supported"));
        }
    };
    match kind {
        DiscoveryType::Static => Ok(Discovery::Static),
        DiscoveryType::Eds => {
            let wire_cluster::cluster::EdsClusterConfig { eds_config, service_name } =
                required("eds_cluster_config", eds)?;
            from_ads("eds_config", eds_config).map_err(|bad| bad.within("eds_cluster_config"))?;
            Ok(Discovery::Eds(if service_name.is_empty() { name.clone() } else { service_name.into() }))
        }
        DiscoveryType::OriginalDst => {
            if let Some(LbConfig::OriginalDstLbConfig(config)) = lb_config {
                let wire_cluster::cluster::OriginalDstLbConfig {
                    use_http_header,
                    http_header_name: _, // read with `use_http_header` only
                    upstream_port_override,
                    metadata_key,
                } = config;
                unsupported_any(&[
                    // A client could name any address.
                    ("original_dst_lb_config.use_http_header", *use_http_header),
                    ("original_dst_lb_config.upstream_port_override", upstream_port_override.is_some()),
                    ("original_dst_lb_config.metadata_key", metadata_key.is_some()),
                ])?;
            }
            Ok(Discovery::OriginalDestination(transports.choose(&[])))
        }
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
            Err(Unusable::new("type", "STRICT_DNS and LOGICAL_DNS are not supported"))
        }
    }
}

/// The first policy of the list that is known here, else `lb_policy` (`Cluster.load_balancing_policy`).
fn balancing(
    lb_policy: i32,
    policies: Option<wire_cluster::LoadBalancingPolicy>,
    lb_config: Option<wire_cluster::cluster::LbConfig>,
) -> Result<Balancing, Unusable> {
    use wire_cluster::cluster::{LbConfig, LbPolicy};
    if let Some(wire_cluster::LoadBalancingPolicy { policies }) = policies {
        let mut known = policies.into_iter().filter_map(
            |wire_cluster::load_balancing_policy::Policy { typed_extension_config }| {
                let core::TypedExtensionConfig { name: _, typed_config } = typed_extension_config?; // the type says what it is
                let any = typed_config?;
                match any.type_url.as_str() {
                    type_url::PEAK_EWMA => Some(Ok(Balancing::PeakEwma)),
                    type_url::LEAST_REQUEST => Some(
                        open::<least_request::LeastRequest>(&any, type_url::LEAST_REQUEST)
                            .map(|wire| least_request(number(wire.choice_count))),
                    ),
                    // Its one setting that is no locality weighting or slow start is being there.
                    type_url::ROUND_ROBIN => Some(Ok(Balancing::RoundRobin)),
                    _ => None,
                }
            },
        );
        return known
            .next()
            .unwrap_or_else(|| Err(Unusable::new("policies", "holds no policy that is known here")))
            .map_err(|bad| bad.within("load_balancing_policy"));
    }
    match LbPolicy::try_from(lb_policy) {
        Ok(LbPolicy::RoundRobin | LbPolicy::ClusterProvided) => Ok(Balancing::RoundRobin),
        Ok(LbPolicy::Random) => Ok(Balancing::Random),
        Ok(LbPolicy::LeastRequest) => Ok(least_request(match lb_config {
            Some(LbConfig::LeastRequestLbConfig(config)) => number(config.choice_count),
            _ => None,
        })),
        Ok(LbPolicy::RingHash | LbPolicy::Maglev) => {
            Err(Unusable::new("lb_policy", "RING_HASH and MAGLEV are not supported"))
        }
        Ok(LbPolicy::LoadBalancingPolicyConfig) => Err(Unusable::new("load_balancing_policy", "is required")),
        Err(_) => Err(Unusable::new("lb_policy", "is unknown")),
    }
}

/// Biases, full scans, slow start and locality weights of the message change which of the good endpoints is picked, never
/// whether a request succeeds; they come with the issue on balancing.
fn least_request(choices: Option<u32>) -> Balancing {
    Balancing::LeastRequest { choices: choices.unwrap_or(2).clamp(2, 64) }
}

/// The HTTP side of a cluster while it is read.
struct HttpOptions {
    protocol: UpstreamProtocol,
    connections: ConnectionSettings,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            protocol: UpstreamProtocol::Http1,
            connections: ConnectionSettings {
                // Envoy keeps idle connections for an hour; an application is rarely so patient, and a connection that it
                // closed costs a try.
                idle_timeout: Some(Duration::from_secs(3600)),
                max_duration: None,
                max_requests: None,
                max_concurrent_streams: 100,
                initial_stream_window: 256 * 1024,
                initial_connection_window: 1024 * 1024,
            },
        }
    }
}

impl HttpOptions {
    fn typed(&mut self, options: HashMap<String, Any>) -> Result<(), Unusable> {
        for (name, any) in options {
            let field = || format!("typed_extension_protocol_options[{name:?}]");
            if any.type_url != type_url::HTTP_PROTOCOL_OPTIONS {
                return Err(Unusable::new(field(), format_args!("{:?} is not supported", any.type_url)));
            }
            open(&any, type_url::HTTP_PROTOCOL_OPTIONS)
                .and_then(|wire| self.protocol(wire))
                .map_err(|bad| bad.within(field()))?;
        }
        Ok(())
    }

    fn protocol(&mut self, wire: upstream_http::HttpProtocolOptions) -> Result<(), Unusable> {
        use upstream_http::http_protocol_options::UpstreamProtocolOptions as Wire;
        use upstream_http::http_protocol_options::explicit_http_config::ProtocolConfig;
        let upstream_http::HttpProtocolOptions {
            common_http_protocol_options,
            upstream_http_protocol_options,
            http_filters,
            header_validation_config,
            outlier_detection,
            request_mirror_policies,
            hash_policy,
            retry_policy,
            upstream_protocol_options,
        } = wire;
        unsupported_any(&[
            ("upstream_http_protocol_options", upstream_http_protocol_options.is_some()),
            ("http_filters", !http_filters.is_empty()),
            ("header_validation_config", header_validation_config.is_some()),
            ("outlier_detection", outlier_detection.is_some()),
            ("request_mirror_policies", !request_mirror_policies.is_empty()),
            ("hash_policy", !hash_policy.is_empty()),
            ("retry_policy", retry_policy.is_some()),
        ])?;
        self.common(common_http_protocol_options)
            .map_err(|bad| bad.within("common_http_protocol_options"))?;
        match required("upstream_protocol_options", upstream_protocol_options)? {
            Wire::ExplicitHttpConfig(config) => {
                match required("explicit_http_config.protocol_config", config.protocol_config)? {
                    ProtocolConfig::HttpProtocolOptions(options) => {
                        self.protocol = UpstreamProtocol::Http1;
                        self.http1(Some(options))
                    }
                    ProtocolConfig::Http2ProtocolOptions(options) => self.http2(options),
                    ProtocolConfig::Http3ProtocolOptions(_) => {
                        Err(Unusable::new("http3_protocol_options", "is not supported"))
                    }
                }
                .map_err(|bad| bad.within("explicit_http_config"))
            }
            Wire::UseDownstreamProtocolConfig(_) => {
                self.protocol = UpstreamProtocol::AsDownstream;
                Ok(())
            }
            // ALPN decides on TLS connections in any case; without TLS Envoy speaks HTTP/1.1 then.
            Wire::AutoConfig(_) => Ok(()),
        }
    }

    fn common(&mut self, wire: Option<core::HttpProtocolOptions>) -> Result<(), Unusable> {
        let Some(core::HttpProtocolOptions {
            idle_timeout,
            max_connection_duration,
            // Spreads closings out; each connection's own last request does too.
            max_connection_duration_jitter: _,
            // Heads of responses have the data path's own bounds.
            max_headers_count: _,
            max_response_headers_kb: _,
            max_stream_duration,
            headers_with_underscores_action: _, // for requests of clients
            max_requests_per_connection,
        }) = wire
        else {
            return Ok(());
        };
        unsupported("max_stream_duration", max_stream_duration.is_some())?;
        let limit = |value: Duration| (!value.is_zero()).then_some(value);
        if let Some(idle) = duration("idle_timeout", idle_timeout)? {
            self.connections.idle_timeout = limit(idle);
        }
        if let Some(max) = duration("max_connection_duration", max_connection_duration)? {
            self.connections.max_duration = limit(max);
        }
        if let Some(max) = number(max_requests_per_connection) {
            self.connections.max_requests = (max > 0).then_some(max);
        }
        Ok(())
    }

    #[allow(deprecated)]
    fn http1(&mut self, wire: Option<core::Http1ProtocolOptions>) -> Result<(), Unusable> {
        let Some(core::Http1ProtocolOptions {
            // About requests of clients, or about how strictly they are read; reading is always strict here.
            allow_absolute_url: _,
            accept_http_10: _,
            default_host_for_http_10: _,
            header_key_format: _, // header case is kept as it came
            enable_trailers: _,   // trailers always pass
            allow_chunked_length,
            override_stream_error_on_invalid_http_message: _,
            send_fully_qualified_url,
            use_balsa_parser: _,     // which parser Envoy uses
            allow_custom_methods: _, // any method that is a token passes
            ignore_http_11_upgrade: _,
        }) = wire
        else {
            return Ok(());
        };
        unsupported_any(&[
            ("http_protocol_options.allow_chunked_length", allow_chunked_length),
            ("http_protocol_options.send_fully_qualified_url", send_fully_qualified_url),
        ])
    }

    fn http2(&mut self, wire: core::Http2ProtocolOptions) -> Result<(), Unusable> {
        self.protocol = UpstreamProtocol::Http2;
        let http2 = Http2Settings::decode(wire)?;
        let connections = &mut self.connections;
        connections.max_concurrent_streams =
            http2.max_concurrent_streams.unwrap_or(connections.max_concurrent_streams);
        connections.initial_stream_window = http2.stream_window.unwrap_or(connections.initial_stream_window);
        connections.initial_connection_window =
            http2.connection_window.unwrap_or(connections.initial_connection_window);
        Ok(())
    }
}

/// What of `Http2ProtocolOptions` is read, on either side.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Http2Settings {
    pub(crate) max_concurrent_streams: Option<u32>,
    pub(crate) stream_window: Option<u32>,
    pub(crate) connection_window: Option<u32>,
}

impl Http2Settings {
    #[allow(deprecated)]
    pub(crate) fn decode(wire: core::Http2ProtocolOptions) -> Result<Self, Unusable> {
        let core::Http2ProtocolOptions {
            max_concurrent_streams,
            initial_stream_window_size,
            initial_connection_window_size,
            allow_metadata,
            custom_settings_parameters,
            // Extended CONNECT is offered; routes refuse what they do not know.
            allow_connect: _,
            // Bounds against floods: the codec's own are not looser for being asked.
            hpack_table_size: _,
            max_outbound_frames: _,
            max_outbound_control_frames: _,
            max_consecutive_inbound_frames_with_empty_payload: _,
            max_inbound_priority_frames_per_stream: _,
            max_inbound_window_update_frames_per_data_frame_sent: _,
            max_metadata_size: _,
            max_header_field_size_kb: _,
            stream_reset_burst: _,
            stream_reset_rate: _,
            // How strictly messages are read: always strictly.
            stream_error_on_invalid_http_messaging: _,
            override_stream_error_on_invalid_http_message: _,
            disallow_obs_text: _,
            // Liveness of connections is the pool's own business.
            connection_keepalive: _,
            // How bytes are made, not what they mean.
            use_oghttp2_codec: _,
            enable_huffman_encoding: _,
        } = wire;
        unsupported_any(&[
            ("http2_protocol_options.allow_metadata", allow_metadata),
            ("http2_protocol_options.custom_settings_parameters", !custom_settings_parameters.is_empty()),
        ])?;
        // RFC 9113, section 6.9.1: a window is at most 2^31-1; Envoy asks for at least 2^16-1.
        let window = |field, value| match number(value) {
            Some(window) if !(65_535..=0x7fff_ffff).contains(&window) => {
                Err(Unusable::new(field, "is not between 65535 and 2147483647"))
            }
            window => Ok(window),
        };
        Ok(Self {
            max_concurrent_streams: match number(max_concurrent_streams) {
                Some(0) => return Err(Unusable::new("max_concurrent_streams", "must be at least 1")),
                streams => streams,
            },
            stream_window: window("initial_stream_window_size", initial_stream_window_size)?,
            connection_window: window("initial_connection_window_size", initial_connection_window_size)?,
        })
    }
}
