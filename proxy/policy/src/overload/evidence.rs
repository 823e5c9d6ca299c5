//! Evidence that an application is saturated: the more requests it has, the longer each of them takes, in proportion.
//!
//! Requests that wait for each other (a queue, a processor that they share) take twice as long if there are twice as many.
//! Requests that wait for something else (a timer, another service, an event) take as long as before, whatever their number.
//! A line through log(latency) over log(requests in flight) has a slope of one in the first case, and of zero in the second.
//! Neither case needs a known latency of an idle application, which changes with the mix of requests.

use std::time::Duration;

/// The sums of a linear regression of log2(latency) over log2(requests in flight).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Evidence {
    count: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
    yy: f64,
    growth: f64,
}

/// A line through the evidence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fit {
    /// By how many octaves the latency grows when the requests in flight double.
    pub(super) slope: f64,
    /// The standard error of the slope.
    pub(super) error: f64,
    /// The variance of the number of requests in flight, in octaves squared.
    pub(super) spread: f64,
    /// The standard deviation of latencies from the line, in octaves.
    noise: f64,
    /// The mean of log2(requests in flight).
    x: f64,
    /// The mean of log2(latency in seconds).
    y: f64,
}

impl Fit {
    /// Returns a number of requests in flight that most of the evidence exceeds: one standard deviation below its mean.
    pub(super) fn low(&self) -> f64 {
        (self.x - self.spread.sqrt()).exp2()
    }

    /// Returns the latency with so many requests in flight, in seconds.
    pub(super) fn latency(&self, in_flight: f64) -> f64 {
        (self.y + self.slope * (in_flight.max(1.0).log2() - self.x)).exp2()
    }

    /// Returns by how many octaves the latencies in `evidence` are above the line, on average and beyond noise. They are also
    /// compared with what a queue takes for as many requests at `rate` per second (Little's law), if that is known: it does not depend on
    /// how fast the application was while the line was drawn.
    pub(super) fn misses(&self, evidence: &Evidence, rate: Option<f64>) -> f64 {
        let (x, y) = (evidence.x / evidence.count, evidence.y / evidence.count);
        let noise = self.noise.max((evidence.yy / evidence.count - y * y).max(0.0).sqrt());
        // Beyond the evidence, the application may be busier than the line shows.
        let slope = if x > self.x { self.slope.max(1.0) } else { self.slope };
        let line = self.y + slope * (x - self.x);
        let expected = rate.map_or(line, |rate| line.max(x - rate.log2()));
        y - expected - 1.5 * noise / evidence.count.sqrt()
    }
}

impl Evidence {
    /// Adds a request that began as one of `began`, and was answered as one of `ended` in flight after `latency`.
    pub(super) fn add(&mut self, began: u32, ended: u32, latency: Duration) {
        let x = f64::from(began.max(1)).log2();
        let y = latency.max(Duration::from_micros(1)).as_secs_f64().log2();
        self.count += 1.0;
        self.x += x;
        self.y += y;
        self.xx += x * x;
        self.xy += x * y;
        self.yy += y * y;
        self.growth += f64::from(ended.max(1)).log2() - x;
    }

    /// Adds all of `other`.
    pub(super) fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.x += other.x;
        self.y += other.y;
        self.xx += other.xx;
        self.xy += other.xy;
        self.yy += other.yy;
        self.growth += other.growth;
    }

    /// Multiplies the weight of what was added so far.
    pub(super) fn fade(&mut self, by: f64) {
        let Self { count, x, y, xx, xy, yy, growth } = self;
        for sum in [count, x, y, xx, xy, yy, growth] {
            *sum *= by;
        }
    }

    /// Returns the number of requests.
    pub(super) fn count(&self) -> f64 {
        self.count
    }

    /// Returns by how many octaves the requests in flight grew while one was answered, on average.
    pub(super) fn growth(&self) -> f64 {
        self.growth / self.count.max(1.0)
    }

    /// Returns the latency in seconds: a geometric mean. Zero without a request.
    pub(super) fn latency(&self) -> f64 {
        if self.count > 0.0 { (self.y / self.count).exp2() } else { 0.0 }
    }

    /// Returns the line. `None` if there are fewer than eight requests, or if all began with about the same number in flight.
    pub(super) fn fit(&self) -> Option<Fit> {
        if self.count < 8.0 {
            return None;
        }
        let (mean_x, mean_y) = (self.x / self.count, self.y / self.count);
        let spread = (self.xx / self.count - mean_x * mean_x).max(0.0);
        if spread < 0.01 {
            return None;
        }
        let slope = (self.xy / self.count - mean_x * mean_y) / spread;
        let of_y = (self.yy / self.count - mean_y * mean_y).max(0.0);
        let residual = (of_y - slope * slope * spread).max(0.0);
        let error = (residual / spread / (self.count - 2.0)).sqrt();
        let noise = residual.sqrt();
        Some(Fit { slope, error, spread, noise, x: mean_x, y: mean_y })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(latency: impl Fn(u32) -> f64) -> Fit {
        let mut evidence = Evidence::default();
        for in_flight in 1..=32 {
            evidence.add(in_flight, in_flight, Duration::from_secs_f64(latency(in_flight)));
        }
        evidence.fit().unwrap()
    }

    #[test]
    fn a_queue_has_a_slope_of_one_and_a_delay_of_zero() {
        let queue = fit(|in_flight| 0.005 * f64::from(in_flight));
        assert!((queue.slope - 1.0).abs() < 0.01 && queue.error < 0.01, "{queue:?}");
        let delay = fit(|_| 2.0);
        assert!(delay.slope.abs() < 0.01 && delay.error < 0.01, "{delay:?}");
        // Of fast and slow requests in turn, nothing is certain.
        let mixed = fit(|in_flight| if in_flight % 2 == 0 { 0.001 } else { 2.0 });
        assert!(mixed.error > 0.3, "{mixed:?}");
    }

    #[test]
    fn without_differences_there_is_no_line() {
        let mut evidence = Evidence::default();
        for _ in 0..100 {
            evidence.add(5, 5, Duration::from_millis(10));
        }
        assert_eq!(evidence.fit(), None);
        evidence = Evidence::default();
        (1..8).for_each(|in_flight| evidence.add(in_flight, 1, Duration::from_millis(10)));
        assert_eq!(evidence.fit(), None);
        evidence.add(8, 1, Duration::from_millis(10));
        assert!(evidence.fit().is_some());
    }
}
