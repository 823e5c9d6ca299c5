//! The latency that a proxy adds: at parts of its own capacity, its quantiles less those of the application without a proxy.
//!
//! The capacity is the throughput of a closed loop over the same connections. A constant rate follows, from a part of it: first directly
//! to the application, then through the proxy. Latencies are measured from the time at which a request was due (no coordinated
//! omission). Returns an error if a request fails.

use std::time::Duration;

use super::drive::{self, Run, Target, answered};
use super::results::Figure;
use super::scenarios::RATES;
use crate::load::{Protocol, Tally};

/// The names of the figures of one rate.
struct Names {
    added: [&'static str; 2],
    direct: &'static str,
    late: &'static str,
}

/// In the order of [`RATES`].
const NAMES: [Names; RATES.len()] = [
    Names {
        added: ["p99 added at 70 %, ms", "p50 added at 70 %, ms"],
        direct: "p99 without proxy at 70 %, ms",
        late: "p99 of the load's own lateness at 70 %, ms",
    },
    Names {
        added: ["p99 added at 30 %, ms", "p50 added at 30 %, ms"],
        direct: "p99 without proxy at 30 %, ms",
        late: "p99 of the load's own lateness at 30 %, ms",
    },
];

/// Measures all rates once. Returns the figures, and the share of the proxies' core that went to other load.
pub(super) async fn measure(
    target: &Target,
    request: Protocol,
    connections: usize,
    run: &Run<'_>,
) -> Result<(Vec<Figure>, f64), String> {
    let closed = drive::closed_loop(target, request.clone(), connections, false, run).await?;
    let (wall, cpu) = (closed.spent.wall.as_secs_f64(), closed.spent.cpu().as_secs_f64());
    let capacity = closed.requests as f64 / wall;
    let direct = Target { address: run.application, tls: None, ..target.clone() };
    let before = run.account()?;
    let mut figures = Vec::new();
    for (percent, names) in RATES.iter().zip(&NAMES) {
        let rate = capacity * f64::from(*percent) / 100.0;
        let without =
            answered(drive::constant_rate(&direct, request.clone(), connections, rate, run).await?)?;
        let with = answered(drive::constant_rate(target, request.clone(), connections, rate, run).await?)?;
        figures.extend(of_rate(names, &without, &with));
    }
    figures.extend([
        Figure::new("capacity, requests per second", capacity),
        Figure::new("share of the core at capacity, %", cpu / wall * 100.0),
    ]);
    let other = before.until(&run.account()?).other.max(closed.spent.other);
    Ok((figures, other))
}

fn of_rate(names: &Names, without: &Tally, with: &Tally) -> Vec<Figure> {
    let added = |quantile| milliseconds(with, quantile) - milliseconds(without, quantile);
    let [p99, p50] = names.added;
    vec![
        Figure::new(p99, added(0.99)),
        Figure::new(p50, added(0.5)),
        Figure::new(names.direct, milliseconds(without, 0.99)),
        Figure::new(names.late, lateness(with)),
    ]
}

/// A quantile (0 to 1) of the latencies from the intended start.
pub(super) fn milliseconds(tally: &Tally, quantile: f64) -> f64 {
    Duration::from_nanos(tally.latency.value_at_quantile(quantile)).as_secs_f64() * 1e3
}

/// The 99th percentile of the load generator's own lateness, which latencies include.
pub(super) fn lateness(tally: &Tally) -> f64 {
    Duration::from_nanos(tally.lag.value_at_quantile(0.99)).as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Failure, Measurement};

    fn tally(milliseconds: [u64; 3]) -> Tally {
        let mut tally = Tally::new();
        for latency in milliseconds {
            tally.latency.record(latency * 1_000_000).unwrap();
            tally.answered += 1;
        }
        tally
    }

    #[test]
    fn what_is_added_is_the_difference_of_quantiles() {
        let figures = of_rate(&NAMES[0], &tally([1, 2, 3]), &tally([2, 4, 8]));
        let values: Vec<_> = figures.iter().map(|figure| (figure.value * 10.0).round() / 10.0).collect();
        assert_eq!(values, [5.0, 2.0, 3.0, 0.0]);
        assert_eq!(figures[0].metric, "p99 added at 70 %, ms");
    }

    #[test]
    fn the_names_are_those_of_the_rates() {
        for (rate, names) in RATES.iter().zip(&NAMES) {
            assert!(names.added.iter().all(|name| name.contains(&format!("at {rate} %"))), "{rate}");
        }
    }

    #[test]
    fn a_failed_request_fails_the_run() {
        let mut failed = tally([1, 1, 1]);
        failed.failures.insert(Failure::Timeout, 2);
        let measurement = |tally| Measurement {
            tally,
            elapsed: Duration::from_secs(1),
            seconds: Vec::new(),
            connections: 1,
            threads: Vec::new(),
        };
        assert!(answered(measurement(failed)).unwrap_err().starts_with("2 requests failed"));
        assert!(answered(measurement(Tally::new())).is_err());
        assert_eq!(answered(measurement(tally([1, 1, 1]))).unwrap().answered, 3);
    }
}
