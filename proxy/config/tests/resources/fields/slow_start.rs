//! Balancers with slow start of endpoints.

use outrigger_proto::xds::cluster::cluster::{
    LbConfig, LbPolicy, LeastRequestLbConfig, RoundRobinLbConfig, SlowStartConfig,
};
use outrigger_proto::xds::{lb_common, least_request, peak_ewma, round_robin, type_url, types};

use super::clusters::{bias, in_cluster, in_policy, older, policy, weighted};
use super::place::Place;
use crate::fixture::*;

pub fn slow_start() -> lb_common::SlowStartConfig {
    lb_common::SlowStartConfig { slow_start_window: seconds(60), ..Default::default() }
}

fn older_slow_start() -> SlowStartConfig {
    SlowStartConfig { slow_start_window: seconds(60), ..Default::default() }
}

pub fn places() -> Vec<Place> {
    vec![
        Place::new(
            "Cluster.LeastRequestLbConfig",
            "envoy.config.cluster.v3.Cluster.LeastRequestLbConfig",
            LeastRequestLbConfig::default(),
            |of| in_cluster(older(LbPolicy::LeastRequest, Some(LbConfig::LeastRequestLbConfig(of)))),
        )
        .probe("active_request_bias", |of: &mut LeastRequestLbConfig| of.active_request_bias = Some(bias()))
        .probe("slow_start_config", |of: &mut LeastRequestLbConfig| {
            of.slow_start_config = Some(older_slow_start())
        }),
        Place::new(
            "Cluster.RoundRobinLbConfig",
            "envoy.config.cluster.v3.Cluster.RoundRobinLbConfig",
            RoundRobinLbConfig::default(),
            |of| in_cluster(older(LbPolicy::RoundRobin, Some(LbConfig::RoundRobinLbConfig(of)))),
        )
        .probe("slow_start_config", |of: &mut RoundRobinLbConfig| {
            of.slow_start_config = Some(older_slow_start())
        }),
        Place::new(
            "Cluster.SlowStartConfig",
            "envoy.config.cluster.v3.Cluster.SlowStartConfig",
            older_slow_start(),
            |of| {
                let config = RoundRobinLbConfig { slow_start_config: Some(of) };
                in_cluster(older(LbPolicy::RoundRobin, Some(LbConfig::RoundRobinLbConfig(config))))
            },
        )
        .probe("aggression", |of: &mut SlowStartConfig| of.aggression = Some(bias()))
        .probe("min_weight_percent", |of: &mut SlowStartConfig| {
            of.min_weight_percent = Some(types::Percent { value: 7.0 })
        }),
        Place::new("PeakEwma", "outrigger.lb.v1.PeakEwma", peak_ewma::PeakEwma::default(), |of| {
            in_policy(policy(type_url::PEAK_EWMA, &of))
        })
        .probe("slow_start_config", |of: &mut peak_ewma::PeakEwma| of.slow_start_config = Some(slow_start())),
        Place::new(
            "LeastRequest",
            "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
            least_request::LeastRequest::default(),
            |of| in_policy(policy(type_url::LEAST_REQUEST, &of)),
        )
        .probe("active_request_bias", move |of: &mut least_request::LeastRequest| {
            of.active_request_bias = Some(bias())
        })
        .probe("slow_start_config", |of: &mut least_request::LeastRequest| {
            of.slow_start_config = Some(slow_start())
        })
        .probe("locality_lb_config", move |of: &mut least_request::LeastRequest| {
            of.locality_lb_config = Some(weighted())
        }),
        Place::new(
            "RoundRobin",
            "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
            round_robin::RoundRobin::default(),
            |of| in_policy(policy(type_url::ROUND_ROBIN, &of)),
        )
        .probe("slow_start_config", |of: &mut round_robin::RoundRobin| {
            of.slow_start_config = Some(slow_start())
        })
        .probe("locality_lb_config", move |of: &mut round_robin::RoundRobin| {
            of.locality_lb_config = Some(weighted())
        }),
        Place::new(
            "SlowStartConfig",
            "envoy.extensions.load_balancing_policies.common.v3.SlowStartConfig",
            slow_start(),
            |of| {
                let wire = round_robin::RoundRobin { slow_start_config: Some(of), ..Default::default() };
                in_policy(policy(type_url::ROUND_ROBIN, &wire))
            },
        )
        .probe("aggression", |of: &mut lb_common::SlowStartConfig| of.aggression = Some(bias()))
        .probe("min_weight_percent", |of: &mut lb_common::SlowStartConfig| {
            of.min_weight_percent = Some(types::Percent { value: 7.0 })
        }),
    ]
}
