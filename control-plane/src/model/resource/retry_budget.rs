//! A retry budget, of BackendTrafficPolicy and of XBackendTrafficPolicy (GEP-3388).

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::bounded::{number, positive};
use super::strict::at;
use super::value::{GepDuration, Integer};
use crate::model::backend_traffic::{RetryBudget, RetryRate};

/// The longest interval.
const LONGEST_INTERVAL: Duration = Duration::from_secs(3600);

/// The field `retryBudget`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct WireRetryBudget {
    percent: Option<Integer<0, 100>>,
    interval: Option<GepDuration>,
    min_retry_rate: Option<WireRetryRate>,
}

/// The field `minRetryRate`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WireRetryRate {
    count: Integer<1, 1_000_000>,
    interval: Option<GepDuration>,
}

impl WireRetryBudget {
    /// Returns the budget. Returns the error of a field of `retryBudget`.
    pub(super) fn decode(self) -> Result<RetryBudget, String> {
        let Self { percent, interval, min_retry_rate } = self;
        let min_retry_rate = min_retry_rate.map(|rate| rate.decode("retryBudget.minRetryRate.interval"));
        Ok(RetryBudget {
            percent: number(percent),
            interval: budget_interval("retryBudget.interval", interval)?,
            min_retry_rate: min_retry_rate.transpose()?,
        })
    }
}

impl WireRetryRate {
    /// Returns the rate. The interval is in the field `at`.
    pub(super) fn decode(self, field: &str) -> Result<RetryRate, String> {
        let interval = positive(field, self.interval)?.unwrap_or(Duration::from_secs(1));
        match interval > LONGEST_INTERVAL {
            true => Err(at(field, "is longer than an hour")),
            false => Ok(RetryRate { count: self.count.as_u32(), interval }),
        }
    }
}

/// Returns the interval of a retry budget, which GEP-3388 bounds.
pub(super) fn budget_interval(
    field: &str,
    interval: Option<GepDuration>,
) -> Result<Option<Duration>, String> {
    match interval {
        Some(GepDuration(interval)) if !(Duration::from_secs(1)..=LONGEST_INTERVAL).contains(&interval) => {
            Err(at(field, "is not between 1s and 1h"))
        }
        interval => Ok(interval.map(|interval| interval.0)),
    }
}
