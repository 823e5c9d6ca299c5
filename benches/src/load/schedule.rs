//! The times at which requests of a constant or changing rate start. Pure arithmetic: request n has one time.

use std::time::Duration;

/// Rates over time: one stage after the other.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Schedule {
    stages: Vec<Stage>,
}

/// A rate that is constant, or changes linearly from `from` to `to`, in requests per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Stage {
    pub(crate) length: Duration,
    pub(crate) from: f64,
    pub(crate) to: f64,
}

impl Schedule {
    /// One rate for `length`. Returns an error if the rate is not a positive number.
    pub(crate) fn constant(rate: f64, length: Duration) -> Result<Self, String> {
        Self::of(vec![Stage { length, from: rate, to: rate }])
    }

    /// From one rate to another in a straight line.
    pub(crate) fn ramp(from: f64, to: f64, length: Duration) -> Result<Self, String> {
        Self::of(vec![Stage { length, from, to }])
    }

    /// From one rate to another in `steps` stages of equal length and constant rates; the last one has rate `to`.
    pub(crate) fn steps(from: f64, to: f64, steps: u32, length: Duration) -> Result<Self, String> {
        if steps < 2 {
            return Err("a ramp in steps needs at least 2".into());
        }
        let rate = |step: u32| from + (to - from) * f64::from(step) / f64::from(steps - 1);
        let stage = |step| Stage { length: length / steps, from: rate(step), to: rate(step) };
        Self::of((0..steps).map(stage).collect())
    }

    fn of(stages: Vec<Stage>) -> Result<Self, String> {
        let positive = |rate: f64| rate.is_finite() && rate > 0.0;
        match stages.iter().all(|stage| positive(stage.from) && positive(stage.to)) {
            true => Ok(Self { stages }),
            false => Err("a rate must be greater than 0 requests per second".into()),
        }
    }

    /// The same with a stage before it, at the first stage's initial rate.
    pub(super) fn after_warm_up(&self, length: Duration) -> Self {
        let first = self.stages.first().filter(|_| !length.is_zero());
        let warm_up = first.map(|stage| Stage { length, from: stage.from, to: stage.from });
        Self { stages: warm_up.into_iter().chain(self.stages.iter().copied()).collect() }
    }

    pub(crate) fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// When request number `request` (from 0) is to start. Returns None after the last stage.
    pub(crate) fn time_of(&self, request: u64) -> Option<Duration> {
        let mut left = request as f64;
        let mut begin = Duration::ZERO;
        for stage in &self.stages {
            let count = stage.requests();
            if left < count {
                return Some(begin + stage.time_of(left));
            }
            left -= count;
            begin += stage.length;
        }
        None
    }
}

impl Stage {
    /// The number of requests of the whole stage: the integral of its rate.
    pub(crate) fn requests(&self) -> f64 {
        (self.from + self.to) / 2.0 * self.length.as_secs_f64()
    }

    /// The time within the stage at which the integral of its rate is `count`.
    fn time_of(&self, count: f64) -> Duration {
        let slope = (self.to - self.from) / self.length.as_secs_f64();
        // The solution of slope/2 t^2 + from t = count, in the form that stays exact as the slope gets small.
        let root = (self.from * self.from + 2.0 * slope * count).max(0.0).sqrt();
        Duration::from_secs_f64(2.0 * count / (self.from + root))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Duration = Duration::from_secs(10);

    fn times(schedule: &Schedule) -> Vec<Duration> {
        (0..).map_while(|request| schedule.time_of(request)).collect()
    }

    #[test]
    fn a_constant_rate_has_equal_gaps() {
        let times = times(&Schedule::constant(200.0, TEN).unwrap());
        assert_eq!(times.len(), 2000);
        assert_eq!(
            (times[0], times[1], times[1999]),
            (Duration::ZERO, Duration::from_millis(5), Duration::from_millis(9995))
        );
    }

    #[test]
    fn a_linear_ramp_sends_what_the_line_is_at_each_moment() {
        let times = times(&Schedule::ramp(100.0, 300.0, TEN).unwrap());
        assert_eq!(times.len(), 2000);
        // 100/s at first, 200/s in the middle, 300/s at last.
        let within = |from: u64, to: u64| {
            times.iter().filter(|time| (from..to).contains(&(time.as_millis() as u64))).count()
        };
        assert_eq!([within(0, 1000), within(4500, 5500), within(9000, 10_000)], [110, 200, 290]);
        assert!(times.is_sorted());
    }

    #[test]
    fn a_ramp_may_fall() {
        let times = times(&Schedule::ramp(300.0, 100.0, TEN).unwrap());
        assert_eq!(times.len(), 2000);
        assert!(times.is_sorted() && times.last().unwrap() < &TEN);
    }

    #[test]
    fn steps_are_constant_rates_of_equal_length() {
        let schedule = Schedule::steps(100.0, 500.0, 5, TEN).unwrap();
        let rates: Vec<_> = schedule.stages().iter().map(|stage| stage.from).collect();
        assert_eq!(rates, [100.0, 200.0, 300.0, 400.0, 500.0]);
        assert_eq!(times(&schedule).len(), 2 * (100 + 200 + 300 + 400 + 500));
    }

    #[test]
    fn the_warm_up_has_the_first_rate_and_shifts_the_rest() {
        let schedule = Schedule::ramp(100.0, 300.0, TEN).unwrap().after_warm_up(Duration::from_secs(2));
        assert_eq!(schedule.time_of(200), Some(Duration::from_secs(2)));
        assert_eq!(times(&schedule).len(), 2200);
        let unchanged = Schedule::constant(5.0, TEN).unwrap();
        assert_eq!(unchanged.after_warm_up(Duration::ZERO), unchanged);
    }

    #[test]
    fn rates_that_are_not_positive_are_refused() {
        assert!(Schedule::constant(0.0, TEN).is_err() && Schedule::ramp(5.0, -1.0, TEN).is_err());
        assert!(Schedule::constant(f64::NAN, TEN).is_err() && Schedule::steps(1.0, 2.0, 1, TEN).is_err());
    }
}
