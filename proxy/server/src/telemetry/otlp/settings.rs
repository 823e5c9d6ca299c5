//! Settings of tracing and of the three exporters: the `OTEL_*` variables of OpenTelemetry's specification.
//!
//! Read once at start-up. A variable or value that is not supported ends the start-up with an error that names it.

use std::time::Duration;

use outrigger_core::trace::Tracing;

use super::batches::Batching;
use super::destination::Destination;
use super::environment::{Environment, Variable};
use super::resource::Workload;
use super::{propagators, sampler, supported};
use crate::error::Error;
use crate::telemetry::signal::Signal;

/// The interval between exports of metrics (Environment variable specification, "Periodic exporting MetricReader").
const DEFAULT_INTERVAL: Duration = Duration::from_secs(60);

/// What metrics always are. Another value of the variable is refused.
const ONLY: [(&str, &str); 3] = [
    ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "cumulative"),
    ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "explicit_bucket_histogram"),
    ("OTEL_METRICS_EXEMPLAR_FILTER", "trace_based"),
];

/// The settings of the flags and the environment.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Which traces are sampled, and in which formats they are propagated.
    pub(crate) tracing: Tracing,
    /// The workload that is described.
    pub(crate) workload: Workload,
    /// Where spans are exported to. If None, no spans are collected.
    pub(crate) traces: Option<(Destination, Batching)>,
    /// Where metrics are exported to, and how often.
    pub(crate) metrics: Option<Periodic>,
    /// Where the access log is exported to.
    pub(crate) logs: Option<(Destination, Batching)>,
}

/// Where and how often a signal is exported that has no queue.
#[derive(Debug)]
pub(crate) struct Periodic {
    pub(crate) destination: Destination,
    pub(crate) interval: Duration,
}

impl Settings {
    /// Reads `environment`. `flag` is `--trace-sampling`, which takes precedence. `service` and `instance` name the workload if
    /// the environment does not.
    pub(crate) fn read(
        environment: &Environment,
        flag: Option<f64>,
        service: Option<&str>,
        instance: &str,
    ) -> Result<Self, Error> {
        supported::check(environment)?;
        let sampling = sampler::read(environment, flag)?;
        let tracing = Tracing { sampling, propagators: propagators::read(environment)? };
        let workload = Workload::read(environment, service, instance);
        if Environment::is_true(environment.get("OTEL_SDK_DISABLED")) {
            return Ok(Self { tracing, workload, traces: None, metrics: None, logs: None });
        }
        let batched = |signal, prefix: &str| {
            let batching = Batching::read(environment, prefix)?;
            let limit = format!("{prefix}_EXPORT_TIMEOUT");
            let destination = Destination::read(environment, signal, &limit)?;
            Ok::<_, Error>(destination.map(|destination| (destination, batching)))
        };
        let traces = batched(Signal::Traces, "OTEL_BSP")?;
        let logs = batched(Signal::Logs, "OTEL_BLRP")?;
        let metrics = metrics(environment)?;
        Ok(Self { tracing, workload, traces, metrics, logs })
    }
}

fn metrics(environment: &Environment) -> Result<Option<Periodic>, Error> {
    for (name, supported) in ONLY {
        environment.get(name).map_or(Ok(()), |variable| variable.only(supported))?;
    }
    let interval = environment.get("OTEL_METRIC_EXPORT_INTERVAL");
    let interval = interval.map_or(Ok(DEFAULT_INTERVAL), Variable::milliseconds)?;
    let destination = Destination::read(environment, Signal::Metrics, "OTEL_METRIC_EXPORT_TIMEOUT")?;
    Ok(destination.map(|destination| Periodic { destination, interval }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, String> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let environment = Environment::new(variables);
        Settings::read(&environment, None, None, "cart-1").map_err(|error| error.to_string())
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");
    const LOGS: (&str, &str) = ("OTEL_LOGS_EXPORTER", "otlp");

    #[test]
    fn disabled_means_no_export() {
        let settings = read(&[ENDPOINT, LOGS]).unwrap();
        assert!(settings.traces.is_some() && settings.metrics.is_some() && settings.logs.is_some());
        let settings = read(&[ENDPOINT, LOGS, ("OTEL_SDK_DISABLED", "TRUE")]).unwrap();
        assert!(settings.traces.is_none() && settings.metrics.is_none() && settings.logs.is_none());
    }

    #[test]
    fn metrics_are_cumulative_and_exported_every_minute() {
        assert_eq!(read(&[ENDPOINT]).unwrap().metrics.unwrap().interval, Duration::from_secs(60));
        let interval = ("OTEL_METRIC_EXPORT_INTERVAL", "5000");
        assert_eq!(read(&[ENDPOINT, interval]).unwrap().metrics.unwrap().interval, Duration::from_secs(5));
        for (name, supported) in ONLY {
            assert!(read(&[ENDPOINT, (name, &supported.to_uppercase())]).unwrap().metrics.is_some());
            let error = read(&[ENDPOINT, (name, "delta")]).unwrap_err();
            assert_eq!(error, format!("{name}: `delta` is not supported; use {supported}"));
        }
    }

    #[test]
    fn a_variable_that_is_not_supported_or_has_such_a_value_is_refused() {
        for name in ["OTEL_CONFIG_FILE", "OTEL_TRACES_SAMPLER", "OTEL_PROPAGATORS", "OTEL_BSP_MAX_QUEUE_SIZE"]
        {
            let error = read(&[ENDPOINT, (name, "x")]).unwrap_err();
            assert!(error.starts_with(&format!("{name}: ")), "{error}");
        }
    }
}
