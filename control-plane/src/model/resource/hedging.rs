//! The field `hedging` of a BackendTrafficPolicy.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use super::bounded::positive;
use super::strict::at;
use super::value::GepDuration;
use crate::model::hedging::Hedging;

/// The longest delay.
const LONGEST: Duration = Duration::from_secs(3600);

/// When a request is sent to a second endpoint.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct WireHedging {
    percentile: Percentile,
    min_delay: Option<GepDuration>,
    max_delay: Option<GepDuration>,
}

/// A percentile from 50 to 99.9, in tenths.
#[derive(Clone, Copy)]
struct Percentile(u32);

impl<'de> Deserialize<'de> for Percentile {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let percentile = f64::deserialize(from)?;
        if (50.0..=99.9).contains(&percentile) {
            return Ok(Self((percentile * 10.0).round() as u32));
        }
        Err(de::Error::custom(format!("{percentile} is not between 50 and 99.9")))
    }
}

impl JsonSchema for Percentile {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Percentile".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "minimum": 50, "maximum": 99.9 })
    }
}

impl WireHedging {
    /// Returns the settings. Returns the error of a field of `hedging`.
    pub(super) fn decode(self) -> Result<Hedging, String> {
        let Self { percentile: Percentile(percentile_tenths), min_delay, max_delay } = self;
        let min_delay = min_delay.map(|delay| delay.0);
        let max_delay = positive("hedging.maxDelay", max_delay)?;
        for (field, delay) in [("hedging.minDelay", min_delay), ("hedging.maxDelay", max_delay)] {
            if delay.is_some_and(|delay| delay > LONGEST) {
                return Err(at(field, "is longer than an hour"));
            }
        }
        if max_delay.is_some_and(|max| min_delay.is_some_and(|min| max < min)) {
            return Err(at("hedging.maxDelay", "is shorter than minDelay"));
        }
        Ok(Hedging { percentile_tenths, min_delay, max_delay })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_table;

    const POLICY: &str = "{apiVersion: outrigger.dev/v1alpha1, kind: BackendTrafficPolicy, metadata: {name: a}, \
                          spec: {targetRefs: [{group: '', kind: Service, name: b}], @}}";

    #[test]
    fn a_percentile_and_delays_have_bounds() {
        check_table(
            POLICY,
            &[
                "hedging: {percentile: 50}",
                "hedging: {percentile: 99.9, minDelay: 0s, maxDelay: 1h}",
                "hedging: {percentile: 95, minDelay: 5ms, maxDelay: 5ms}, limits: {maxRetries: 1}",
            ],
            &[
                ("hedging: {}", "spec.hedging", "missing field `percentile`"),
                ("hedging: {percentile: 49.9}", "spec.hedging.percentile", "49.9 is not between"),
                ("hedging: {percentile: 100}", "spec.hedging.percentile", "100 is not between"),
                ("hedging: {percentile: '95'}", "spec.hedging.percentile", "invalid type"),
                ("hedging: {percentile: 95, maxDelay: 0s}", "spec.hedging.maxDelay", "is zero"),
                ("hedging: {percentile: 95, minDelay: 61m}", "spec.hedging.minDelay", "longer than an hour"),
                (
                    "hedging: {percentile: 95, minDelay: 2s, maxDelay: 1s}",
                    "spec.hedging.maxDelay",
                    "shorter than minDelay",
                ),
                (
                    "hedging: {percentile: 95}, limits: {maxRetries: 0}",
                    "spec.hedging",
                    "limits.maxRetries is 0",
                ),
            ],
        );
    }
}
