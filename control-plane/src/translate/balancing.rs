//! Load balancing policies.
//!
//! A client uses the first policy of the list that it knows.

use outrigger_proto::xds::cluster::{LoadBalancingPolicy, load_balancing_policy};
use outrigger_proto::xds::core::{RuntimeDouble, TypedExtensionConfig};
use outrigger_proto::xds::lb_common::{ConsistentHashingLbConfig, SlowStartConfig};
use outrigger_proto::xds::least_request::LeastRequest;
use outrigger_proto::xds::maglev::Maglev;
use outrigger_proto::xds::peak_ewma::PeakEwma;
use outrigger_proto::xds::ring_hash::RingHash;
use outrigger_proto::xds::round_robin::RoundRobin;
use outrigger_proto::xds::route::route_action::HashPolicy;
use outrigger_proto::xds::route::route_action::hash_policy::{
    ConnectionProperties, Cookie, Header, PolicySpecifier, QueryParameter,
};
use outrigger_proto::xds::type_url;
use outrigger_proto::xds::types::Percent;

use super::scope::Dialect;
use super::wire::{any, duration, empty};
use crate::model::backend_traffic::{HashKey, LoadBalancer};
use crate::model::slow_start::SlowStart;

/// Translates a balancer. Clients that do not know peak EWMA compare requests in flight instead.
pub(super) fn load_balancing_policy(
    balancer: &LoadBalancer,
    slow_start: Option<SlowStart>,
    dialect: Dialect,
) -> LoadBalancingPolicy {
    let slow_start_config = slow_start.map(slow_start_config);
    let configured = |name: &str, config| load_balancing_policy::Policy {
        typed_extension_config: Some(TypedExtensionConfig { name: name.into(), typed_config: Some(config) }),
    };
    let policy = |name: &str, type_url| configured(name, empty(type_url));
    let least_request = || {
        let config = LeastRequest { slow_start_config: slow_start_config.clone(), ..LeastRequest::default() };
        configured("envoy.load_balancing_policies.least_request", any(type_url::LEAST_REQUEST, &config))
    };
    let policies = match (balancer, dialect) {
        (LoadBalancer::PeakEwma, Dialect::Outrigger) => {
            let config = PeakEwma { slow_start_config: slow_start_config.clone() };
            let config = any(type_url::PEAK_EWMA, &config);
            vec![configured("outrigger.lb.peak_ewma", config), least_request()]
        }
        (LoadBalancer::PeakEwma, Dialect::Envoy) | (LoadBalancer::LeastRequest, _) => vec![least_request()],
        (LoadBalancer::RoundRobin, _) => {
            let config = RoundRobin { slow_start_config: slow_start_config.clone(), ..RoundRobin::default() };
            vec![configured("envoy.load_balancing_policies.round_robin", any(type_url::ROUND_ROBIN, &config))]
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

fn slow_start_config(slow_start: SlowStart) -> SlowStartConfig {
    let SlowStart { window, min_weight_percent, aggression_percent } = slow_start;
    SlowStartConfig {
        slow_start_window: duration(window),
        aggression: aggression_percent.map(|percent| RuntimeDouble {
            default_value: f64::from(percent) / 100.0,
            // Required by Envoy's validation; no runtime sets it.
            runtime_key: "outrigger.slow_start.aggression".into(),
        }),
        min_weight_percent: min_weight_percent.map(|percent| Percent { value: f64::from(percent) }),
    }
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
