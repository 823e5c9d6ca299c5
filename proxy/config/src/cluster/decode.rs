//! Decoding of clusters, except for their HTTP options.

use std::sync::Arc;
use std::time::Duration;

use outrigger_core::Name;
use outrigger_policy::circuit_breaker::CircuitBreakers;
use outrigger_policy::field::{
    Unusable, each, non_empty, number, positive_duration, required, unsupported, unsupported_any,
};
use outrigger_policy::health_check::HealthCheck;
use outrigger_policy::hedging::Hedging;
use outrigger_policy::outlier::OutlierDetection;
use outrigger_policy::overload::OverloadMode;
use outrigger_proto::xds::{cluster as wire_cluster, core, metadata as keys};

use super::dns::DnsEndpoints;
use super::http_options::HttpOptions;
use super::picking::Picking;
use super::{Balancing, Cluster, Discovery, EndpointsHandle, UpstreamProtocol};
use crate::endpoint::{Assignment, EndpointSettings, Transport};
use crate::tls::{TransportSocket, Upstream, UpstreamTls};
use crate::wire::{from_ads, string_field};

/// A decoded cluster, with the settings that apply to its endpoints.
#[derive(Debug, Clone)]
pub(crate) struct Compiled {
    pub(crate) cluster: Arc<Cluster>,
    /// Its inline endpoints, if it does not use EDS.
    pub(crate) assignment: Option<Assignment>,
    pub(crate) endpoint_settings: EndpointSettings,
}

impl Compiled {
    /// Decodes a cluster. `before` is its current version, if any, whose endpoints it keeps.
    #[allow(deprecated)] // deprecated fields that Envoy still accepts must be decoded or rejected, not overlooked
    pub(crate) fn decode(wire: wire_cluster::Cluster, before: Option<&Cluster>) -> Result<Self, Unusable> {
        let wire_cluster::Cluster {
            transport_socket_matches,
            transport_socket_matcher,
            name,
            // Metrics use the cluster's name.
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
            // Names are resolved when they are used, by the resolver of the process, for as long as the answer is valid.
            dns_refresh_rate: _,
            dns_jitter: _,
            dns_failure_refresh_rate: _,
            respect_dns_ttl: _,
            dns_lookup_family,
            dns_resolvers: _,
            use_tcp_for_dns_lookups: _,
            dns_resolution_config: _,
            typed_dns_resolver_config: _,
            // Every cluster is warmed before a route that refers to it is published.
            wait_for_warm_on_init: _,
            outlier_detection,
            // How long an original destination is kept; here none is.
            cleanup_interval: _,
            upstream_bind_config,
            lb_subset_config,
            common_lb_config,
            transport_socket,
            metadata,
            protocol_selection,
            upstream_connection_options,
            close_connections_on_host_health_failure,
            // An endpoint that discovery has removed gets no requests, whatever its health.
            ignore_health_on_host_removal: _,
            filters,
            load_balancing_policy,
            // Load reports are not sent; requests do not depend on them.
            lrs_server: _,
            lrs_report_endpoint_metrics: _,
            // More statistics.
            track_timeout_budgets: _,
            track_cluster_stats: _,
            upstream_config,
            // Only opens connections before they are needed.
            preconnect_policy: _,
            connection_pool_per_downstream_connection,
            queuing_policies,
            cluster_discovery_type,
            lb_config,
        } = wire;
        unsupported_any(&[
            ("transport_socket_matcher", transport_socket_matcher.is_some()),
            // These two have no effect if they are empty.
            ("upstream_bind_config", upstream_bind_config.is_some_and(|of| of != Default::default())),
            ("lb_subset_config", lb_subset_config.is_some_and(|of| of != Default::default())),
            // Endpoints that become unhealthy complete their running requests.
            ("close_connections_on_host_health_failure", close_connections_on_host_health_failure),
            ("filters", !filters.is_empty()),
            ("upstream_config", upstream_config.is_some()),
            ("connection_pool_per_downstream_connection", connection_pool_per_downstream_connection),
            ("queuing_policies", queuing_policies.is_some()),
        ])?;
        if let Some(options) = upstream_connection_options {
            upstream_connection(options);
        }
        unsupported_original_destination(&lb_config)?;
        let picking = Picking::decode(lb_policy, load_balancing_policy, lb_config, common_lb_config)?;
        let endpoint_settings = EndpointSettings {
            matches: each("transport_socket_matches", transport_socket_matches, transport_match)?,
            otherwise: match transport_socket {
                Some(socket) => transport(socket).map_err(|bad| bad.within("transport_socket"))?,
                None => Transport::Plain,
            },
            locality_weighted: picking.locality_weighted,
            hashing: match picking.policy {
                Balancing::Hashing(hashing) => Some(hashing),
                _ => None,
            },
            hashes_names: picking.hashes_names,
        };
        let name: Name = non_empty("name", name)?.into();
        let of_dns = before.and_then(|before| before.discovery.dns());
        let mut endpoints = match before {
            Some(before) if of_dns.is_none() => before.endpoints.clone(),
            _ => EndpointsHandle::default(),
        };
        let (discovery, assignment) =
            match discovery(&name, cluster_discovery_type, eds_cluster_config, &endpoint_settings)? {
                Some(Discovery::Static) => {
                    let wire = load_assignment.unwrap_or_default();
                    let assignment = Assignment::decode(wire).map_err(|bad| bad.within("load_assignment"))?;
                    (Discovery::Static, Some(assignment))
                }
                Some(_) if load_assignment.is_some() => {
                    return Err(Unusable::new(
                        "load_assignment",
                        "is only for static clusters and those of DNS",
                    ));
                }
                Some(discovery) => (discovery, None),
                None => {
                    let dns = DnsEndpoints::decode(
                        load_assignment,
                        dns_lookup_family,
                        &endpoint_settings,
                        of_dns.map(Arc::as_ref),
                    )?;
                    endpoints = dns.endpoints().clone();
                    (Discovery::Dns(Arc::new(dns)), None)
                }
            };
        let mut http = HttpOptions::default();
        http.common(common_http_protocol_options)
            .map_err(|bad| bad.within("common_http_protocol_options"))?;
        http.http1(http_protocol_options).map_err(|bad| bad.within("http_protocol_options"))?;
        if let Some(options) = http2_protocol_options {
            http.protocol = UpstreamProtocol::Http2;
            http.http2(options).map_err(|bad| bad.within("http2_protocol_options"))?;
        }
        if protocol_selection == wire_cluster::cluster::ClusterProtocolSelection::UseDownstreamProtocol as i32
        {
            http.protocol = UpstreamProtocol::AsDownstream;
        }
        let upstream_http = upstream_http_protocol_options.is_some_and(|of| of != Default::default());
        unsupported("upstream_http_protocol_options", upstream_http)?;
        if let Some(max) = number(max_requests_per_connection) {
            http.connections.max_requests = (max > 0).then_some(max);
        }
        http.typed(typed_extension_protocol_options)?;
        let cluster = Cluster {
            name,
            discovery,
            endpoints,
            connect_timeout: positive_duration("connect_timeout", connect_timeout)?
                .unwrap_or(Duration::from_secs(5)),
            breakers: CircuitBreakers::decode(circuit_breakers)
                .map_err(|bad| bad.within("circuit_breakers"))?,
            overload: overload(metadata.as_ref())?,
            hedging: hedging(metadata.as_ref())?,
            outlier: OutlierDetection::decode(outlier_detection)
                .map_err(|bad| bad.within("outlier_detection"))?,
            health_check: HealthCheck::decode(health_checks)?.map(Arc::new),
            panic: picking.panic,
            session_statuses: picking.session_statuses,
            balancing: picking.policy,
            slow_start: picking.slow_start,
            hash_policies: picking.hash_policies,
            protocol: http.protocol,
            connections: http.connections,
        };
        Ok(Self { cluster: Arc::new(cluster), assignment, endpoint_settings })
    }
}

/// Decodes what our control plane writes in the metadata of a cluster. Metadata under other keys is for other proxies.
fn overload(metadata: Option<&core::Metadata>) -> Result<OverloadMode, Unusable> {
    let of = metadata.and_then(|metadata| metadata.filter_metadata.get(keys::OVERLOAD));
    let Some(of) = of else { return Ok(OverloadMode::Off) };
    let mode = string_field(of, keys::MODE).and_then(OverloadMode::named);
    let field = format!("metadata.filter_metadata.{}.{}", keys::OVERLOAD, keys::MODE);
    mode.ok_or_else(|| Unusable::new(field, "is none of off, observe and enforce"))
}

fn hedging(metadata: Option<&core::Metadata>) -> Result<Option<Hedging>, Unusable> {
    let of = metadata.and_then(|metadata| metadata.filter_metadata.get(keys::HEDGING));
    let field = || format!("metadata.filter_metadata.{}", keys::HEDGING);
    of.map(Hedging::decode).transpose().map_err(|bad| bad.within(field()))
}

fn upstream_connection(wire: wire_cluster::UpstreamConnectionOptions) {
    let wire_cluster::UpstreamConnectionOptions {
        // Idle connections are closed by timeout and broken ones on first use; probes would only find them earlier.
        tcp_keepalive: _,
        // Only adds or saves a system call.
        set_local_interface_name_on_upstream_connections: _,
        // Applies only to endpoints with several addresses, which are refused.
        happy_eyeballs_config: _,
    } = wire;
}

fn transport(wire: core::TransportSocket) -> Result<Transport, Unusable> {
    Ok(match UpstreamTls::decode(wire)? {
        TransportSocket::Plain => Transport::Plain,
        TransportSocket::Tls(Upstream::Workload(tls)) => Transport::Tls(Arc::new(tls)),
        TransportSocket::Tls(Upstream::Host(tls)) => Transport::Host(Arc::new(tls)),
    })
}

fn transport_match(
    wire: wire_cluster::cluster::TransportSocketMatch,
) -> Result<(Vec<(String, String)>, Transport), Unusable> {
    let wire_cluster::cluster::TransportSocketMatch { name: _, r#match, transport_socket } = wire; // a name for statistics
    let criteria = r#match.unwrap_or_default();
    let texts = criteria.fields.keys().map(|key| match string_field(&criteria, key) {
        Some(value) => Ok((key.clone(), value.to_owned())),
        None => Err(Unusable::new(format!("match.{key}"), "is no text")),
    });
    let texts = texts.collect::<Result<_, _>>()?;
    let socket = required("transport_socket", transport_socket)?;
    Ok((texts, transport(socket).map_err(|bad| bad.within("transport_socket"))?))
}

/// Returns where endpoints come from, or `None` if it is DNS.
fn discovery(
    name: &Name,
    wire: Option<wire_cluster::cluster::ClusterDiscoveryType>,
    eds: Option<wire_cluster::cluster::EdsClusterConfig>,
    endpoint_settings: &EndpointSettings,
) -> Result<Option<Discovery>, Unusable> {
    use wire_cluster::cluster::{ClusterDiscoveryType, DiscoveryType};
    let kind = match wire {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => {
            DiscoveryType::try_from(kind).map_err(|_| Unusable::new("type", "is unknown"))?
        }
        Some(ClusterDiscoveryType::ClusterType(_)) => {
            return Err(Unusable::new("cluster_type", "is not supported"));
        }
    };
    Ok(Some(match kind {
        DiscoveryType::Static => Discovery::Static,
        DiscoveryType::Eds => {
            let wire_cluster::cluster::EdsClusterConfig { eds_config, service_name } =
                required("eds_cluster_config", eds)?;
            from_ads("eds_config", eds_config).map_err(|bad| bad.within("eds_cluster_config"))?;
            Discovery::Eds(if service_name.is_empty() { name.clone() } else { service_name.into() })
        }
        DiscoveryType::OriginalDst => Discovery::OriginalDestination(endpoint_settings.transport(&[])),
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => return Ok(None),
    }))
}

/// Returns an error for settings that take the original destination from anything but the kernel.
fn unsupported_original_destination(
    config: &Option<wire_cluster::cluster::LbConfig>,
) -> Result<(), Unusable> {
    let Some(wire_cluster::cluster::LbConfig::OriginalDstLbConfig(config)) = config else { return Ok(()) };
    let wire_cluster::cluster::OriginalDstLbConfig {
        use_http_header,
        http_header_name: _, // applies only with `use_http_header`
        upstream_port_override,
        metadata_key,
    } = config;
    unsupported_any(&[
        // A client could choose any address.
        ("original_dst_lb_config.use_http_header", *use_http_header),
        ("original_dst_lb_config.upstream_port_override", upstream_port_override.is_some()),
        ("original_dst_lb_config.metadata_key", metadata_key.is_some()),
    ])
}
