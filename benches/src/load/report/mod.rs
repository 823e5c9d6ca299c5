//! The results of a load test, for a person (text, a page with plots) and for programs (JSON).

pub(super) mod json;
pub(super) mod page;
pub(super) mod plot;
pub(super) mod text;

use hdrhistogram::Histogram;

use super::measurement::Measurement;
use super::schedule::Stage;
use super::spec::{Pace, Protocol, Spec, Until};
use super::units;

/// The quantiles that are reported, with their names.
const QUANTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p75", 0.75), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];

/// What was asked for and what came out.
pub(super) struct Report<'run> {
    pub(super) url: String,
    pub(super) spec: &'run Spec,
    pub(super) measured: &'run Measurement,
}

/// A stage of a schedule and the seconds that lie in it as a whole.
struct StageResult {
    stage: Stage,
    seconds: usize,
    answered: u64,
    failed: u64,
    latency: Histogram<u32>,
}

impl Report<'_> {
    /// Says in one line what the test was.
    pub(super) fn title(&self) -> String {
        let Spec { protocol, connections, streams, pace, until, warm_up, .. } = self.spec;
        let protocol = match protocol {
            Protocol::Http1(_) => "HTTP/1.1",
            Protocol::Http2(_) => "HTTP/2",
            Protocol::Grpc(call) if call.messages_per_stream.is_some() => "gRPC messages of streams",
            Protocol::Grpc(_) => "gRPC unary calls",
            Protocol::Tcp(_) => "TCP transfers",
            Protocol::WebSocket(_) => "WebSocket messages",
        };
        let streams = if *streams > 1 { format!(" x {streams} streams") } else { String::new() };
        let once = if self.spec.connection_per_request { ", a connection per request" } else { "" };
        let pace = match pace {
            Pace::ClosedLoop => "closed loop".to_owned(),
            Pace::OnceThenIdle => "idle".to_owned(),
            Pace::Rate(schedule) => match (schedule.stages().first(), schedule.stages().last()) {
                (Some(first), Some(last)) if first.from != last.to => {
                    format!("{} to {} requests/s", first.from, last.to)
                }
                (Some(only), _) => format!("{} requests/s", only.from),
                _ => "no requests".to_owned(),
            },
        };
        let until = match until {
            Until::Elapsed(length) => units::text(*length),
            Until::Requests(count) => format!("{count} requests"),
        };
        let warm_up = units::text(*warm_up);
        format!(
            "{protocol}, {connections} connections{streams}{once}, {pace}, {until} after {warm_up} of warm-up"
        )
    }

    /// The stages of a ramp in steps, each with what was measured in it. Empty for other tests.
    fn stages(&self) -> Vec<StageResult> {
        let Pace::Rate(schedule) = &self.spec.pace else { return Vec::new() };
        if schedule.stages().len() < 2 {
            return Vec::new();
        }
        let mut begin = 0.0;
        let mut results = Vec::new();
        for stage in schedule.stages() {
            let end = begin + stage.length.as_secs_f64();
            let whole =
                f64::ceil(begin) as usize..(f64::floor(end + 1e-6) as usize).max(f64::ceil(begin) as usize);
            let seconds = self.measured.seconds.get(whole).unwrap_or_default();
            let mut latency = super::recorder::Second::new().latency;
            for second in seconds {
                // All have the same bounds.
                let _ = latency.add(&second.latency);
            }
            results.push(StageResult {
                stage: *stage,
                seconds: seconds.len(),
                answered: seconds.iter().map(|second| second.answered).sum(),
                failed: seconds.iter().map(|second| second.failed).sum(),
                latency,
            });
            begin = end;
        }
        results
    }

    /// The rate that was asked for at a time of the measurement in seconds, if any.
    fn offered(&self, time: f64) -> Option<f64> {
        let Pace::Rate(schedule) = &self.spec.pace else { return None };
        let mut begin = 0.0;
        for stage in schedule.stages() {
            let length = stage.length.as_secs_f64();
            if time < begin + length {
                return Some(stage.from + (stage.to - stage.from) * (time - begin) / length);
            }
            begin += length;
        }
        None
    }

    fn has_schedule(&self) -> bool {
        matches!(self.spec.pace, Pace::Rate(_))
    }
}

#[cfg(test)]
mod tests;
