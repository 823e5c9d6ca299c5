//! FaultInjectionPolicy, outrigger.dev/v1alpha1: requests that are delayed or refused on purpose.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::named_match::{NamedMatch, first_of_each_name};
use super::policy::{PolicyRules, PolicySpec, TargetRefs};
use super::strict::at;
use super::value::{GepDuration, HeaderValue, Integer, List};
use crate::model::fault_injection::{Abort, FaultInjection, Percent};

/// The `spec` of a FaultInjectionPolicy.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(try_from = "WireSpec")]
#[schemars(with = "WireSpec")]
pub(crate) struct FaultInjectionPolicySpec(pub(crate) PolicySpec);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireSpec {
    #[serde(default)]
    target_refs: TargetRefs,
    headers: Option<List<NamedMatch<HeaderValue>, 1, 16>>,
    delay: Option<WireDelay>,
    abort: Option<WireAbort>,
    bandwidth: Option<WireBandwidth>,
    max_active_faults: Option<Integer<1, { u32::MAX as i64 }>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireDelay {
    duration: GepDuration,
    percent: Share,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireAbort {
    http_status: Option<Integer<200, 599>>,
    grpc_status: Option<Integer<1, 16>>,
    percent: Share,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireBandwidth {
    kib_per_second: Integer<1, { u32::MAX as i64 }>,
    percent: Share,
}

type Share = Integer<1, 100>;

impl TryFrom<WireSpec> for FaultInjectionPolicySpec {
    type Error = String;

    fn try_from(wire: WireSpec) -> Result<Self, String> {
        let WireSpec { target_refs, headers, delay, abort, bandwidth, max_active_faults } = wire;
        if delay.is_none() && abort.is_none() && bandwidth.is_none() {
            return Err("has no fault: write delay, abort or bandwidth".into());
        }
        if delay.as_ref().is_some_and(|delay| delay.duration.0.is_zero()) {
            return Err(at("delay.duration", "is zero"));
        }
        let share = |percent: Share| Percent(percent.as_u32());
        let abort = match abort {
            None => None,
            Some(WireAbort { http_status: Some(status), grpc_status: None, percent }) => {
                Some((Abort::Http(status.as_u32()), share(percent)))
            }
            Some(WireAbort { http_status: None, grpc_status: Some(status), percent }) => {
                Some((Abort::Grpc(status.as_u32()), share(percent)))
            }
            Some(_) => return Err(at("abort", "needs one of httpStatus and grpcStatus")),
        };
        let spec = FaultInjection {
            delay: delay.map(|delay| (delay.duration.0, share(delay.percent))),
            abort,
            bandwidth: bandwidth.map(|of| (of.kib_per_second.as_u32(), share(of.percent))),
            headers: headers.map_or_else(|| Ok(Vec::new()), first_of_each_name)?,
            max_active_faults: max_active_faults.map(Integer::as_u32),
        };
        let rules = PolicyRules::FaultInjection(Arc::new(spec));
        Ok(Self(PolicySpec { targets: target_refs.0, rules }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_table;

    #[test]
    fn a_policy_has_a_fault_for_a_share_of_the_requests() {
        check_table(
            "{apiVersion: outrigger.dev/v1alpha1, kind: FaultInjectionPolicy, metadata: {name: a}, spec: {@}}",
            &[
                "delay: {duration: 100ms, percent: 10}",
                "abort: {httpStatus: 503, percent: 100}, headers: [{name: x, value: y}]",
                "delay: {duration: 1s, percent: 1}, abort: {grpcStatus: 14, percent: 5}, maxActiveFaults: 1",
                "bandwidth: {kibPerSecond: 64, percent: 50}",
            ],
            &[
                ("", "spec", "has no fault"),
                ("headers: [{name: x, value: y}]", "spec", "has no fault"),
                ("delay: {duration: 0s, percent: 1}", "spec.delay.duration", "is zero"),
                ("delay: {duration: soon, percent: 1}", "spec.delay.duration", ""),
                ("delay: {duration: 1s, percent: 0}", "spec.delay.percent", "not between"),
                ("delay: {duration: 1s, percent: 101}", "spec.delay.percent", "not between"),
                ("delay: {duration: 1s}", "spec.delay", "missing field"),
                ("abort: {percent: 1}", "spec.abort", "one of httpStatus and grpcStatus"),
                ("abort: {httpStatus: 503, grpcStatus: 14, percent: 1}", "spec.abort", "one of"),
                ("abort: {httpStatus: 99, percent: 1}", "spec.abort.httpStatus", "not between"),
                ("abort: {grpcStatus: 17, percent: 1}", "spec.abort.grpcStatus", "not between"),
                ("abort: {status: 503, percent: 1}", "spec.abort.status", "unknown field"),
                ("bandwidth: {kibPerSecond: 0, percent: 1}", "spec.bandwidth.kibPerSecond", "not between"),
                (
                    "abort: {httpStatus: 503, percent: 1}, maxActiveFaults: 0",
                    "spec.maxActiveFaults",
                    "not between",
                ),
                ("abort: {httpStatus: 503, percent: 1}, headers: []", "spec.headers", "0 items"),
                (
                    "abort: {httpStatus: 503, percent: 1}, headers: [{type: RegularExpression, name: x, value: '('}]",
                    "spec.headers[0].value",
                    "regular expression",
                ),
            ],
        );
    }
}
