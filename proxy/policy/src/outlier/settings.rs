//! A cluster's outlier detection settings (`envoy.config.cluster.v3.OutlierDetection`), with Envoy's defaults for absent
//! fields.

use std::time::Duration;

use outrigger_core::percentage::Percentage;
use outrigger_proto::xds::{cluster, protobuf};

use crate::field::{
    Unusable, duration, flag, number, percent, positive_duration, unsupported, unsupported_any,
};

/// When a cluster's endpoints are ejected, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Consecutive failures of any kind. `None`: not counted.
    pub(super) consecutive_5xx: Option<Limit>,
    /// Consecutive 502, 503 or 504; without `split`, also failed connections, timeouts and resets.
    pub(super) consecutive_gateway: Option<Limit>,
    /// Consecutive failed connections, timeouts and resets; only with `split`.
    pub(super) consecutive_local: Option<Limit>,
    /// By an endpoint's success rate, compared with that of the others.
    pub(super) success_rate: SuccessRate,
    /// By the share of an endpoint's requests that failed.
    pub(super) failure_percentage: FailurePercentage,
    /// Whether failed answers and requests without an answer are counted separately
    /// (`split_external_local_origin_errors`).
    pub(super) split: bool,
    /// The interval over which rates are computed, and at which success rates are compared.
    pub(super) interval: Duration,
    pub(super) base_ejection: Duration,
    pub(super) max_ejection: Duration,
    pub(super) jitter: Duration,
    pub(super) max_ejected: Percentage,
    pub(super) always_eject_one: bool,
}

/// A limit on consecutive failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) failures: u32,
    /// The probability that reaching the limit ejects.
    pub(super) enforced: Percentage,
}

/// Ejection of endpoints whose success rate is an outlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SuccessRate {
    /// The probability that it ejects. Counts answered requests, or all requests without `split`.
    pub(super) enforced: Percentage,
    /// The same for requests without an answer; only with `split`.
    pub(super) enforced_local: Percentage,
    pub(super) minimum_hosts: u32,
    pub(super) request_volume: u32,
    /// Standard deviations below the mean, in thousandths.
    pub(super) stdev_factor: u32,
}

/// Ejection of endpoints whose failure percentage is too high.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FailurePercentage {
    /// As for [`SuccessRate`].
    pub(super) enforced: Percentage,
    /// As for [`SuccessRate`].
    pub(super) enforced_local: Percentage,
    /// A percentage, from 0 to 100.
    pub(super) threshold: u32,
    pub(super) minimum_hosts: u32,
    pub(super) request_volume: u32,
}

impl OutlierDetection {
    /// Decodes the settings. Absent fields have Envoy's defaults. Returns `None` if the cluster has no outlier detection.
    pub fn decode(wire: Option<cluster::OutlierDetection>) -> Result<Option<Self>, Unusable> {
        wire.map(Self::read).transpose()
    }

    pub(super) fn read(wire: cluster::OutlierDetection) -> Result<Self, Unusable> {
        let cluster::OutlierDetection {
            consecutive_5xx,
            interval,
            base_ejection_time,
            max_ejection_percent,
            enforcing_consecutive_5xx,
            enforcing_success_rate,
            success_rate_minimum_hosts,
            success_rate_request_volume,
            success_rate_stdev_factor,
            failure_percentage_threshold,
            failure_percentage_minimum_hosts,
            failure_percentage_request_volume,
            consecutive_gateway_failure,
            enforcing_consecutive_gateway_failure,
            split_external_local_origin_errors: split,
            consecutive_local_origin_failure,
            enforcing_consecutive_local_origin_failure,
            enforcing_local_origin_success_rate,
            enforcing_failure_percentage,
            enforcing_failure_percentage_local_origin,
            max_ejection_time,
            max_ejection_time_jitter,
            // Requests end an ejection, not active checks: what a check requests is not what failed.
            successful_active_health_check_uneject_host: _,
            monitors,
            always_eject_one_host,
            detect_degraded_hosts,
        } = wire;
        unsupported_any(&[("monitors", !monitors.is_empty())])?;
        unsupported("detect_degraded_hosts", flag(detect_degraded_hosts))?;
        let or = |value, default| number(value).unwrap_or(default);
        let share = |field, value, default| percent(field, or(value, default));
        // As in Envoy, local origin settings apply only with `split`.
        let of_local = |field, value, default| {
            share(field, value, default).map(|share| if split { share } else { Percentage::ZERO })
        };
        let base_ejection =
            positive_duration("base_ejection_time", base_ejection_time)?.unwrap_or(Duration::from_secs(30));
        let max_ejection =
            positive_duration("max_ejection_time", max_ejection_time)?.unwrap_or(Duration::from_secs(300));
        Ok(Self {
            consecutive_5xx: limit(
                "enforcing_consecutive_5xx",
                consecutive_5xx,
                enforcing_consecutive_5xx,
                100,
            )?,
            consecutive_gateway: limit(
                "enforcing_consecutive_gateway_failure",
                consecutive_gateway_failure,
                enforcing_consecutive_gateway_failure,
                0,
            )?,
            consecutive_local: limit(
                "enforcing_consecutive_local_origin_failure",
                consecutive_local_origin_failure,
                enforcing_consecutive_local_origin_failure,
                100,
            )?,
            success_rate: SuccessRate {
                enforced: share("enforcing_success_rate", enforcing_success_rate, 100)?,
                enforced_local: of_local(
                    "enforcing_local_origin_success_rate",
                    enforcing_local_origin_success_rate,
                    100,
                )?,
                minimum_hosts: or(success_rate_minimum_hosts, 5),
                request_volume: or(success_rate_request_volume, 100),
                stdev_factor: or(success_rate_stdev_factor, 1900),
            },
            failure_percentage: FailurePercentage {
                enforced: share("enforcing_failure_percentage", enforcing_failure_percentage, 0)?,
                enforced_local: of_local(
                    "enforcing_failure_percentage_local_origin",
                    enforcing_failure_percentage_local_origin,
                    0,
                )?,
                threshold: at_most_100("failure_percentage_threshold", or(failure_percentage_threshold, 85))?,
                minimum_hosts: or(failure_percentage_minimum_hosts, 5),
                request_volume: or(failure_percentage_request_volume, 50),
            },
            split,
            interval: positive_duration("interval", interval)?.unwrap_or(Duration::from_secs(10)),
            base_ejection,
            max_ejection: max_ejection.max(base_ejection),
            jitter: duration("max_ejection_time_jitter", max_ejection_time_jitter)?.unwrap_or_default(),
            max_ejected: percent("max_ejection_percent", or(max_ejection_percent, 10))?,
            always_eject_one: flag(always_eject_one_host),
        })
    }
}

fn limit(
    field: &str,
    failures: Option<protobuf::UInt32Value>,
    enforced: Option<protobuf::UInt32Value>,
    default: u32,
) -> Result<Option<Limit>, Unusable> {
    let enforced = percent(field, number(enforced).unwrap_or(default))?;
    let failures = number(failures).unwrap_or(5);
    Ok((failures > 0 && enforced > Percentage::ZERO).then_some(Limit { failures, enforced }))
}

fn at_most_100(field: &str, value: u32) -> Result<u32, Unusable> {
    percent(field, value).map(|_| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_is_as_in_envoy() {
        let read = OutlierDetection::decode(Some(cluster::OutlierDetection::default())).unwrap().unwrap();
        let five = Some(Limit { failures: 5, enforced: Percentage::ALL });
        let expected = OutlierDetection {
            consecutive_5xx: five,
            consecutive_gateway: None,
            consecutive_local: five,
            success_rate: SuccessRate {
                enforced: Percentage::ALL,
                enforced_local: Percentage::ZERO,
                minimum_hosts: 5,
                request_volume: 100,
                stdev_factor: 1900,
            },
            failure_percentage: FailurePercentage {
                enforced: Percentage::ZERO,
                enforced_local: Percentage::ZERO,
                threshold: 85,
                minimum_hosts: 5,
                request_volume: 50,
            },
            split: false,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            jitter: Duration::ZERO,
            max_ejected: Percentage::from_millionths(100_000).unwrap(),
            always_eject_one: false,
        };
        assert_eq!(read, expected);
        assert!(OutlierDetection::decode(None).unwrap().is_none());
        let split =
            cluster::OutlierDetection { split_external_local_origin_errors: true, ..Default::default() };
        let split = OutlierDetection::decode(Some(split)).unwrap().unwrap();
        assert_eq!(split.success_rate.enforced_local, Percentage::ALL);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_field() {
        let above = || Some(protobuf::UInt32Value { value: 101 });
        let negative = || Some(protobuf::Duration { seconds: -1, nanos: 0 });
        let on = Some(protobuf::BoolValue { value: true });
        let base = cluster::OutlierDetection::default;
        for (field, wire) in [
            ("max_ejection_percent", cluster::OutlierDetection { max_ejection_percent: above(), ..base() }),
            (
                "enforcing_consecutive_5xx",
                cluster::OutlierDetection { enforcing_consecutive_5xx: above(), ..base() },
            ),
            (
                "enforcing_success_rate",
                cluster::OutlierDetection { enforcing_success_rate: above(), ..base() },
            ),
            (
                "enforcing_local_origin_success_rate",
                cluster::OutlierDetection { enforcing_local_origin_success_rate: above(), ..base() },
            ),
            (
                "enforcing_failure_percentage",
                cluster::OutlierDetection { enforcing_failure_percentage: above(), ..base() },
            ),
            (
                "enforcing_failure_percentage_local_origin",
                cluster::OutlierDetection { enforcing_failure_percentage_local_origin: above(), ..base() },
            ),
            (
                "failure_percentage_threshold",
                cluster::OutlierDetection { failure_percentage_threshold: above(), ..base() },
            ),
            ("interval", cluster::OutlierDetection { interval: negative(), ..base() }),
            ("base_ejection_time", cluster::OutlierDetection { base_ejection_time: negative(), ..base() }),
            ("max_ejection_time", cluster::OutlierDetection { max_ejection_time: negative(), ..base() }),
            (
                "max_ejection_time_jitter",
                cluster::OutlierDetection { max_ejection_time_jitter: negative(), ..base() },
            ),
            ("detect_degraded_hosts", cluster::OutlierDetection { detect_degraded_hosts: on, ..base() }),
        ] {
            assert_eq!(OutlierDetection::decode(Some(wire)).unwrap_err().field, field);
        }
        let zero = cluster::OutlierDetection { interval: Some(Default::default()), ..Default::default() };
        assert_eq!(OutlierDetection::decode(Some(zero)).unwrap_err().field, "interval");
        let monitors = cluster::OutlierDetection { monitors: vec![Default::default()], ..Default::default() };
        assert_eq!(OutlierDetection::decode(Some(monitors)).unwrap_err().field, "monitors");
    }
}
