//! Settings of tracing and of the three exporters: the `OTEL_*` variables of OpenTelemetry's specification.
//!
//! Read once at start-up. A variable or value that is not supported ends the start-up with an error that names it.

use outrigger_core::trace::Sampling;

use super::batches::Batching;
use super::destination::Destination;
use super::environment::Environment;
use super::resource::Workload;
use super::{sampler, supported};
use crate::error::Error;
use crate::telemetry::signal::Signal;

/// The settings of the flags and the environment.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Which traces are sampled.
    pub(crate) sampling: Sampling,
    /// The workload that is described.
    pub(crate) workload: Workload,
    /// Where spans are exported to. If None, no spans are collected.
    pub(crate) traces: Option<(Destination, Batching)>,
    /// Where the access log is exported to.
    pub(crate) logs: Option<(Destination, Batching)>,
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
        let workload = Workload::read(environment, service, instance);
        if Environment::is_true(environment.get("OTEL_SDK_DISABLED")) {
            return Ok(Self { sampling, workload, traces: None, logs: None });
        }
        environment.get("OTEL_METRICS_EXPORTER").map_or(Ok(()), |exporter| exporter.only("none"))?;
        let batched = |signal, prefix: &str| {
            let batching = Batching::read(environment, prefix)?;
            let limit = format!("{prefix}_EXPORT_TIMEOUT");
            let destination = Destination::read(environment, signal, &limit)?;
            Ok::<_, Error>(destination.map(|destination| (destination, batching)))
        };
        let traces = batched(Signal::Traces, "OTEL_BSP")?;
        let logs = batched(Signal::Logs, "OTEL_BLRP")?;
        Ok(Self { sampling, workload, traces, logs })
    }
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
        assert!(settings.traces.is_some() && settings.logs.is_some());
        let settings = read(&[ENDPOINT, LOGS, ("OTEL_SDK_DISABLED", "TRUE")]).unwrap();
        assert!(settings.traces.is_none() && settings.logs.is_none());
    }

    #[test]
    fn a_variable_that_is_not_supported_or_has_such_a_value_is_refused() {
        for name in ["OTEL_CONFIG_FILE", "OTEL_TRACES_SAMPLER", "OTEL_BSP_MAX_QUEUE_SIZE"] {
            let error = read(&[ENDPOINT, (name, "x")]).unwrap_err();
            assert!(error.starts_with(&format!("{name}: ")), "{error}");
        }
    }
}
