//! Other algorithms for the limit of an application, as their projects configure them, for comparison in simulated time. Each
//! refuses at once what is beyond its limit.
//!
//! - AIMD, Vegas and Gradient2: Netflix's concurrency-limits, with its windows of a second.
//! - Gradient: Envoy's adaptive concurrency filter, with the configuration of its documentation.

use std::fmt::Debug;
use std::time::Duration;

use super::simulation::Admission;

/// A limit that changes with each window of answers.
#[derive(Debug)]
pub(super) struct Windowed<A> {
    algorithm: A,
    limit: f64,
    window: Window,
    length: Duration,
}

/// What was observed in one window.
#[derive(Debug, Default)]
pub(super) struct Window {
    began: Duration,
    /// In seconds.
    latencies: Vec<f64>,
    in_flight: u32,
    dropped: bool,
}

pub(super) trait Algorithm: Debug {
    /// Returns the next limit.
    fn next(&mut self, limit: f64, window: &Window) -> f64;

    /// Returns a limit that applies now in place of the other.
    fn instead(&self) -> Option<f64> {
        None
    }
}

impl<A: Algorithm> Windowed<A> {
    pub(super) fn new(algorithm: A, limit: f64, length: Duration) -> Self {
        Self { algorithm, limit, window: Window::default(), length }
    }
}

impl<A: Algorithm> Admission for Windowed<A> {
    fn ended(&mut self, latency: Duration, now: Duration, in_flight: u32, answered: bool) {
        let window = &mut self.window;
        window.in_flight = window.in_flight.max(in_flight);
        window.dropped |= !answered;
        if answered {
            window.latencies.push(latency.as_secs_f64());
        }
        if now.saturating_sub(window.began) < self.length || window.latencies.len() < 10 {
            return;
        }
        self.limit = self.algorithm.next(self.limit, window);
        *window = Window { began: now, ..Window::default() };
    }

    fn limit(&self) -> u32 {
        self.algorithm.instead().unwrap_or(self.limit) as u32
    }
}

impl Window {
    fn mean(&self) -> f64 {
        self.latencies.iter().sum::<f64>() / self.latencies.len() as f64
    }

    fn median(&self) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }

    /// Whether no more than half of the limit was used, which says nothing about it.
    fn is_idle(&self, limit: f64) -> bool {
        f64::from(self.in_flight) < limit / 2.0
    }
}

/// One more in each window, and a tenth less after a request that was given up.
#[derive(Debug)]
pub(super) struct Aimd;

impl Algorithm for Aimd {
    fn next(&mut self, limit: f64, window: &Window) -> f64 {
        let next = match window.dropped {
            true => limit * 0.9,
            false if window.is_idle(limit) => limit,
            false => limit + 1.0,
        };
        next.clamp(20.0, 200.0)
    }
}

/// As TCP Vegas: the queue is what the lowest latency does not explain.
#[derive(Debug, Default)]
pub(super) struct Vegas {
    lowest: Option<f64>,
    windows: u32,
}

impl Algorithm for Vegas {
    fn next(&mut self, limit: f64, window: &Window) -> f64 {
        let latency = window.mean();
        // From time to time, the lowest latency is forgotten.
        self.windows = (self.windows + 1) % 30;
        if self.windows == 0 {
            self.lowest = None;
        }
        let lowest = self.lowest.map_or(latency, |lowest| lowest.min(latency));
        self.lowest = Some(lowest);
        let step = limit.log10().max(1.0);
        let queue = (limit * (1.0 - lowest / latency)).ceil();
        let next = match queue {
            _ if window.dropped => limit - step,
            _ if window.is_idle(limit) => limit,
            _ if queue <= step => limit + 6.0 * step,
            _ if queue < 3.0 * step => limit + step,
            _ if queue > 6.0 * step => limit - step,
            _ => limit,
        };
        next.clamp(1.0, 1000.0)
    }
}

/// The latency of this window, in relation to its average over many windows.
#[derive(Debug, Default)]
pub(super) struct Gradient2 {
    long: f64,
    windows: u32,
}

impl Algorithm for Gradient2 {
    fn next(&mut self, limit: f64, window: &Window) -> f64 {
        let short = window.mean();
        self.windows += 1;
        if self.windows <= 10 {
            self.long += (short - self.long) / f64::from(self.windows);
        } else {
            self.long += (short - self.long) * 2.0 / 601.0;
        }
        if self.long / short > 2.0 {
            self.long *= 0.95;
        }
        if window.is_idle(limit) {
            return limit;
        }
        let gradient = (1.5 * self.long / short).clamp(0.5, 1.0);
        (limit * 0.8 + (limit * gradient + 4.0) * 0.2).clamp(20.0, 200.0)
    }
}

/// The median latency in relation to that of 50 requests of which only three ran at a time, measured every minute.
#[derive(Debug, Default)]
pub(super) struct Gradient {
    lowest: Option<f64>,
    probe: Vec<f64>,
    windows: u32,
}

impl Gradient {
    pub(super) const WINDOW: Duration = Duration::from_millis(100);
}

impl Algorithm for Gradient {
    fn next(&mut self, limit: f64, window: &Window) -> f64 {
        self.windows += 1;
        if self.windows >= 600 {
            (self.lowest, self.windows) = (None, 0);
        }
        let Some(lowest) = self.lowest else {
            self.probe.extend(&window.latencies);
            if self.probe.len() >= 50 {
                let probe = Window { latencies: std::mem::take(&mut self.probe), ..Window::default() };
                self.lowest = Some(probe.median());
            }
            return limit;
        };
        let gradient = (lowest * 1.25 / window.median()).clamp(0.5, 2.0);
        let next = limit * gradient;
        (next + next.sqrt()).clamp(3.0, 1000.0)
    }

    fn instead(&self) -> Option<f64> {
        self.lowest.is_none().then_some(3.0)
    }
}
