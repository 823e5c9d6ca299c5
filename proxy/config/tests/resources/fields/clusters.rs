//! Clusters and their endpoints.

use outrigger_proto::xds::protobuf::{Any, BoolValue, Struct, Value, value};
use outrigger_proto::xds::{cluster, core, lb_common, random, type_url, types, wrr_locality};
use prost::Message;

use super::place::Place;
use crate::dns::named;
use crate::fixture::*;

use cluster::cluster::common_lb_config::LocalityConfigSpecifier;
use cluster::cluster::{ClusterDiscoveryType, CommonLbConfig, DiscoveryType, LbConfig, LbPolicy};

pub fn in_cluster(wire: cluster::Cluster) -> (String, Any) {
    (wire.name.clone(), cluster_body(wire))
}

/// A cluster with locality-weighted balancing, so that a changed locality weight has an effect.
pub fn by_locality() -> cluster::Cluster {
    let common = CommonLbConfig {
        locality_config_specifier: Some(
            LocalityConfigSpecifier::LocalityWeightedLbConfig(Default::default()),
        ),
        ..Default::default()
    };
    cluster::Cluster { common_lb_config: Some(common), ..cart_cluster() }
}

/// A cluster whose balancing is set by the older field `lb_policy`.
pub fn older(lb_policy: LbPolicy, lb_config: Option<LbConfig>) -> cluster::Cluster {
    cluster::Cluster { load_balancing_policy: None, lb_policy: lb_policy.into(), lb_config, ..cart_cluster() }
}

pub fn policy(type_url: &str, message: &impl Message) -> cluster::load_balancing_policy::Policy {
    let typed_config = Some(packed(type_url, message));
    let extension = core::TypedExtensionConfig { name: "x".into(), typed_config };
    cluster::load_balancing_policy::Policy { typed_extension_config: Some(extension) }
}

pub fn in_policy(of: cluster::load_balancing_policy::Policy) -> (String, Any) {
    let load_balancing_policy = Some(cluster::LoadBalancingPolicy { policies: vec![of] });
    in_cluster(cluster::Cluster { load_balancing_policy, ..cart_cluster() })
}

const DNS: &str = "names are resolved when they are used, by the resolver of the process";
const HASHING: &str = "is read with the older fields of policies that hash only";

pub fn bias() -> core::RuntimeDouble {
    core::RuntimeDouble { default_value: 2.0, runtime_key: String::new() }
}

pub fn weighted() -> lb_common::LocalityLbConfig {
    lb_common::LocalityLbConfig {
        locality_config_specifier: Some(
            lb_common::locality_lb_config::LocalityConfigSpecifier::LocalityWeightedLbConfig(
                Default::default(),
            ),
        ),
    }
}

fn overload(mode: &str) -> core::Metadata {
    let kind = Some(value::Kind::StringValue(mode.into()));
    let fields = [("mode".to_owned(), Value { kind })].into();
    let filter_metadata = [("outrigger.overload".to_owned(), Struct { fields })].into();
    core::Metadata { filter_metadata, ..Default::default() }
}

#[expect(deprecated, reason = "older forms are still sent")]
pub fn places() -> Vec<Place> {
    let thresholds = || cart_cluster().circuit_breakers.unwrap().thresholds.remove(0);
    let in_thresholds = |of: cluster::circuit_breakers::Thresholds| {
        let breakers = cluster::CircuitBreakers { thresholds: vec![of], ..Default::default() };
        in_cluster(cluster::Cluster { circuit_breakers: Some(breakers), ..cart_cluster() })
    };
    let in_common =
        |of: CommonLbConfig| in_cluster(cluster::Cluster { common_lb_config: Some(of), ..cart_cluster() });
    vec![
        Place::new("Cluster", "envoy.config.cluster.v3.Cluster", cart_cluster(), in_cluster)
            .probe("type", |of: &mut cluster::Cluster| {
                of.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into()))
            })
            .probe("dns_lookup_family", |of: &mut cluster::Cluster| {
                let family = cluster::cluster::DnsLookupFamily::V6Only.into();
                *of =
                    cluster::Cluster { dns_lookup_family: family, ..named(DiscoveryType::StrictDns, "a.b") };
            })
            .probe("load_assignment", |of: &mut cluster::Cluster| {
                of.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into()));
                of.load_assignment = Some(assignment(CART, &["10.0.0.9:80"]));
            })
            .probe("metadata", |of: &mut cluster::Cluster| of.metadata = Some(overload("observe")))
            .probe("health_checks", |of: &mut cluster::Cluster| {
                of.health_checks = vec![super::health_checks::check()]
            })
            .probe("lb_policy", |of: &mut cluster::Cluster| *of = older(LbPolicy::Random, None))
            .probe("ring_hash_lb_config", |of: &mut cluster::Cluster| {
                of.lb_config = Some(LbConfig::RingHashLbConfig(Default::default()))
            })
            .probe("least_request_lb_config", |of: &mut cluster::Cluster| {
                let choice_count = number(7);
                let config = cluster::cluster::LeastRequestLbConfig { choice_count, ..Default::default() };
                *of = older(LbPolicy::LeastRequest, Some(LbConfig::LeastRequestLbConfig(config)));
            })
            .probe("round_robin_lb_config", |of: &mut cluster::Cluster| {
                let slow_start_window = seconds(60);
                let slow_start_config =
                    Some(cluster::cluster::SlowStartConfig { slow_start_window, ..Default::default() });
                let config = cluster::cluster::RoundRobinLbConfig { slow_start_config };
                *of = older(LbPolicy::RoundRobin, Some(LbConfig::RoundRobinLbConfig(config)));
            })
            .probe("original_dst_lb_config", |of: &mut cluster::Cluster| {
                let config =
                    cluster::cluster::OriginalDstLbConfig { use_http_header: true, ..Default::default() };
                *of = older(LbPolicy::ClusterProvided, Some(LbConfig::OriginalDstLbConfig(config)));
            })
            .probe("common_lb_config", |of: &mut cluster::Cluster| {
                of.common_lb_config = by_locality().common_lb_config
            })
            .probe("transport_socket", |of: &mut cluster::Cluster| {
                of.transport_socket_matches.clear();
                of.transport_socket = socket(
                    type_url::UPSTREAM_TLS_CONTEXT,
                    &upstream_tls(&["spiffe://cluster.local/ns/a/sa/b"]),
                );
            })
            .probe("http2_protocol_options", |of: &mut cluster::Cluster| {
                of.typed_extension_protocol_options.clear();
                let max_concurrent_streams = number(7);
                of.http2_protocol_options =
                    Some(core::Http2ProtocolOptions { max_concurrent_streams, ..Default::default() });
            })
            .probe("http_protocol_options", |of: &mut cluster::Cluster| {
                let options =
                    core::Http1ProtocolOptions { send_fully_qualified_url: true, ..Default::default() };
                of.http_protocol_options = Some(options);
            })
            .probe("common_http_protocol_options", |of: &mut cluster::Cluster| {
                of.common_http_protocol_options =
                    Some(core::HttpProtocolOptions { idle_timeout: seconds(7), ..Default::default() });
            })
            .probe("protocol_selection", |of: &mut cluster::Cluster| {
                of.typed_extension_protocol_options.clear();
                of.protocol_selection =
                    cluster::cluster::ClusterProtocolSelection::UseDownstreamProtocol.into();
            })
            .probe("upstream_connection_options", |of: &mut cluster::Cluster| {
                of.upstream_connection_options = Some(Default::default());
            })
            .probe("upstream_bind_config", |of: &mut cluster::Cluster| {
                let source_address = Some(super::listeners::socket_of(address("10.0.0.1:0").unwrap()));
                of.upstream_bind_config = Some(core::BindConfig { source_address, ..Default::default() });
            })
            .probe("lb_subset_config", |of: &mut cluster::Cluster| {
                let subset_selectors = vec![Default::default()];
                of.lb_subset_config =
                    Some(cluster::cluster::LbSubsetConfig { subset_selectors, ..Default::default() });
            })
            .probe("upstream_http_protocol_options", |of: &mut cluster::Cluster| {
                of.upstream_http_protocol_options =
                    Some(core::UpstreamHttpProtocolOptions { auto_sni: true, ..Default::default() });
            })
            .harmless("metrics are named by the cluster itself", &["alt_stat_name", "stats_matcher"])
            .harmless(
                "buffers are bounded by HTTP/2 windows and by the data path's own sizes",
                &["per_connection_buffer_limit_bytes", "per_connection_buffer_high_watermark_timeout"],
            )
            .harmless(
                DNS,
                &[
                    "dns_refresh_rate",
                    "dns_jitter",
                    "dns_failure_refresh_rate",
                    "respect_dns_ttl",
                    "dns_resolvers",
                    "use_tcp_for_dns_lookups",
                    "dns_resolution_config",
                    "typed_dns_resolver_config",
                ],
            )
            .harmless("every cluster is warmed before a route may name it", &["wait_for_warm_on_init"])
            .harmless("nothing is kept of an original destination", &["cleanup_interval"])
            .harmless(
                "an endpoint that discovery removes gets no requests, whatever its health",
                &["ignore_health_on_host_removal"],
            )
            .harmless("load reports are not sent", &["lrs_server", "lrs_report_endpoint_metrics"])
            .harmless("more statistics", &["track_timeout_budgets", "track_cluster_stats"])
            .harmless("only warms connections ahead of use", &["preconnect_policy"])
            .harmless(
                "settings of another policy than the one chosen say nothing, as in Envoy",
                &["ring_hash_lb_config", "maglev_lb_config"],
            )
            .harmless("see its fields", &["upstream_connection_options"]),
        Place::new(
            "Cluster.EdsClusterConfig",
            "envoy.config.cluster.v3.Cluster.EdsClusterConfig",
            cart_cluster().eds_cluster_config.unwrap(),
            |of| in_cluster(cluster::Cluster { eds_cluster_config: Some(of), ..cart_cluster() }),
        ),
        Place::new(
            "Cluster.TransportSocketMatch",
            "envoy.config.cluster.v3.Cluster.TransportSocketMatch",
            cart_cluster().transport_socket_matches.remove(0),
            |of| in_cluster(cluster::Cluster { transport_socket_matches: vec![of], ..cart_cluster() }),
        )
        .probe("match", |of: &mut cluster::cluster::TransportSocketMatch| {
            let kind = Some(value::Kind::StringValue("other".into()));
            of.r#match = Some(Struct { fields: [("outrigger".to_owned(), Value { kind })].into() });
        })
        .harmless("a name for statistics", &["name"]),
        Place::new(
            "UpstreamConnectionOptions",
            "envoy.config.cluster.v3.UpstreamConnectionOptions",
            cluster::UpstreamConnectionOptions::default(),
            |of| in_cluster(cluster::Cluster { upstream_connection_options: Some(of), ..cart_cluster() }),
        )
        .harmless("every connection has keepalive", &["tcp_keepalive"])
        .harmless("costs or saves a system call", &["set_local_interface_name_on_upstream_connections"])
        .harmless(
            "an endpoint has one address: `additional_addresses` are refused",
            &["happy_eyeballs_config"],
        ),
        Place::new(
            "Cluster.CommonLbConfig",
            "envoy.config.cluster.v3.Cluster.CommonLbConfig",
            CommonLbConfig::default(),
            in_common,
        )
        .probe("healthy_panic_threshold", |of: &mut CommonLbConfig| {
            of.healthy_panic_threshold = Some(types::Percent { value: 7.0 });
        })
        .harmless("each assignment is published as it comes", &["update_merge_window"])
        .harmless(HASHING, &["consistent_hashing_lb_config"])
        .probe("override_host_status", |of: &mut CommonLbConfig| {
            of.override_host_status = Some(core::HealthStatusSet { statuses: vec![3] });
        })
        .harmless("needs a local cluster, without which Envoy ignores it too", &["zone_aware_lb_config"]),
        Place::new(
            "Cluster.CommonLbConfig.LocalityWeightedLbConfig",
            "envoy.config.cluster.v3.Cluster.CommonLbConfig.LocalityWeightedLbConfig",
            cluster::cluster::common_lb_config::LocalityWeightedLbConfig {},
            move |of| {
                let locality_config_specifier = Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(of));
                in_common(CommonLbConfig { locality_config_specifier, ..Default::default() })
            },
        ),
        Place::new(
            "Cluster.OriginalDstLbConfig",
            "envoy.config.cluster.v3.Cluster.OriginalDstLbConfig",
            cluster::cluster::OriginalDstLbConfig::default(),
            |of| {
                let mut wire = older(LbPolicy::ClusterProvided, Some(LbConfig::OriginalDstLbConfig(of)));
                wire.cluster_discovery_type =
                    Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into()));
                in_cluster(wire)
            },
        )
        .harmless("is read with `use_http_header` only", &["http_header_name"]),
        Place::new(
            "LoadBalancingPolicy",
            "envoy.config.cluster.v3.LoadBalancingPolicy",
            cart_cluster().load_balancing_policy.unwrap(),
            |of| in_cluster(cluster::Cluster { load_balancing_policy: Some(of), ..cart_cluster() }),
        ),
        Place::new(
            "LoadBalancingPolicy.Policy",
            "envoy.config.cluster.v3.LoadBalancingPolicy.Policy",
            policy(type_url::RANDOM, &random::Random::default()),
            in_policy,
        ),
        Place::new(
            "TypedExtensionConfig (of a policy)",
            "envoy.config.core.v3.TypedExtensionConfig",
            policy(type_url::RANDOM, &random::Random::default()).typed_extension_config.unwrap(),
            |of| in_policy(cluster::load_balancing_policy::Policy { typed_extension_config: Some(of) }),
        )
        .harmless("the type of its configuration says what it is", &["name"]),
        Place::new(
            "Random",
            "envoy.extensions.load_balancing_policies.random.v3.Random",
            random::Random::default(),
            |of| in_policy(policy(type_url::RANDOM, &of)),
        )
        .probe("locality_lb_config", move |of: &mut random::Random| of.locality_lb_config = Some(weighted())),
        Place::new(
            "WrrLocality",
            "envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality",
            wrr_locality::WrrLocality {
                endpoint_picking_policy: Some(cluster::LoadBalancingPolicy {
                    policies: vec![policy(type_url::RANDOM, &random::Random::default())],
                }),
            },
            |of| in_policy(policy(type_url::WRR_LOCALITY, &of)),
        ),
        Place::new(
            "LocalityLbConfig",
            "envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig",
            lb_common::LocalityLbConfig::default(),
            |of| in_policy(policy(type_url::RANDOM, &random::Random { locality_lb_config: Some(of) })),
        )
        .harmless("needs a local cluster, without which Envoy ignores it too", &["zone_aware_lb_config"]),
        Place::new(
            "LocalityLbConfig.LocalityWeightedLbConfig",
            "envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig.LocalityWeightedLbConfig",
            lb_common::locality_lb_config::LocalityWeightedLbConfig {},
            move |_| {
                in_policy(policy(type_url::RANDOM, &random::Random { locality_lb_config: Some(weighted()) }))
            },
        ),
        Place::new(
            "CircuitBreakers",
            "envoy.config.cluster.v3.CircuitBreakers",
            cart_cluster().circuit_breakers.unwrap(),
            |of| in_cluster(cluster::Cluster { circuit_breakers: Some(of), ..cart_cluster() }),
        ),
        Place::new(
            "CircuitBreakers.Thresholds",
            "envoy.config.cluster.v3.CircuitBreakers.Thresholds",
            thresholds(),
            in_thresholds,
        )
        .probe("max_connections", |of: &mut cluster::circuit_breakers::Thresholds| {
            of.max_connections = number(7);
        })
        .probe("max_retries", |of: &mut cluster::circuit_breakers::Thresholds| {
            of.retry_budget = None;
            of.max_retries = number(7);
        })
        .harmless("metrics always have what is used and the limit", &["track_remaining"])
        .harmless(
            "there is one pool for each endpoint and worker, and idle ones are closed",
            &["max_connection_pools"],
        ),
        Place::new(
            "CircuitBreakers.Thresholds.RetryBudget",
            "envoy.config.cluster.v3.CircuitBreakers.Thresholds.RetryBudget",
            Default::default(),
            move |of: cluster::circuit_breakers::thresholds::RetryBudget| {
                in_thresholds(cluster::circuit_breakers::Thresholds {
                    retry_budget: Some(of),
                    ..Default::default()
                })
            },
        )
        .probe("budget_percent", |of: &mut cluster::circuit_breakers::thresholds::RetryBudget| {
            of.budget_percent = Some(types::Percent { value: 7.0 })
        }),
        outlier_detection(),
    ]
}

fn outlier_detection() -> Place {
    Place::new(
        "OutlierDetection",
        "envoy.config.cluster.v3.OutlierDetection",
        cluster::OutlierDetection { split_external_local_origin_errors: true, ..Default::default() },
        |of| in_cluster(cluster::Cluster { outlier_detection: Some(of), ..cart_cluster() }),
    )
    .probe("always_eject_one_host", |of: &mut cluster::OutlierDetection| {
        of.always_eject_one_host = Some(BoolValue { value: true })
    })
    .probe("consecutive_gateway_failure", |of: &mut cluster::OutlierDetection| {
        of.consecutive_gateway_failure = number(7);
        of.enforcing_consecutive_gateway_failure = number(100);
    })
    .harmless(
        "requests end an ejection, not checks: what they ask is not what failed",
        &["successful_active_health_check_uneject_host"],
    )
}
