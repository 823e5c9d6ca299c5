//! A Jaeger. It is an OpenTelemetry Collector too: OTLP over gRPC and HTTP, span metrics, a Prometheus
//! exporter, and a log of the metrics and logs that it receives.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use outrigger::ports;
use serde_json::Value;

/// Jaeger's store in memory. Its dependency graph also has the calls that an application makes while it serves one, as calls to itself
/// (jaegertracing/jaeger#9089).
const MEMORY: &str = "{memory: {max_traces: 100000}}";
/// Jaeger's Badger store, in a directory that ends with it. Its dependency graph is that of a hundred traces.
const BADGER: &str = "{badger: {ephemeral: true}}";

/// Killed when dropped.
pub(crate) struct Collector {
    process: Child,
    log: PathBuf,
    /// OTLP over gRPC.
    pub(crate) grpc: SocketAddr,
    /// OTLP over HTTP.
    pub(crate) http: SocketAddr,
    query: SocketAddr,
    span_metrics: SocketAddr,
}

impl Collector {
    /// Starts it on free ports, with its files in `directory` and all spans in memory.
    pub(crate) fn start(directory: &Path) -> Self {
        Self::start_with(directory, MEMORY, None)
    }

    /// As [`Self::start`], and forwards all spans to the collector at `to`, by OTLP over gRPC.
    pub(crate) fn start_forwarding(directory: &Path, to: SocketAddr) -> Self {
        Self::start_with(directory, MEMORY, Some(to))
    }

    /// Starts it with the store whose dependency graph has calls between services only.
    pub(crate) fn start_with_dependency_graph(directory: &Path) -> Self {
        Self::start_with(directory, BADGER, None)
    }

    fn start_with(directory: &Path, store: &str, forward: Option<SocketAddr>) -> Self {
        let program = std::env::var("OUTRIGGER_JAEGER").expect("OUTRIGGER_JAEGER: run tests/heavier");
        let [grpc, http, query, query_grpc, span_metrics] = ports::free().unwrap();
        let config = directory.join("collector.yaml");
        std::fs::write(&config, configuration([grpc, http, query, query_grpc, span_metrics], store, forward))
            .unwrap();
        let log = directory.join("collector.log");
        let output = std::fs::File::create(&log).unwrap();
        let process = Command::new(program)
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let collector = Self { process, log, grpc, http, query, span_metrics };
        let deadline = Instant::now() + Duration::from_secs(60);
        while [grpc, http, query, span_metrics].iter().any(|port| TcpStream::connect(port).is_err()) {
            assert!(Instant::now() < deadline, "Jaeger did not start: {}", collector.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        collector
    }

    /// Returns a page of Jaeger's query API.
    pub(crate) fn query(&self, path: &str) -> Value {
        serde_json::from_str(&get(self.query, path, "*/*").1).unwrap()
    }

    /// Returns every trace with a span of `service`.
    pub(crate) fn traces(&self, service: &str) -> Vec<Value> {
        let page = self.query(&format!("/api/traces?service={service}&lookback=1h&limit=1000"));
        page["data"].as_array().unwrap().clone()
    }

    /// Returns the ID of every trace with a span of `service`.
    pub(crate) fn trace_ids(&self, service: &str) -> BTreeSet<String> {
        let traces = self.traces(service);
        traces.iter().map(|trace| trace["traceID"].as_str().unwrap().to_owned()).collect()
    }

    /// Returns the calls from service to service, as Jaeger's dependency graph shows them.
    pub(crate) fn dependencies(&self) -> BTreeMap<(String, String), u64> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let page = self.query(&format!("/api/dependencies?endTs={}&lookback=3600000", now.as_millis()));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let links = page["data"].as_array().unwrap().iter();
        links
            .map(|link| ((text(&link["parent"]), text(&link["child"])), link["callCount"].as_u64().unwrap()))
            .collect()
    }

    /// Returns the page of the span metrics connector.
    pub(crate) fn span_metrics(&self) -> String {
        get(self.span_metrics, "/metrics", "*/*").1
    }

    /// Returns everything that it has logged, with each metric and each log record that it has received.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Sends `GET path` with `Accept: {accept}`. Returns head and body; panics unless the status is 200.
pub(crate) fn get(address: SocketAddr, path: &str, accept: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: {accept}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{path}: {head}\n{body}");
    (head.to_owned(), body.to_owned())
}

fn configuration(
    [grpc, http, query, query_grpc, span_metrics]: [SocketAddr; 5],
    store: &str,
    forward: Option<SocketAddr>,
) -> String {
    let (forwarding, forwarded) = match forward {
        Some(to) => (format!("  otlp: {{endpoint: {to}, tls: {{insecure: true}}}}\n"), ", otlp"),
        None => (String::new(), ""),
    };
    format!(
        "service:
  extensions: [jaeger_storage, jaeger_query]
  pipelines:
    traces:
      receivers: [otlp]
      exporters: [jaeger_storage_exporter, spanmetrics{forwarded}]
    metrics/spans:
      receivers: [spanmetrics]
      exporters: [prometheus]
    metrics:
      receivers: [otlp]
      exporters: [debug]
    logs:
      receivers: [otlp]
      exporters: [debug]
  telemetry:
    metrics:
      level: none
extensions:
  jaeger_storage:
    backends:
      spans: {store}
  jaeger_query:
    storage:
      traces: spans
    http:
      endpoint: {query}
    grpc:
      endpoint: {query_grpc}
receivers:
  otlp:
    protocols:
      grpc:
        endpoint: {grpc}
      http:
        endpoint: {http}
connectors:
  spanmetrics:
    metrics_flush_interval: 1s
    dimensions:
      - name: rpc.method
exporters:
  jaeger_storage_exporter:
    trace_storage: spans
  prometheus:
    endpoint: {span_metrics}
  debug:
    verbosity: detailed
    use_internal_logger: false
{forwarding}"
    )
}
