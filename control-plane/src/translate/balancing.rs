//! Load balancing policies.
//!
//! A client uses the first policy of the list that it knows.

use outrigger_proto::xds::cluster::{LoadBalancingPolicy, load_balancing_policy};
use outrigger_proto::xds::core::TypedExtensionConfig;
use outrigger_proto::xds::lb_common::ConsistentHashingLbConfig;
use outrigger_proto::xds::maglev::Maglev;
use outrigger_proto::xds::ring_hash::RingHash;
use outrigger_proto::xds::route::route_action::HashPolicy;
use outrigger_proto::xds::route::route_action::hash_policy::{
    ConnectionProperties, Cookie, Header, PolicySpecifier, QueryParameter,
};
use outrigger_proto::xds::type_url;

use super::scope::Dialect;
use super::wire::{any, duration, empty};
use crate::model::backend_traffic::{HashKey, LoadBalancer};

/// Translates a balancer. Clients that do not know peak EWMA compare requests in flight instead.
pub(super) fn load_balancing_policy(balancer: &LoadBalancer, dialect: Dialect) -> LoadBalancingPolicy {
    let configured = |name: &str, config| load_balancing_policy::Policy {
        typed_extension_config: Some(TypedExtensionConfig { name: name.into(), typed_config: Some(config) }),
    };
    let policy = |name: &str, type_url| configured(name, empty(type_url));
    let least_request = || policy("envoy.load_balancing_policies.least_request", type_url::LEAST_REQUEST);
    let policies = match (balancer, dialect) {
        (LoadBalancer::PeakEwma, Dialect::Outrigger) => {
            vec![policy("outrigger.lb.peak_ewma", type_url::PEAK_EWMA), least_request()]
        }
        (LoadBalancer::PeakEwma, Dialect::Envoy) | (LoadBalancer::LeastRequest, _) => vec![least_request()],
        (LoadBalancer::RoundRobin, _) => {
            vec![policy("envoy.load_balancing_policies.round_robin", type_url::ROUND_ROBIN)]
        }
        (LoadBalancer::Random, _) => vec![policy("envoy.load_balancing_policies.random", type_url::RANDOM)],
        (LoadBalancer::RingHash(key), _) => {
            let config = RingHash { consistent_hashing_lb_config: Some(hashing(key)), ..RingHash::default() };
            let config = any(type_url::RING_HASH, &config);
            vec![configured("envoy.load_balancing_policies.ring_hash", config)]
        }
        (LoadBalancer::Maglev(key), _) => {
            let config = Maglev { consistent_hashing_lb_config: Some(hashing(key)), ..Maglev::default() };
            vec![configured("envoy.load_balancing_policies.maglev", any(type_url::MAGLEV, &config))]
        }
    };
    LoadBalancingPolicy { policies }
}

/// The key is set for the cluster and not for routes, several of which may lead to it.
fn hashing(key: &HashKey) -> ConsistentHashingLbConfig {
    let policy_specifier = match key {
        HashKey::Header(name) => {
            PolicySpecifier::Header(Header { header_name: name.to_string(), ..Header::default() })
        }
        HashKey::Cookie { name, ttl, path } => PolicySpecifier::Cookie(Cookie {
            name: name.to_string(),
            ttl: ttl.and_then(duration),
            path: path.to_string(),
            ..Cookie::default()
        }),
        HashKey::QueryParam(name) => {
            PolicySpecifier::QueryParameter(QueryParameter { name: name.to_string() })
        }
        HashKey::Source => PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true }),
    };
    let policy = HashPolicy { terminal: false, policy_specifier: Some(policy_specifier) };
    ConsistentHashingLbConfig { hash_policy: vec![policy], ..ConsistentHashingLbConfig::default() }
}
