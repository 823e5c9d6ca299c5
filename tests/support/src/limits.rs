//! Other algorithms than Outrigger's for the limit of an application, as their projects configure them, for comparison in
//! simulated time and in the fault bench.
//!
//! - AIMD, Vegas and Gradient2: Netflix's concurrency-limits, with its windows of a second.
//! - Gradient: Envoy's adaptive concurrency filter, with the default values of its configuration (so the median) and without jitter, and with
//!   the intervals of the example in its documentation. That example, which the fault bench gives to Envoy itself, has the 90th percentile.
//! - `CoDel` with adaptive LIFO: Ben Maurer, "Fail at Scale", ACM Queue 13(8), 2015.

use std::fmt::Debug;
use std::time::Duration;

/// How many requests an application gets at once, and how long others wait in front of it, the newest first.
pub trait Limit: Debug + Send {
    /// Records the end of a request that the application had, one of `in_flight`. `now` is the time since any fixed moment; `answered`
    /// is false if the client went away.
    fn ended(&mut self, latency: Duration, now: Duration, in_flight: u32, answered: bool);

    /// Returns the number of requests that the application may have.
    fn limit(&self) -> u32;

    /// Returns how long a request may wait that arrives now, after requests have waited for `queued` without a break.
    fn patience(&self, _queued: Duration) -> Duration {
        Duration::ZERO
    }
}

/// The algorithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// The median latency in relation to that of a few requests at a time.
    Gradient,
    /// The mean latency in relation to its average over many windows.
    Gradient2,
    /// The queue, which is what the lowest latency does not explain.
    Vegas,
    /// Raised by one, lowered by a tenth.
    Aimd,
    /// A limit that the operator sets, and a queue whose requests time out soon while it stands.
    Codel,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Gradient, Self::Gradient2, Self::Vegas, Self::Aimd, Self::Codel];

    /// Returns the name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gradient => "gradient",
            Self::Gradient2 => "gradient2",
            Self::Vegas => "vegas",
            Self::Aimd => "aimd",
            Self::Codel => "codel",
        }
    }

    /// Returns its limit at the beginning. `threads` is what an operator may know: the number of requests that the application
    /// processes at once. Only `Codel` uses it; the others find a limit.
    pub fn start(self, threads: u32) -> Box<dyn Limit> {
        const SECOND: Duration = Duration::from_secs(1);
        match self {
            Self::Gradient => Box::new(Windowed::new(Gradient::default(), Gradient::FLOOR, Gradient::WINDOW)),
            Self::Gradient2 => Box::new(Windowed::new(Gradient2::default(), 20.0, SECOND)),
            Self::Vegas => Box::new(Windowed::new(Vegas::default(), 20.0, SECOND)),
            Self::Aimd => Box::new(Windowed::new(Aimd, 20.0, SECOND)),
            Self::Codel => Box::new(Codel { threads }),
        }
    }
}

/// A request waits for 100 ms, or for 5 ms if the queue has not been empty for 100 ms.
#[derive(Debug)]
struct Codel {
    threads: u32,
}

impl Codel {
    const LONG: Duration = Duration::from_millis(100);
    const SHORT: Duration = Duration::from_millis(5);
}

impl Limit for Codel {
    fn ended(&mut self, _: Duration, _: Duration, _: u32, _: bool) {}

    fn limit(&self) -> u32 {
        self.threads
    }

    fn patience(&self, queued: Duration) -> Duration {
        if queued > Self::LONG { Self::SHORT } else { Self::LONG }
    }
}

/// A limit that changes with each window of answers.
#[derive(Debug)]
struct Windowed<C> {
    change: C,
    limit: f64,
    window: Window,
    length: Duration,
}

/// What was observed in one window.
#[derive(Debug, Default)]
struct Window {
    began: Duration,
    /// In seconds.
    latencies: Vec<f64>,
    in_flight: u32,
    dropped: bool,
}

trait Change: Debug + Send {
    /// Returns the next limit.
    fn next(&mut self, limit: f64, window: &Window) -> f64;

    /// Returns a limit that applies now in place of the other.
    fn instead(&self) -> Option<f64> {
        None
    }
}

impl<C: Change> Windowed<C> {
    fn new(change: C, limit: f64, length: Duration) -> Self {
        Self { change, limit, window: Window::default(), length }
    }
}

impl<C: Change> Limit for Windowed<C> {
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
        self.limit = self.change.next(self.limit, window);
        *window = Window { began: now, ..Window::default() };
    }

    fn limit(&self) -> u32 {
        self.change.instead().unwrap_or(self.limit) as u32
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
struct Aimd;

impl Change for Aimd {
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
struct Vegas {
    lowest: Option<f64>,
    windows: u32,
}

impl Change for Vegas {
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
struct Gradient2 {
    long: f64,
    windows: u32,
}

impl Change for Gradient2 {
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

/// The median latency in relation to that of 50 requests of which only three ran at a time. This is measured every minute, and when the
/// limit was not above three for some windows.
#[derive(Debug, Default)]
struct Gradient {
    lowest: Option<f64>,
    probe: Vec<f64>,
    /// When the lowest latency was measured last.
    measured: Duration,
    /// For how many windows the limit has been the lowest one.
    at_floor: u32,
}

impl Gradient {
    const WINDOW: Duration = Duration::from_millis(100);
    const INTERVAL: Duration = Duration::from_secs(60);
    /// The lowest limit, which also applies while the lowest latency is measured.
    const FLOOR: f64 = 3.0;
    /// After so many windows with the lowest limit, the lowest latency is measured again.
    const AT_FLOOR: u32 = 5;
}

impl Change for Gradient {
    fn next(&mut self, limit: f64, window: &Window) -> f64 {
        if window.began.saturating_sub(self.measured) >= Self::INTERVAL {
            self.lowest = None;
        }
        let Some(lowest) = self.lowest else {
            self.probe.extend(&window.latencies);
            if self.probe.len() >= 50 {
                let probe = Window { latencies: std::mem::take(&mut self.probe), ..Window::default() };
                self.lowest = Some(probe.median());
                self.measured = window.began;
            }
            return limit;
        };
        let gradient = (lowest * 1.25 / window.median()).clamp(0.5, 2.0);
        let next = limit * gradient;
        let next = (next + next.sqrt()).clamp(Self::FLOOR, 1000.0);
        let stays = limit.max(next) < Self::FLOOR + 1.0;
        self.at_floor = if stays { self.at_floor + 1 } else { 0 };
        if self.at_floor >= Self::AT_FLOOR {
            (self.lowest, self.at_floor) = (None, 0);
        }
        next
    }

    fn instead(&self) -> Option<f64> {
        self.lowest.is_none().then_some(Self::FLOOR)
    }
}
