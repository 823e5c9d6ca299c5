//! The `OTEL_*` variables of the process, and the types of their values.
//!
//! A value that cannot be used is an error that names the variable and the value; the process does not start.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use crate::error::Error;
use crate::telemetry::signal::Signal;

/// The variables whose names start with `OTEL_`, read once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

/// A variable that is set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Variable<'a> {
    pub(crate) name: &'a str,
    pub(crate) value: &'a str,
}

impl Environment {
    /// Reads the variables of this process.
    pub(crate) fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        };
        Self::new(std::env::vars_os().filter_map(text))
    }

    /// Creates it from names and values. "The SDK MUST interpret an empty value of an environment variable the same way as when
    /// the variable is unset" (Environment variable specification, "Parsing empty value").
    pub(crate) fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let trimmed = |(name, value): (String, String)| (name, value.trim().to_owned());
        let set = |(name, value): &(String, String)| name.starts_with("OTEL_") && !value.is_empty();
        let mut all: BTreeMap<_, _> = variables.into_iter().map(trimmed).filter(set).collect();
        let services: Vec<_> =
            all.keys().filter_map(|name| name.strip_suffix("_SERVICE_HOST").map(str::to_owned)).collect();
        all.retain(|name, _| !services.iter().any(|service| is_service_link(name, service)));
        Self(all)
    }

    /// Returns the variable, if it is set.
    pub(crate) fn get(&self, name: &str) -> Option<Variable<'_>> {
        self.0.get_key_value(name).map(|(name, value)| Variable { name, value })
    }

    /// Returns `OTEL_EXPORTER_OTLP_{signal}_{option}`, else `OTEL_EXPORTER_OTLP_{option}`.
    pub(crate) fn otlp(&self, signal: Signal, option: &str) -> Option<Variable<'_>> {
        self.otlp_of(signal, option).or_else(|| self.get(&format!("OTEL_EXPORTER_OTLP_{option}")))
    }

    /// Returns `OTEL_EXPORTER_OTLP_{signal}_{option}`.
    pub(crate) fn otlp_of(&self, signal: Signal, option: &str) -> Option<Variable<'_>> {
        self.get(&format!("OTEL_EXPORTER_OTLP_{}_{option}", signal.variable_part()))
    }

    /// Returns whether a boolean variable is true. "Any value not explicitly defined here as a true value [...] MUST be
    /// interpreted as false" (Environment variable specification, "Boolean").
    pub(crate) fn is_true(variable: Option<Variable<'_>>) -> bool {
        let Some(Variable { name, value }) = variable else { return false };
        let is = |text: &str| value.eq_ignore_ascii_case(text);
        if !is("true") && !is("false") {
            tracing::warn!(variable = name, value, "neither true nor false: taken as false");
        }
        is("true")
    }

    /// Returns the names of all variables.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl Variable<'_> {
    /// Returns an error with the variable's name and value, and the reason.
    pub(crate) fn refused(self, reason: impl Display) -> Error {
        let problem = format!("`{}` {reason}", self.value);
        Error::Environment { variable: self.name.to_owned(), problem }
    }

    /// Parses a time in milliseconds. Zero is refused: for a timeout it means "indefinitely", and every export has a limit.
    pub(crate) fn milliseconds(self) -> Result<Duration, Error> {
        match self.value.parse::<u32>() {
            Ok(milliseconds) if milliseconds > 0 => Ok(Duration::from_millis(milliseconds.into())),
            _ => Err(self.refused("is not a number of milliseconds above 0")),
        }
    }

    /// Parses a number of items that is not zero.
    pub(crate) fn count(self) -> Result<usize, Error> {
        match self.value.parse::<u32>() {
            Ok(count) if count > 0 => Ok(count as usize),
            _ => Err(self.refused("is not a number above 0")),
        }
    }

    /// Returns an error unless the value is the one that is supported, in any case.
    pub(crate) fn only(self, supported: &str) -> Result<(), Error> {
        match self.value.eq_ignore_ascii_case(supported) {
            true => Ok(()),
            false => Err(self.refused(format_args!("is not supported; use {supported}"))),
        }
    }
}

/// Returns whether Kubernetes sets the variable in every container beside a Service, whose name is `service` in capitals: a Service
/// named otel-traces must not configure a sidecar.
fn is_service_link(name: &str, service: &str) -> bool {
    let rest = name.strip_prefix(service).and_then(|rest| rest.strip_prefix('_'));
    rest.is_some_and(|rest| {
        ["SERVICE_HOST", "SERVICE_PORT", "PORT"].contains(&rest)
            || rest.starts_with("SERVICE_PORT_")
            || rest.starts_with("PORT_")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::new(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn an_empty_value_is_unset() {
        let environment = environment(&[("OTEL_SERVICE_NAME", " "), ("OTEL_TRACES_EXPORTER", " otlp ")]);
        assert!(environment.get("OTEL_SERVICE_NAME").is_none());
        assert_eq!(environment.get("OTEL_TRACES_EXPORTER").unwrap().value, "otlp");
    }

    #[test]
    fn the_variable_of_a_signal_precedes_the_general_one() {
        let environment =
            environment(&[("OTEL_EXPORTER_OTLP_TIMEOUT", "1"), ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "2")]);
        assert_eq!(environment.otlp(Signal::Logs, "TIMEOUT").unwrap().value, "2");
        assert_eq!(environment.otlp(Signal::Traces, "TIMEOUT").unwrap().value, "1");
        assert!(environment.otlp_of(Signal::Traces, "TIMEOUT").is_none());
    }

    #[test]
    fn only_true_is_true() {
        for (value, expected) in [("true", true), ("TRUE", true), ("false", false), ("1", false)] {
            let variable = Some(Variable { name: "OTEL_SDK_DISABLED", value });
            assert_eq!(Environment::is_true(variable), expected, "{value}");
        }
        assert!(!Environment::is_true(None));
    }

    #[test]
    fn numbers_that_cannot_be_used_are_refused_by_name() {
        for value in ["0", "-1", "soon", "1.5", "99999999999"] {
            let variable = Variable { name: "OTEL_BSP_SCHEDULE_DELAY", value };
            let errors = [variable.milliseconds().unwrap_err(), variable.count().unwrap_err()];
            let expected = format!("OTEL_BSP_SCHEDULE_DELAY: `{value}` is not a number");
            assert!(errors.iter().all(|error| error.to_string().starts_with(&expected)), "{errors:?}");
        }
        let valid = Variable { name: "OTEL_BSP_SCHEDULE_DELAY", value: "250" };
        assert_eq!(valid.milliseconds().unwrap(), Duration::from_millis(250));
        assert_eq!(valid.count().unwrap(), 250);
    }

    #[test]
    fn variables_that_kubernetes_sets_for_a_service_are_no_settings() {
        let environment = environment(&[
            ("OTEL_TRACES_SERVICE_HOST", "10.96.0.7"),
            ("OTEL_TRACES_SERVICE_PORT", "4317"),
            ("OTEL_TRACES_SERVICE_PORT_OTLP", "4317"),
            ("OTEL_TRACES_PORT", "tcp://10.96.0.7:4317"),
            ("OTEL_TRACES_PORT_4317_TCP_ADDR", "10.96.0.7"),
            ("OTEL_TRACES_SAMPLER", "always_on"),
            ("OTEL_METRIC_PORT", "1"),
        ]);
        assert_eq!(environment.names().collect::<Vec<_>>(), ["OTEL_METRIC_PORT", "OTEL_TRACES_SAMPLER"]);
    }
}
