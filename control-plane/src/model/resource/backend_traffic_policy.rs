//! BackendTrafficPolicy, outrigger.dev/v1alpha1: how callers treat the endpoints of a Service.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::bounded::{LARGEST, number, positive};
use super::health_check::WireHealthCheck;
use super::hedging::WireHedging;
use super::load_balancer::WireLoadBalancer;
use super::locality::WireLocality;
use super::outlier_detection::WireOutlierDetection;
use super::policy::{PolicyRules, PolicySpec};
use super::retry_budget::WireRetryBudget;
use super::service_targets::ServiceTargets;
use super::session_persistence::SessionSpec;
use super::slow_start::WireSlowStart;
use super::strict::at;
use super::value::{GepDuration, Integer};
use crate::model::backend_traffic::{BackendTraffic, Limits, RetryLimit};
use crate::model::service::Overload;

/// The `spec` of a BackendTrafficPolicy.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(try_from = "WireSpec")]
#[schemars(with = "WireSpec")]
pub(crate) struct BackendTrafficPolicySpec(pub(crate) PolicySpec);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireSpec {
    target_refs: ServiceTargets,
    load_balancer: Option<WireLoadBalancer>,
    slow_start: Option<WireSlowStart>,
    locality: Option<WireLocality>,
    limits: Option<WireLimits>,
    retry_budget: Option<WireRetryBudget>,
    hedging: Option<WireHedging>,
    outlier_detection: Option<WireOutlierDetection>,
    health_check: Option<WireHealthCheck>,
    connect_timeout: Option<GepDuration>,
    overload: Option<WireOverload>,
    session_persistence: Option<SessionSpec>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireLimits {
    max_connections: Option<Integer<1, LARGEST>>,
    max_pending_requests: Option<Integer<1, LARGEST>>,
    max_requests: Option<Integer<1, LARGEST>>,
    max_retries: Option<Integer<0, LARGEST>>,
}

/// Not `Off`: kubectl reads YAML 1.1, in which that is a boolean.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
enum WireOverload {
    Enforce,
    Observe,
    Disabled,
}

impl TryFrom<WireSpec> for BackendTrafficPolicySpec {
    type Error = String;

    fn try_from(wire: WireSpec) -> Result<Self, String> {
        let WireSpec {
            target_refs,
            load_balancer,
            slow_start,
            locality,
            limits,
            retry_budget,
            hedging,
            outlier_detection,
            health_check,
            connect_timeout,
            overload,
            session_persistence,
        } = wire;
        let limits = limits.unwrap_or_default();
        let retries = match (limits.max_retries, retry_budget) {
            (Some(_), Some(_)) => return Err(at("limits.maxRetries", "cannot be combined with retryBudget")),
            (Some(max), None) => Some(RetryLimit::InFlight(max.as_u32())),
            (None, Some(budget)) => Some(RetryLimit::Budget(budget.decode()?)),
            (None, None) => None,
        };
        if hedging.is_some() && retries == Some(RetryLimit::InFlight(0)) {
            return Err(at("hedging", "has no effect, because limits.maxRetries is 0"));
        }
        let load_balancer = load_balancer.map(WireLoadBalancer::decode).transpose()?;
        let slow_start = slow_start.map(|slow| slow.decode(load_balancer.as_ref())).transpose()?;
        let traffic = BackendTraffic {
            load_balancer,
            slow_start,
            locality: locality.map(WireLocality::decode).transpose()?,
            limits: Limits {
                connections: number(limits.max_connections),
                pending_requests: number(limits.max_pending_requests),
                requests: number(limits.max_requests),
            },
            retries,
            hedging: hedging.map(WireHedging::decode).transpose()?,
            outlier_detection: outlier_detection.unwrap_or_default().decode()?,
            health_check: health_check.map(WireHealthCheck::decode).transpose()?,
            connect_timeout: positive("connectTimeout", connect_timeout)?,
            overload: overload.map(Overload::from),
            session_persistence: session_persistence.map(|SessionSpec(of)| of),
        };
        if traffic == BackendTraffic::default() {
            return Err("sets nothing: write at least one setting besides targetRefs".into());
        }
        let rules = PolicyRules::BackendTraffic(Arc::new(traffic));
        Ok(Self(PolicySpec { targets: target_refs.0, rules }))
    }
}

impl From<WireOverload> for Overload {
    fn from(wire: WireOverload) -> Self {
        match wire {
            WireOverload::Enforce => Self::Enforce,
            WireOverload::Observe => Self::Observe,
            WireOverload::Disabled => Self::Off,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_table, read};
    use super::super::{Body, Outcome};
    use super::*;
    use crate::model::backend_traffic::{
        Ejection, FailurePercentage, HashKey, LoadBalancer, OutlierDetection, RetryBudget, RetryRate,
        SuccessRate,
    };
    use crate::model::hedging::Hedging;
    use crate::model::locality::{Failover, Locality, Preference};
    use crate::model::session_persistence::SessionPersistence;
    use crate::model::slow_start::SlowStart;
    use std::time::Duration;

    const POLICY: &str = "{apiVersion: outrigger.dev/v1alpha1, kind: BackendTrafficPolicy, metadata: {name: a}, \
                          spec: {targetRefs: [{group: '', kind: Service, name: b}], @}}";

    fn traffic(spec: &str) -> BackendTraffic {
        let decoded = read(&POLICY.replace('@', spec)).remove(0);
        let Outcome::Accepted(resource) = decoded.outcome else { panic!("{:?}", decoded.outcome) };
        let Body::Policy(PolicySpec { rules: PolicyRules::BackendTraffic(spec), .. }) = &resource.body else {
            panic!("{resource:?}")
        };
        (**spec).clone()
    }

    #[test]
    fn every_setting_is_read() {
        let all = traffic(
            "loadBalancer: {type: RoundRobin}, slowStart: {window: 1m, minWeightPercent: 5, aggressionPercent: 50},
             limits: {maxConnections: 1, maxPendingRequests: 2, maxRequests: 3},
             retryBudget: {percent: 25, interval: 5s, minRetryRate: {count: 4, interval: 2s}}, connectTimeout: 250ms,
             outlierDetection: {mode: Enforce, interval: 1s, baseEjectionTime: 2s, maxEjectionTime: 3s, maxEjectionPercent: 4,
               consecutive5xxErrors: 5, consecutiveGatewayErrors: 6, consecutiveLocalOriginFailures: 0,
               failurePercentage: {threshold: 7, minimumHosts: 8, requestVolume: 9},
               successRate: {minimumHosts: 10, requestVolume: 11, stdevFactor: 1200}}, overload: Observe, sessionPersistence: {type: Header, sessionName: X-At},
             hedging: {percentile: 97.5, minDelay: 0s, maxDelay: 300ms},
             locality: {preference: SameZone, failover: [{from: a, to: [b]}], minEndpoints: 2, overprovisioningPercent: 100}",
        );
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let expected = BackendTraffic {
            load_balancer: Some(LoadBalancer::RoundRobin),
            slow_start: Some(SlowStart {
                window: Duration::from_secs(60),
                min_weight_percent: Some(5),
                aggression_percent: Some(50),
            }),
            locality: Some(Locality {
                preference: Preference::SameZone,
                failover: vec![Failover { from: "a".into(), to: vec!["b".into()] }],
                min_endpoints: Some(2),
                overprovisioning_percent: Some(100),
            }),
            limits: Limits { connections: Some(1), pending_requests: Some(2), requests: Some(3) },
            retries: Some(RetryLimit::Budget(RetryBudget {
                percent: Some(25),
                interval: seconds(5),
                min_retry_rate: Some(RetryRate { count: 4, interval: Duration::from_secs(2) }),
            })),
            hedging: Some(Hedging {
                percentile_tenths: 975,
                min_delay: Some(Duration::ZERO),
                max_delay: Some(Duration::from_millis(300)),
            }),
            outlier_detection: OutlierDetection::On(Ejection {
                interval: seconds(1),
                base_ejection_time: seconds(2),
                max_ejection_time: seconds(3),
                max_ejection_percent: Some(4),
                consecutive_5xx: Some(5),
                consecutive_gateway_errors: Some(6),
                consecutive_local_origin_failures: Some(0),
                failure_percentage: Some(FailurePercentage {
                    threshold: 7,
                    minimum_hosts: Some(8),
                    request_volume: Some(9),
                }),
                success_rate: Some(SuccessRate {
                    minimum_hosts: Some(10),
                    request_volume: Some(11),
                    stdev_factor: Some(1200),
                }),
            }),
            health_check: None,
            connect_timeout: Some(Duration::from_millis(250)),
            overload: Some(Overload::Observe),
            session_persistence: Some(SessionPersistence::Header("x-at".into())),
        };
        assert_eq!(all, expected);
        let off = traffic("outlierDetection: {mode: Disabled}, limits: {maxRetries: 0}");
        assert_eq!(off.outlier_detection, OutlierDetection::Off);
        assert_eq!(off.retries, Some(RetryLimit::InFlight(0)));
        let rate = traffic("retryBudget: {minRetryRate: {count: 7}}").retries;
        let of_a_second = RetryRate { count: 7, interval: Duration::from_secs(1) };
        let budget = RetryBudget { min_retry_rate: Some(of_a_second), ..RetryBudget::default() };
        assert_eq!(rate, Some(RetryLimit::Budget(budget)));
    }

    #[test]
    fn what_would_mean_nothing_or_everything_is_refused() {
        let balancers = ["PeakEWMA", "LeastRequest", "RoundRobin", "Random"]
            .map(|name| format!("loadBalancer: {{type: {name}}}"));
        let balancers: Vec<_> = balancers.iter().map(String::as_str).collect();
        check_table(
            POLICY,
            &[&balancers[..], &["overload: Enforce", "retryBudget: {percent: 0}"]].concat(),
            &[
                ("", "spec", "sets nothing"),
                ("limits: {}, outlierDetection: {}", "spec", "sets nothing"),
                ("loadBalancer: {}", "spec.loadBalancer", "missing field"),
                ("loadBalancer: {type: RingHash}", "spec.loadBalancer.consistentHash", "is missing"),
                ("loadBalancer: {type: roundRobin}", "spec.loadBalancer.type", "unknown value"),
                ("limits: {maxRequests: 0}", "spec.limits.maxRequests", "not between"),
                ("limits: {maxConnections: 4294967296}", "spec.limits.maxConnections", "not between"),
                ("limits: {maxRequest: 1}", "spec.limits.maxRequest", "unknown field"),
                (
                    "limits: {maxRetries: 1}, retryBudget: {percent: 1}",
                    "spec.limits.maxRetries",
                    "cannot be combined",
                ),
                ("retryBudget: {percent: 101}", "spec.retryBudget.percent", "not between"),
                ("retryBudget: {interval: 999ms}", "spec.retryBudget.interval", "1s and 1h"),
                (
                    "retryBudget: {minRetryRate: {count: 1, interval: 0s}}",
                    "spec.retryBudget.minRetryRate.interval",
                    "is zero",
                ),
                (
                    "retryBudget: {minRetryRate: {count: 1, interval: 61m}}",
                    "spec.retryBudget.minRetryRate.interval",
                    "an hour",
                ),
                ("outlierDetection: {interval: 0s}", "spec.outlierDetection.interval", "is zero"),
                (
                    "outlierDetection: {maxEjectionTime: 1s, baseEjectionTime: 2s}",
                    "spec.outlierDetection.maxEjectionTime",
                    "shorter",
                ),
                (
                    "outlierDetection: {mode: Disabled, interval: 1s}",
                    "spec.outlierDetection.mode",
                    "no effect",
                ),
                (
                    "outlierDetection: {failurePercentage: {threshold: 0}}",
                    "spec.outlierDetection.failurePercentage.threshold",
                    "not between",
                ),
                ("connectTimeout: 0s", "spec.connectTimeout", "is zero"),
                ("connectTimeout: 1", "spec.connectTimeout", "invalid type"),
                ("overload: enforce", "spec.overload", "unknown value"),
            ],
        );
    }

    #[test]
    fn a_hash_is_of_one_part_of_the_request() {
        let hashed = |spec: &str| traffic(&format!("loadBalancer: {{{spec}}}")).load_balancer.unwrap();
        for (kind, key) in [
            ("type: Header, header: X-User", HashKey::Header("x-user".into())),
            ("type: QueryParam, queryParam: user", HashKey::QueryParam("user".into())),
            ("type: Source", HashKey::Source),
            (
                "type: Cookie, cookie: {name: Session, ttl: 0s}",
                HashKey::Cookie { name: "Session".into(), ttl: Some(Duration::ZERO), path: "/".into() },
            ),
        ] {
            assert_eq!(
                hashed(&format!("type: RingHash, consistentHash: {{{kind}}}")),
                LoadBalancer::RingHash(key.clone())
            );
            assert_eq!(
                hashed(&format!("type: Maglev, consistentHash: {{{kind}}}")),
                LoadBalancer::Maglev(key)
            );
        }
        let wrong = [
            ("type: Random, consistentHash: {type: Source}", "", "RingHash and Maglev only"),
            ("type: Maglev, consistentHash: {type: Header}", "", "the field of its type"),
            ("type: Maglev, consistentHash: {type: Source, header: a}", "", "the field of its type"),
            ("type: Maglev, consistentHash: {type: Header, header: 'a b'}", ".header", "not a header name"),
            (
                "type: Maglev, consistentHash: {type: Cookie, cookie: {name: a, path: '/;b'}}",
                ".cookie.path",
                "path of a cookie",
            ),
        ];
        for (spec, field, reason) in wrong {
            let field = format!("spec.loadBalancer.consistentHash{field}");
            check_table(POLICY, &[], &[(&format!("loadBalancer: {{{spec}}}"), &field, reason)]);
        }
    }

    #[test]
    fn only_services_and_their_ports_can_be_targets() {
        check_table(
            "{apiVersion: outrigger.dev/v1alpha1, kind: BackendTrafficPolicy, metadata: {name: a}, \
              spec: {overload: Disabled, @}}",
            &[
                "targetRefs: [{group: '', kind: Service, name: a}, {group: '', kind: Service, name: a, sectionName: http}]",
            ],
            &[
                ("", "spec", "missing field `targetRefs`"),
                ("targetRefs: []", "spec.targetRefs", "0 items"),
                (
                    "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: a}]",
                    "spec.targetRefs[0].kind",
                    "cannot be a target",
                ),
                (
                    "targetRefs: [{group: '', kind: Service, name: a}, {group: '', kind: Service, name: a}]",
                    "spec.targetRefs",
                    "the same",
                ),
                (
                    "targetRefs: [{group: '', kind: Service, name: a, namespace: b}]",
                    "spec.targetRefs[0].namespace",
                    "unknown field",
                ),
            ],
        );
    }
}
