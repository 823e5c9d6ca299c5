//! Slow start (`envoy.extensions.load_balancing_policies.common.v3.SlowStartConfig`): an endpoint that is new, or works again, begins with
//! a part of its weight, which grows over a window.
//!
//! The data path knows since when an endpoint is in use, and picks another one instead in proportion.

use std::time::Duration;

use outrigger_proto::xds::{lb_common, types};

use crate::field::{Unusable, positive_duration};

/// The part of its weight that an endpoint has at least, unless configured (`min_weight_percent`).
const LEAST: f64 = 0.1;

/// How the weight of an endpoint grows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    window: Duration,
    aggression: f64,
    least: f64,
}

impl SlowStart {
    /// Decodes the settings. Returns `None` if there is no window: then there is no slow start.
    pub fn decode(wire: Option<lb_common::SlowStartConfig>) -> Result<Option<Self>, Unusable> {
        wire.map_or(Ok(None), Self::of).map_err(|bad| bad.within("slow_start_config"))
    }

    fn of(wire: lb_common::SlowStartConfig) -> Result<Option<Self>, Unusable> {
        let lb_common::SlowStartConfig { slow_start_window, aggression, min_weight_percent } = wire;
        // There is no runtime that could have another value.
        let aggression = aggression.map_or(1.0, |aggression| aggression.default_value);
        if aggression.is_nan() || aggression <= 0.0 {
            return Err(Unusable::new("aggression", "must be greater than 0"));
        }
        let least = match min_weight_percent {
            None => LEAST,
            Some(types::Percent { value }) if (0.0..=100.0).contains(&value) => value / 100.0,
            Some(_) => return Err(Unusable::new("min_weight_percent", "must be from 0 to 100")),
        };
        let window = positive_duration("slow_start_window", slow_start_window)?;
        Ok(window.map(|window| Self { window, aggression, least }))
    }

    /// Returns the part of its weight, from 0 to 1, that an endpoint has which has been in use for `age`.
    pub fn part(&self, age: Duration) -> f64 {
        if age >= self.window {
            return 1.0;
        }
        let elapsed = age.as_secs_f64() / self.window.as_secs_f64();
        elapsed.powf(1.0 / self.aggression).max(self.least)
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::xds::core::RuntimeDouble;
    use outrigger_proto::xds::protobuf;

    use super::*;

    fn wire(aggression: Option<f64>, percent: Option<f64>) -> lb_common::SlowStartConfig {
        lb_common::SlowStartConfig {
            slow_start_window: Some(protobuf::Duration { seconds: 100, nanos: 0 }),
            aggression: aggression
                .map(|value| RuntimeDouble { default_value: value, runtime_key: String::new() }),
            min_weight_percent: percent.map(|value| types::Percent { value }),
        }
    }

    fn parts(aggression: Option<f64>, percent: Option<f64>) -> [f64; 4] {
        let slow = SlowStart::decode(Some(wire(aggression, percent))).unwrap().unwrap();
        [0, 25, 99, 100].map(|age| slow.part(Duration::from_secs(age)))
    }

    #[test]
    fn the_weight_grows_as_in_envoy() {
        assert_eq!(parts(None, None), [0.1, 0.25, 0.99, 1.0]);
        assert_eq!(parts(Some(1.0), Some(0.0)), [0.0, 0.25, 0.99, 1.0]);
        assert_eq!(parts(Some(2.0), Some(60.0)), [0.6, 0.6, 0.99_f64.sqrt(), 1.0]);
        assert_eq!(parts(Some(0.5), None)[1], 0.1, "0.25 squared is less");
        assert_eq!(parts(None, Some(100.0)), [1.0; 4]);
    }

    #[test]
    fn without_a_window_there_is_none_and_what_makes_no_sense_is_refused() {
        assert_eq!(SlowStart::decode(None), Ok(None));
        assert_eq!(SlowStart::decode(Some(Default::default())), Ok(None));
        for (aggression, percent, field) in [
            (Some(0.0), None, "aggression"),
            (Some(f64::NAN), None, "aggression"),
            (None, Some(101.0), "min_weight_percent"),
            (None, Some(f64::NAN), "min_weight_percent"),
        ] {
            let refused = SlowStart::decode(Some(wire(aggression, percent))).unwrap_err();
            assert_eq!(refused.field, format!("slow_start_config.{field}"));
        }
    }
}
