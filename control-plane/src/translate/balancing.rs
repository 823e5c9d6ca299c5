//! Load balancing policies.
//!
//! A client uses the first policy of the list that it knows.

use outrigger_proto::xds::cluster::{LoadBalancingPolicy, load_balancing_policy};
use outrigger_proto::xds::core::TypedExtensionConfig;
use outrigger_proto::xds::type_url;

use super::scope::Dialect;
use super::wire::empty;
use crate::model::backend_traffic::LoadBalancer;

/// Translates a balancer. Clients that do not know peak EWMA compare requests in flight instead.
pub(super) fn load_balancing_policy(balancer: LoadBalancer, dialect: Dialect) -> LoadBalancingPolicy {
    let policy = |name: &str, type_url| load_balancing_policy::Policy {
        typed_extension_config: Some(TypedExtensionConfig {
            name: name.into(),
            typed_config: Some(empty(type_url)),
        }),
    };
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
    };
    LoadBalancingPolicy { policies }
}
