//! The field `slowStart` of a BackendTrafficPolicy.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::bounded::number;
use super::strict::at;
use super::value::{GepDuration, Integer};
use crate::model::backend_traffic::LoadBalancer;
use crate::model::slow_start::SlowStart;

/// How an endpoint that is new begins.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct WireSlowStart {
    window: GepDuration,
    min_weight_percent: Option<Integer<0, 100>>,
    aggression_percent: Option<Integer<1, 10_000>>,
}

impl WireSlowStart {
    /// Returns the settings, which have no effect with balancers that ignore weights. Returns the error of a field of the policy.
    pub(super) fn decode(self, balancer: Option<&LoadBalancer>) -> Result<SlowStart, String> {
        let Self { window: GepDuration(window), min_weight_percent, aggression_percent } = self;
        use LoadBalancer::{Maglev, Random, RingHash};
        if let Some(balancer @ (Random | RingHash(_) | Maglev(_))) = balancer {
            let name = balancer.name();
            return Err(at("slowStart", format_args!("has no effect with loadBalancer.type {name}")));
        }
        if window == Duration::ZERO {
            return Err(at("slowStart.window", "is zero"));
        }
        let (min_weight_percent, aggression_percent) =
            (number(min_weight_percent), number(aggression_percent));
        Ok(SlowStart { window, min_weight_percent, aggression_percent })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_table;

    #[test]
    fn slow_start_needs_a_window_and_a_balancer_by_weight() {
        check_table(
            "{apiVersion: outrigger.dev/v1alpha1, kind: BackendTrafficPolicy, metadata: {name: a}, \
              spec: {targetRefs: [{group: '', kind: Service, name: b}], @}}",
            &[
                "slowStart: {window: 30s}",
                "loadBalancer: {type: PeakEWMA}, slowStart: {window: 30s}",
                "loadBalancer: {type: RoundRobin}, slowStart: {window: 30s}",
                "loadBalancer: {type: LeastRequest}, slowStart: {window: 1ms, minWeightPercent: 0, aggressionPercent: 10000}",
            ],
            &[
                (
                    "loadBalancer: {type: Random}, slowStart: {window: 30s}",
                    "spec.slowStart",
                    "no effect with loadBalancer.type Random",
                ),
                (
                    "loadBalancer: {type: Maglev, consistentHash: {type: Source}}, slowStart: {window: 30s}",
                    "spec.slowStart",
                    "no effect with loadBalancer.type Maglev",
                ),
                ("loadBalancer: {type: RoundRobin}, slowStart: {}", "spec.slowStart", "missing field"),
                (
                    "loadBalancer: {type: RoundRobin}, slowStart: {window: 0s}",
                    "spec.slowStart.window",
                    "is zero",
                ),
                (
                    "loadBalancer: {type: RoundRobin}, slowStart: {window: 1s, aggressionPercent: 0}",
                    "spec.slowStart.aggressionPercent",
                    "not between",
                ),
            ],
        );
    }
}
