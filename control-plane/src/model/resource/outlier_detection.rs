//! The field `outlierDetection` of a BackendTrafficPolicy.

use schemars::JsonSchema;
use serde::Deserialize;

use super::bounded::{LARGEST, number, positive};
use super::strict::at;
use super::value::{GepDuration, Integer};
use crate::model::backend_traffic::{Ejection, FailurePercentage, OutlierDetection, SuccessRate};

/// When endpoints are ejected. What is absent keeps the default of the mesh.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct WireOutlierDetection {
    mode: Option<WireDetection>,
    interval: Option<GepDuration>,
    base_ejection_time: Option<GepDuration>,
    max_ejection_time: Option<GepDuration>,
    max_ejection_percent: Option<Integer<0, 100>>,
    #[serde(rename = "consecutive5xxErrors")]
    consecutive_5xx_errors: Option<Integer<0, LARGEST>>,
    consecutive_gateway_errors: Option<Integer<0, LARGEST>>,
    consecutive_local_origin_failures: Option<Integer<0, LARGEST>>,
    failure_percentage: Option<WireFailurePercentage>,
    success_rate: Option<WireSuccessRate>,
}

#[derive(Clone, Copy, PartialEq, Deserialize, JsonSchema)]
enum WireDetection {
    Enforce,
    Disabled,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireFailurePercentage {
    threshold: Integer<1, 100>,
    minimum_hosts: Option<Integer<1, LARGEST>>,
    request_volume: Option<Integer<1, LARGEST>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireSuccessRate {
    minimum_hosts: Option<Integer<1, LARGEST>>,
    request_volume: Option<Integer<1, LARGEST>>,
    stdev_factor: Option<Integer<1, LARGEST>>,
}

impl WireOutlierDetection {
    /// Returns the settings. Returns the error of a field of `outlierDetection`.
    pub(super) fn decode(self) -> Result<OutlierDetection, String> {
        let field = |name: &str| format!("outlierDetection.{name}");
        let duration = |name: &str, value| positive(&field(name), value);
        let ejection = Ejection {
            interval: duration("interval", self.interval)?,
            base_ejection_time: duration("baseEjectionTime", self.base_ejection_time)?,
            max_ejection_time: duration("maxEjectionTime", self.max_ejection_time)?,
            max_ejection_percent: number(self.max_ejection_percent),
            consecutive_5xx: number(self.consecutive_5xx_errors),
            consecutive_gateway_errors: number(self.consecutive_gateway_errors),
            consecutive_local_origin_failures: number(self.consecutive_local_origin_failures),
            failure_percentage: self.failure_percentage.map(|of| FailurePercentage {
                threshold: of.threshold.as_u32(),
                minimum_hosts: number(of.minimum_hosts),
                request_volume: number(of.request_volume),
            }),
            success_rate: self.success_rate.map(|of| SuccessRate {
                minimum_hosts: number(of.minimum_hosts),
                request_volume: number(of.request_volume),
                stdev_factor: number(of.stdev_factor),
            }),
        };
        if ejection.max_ejection_time.zip(ejection.base_ejection_time).is_some_and(|(max, base)| max < base) {
            return Err(at(field("maxEjectionTime"), "is shorter than baseEjectionTime"));
        }
        match self.mode {
            Some(WireDetection::Disabled) if ejection != Ejection::default() => {
                Err(at(field("mode"), "is Disabled, so that the other fields would have no effect"))
            }
            Some(WireDetection::Disabled) => Ok(OutlierDetection::Off),
            Some(WireDetection::Enforce) | None => Ok(OutlierDetection::On(ejection)),
        }
    }
}
