//! The results as JSON. Latencies are milliseconds, other times are seconds.

use hdrhistogram::{Counter, Histogram};
use serde_json::{Map, Value, json};

use super::super::measurement::Measurement;
use super::{QUANTILES, Report};

/// Returns the whole report.
pub(in super::super) fn json(report: &Report<'_>) -> Value {
    let mut json = results(report.measured);
    let stages = report.stages().into_iter().map(|result| {
        json!({
            "requests_per_second": result.stage.from,
            "seconds": result.seconds,
            "answered": result.answered,
            "failed": result.failed,
            "latency_ms": latency(&result.latency),
        })
    });
    if let Value::Object(fields) = &mut json {
        fields.insert("url".into(), report.url.clone().into());
        fields.insert("test".into(), report.title().into());
        fields.insert("stages".into(), stages.collect());
    }
    json
}

/// The figures alone.
fn results(measured: &Measurement) -> Value {
    let tally = &measured.tally;
    let failures: Map<_, _> =
        tally.failures.iter().map(|(failure, count)| (failure.to_string(), (*count).into())).collect();
    let seconds = measured.seconds.iter().map(|second| {
        json!({
            "answered": second.answered,
            "failed": second.failed,
            "received_bytes": second.received,
            "latency_ms": latency(&second.latency),
        })
    });
    let threads = measured.threads.iter().map(|thread| {
        json!({ "core_share": thread.share(), "waiting_for_core": thread.waiting(), "cpu": thread.cpu.as_secs_f64() })
    });
    json!({
        "elapsed": measured.elapsed.as_secs_f64(),
        "answered": tally.answered,
        "answered_per_second": measured.throughput(),
        "failed": tally.failed(),
        "failures": failures,
        "not_sent": tally.unsent,
        "received_bytes": tally.received,
        "connections": measured.connections,
        "latency_ms": latency(&tally.latency),
        "latency_from_actual_start_ms": latency(&tally.service),
        "generator": {
            "lateness_ms": latency(&tally.lag),
            "cpu_us_per_request": measured.cpu_per_request().as_secs_f64() * 1e6,
            "threads": threads.collect::<Value>(),
            "warnings": measured.warnings(),
        },
        "per_second": seconds.collect::<Value>(),
    })
}

fn latency<T: Counter>(histogram: &Histogram<T>) -> Value {
    let of = |nanoseconds: u64| Value::from(nanoseconds as f64 / 1e6);
    let quantiles = QUANTILES
        .iter()
        .map(|(name, quantile)| ((*name).to_owned(), of(histogram.value_at_quantile(*quantile))));
    let others = [("max", of(histogram.max())), ("mean", Value::from(histogram.mean() / 1e6))];
    quantiles.chain(others.map(|(name, value)| (name.to_owned(), value))).collect()
}
