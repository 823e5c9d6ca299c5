//! The hashes of requests, and the policies that pick endpoints by them.

use outrigger_proto::xds::protobuf::{Any, UInt64Value};
use outrigger_proto::xds::{cluster, lb_common, maglev, ring_hash, route, tcp_proxy, type_url, types};

use super::clusters::{in_cluster, in_policy, older, policy};
use super::listeners::in_tcp;
use super::place::Place;
use super::routes::{action, in_action, substitute};
use crate::fixture::*;

use cluster::cluster::common_lb_config::ConsistentHashingLbConfig;
use cluster::cluster::{CommonLbConfig, LbConfig, LbPolicy, MaglevLbConfig, RingHashLbConfig};
use lb_common::locality_lb_config::LocalityWeightedLbConfig;
use route::route_action::hash_policy::{
    ConnectionProperties, Cookie, CookieAttribute, Header, PolicySpecifier, QueryParameter,
};

pub fn hash_policy() -> route::route_action::HashPolicy {
    let header = Header { header_name: "a".into(), regex_rewrite: None };
    in_specifier(PolicySpecifier::Header(header))
}

pub fn of_address() -> types::HashPolicy {
    let specifier = types::hash_policy::PolicySpecifier::SourceIp(types::hash_policy::SourceIp {});
    types::HashPolicy { policy_specifier: Some(specifier) }
}

fn in_specifier(of: PolicySpecifier) -> route::route_action::HashPolicy {
    route::route_action::HashPolicy { terminal: false, policy_specifier: Some(of) }
}

fn in_hash_policy(of: route::route_action::HashPolicy) -> (String, Any) {
    in_action(route::RouteAction { hash_policy: vec![of], ..action() })
}

fn in_cookie(of: Cookie) -> (String, Any) {
    in_hash_policy(in_specifier(PolicySpecifier::Cookie(of)))
}

fn cookie() -> Cookie {
    Cookie { name: "a".into(), ttl: seconds(9), ..Default::default() }
}

fn attribute() -> CookieAttribute {
    CookieAttribute { name: "SameSite".into(), value: "Lax".into() }
}

fn prime() -> Option<UInt64Value> {
    Some(UInt64Value { value: 7 })
}

fn in_maglev(of: lb_common::ConsistentHashingLbConfig) -> (String, Any) {
    let wire = maglev::Maglev { consistent_hashing_lb_config: Some(of), ..Default::default() };
    in_policy(policy(type_url::MAGLEV, &wire))
}

pub fn places() -> Vec<Place> {
    let specifier = |of| in_hash_policy(in_specifier(of));
    let common =
        || lb_common::ConsistentHashingLbConfig { use_hostname_for_hashing: true, ..Default::default() };
    let ring = || LbConfig::RingHashLbConfig(RingHashLbConfig::default());
    vec![
        Place::new(
            "RouteAction.HashPolicy",
            "envoy.config.route.v3.RouteAction.HashPolicy",
            hash_policy(),
            in_hash_policy,
        )
        .probe("cookie", |of: &mut route::route_action::HashPolicy| {
            of.policy_specifier = Some(PolicySpecifier::Cookie(cookie()));
        })
        .probe("connection_properties", |of: &mut route::route_action::HashPolicy| {
            let source = ConnectionProperties { source_ip: true };
            of.policy_specifier = Some(PolicySpecifier::ConnectionProperties(source));
        })
        .probe("query_parameter", |of: &mut route::route_action::HashPolicy| {
            let parameter = QueryParameter { name: "a".into() };
            of.policy_specifier = Some(PolicySpecifier::QueryParameter(parameter));
        }),
        Place::new(
            "RouteAction.HashPolicy.Header",
            "envoy.config.route.v3.RouteAction.HashPolicy.Header",
            Header { header_name: "a".into(), regex_rewrite: None },
            move |of| specifier(PolicySpecifier::Header(of)),
        )
        .probe("regex_rewrite", |of: &mut Header| of.regex_rewrite = Some(substitute())),
        Place::new(
            "RouteAction.HashPolicy.Cookie",
            "envoy.config.route.v3.RouteAction.HashPolicy.Cookie",
            cookie(),
            in_cookie,
        )
        .probe("attributes", |of: &mut Cookie| of.attributes = vec![attribute()]),
        Place::new(
            "RouteAction.HashPolicy.CookieAttribute",
            "envoy.config.route.v3.RouteAction.HashPolicy.CookieAttribute",
            attribute(),
            |of| in_cookie(Cookie { attributes: vec![of], ..cookie() }),
        ),
        Place::new(
            "RouteAction.HashPolicy.ConnectionProperties",
            "envoy.config.route.v3.RouteAction.HashPolicy.ConnectionProperties",
            ConnectionProperties { source_ip: true },
            move |of| specifier(PolicySpecifier::ConnectionProperties(of)),
        ),
        Place::new(
            "RouteAction.HashPolicy.QueryParameter",
            "envoy.config.route.v3.RouteAction.HashPolicy.QueryParameter",
            QueryParameter { name: "a".into() },
            move |of| specifier(PolicySpecifier::QueryParameter(of)),
        ),
        Place::new("HashPolicy (of a TCP proxy)", "envoy.type.v3.HashPolicy", of_address(), |of| {
            in_tcp(tcp_proxy::TcpProxy { hash_policy: vec![of], ..tcp(CART) })
        }),
        Place::new(
            "Cluster.RingHashLbConfig",
            "envoy.config.cluster.v3.Cluster.RingHashLbConfig",
            RingHashLbConfig::default(),
            |of| in_cluster(older(LbPolicy::RingHash, Some(LbConfig::RingHashLbConfig(of)))),
        )
        .probe("maximum_ring_size", |of: &mut RingHashLbConfig| {
            of.maximum_ring_size = Some(UInt64Value { value: 2048 });
        }),
        Place::new(
            "Cluster.MaglevLbConfig",
            "envoy.config.cluster.v3.Cluster.MaglevLbConfig",
            MaglevLbConfig::default(),
            |of| in_cluster(older(LbPolicy::Maglev, Some(LbConfig::MaglevLbConfig(of)))),
        )
        .probe("table_size", |of: &mut MaglevLbConfig| of.table_size = prime()),
        Place::new(
            "Cluster.CommonLbConfig.ConsistentHashingLbConfig",
            "envoy.config.cluster.v3.Cluster.CommonLbConfig.ConsistentHashingLbConfig",
            ConsistentHashingLbConfig::default(),
            move |of| {
                let common = CommonLbConfig { consistent_hashing_lb_config: Some(of), ..Default::default() };
                let wire = older(LbPolicy::RingHash, Some(ring()));
                in_cluster(cluster::Cluster { common_lb_config: Some(common), ..wire })
            },
        ),
        Place::new(
            "RingHash",
            "envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash",
            ring_hash::RingHash::default(),
            |of| in_policy(policy(type_url::RING_HASH, &of)),
        )
        .probe("hash_function", |of: &mut ring_hash::RingHash| {
            of.hash_function = ring_hash::ring_hash::HashFunction::MurmurHash2.into();
        })
        .probe("maximum_ring_size", |of: &mut ring_hash::RingHash| {
            of.maximum_ring_size = Some(UInt64Value { value: 2048 });
        })
        .probe("consistent_hashing_lb_config", move |of: &mut ring_hash::RingHash| {
            of.consistent_hashing_lb_config = Some(common());
        })
        .probe("locality_weighted_lb_config", |of: &mut ring_hash::RingHash| {
            of.locality_weighted_lb_config = Some(LocalityWeightedLbConfig {});
        }),
        Place::new(
            "Maglev",
            "envoy.extensions.load_balancing_policies.maglev.v3.Maglev",
            maglev::Maglev::default(),
            |of| in_policy(policy(type_url::MAGLEV, &of)),
        )
        .probe("table_size", |of: &mut maglev::Maglev| of.table_size = prime())
        .probe("consistent_hashing_lb_config", move |of: &mut maglev::Maglev| {
            of.consistent_hashing_lb_config = Some(common());
        })
        .probe("locality_weighted_lb_config", |of: &mut maglev::Maglev| {
            of.locality_weighted_lb_config = Some(LocalityWeightedLbConfig {});
        }),
        Place::new(
            "ConsistentHashingLbConfig",
            "envoy.extensions.load_balancing_policies.common.v3.ConsistentHashingLbConfig",
            lb_common::ConsistentHashingLbConfig::default(),
            in_maglev,
        )
        .probe("hash_policy", |of: &mut lb_common::ConsistentHashingLbConfig| {
            of.hash_policy = vec![hash_policy()];
        }),
    ]
}
