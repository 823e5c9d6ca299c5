//! Which `OTEL_*` variables are supported. One that would change what is exported and is not supported ends the start-up.
//!
//! Others (of language SDKs, or set by the OpenTelemetry operator) say nothing about a proxy and are ignored.

use super::environment::Environment;
use crate::error::Error;
use crate::telemetry::signal::Signal;

/// The supported variables besides the options of OTLP exporters.
const SUPPORTED: [&str; 22] = [
    "OTEL_SDK_DISABLED",
    "OTEL_SERVICE_NAME",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_PROPAGATORS",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_TRACES_EXPORTER",
    "OTEL_METRICS_EXPORTER",
    "OTEL_LOGS_EXPORTER",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_BLRP_SCHEDULE_DELAY",
    "OTEL_BLRP_EXPORT_TIMEOUT",
    "OTEL_BLRP_MAX_QUEUE_SIZE",
    "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_METRIC_EXPORT_TIMEOUT",
    "OTEL_METRICS_EXEMPLAR_FILTER",
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
];

/// The options of OTLP exporters, after `OTEL_EXPORTER_OTLP_` and `OTEL_EXPORTER_OTLP_{signal}_`.
const OTLP_OPTIONS: [&str; 9] = [
    "ENDPOINT",
    "PROTOCOL",
    "INSECURE",
    "CERTIFICATE",
    "CLIENT_CERTIFICATE",
    "CLIENT_KEY",
    "HEADERS",
    "COMPRESSION",
    "TIMEOUT",
];

/// Prefixes of variables that say what is exported, with what to use instead. Nothing with such a prefix is ignored, so a
/// misspelt name is refused too.
const REFUSED: [(&str, &str); 14] = [
    ("OTEL_CONFIG_FILE", "; use the other OTEL_* variables"),
    ("OTEL_EXPERIMENTAL_CONFIG_FILE", "; use the other OTEL_* variables"),
    ("OTEL_EXPORTER_PROMETHEUS_", "; metrics can be scraped from /metrics without it"),
    ("OTEL_EXPORTER_", "; spans, metrics and log records are exported by OTLP only"),
    ("OTEL_ATTRIBUTE_", "; attributes are not limited"),
    ("OTEL_SPAN_", "; spans are not limited"),
    ("OTEL_EVENT_", "; spans have no events"),
    ("OTEL_LINK_", "; spans have no links"),
    ("OTEL_LOGRECORD_", "; log records are not limited"),
    ("OTEL_BSP_", ""),
    ("OTEL_BLRP_", ""),
    ("OTEL_METRIC", ""),
    ("OTEL_TRACE", ""),
    ("OTEL_LOGS_", ""),
];

/// Returns an error for the first variable that is set, would change what is exported, and is not supported.
pub(super) fn check(environment: &Environment) -> Result<(), Error> {
    let mut ignored = Vec::new();
    for name in environment.names().filter(|name| !supported(name)) {
        match REFUSED.iter().find(|(prefix, _)| name.starts_with(prefix)) {
            Some((_, instead)) => {
                let problem = format!("this variable is not supported{instead}");
                return Err(Error::Environment { variable: name.to_owned(), problem });
            }
            None => ignored.push(name),
        }
    }
    if !ignored.is_empty() {
        tracing::info!(
            variables = ignored.join(" "),
            "OTEL_* variables that do not apply to a proxy are ignored"
        );
    }
    Ok(())
}

fn supported(name: &str) -> bool {
    let option = |option: &str| OTLP_OPTIONS.contains(&option);
    let otlp = name.strip_prefix("OTEL_EXPORTER_OTLP_").is_some_and(|rest| {
        let of = |signal: Signal| rest.strip_prefix(signal.variable_part())?.strip_prefix('_');
        option(rest) || Signal::ALL.into_iter().filter_map(of).any(option)
    });
    otlp || SUPPORTED.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_one(name: &str) -> Result<(), String> {
        check(&Environment::new([(name.to_owned(), "1".to_owned())])).map_err(|error| error.to_string())
    }

    #[test]
    fn every_option_of_otlp_is_supported_for_all_signals_and_for_each() {
        for option in OTLP_OPTIONS {
            for part in ["", "TRACES_", "METRICS_", "LOGS_"] {
                assert_eq!(check_one(&format!("OTEL_EXPORTER_OTLP_{part}{option}")), Ok(()));
            }
        }
        assert!(SUPPORTED.iter().all(|name| check_one(name).is_ok()));
    }

    #[test]
    fn every_variable_is_documented() {
        let page = include_str!("../../../../../docs/otlp.md");
        let options = OTLP_OPTIONS.map(|option| format!("OTEL_EXPORTER_OTLP_{option}"));
        for name in options.iter().map(String::as_str).chain(SUPPORTED) {
            assert!(page.contains(&format!("`{name}`")), "{name} is not in docs/otlp.md");
        }
        for (prefix, _) in REFUSED {
            assert!(page.contains(&format!("`{prefix}")), "{prefix} is not in docs/otlp.md");
        }
    }

    #[test]
    fn what_would_change_the_export_is_refused_by_name() {
        for name in [
            "OTEL_CONFIG_FILE",
            "OTEL_EXPERIMENTAL_CONFIG_FILE",
            "OTEL_EXPORTER_ZIPKIN_ENDPOINT",
            "OTEL_EXPORTER_JAEGER_ENDPOINT",
            "OTEL_EXPORTER_PROMETHEUS_PORT",
            "OTEL_EXPORTER_OTLP_ENDPOIND",
            "OTEL_EXPORTER_OTLP_SPAN_INSECURE",
            "OTEL_EXPORTER_OTLP_PROFILES_ENDPOINT",
            "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_SPAN_EVENT_COUNT_LIMIT",
            "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
            "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_METRICS_EXPORT_INTERVAL",
            "OTEL_BSP_MAX_CONCURRENT_EXPORTS",
            "OTEL_TRACE_SAMPLER",
        ] {
            let error = check_one(name).expect_err(name);
            assert!(error.starts_with(&format!("{name}: this variable is not supported")), "{error}");
        }
    }

    #[test]
    fn what_says_nothing_about_a_proxy_is_ignored() {
        for name in [
            "OTEL_LOG_LEVEL",
            "OTEL_GO_X_EXEMPLAR",
            "OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED",
            "OTEL_JAVAAGENT_ENABLED",
            "OTEL_NODE_IP",
            "OTEL_RESOURCE_ATTRIBUTES_POD_NAME",
            "OTEL_SEMCONV_STABILITY_OPT_IN",
        ] {
            assert_eq!(check_one(name), Ok(()));
        }
    }
}
