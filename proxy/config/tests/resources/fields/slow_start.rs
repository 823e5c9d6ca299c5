//! Balancers with slow start of endpoints.

use outrigger_proto::xds::{lb_common, least_request, round_robin, type_url, types};

use super::clusters::{bias, in_policy, policy, weighted};
use super::place::Place;
use crate::fixture::*;

pub fn slow_start() -> lb_common::SlowStartConfig {
    lb_common::SlowStartConfig { slow_start_window: seconds(60), ..Default::default() }
}

pub fn places() -> Vec<Place> {
    vec![
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
