//! XBackendTrafficPolicy, gateway.networking.x-k8s.io/v1alpha1: the retry budget of a Service (GEP-3388) and the sessions of
//! its callers (GEP-1619).
//!
//! Its targets that are no Services are for other implementations.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::policy::{PolicyRules, PolicySpec, TargetRef};
use super::retry_budget::{WireRetryRate, budget_interval};
use super::session_persistence::SessionSpec;
use super::strict::at;
use super::value::{GepDuration, Group, Integer, KindName, List, ObjectName};
use crate::model::backend_traffic::{RetryBudget, RetryRate};
use crate::model::gateway_traffic::GatewayTraffic;

/// The defaults of the API.
const PERCENT: u32 = 20;
const INTERVAL: Duration = Duration::from_secs(10);
const MIN_RETRY_RATE: RetryRate = RetryRate { count: 10, interval: Duration::from_secs(1) };

/// The `spec` of an XBackendTrafficPolicy.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(try_from = "WireSpec")]
#[schemars(with = "WireSpec")]
pub(crate) struct XBackendTrafficPolicySpec(pub(crate) PolicySpec);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireSpec {
    target_refs: List<WireTarget, 1, 16>,
    retry_constraint: Option<WireConstraint>,
    session_persistence: Option<SessionSpec>,
}

#[derive(PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireTarget {
    group: Group,
    kind: KindName,
    name: ObjectName,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireConstraint {
    budget: Option<WireBudget>,
    min_retry_rate: Option<WireRetryRate>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireBudget {
    percent: Option<Integer<0, 100>>,
    interval: Option<GepDuration>,
}

impl TryFrom<WireSpec> for XBackendTrafficPolicySpec {
    type Error = String;

    fn try_from(wire: WireSpec) -> Result<Self, String> {
        let WireSpec { target_refs: List(targets), retry_constraint, session_persistence } = wire;
        let same = |(at, target): (usize, &WireTarget)| targets[..at].contains(target);
        if let Some(index) = targets.iter().enumerate().position(same) {
            return Err(at("targetRefs", format_args!("target {index} is the same as another one")));
        }
        let budget = retry_constraint.map(WireConstraint::decode).transpose()?;
        let services =
            targets.into_iter().filter(|target| (&*target.group.0, &*target.kind.0) == ("", "Service"));
        let targets = services.map(|target| TargetRef::Service { name: target.name.0, section: None });
        let session_persistence = session_persistence.map(|SessionSpec(of)| of);
        let rules = GatewayTraffic { retry_budget: budget, session_persistence };
        let rules = PolicyRules::GatewayTraffic(Arc::new(rules));
        Ok(Self(PolicySpec { targets: targets.collect(), rules }))
    }
}

impl WireConstraint {
    fn decode(self) -> Result<RetryBudget, String> {
        let (percent, interval) =
            self.budget.map_or((None, None), |budget| (budget.percent, budget.interval));
        let interval = budget_interval("retryConstraint.budget.interval", interval)?;
        let rate = self.min_retry_rate.map(|rate| rate.decode("retryConstraint.minRetryRate.interval"));
        Ok(RetryBudget {
            percent: Some(percent.map_or(PERCENT, Integer::as_u32)),
            interval: Some(interval.unwrap_or(INTERVAL)),
            min_retry_rate: Some(rate.transpose()?.unwrap_or(MIN_RETRY_RATE)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_table, read};
    use super::super::{Body, Outcome};
    use super::*;

    const POLICY: &str = "{apiVersion: gateway.networking.x-k8s.io/v1alpha1, kind: XBackendTrafficPolicy, metadata: {name: a}, \
                          spec: {targetRefs: [{group: '', kind: Service, name: b}, {group: example.com, kind: Backend, name: c}], @}}";

    fn spec(spec: &str) -> PolicySpec {
        let decoded = read(&POLICY.replace('@', spec)).remove(0);
        let Outcome::Accepted(resource) = decoded.outcome else { panic!("{:?}", decoded.outcome) };
        let Body::Policy(spec) = &resource.body else { panic!("{resource:?}") };
        spec.clone()
    }

    #[test]
    fn the_budget_has_the_defaults_of_the_api() {
        let budget = |percent, seconds, count| {
            let retry_budget = Some(RetryBudget {
                percent: Some(percent),
                interval: Some(Duration::from_secs(seconds)),
                min_retry_rate: Some(RetryRate { count, interval: Duration::from_secs(1) }),
            });
            PolicyRules::GatewayTraffic(Arc::new(GatewayTraffic {
                retry_budget,
                ..GatewayTraffic::default()
            }))
        };
        assert_eq!(spec("retryConstraint: {}").rules, budget(20, 10, 10));
        let some = "retryConstraint: {budget: {percent: 50, interval: 1h}, minRetryRate: {count: 3}}";
        assert_eq!(spec(some).rules, budget(50, 3600, 3));
        let without = spec("");
        assert_eq!(without.rules, PolicyRules::GatewayTraffic(Arc::default()));
        assert_eq!(without.targets, [TargetRef::Service { name: "b".into(), section: None }]);
    }

    #[test]
    fn what_the_crd_would_refuse_is_refused() {
        check_table(
            POLICY,
            &["", "retryConstraint: {budget: {percent: 0}}", "sessionPersistence: {type: Cookie}"],
            &[
                (
                    "sessionPersistence: {idleTimeout: 1s}",
                    "spec.sessionPersistence.idleTimeout",
                    "not supported yet",
                ),
                (
                    "retryConstraint: {budget: {percent: 101}}",
                    "spec.retryConstraint.budget.percent",
                    "not between",
                ),
                (
                    "retryConstraint: {budget: {interval: 2h}}",
                    "spec.retryConstraint.budget.interval",
                    "1s and 1h",
                ),
                (
                    "retryConstraint: {minRetryRate: {count: 0}}",
                    "spec.retryConstraint.minRetryRate.count",
                    "not between",
                ),
                ("retryConstraint: {percent: 1}", "spec.retryConstraint.percent", "unknown field"),
            ],
        );
    }
}
