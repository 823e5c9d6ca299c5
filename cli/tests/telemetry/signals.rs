//! Traces, metrics and access logs by OTLP, over gRPC and over HTTP: all arrive in the collector, and name the same traces.

use std::collections::{BTreeMap, BTreeSet};

use crate::collector::Collector;
use crate::shop::Shop;

/// How many access log records each service has: its own requests and connections, in both directions.
fn expected(requests: usize) -> BTreeMap<&'static str, usize> {
    [
        ("shopper", requests),
        ("web", 2 * requests),
        // One served; one call each of `catalog`, `payments` and `stock`.
        ("cart", 4 * requests),
        ("catalog", requests),
        ("payments", requests),
        ("stock", requests),
    ]
    .into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_signals_arrive_over_grpc() {
    all_signals_arrive(|collector| vec![endpoint("http", collector.grpc)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_signals_arrive_over_http() {
    all_signals_arrive(|collector| {
        vec![
            endpoint("http", collector.http),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf".to_owned()),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip".to_owned()),
        ]
    })
    .await;
}

fn endpoint(scheme: &str, address: std::net::SocketAddr) -> (&'static str, String) {
    ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("{scheme}://{address}"))
}

async fn all_signals_arrive(exporter: impl Fn(&Collector) -> Vec<(&'static str, String)>) {
    let directory = tempfile::tempdir().unwrap();
    let collector = Collector::start(directory.path());
    let mut environment = exporter(&collector);
    environment
        .extend([("OTEL_METRICS_EXPORTER", "otlp".to_owned()), ("OTEL_LOGS_EXPORTER", "otlp".to_owned())]);
    let shop = Shop::start(&environment).await;
    let requests = 20;
    shop.load(0, requests, 0).await;
    shop.stop().await;

    let traces = collector.trace_ids("shopper");
    assert_eq!(traces.len(), requests);
    let log = collector.log();
    let received = Received::read(&log);
    println!(
        "{:?} log records, {} with a trace; metrics of {:?}, {} exemplars",
        received.logs,
        received.log_traces.len(),
        received.metrics,
        received.exemplars.len()
    );
    assert_eq!(received.logs, expected(requests).into_iter().map(|(name, n)| (name.to_owned(), n)).collect());
    assert_eq!(received.log_traces.iter().cloned().collect::<BTreeSet<_>>(), traces);
    assert_eq!(received.metrics, received.logs.keys().cloned().collect());
    assert!(received.exemplars.iter().all(|trace| traces.contains(trace)), "{:?}", received.exemplars);
    assert!(!received.exemplars.is_empty());
}

/// What the collector's debug exporter has printed.
#[derive(Debug, Default)]
struct Received {
    /// The number of log records of each service.
    logs: BTreeMap<String, usize>,
    /// The trace ID of each log record that has one.
    log_traces: Vec<String>,
    /// The services that have sent metrics.
    metrics: BTreeSet<String>,
    /// The trace ID of each exemplar.
    exemplars: Vec<String>,
}

impl Received {
    fn read(log: &str) -> Self {
        let mut received = Self::default();
        let (mut service, mut of_log) = (String::new(), false);
        for line in log.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix("-> service.name: Str(") {
                service = name.trim_end_matches(')').to_owned();
            } else if line.starts_with("LogRecord #") {
                of_log = true;
                *received.logs.entry(service.clone()).or_default() += 1;
            } else if line.starts_with("Metric #") {
                received.metrics.insert(service.clone());
            } else if line.starts_with("Exemplar #") {
                of_log = false;
            } else if let Some(trace) = line.split("Trace ID:").nth(1).map(str::trim) {
                let traces = if of_log { &mut received.log_traces } else { &mut received.exemplars };
                if !trace.is_empty() {
                    traces.push(trace.to_owned());
                }
            }
        }
        received
    }
}
