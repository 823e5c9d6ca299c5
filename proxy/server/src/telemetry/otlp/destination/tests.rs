use super::*;

const GENERAL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const OF_TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const HTTP: (&str, &str) = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment::new(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn read(signal: Signal, variables: &[(&str, &str)]) -> Result<Option<Destination>, String> {
    Destination::read(&environment(variables), signal, "OTEL_BSP_EXPORT_TIMEOUT")
        .map_err(|error| error.to_string())
}

fn traces(variables: &[(&str, &str)]) -> Destination {
    read(Signal::Traces, variables).unwrap().unwrap()
}

fn url_of(variables: &[(&str, &str)]) -> String {
    traces(variables).url.to_string()
}

#[test]
fn without_an_endpoint_nothing_is_exported() {
    for signal in Signal::ALL {
        assert!(read(signal, &[HTTP]).unwrap().is_none(), "{signal:?}");
    }
}

#[test]
fn a_general_endpoint_exports_traces_and_metrics_but_no_access_log() {
    let exported = |signal| read(signal, &[(GENERAL, "http://c:4317")]).unwrap().is_some();
    assert_eq!(Signal::ALL.map(exported), [true, true, false]);
}

#[test]
fn an_access_log_is_exported_if_its_exporter_or_endpoint_is_set() {
    let endpoint = (GENERAL, "http://c:4317");
    let logs = read(Signal::Logs, &[endpoint, ("OTEL_LOGS_EXPORTER", "otlp")]).unwrap().unwrap();
    assert_eq!(logs.url, "http://c:4317/");
    assert!(read(Signal::Logs, &[("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://l:1")]).unwrap().is_some());
}

#[test]
fn an_exporter_without_an_endpoint_uses_the_default_one() {
    let otlp = ("OTEL_TRACES_EXPORTER", "otlp");
    assert_eq!(url_of(&[otlp]), "http://localhost:4317/");
    assert_eq!(url_of(&[otlp, HTTP]), "http://localhost:4318/v1/traces");
}

#[test]
fn none_exports_nothing() {
    for (signal, name) in [
        (Signal::Traces, "OTEL_TRACES_EXPORTER"),
        (Signal::Metrics, "OTEL_METRICS_EXPORTER"),
        (Signal::Logs, "OTEL_LOGS_EXPORTER"),
    ] {
        let own = format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.variable_part());
        let set = [(GENERAL, "http://c:4317"), (own.as_str(), "http://d:4317"), (name, "none")];
        assert!(read(signal, &set).unwrap().is_none(), "{name}");
    }
}

#[test]
fn a_general_http_endpoint_gets_the_signals_path() {
    for (endpoint, url) in [
        ("http://c:4318", "http://c:4318/v1/traces"),
        ("https://c/", "https://c/v1/traces"),
        ("http://c/otlp/", "http://c/otlp/v1/traces"),
    ] {
        assert_eq!(url_of(&[(GENERAL, endpoint), HTTP]), url, "{endpoint}");
    }
}

#[test]
fn a_signals_http_endpoint_is_used_as_it_is() {
    for (endpoint, url) in [("http://c:4318", "http://c:4318/"), ("http://c/in?key=1", "http://c/in?key=1")] {
        assert_eq!(url_of(&[(GENERAL, "http://other"), (OF_TRACES, endpoint), HTTP]), url, "{endpoint}");
    }
}

#[test]
fn a_grpc_endpoint_without_a_scheme_uses_tls_unless_insecure_is_set() {
    let endpoint = (GENERAL, "c:4317");
    let insecure = ("OTEL_EXPORTER_OTLP_INSECURE", "true");
    assert_eq!(url_of(&[endpoint]), "https://c:4317/");
    assert_eq!(url_of(&[endpoint, insecure]), "http://c:4317/");
    assert_eq!(url_of(&[(GENERAL, "https://c:4317"), insecure]), "https://c:4317/", "the scheme wins");
}

#[test]
fn the_shorter_timeout_applies() {
    let endpoint = (GENERAL, "http://c:4317");
    let (otlp, batch) = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_BSP_EXPORT_TIMEOUT");
    assert_eq!(traces(&[endpoint]).timeout, DEFAULT_TIMEOUT);
    for (otlp_limit, batch_limit) in [("200", "3000"), ("3000", "200")] {
        let set = [endpoint, (otlp, otlp_limit), (batch, batch_limit)];
        assert_eq!(traces(&set).timeout, Duration::from_millis(200));
    }
}

#[test]
fn headers_are_decoded_and_hidden() {
    let set = [(GENERAL, "http://c:4317"), ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, x-scope-orgid=1,")];
    let destination = traces(&set);
    assert_eq!(destination.headers["api-key"], "a b");
    assert_eq!(destination.headers["x-scope-orgid"], "1");
    assert!(!format!("{destination:?}").contains("a b"), "credentials are not for logs");
    let broken = [set[0], ("OTEL_EXPORTER_OTLP_HEADERS", "secret")];
    let error = read(Signal::Traces, &broken).unwrap_err();
    assert!(error.starts_with("OTEL_EXPORTER_OTLP_HEADERS: ") && !error.contains("secret"), "{error}");
}

#[test]
fn compression_is_gzip_or_none() {
    for (value, gzip) in [("gzip", true), ("none", false)] {
        let set = [(GENERAL, "http://c:4317"), ("OTEL_EXPORTER_OTLP_COMPRESSION", value)];
        assert_eq!(traces(&set).gzip, gzip);
    }
}

#[test]
fn what_cannot_be_done_is_refused_by_name_and_value() {
    for (name, value, hint) in [
        ("OTEL_TRACES_EXPORTER", "zipkin", "use otlp or none"),
        ("OTEL_TRACES_EXPORTER", "otlp,console", "use otlp or none"),
        (OF_TRACES, "unix:///run/collector", "use http or https"),
        (OF_TRACES, "http://", "is not a URL"),
        (OF_TRACES, "http://c:99999", "has a port that is not a number from 1 to 65535"),
        (OF_TRACES, "http://c:4317/v1/traces", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "use grpc or http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "zstd", "use gzip or none"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "milliseconds"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "0", "milliseconds"),
    ] {
        let error = read(Signal::Traces, &[(GENERAL, "http://a:1"), (name, value)]).expect_err(name);
        assert!(error.starts_with(&format!("{name}: `{value}` ")) && error.contains(hint), "{error}");
    }
    let prometheus = [("OTEL_METRICS_EXPORTER", "prometheus")];
    assert!(read(Signal::Metrics, &prometheus).unwrap_err().contains("/metrics"));
    let console = [("OTEL_LOGS_EXPORTER", "console")];
    assert!(read(Signal::Logs, &console).unwrap_err().contains("--access-log stdout"));
    assert!(read(Signal::Traces, &[(GENERAL, "c:4318"), HTTP]).unwrap_err().contains("has no scheme"));
}

#[test]
fn credentials_in_an_endpoint_are_refused_without_being_shown() {
    for endpoint in ["http://me:secret@c:4317", "me:secret@c:4317", "ftp://me:secret@c/in"] {
        let error = read(Signal::Traces, &[(GENERAL, endpoint)]).unwrap_err();
        assert!(error.contains("OTEL_EXPORTER_OTLP_HEADERS") && !error.contains("secret"), "{error}");
    }
}
