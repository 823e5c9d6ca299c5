use std::collections::BTreeMap;
use std::sync::Arc;

use outrigger_core::metrics::text::{Format, encode};
use outrigger_core::metrics::{Bucket, labels, single};
use outrigger_core::trace::{SpanId, TraceId};
use prost::Message as _;
use tokio::task::JoinHandle;

use super::*;
use crate::telemetry::access_log::entry::tests::record;
use crate::telemetry::losses::Losses;
use crate::telemetry::metrics::tests::sources;
use crate::telemetry::otlp::environment::Environment;
use crate::telemetry::otlp::settings::{Periodic, Settings};
use crate::telemetry::otlp::testing::{Answer, Collector};

fn families() -> Vec<Family> {
    let start = UNIX_EPOCH + Duration::from_secs(1);
    let exemplar = Exemplar {
        trace: TraceId::new(0xabc).unwrap(),
        span: SpanId::new(0x10).unwrap(),
        value: 0.004,
        time: start,
    };
    let bucket = |upper_bound, count, exemplar| Bucket { upper_bound, count, exemplar };
    let buckets =
        vec![bucket(0.005, 2, Some(exemplar)), bucket(0.01, 0, None), bucket(f64::INFINITY, 1, None)];
    vec![
        Family::counter("outrigger_requests_total", "Requests", [(labels([("status", "200")]), 3.0)]),
        Family::gauge("outrigger_ready", "Ready", single(1.0)),
        Family::counter("process_cpu_seconds_total", "CPU", single(0.5)),
        Family::gauge("process_resident_memory_bytes", "Memory", single(1e6)),
        Family::histogram(
            "outrigger_request_duration_seconds",
            "Durations",
            [(labels([("protocol", "grpc")]), Histogram { buckets, sum: 1.5 })],
        ),
    ]
}

fn metrics(families: Vec<Family>) -> BTreeMap<String, Metric> {
    let times = [UNIX_EPOCH + Duration::from_secs(5), UNIX_EPOCH + Duration::from_secs(65)];
    let mut request = request(families, times, Resource::default());
    let metrics = request.resource_metrics.remove(0).scope_metrics.remove(0).metrics;
    metrics.into_iter().map(|metric| (metric.name.clone(), metric)).collect()
}

/// What the collector's Prometheus exporter makes of a metric's name (specification, "Prometheus and OpenMetrics
/// Compatibility", "OTLP Metric points to Prometheus"): it appends the unit unless the name ends with it, then `_total`.
fn prometheus_name(metric: &Metric) -> String {
    let mut name = metric.name.clone();
    let unit = BTreeMap::from([("s", "_seconds"), ("By", "_bytes"), ("1", "_ratio")]);
    if let Some(suffix) = unit.get(metric.unit.as_str()).filter(|suffix| !name.ends_with(**suffix)) {
        name.push_str(suffix);
    }
    if matches!(&metric.data, Some(Data::Sum(sum)) if sum.is_monotonic) {
        name.push_str("_total");
    }
    name
}

#[test]
fn a_counter_is_a_cumulative_monotonic_sum_since_the_start() {
    let metrics = metrics(families());
    let metric = &metrics["outrigger_requests"];
    let Some(Data::Sum(sum)) = &metric.data else { panic!("{metric:?}") };
    assert!(sum.is_monotonic);
    assert_eq!(sum.aggregation_temporality(), AggregationTemporality::Cumulative);
    let [point] = &sum.data_points[..] else { panic!("{sum:?}") };
    assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (5_000_000_000, 65_000_000_000));
    assert_eq!(point.value, Some(number_data_point::Value::AsDouble(3.0)));
    assert_eq!(point.attributes[0].key, "status");
}

#[test]
fn a_histogram_has_bounds_counts_and_exemplars() {
    let metrics = metrics(families());
    let metric = &metrics["outrigger_request_duration_seconds"];
    assert_eq!(metric.unit, "s");
    let Some(Data::Histogram(histogram)) = &metric.data else { panic!("{metric:?}") };
    let [point] = &histogram.data_points[..] else { panic!("{histogram:?}") };
    assert_eq!((&point.explicit_bounds[..], &point.bucket_counts[..]), (&[0.005, 0.01][..], &[2, 0, 1][..]));
    assert_eq!((point.count, point.sum), (3, Some(1.5)));
    let [exemplar] = &point.exemplars[..] else { panic!("{point:?}") };
    assert_eq!(exemplar.trace_id, 0xabc_u128.to_be_bytes());
    assert_eq!(exemplar.value, Some(exemplar::Value::AsDouble(0.004)));
}

#[test]
fn a_collectors_prometheus_exporter_restores_every_name_of_a_scrape() {
    let families: Vec<_> = sources(1, &[record()]).families().into_iter().chain(families()).collect();
    let names: Vec<_> = families.iter().map(|family| family.name.to_owned()).collect();
    let exported = metrics(families.clone());
    let restored: Vec<_> = names
        .iter()
        .map(|name| prometheus_name(&exported[name.strip_suffix("_total").unwrap_or(name)]))
        .collect();
    assert_eq!(restored, names);
    assert!(encode(&families, Format::Prometheus).contains(&names[0]));
}

/// Returns a task that exports to `collector`, and the sender that ends it.
fn exporting(collector: &Collector, interval: &str) -> (JoinHandle<()>, oneshot::Sender<()>, Arc<Losses>) {
    let endpoint = format!("http://{}", collector.authority);
    let variables =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_METRIC_EXPORT_INTERVAL", interval)];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let settings = Settings::read(&Environment::new(variables), None, Some("web"), "web-1").unwrap();
    let Periodic { destination, interval } = settings.metrics.unwrap();
    let losses = Arc::new(Losses::default());
    let exporter = Exporter::new(destination, Arc::clone(&losses));
    let (stop, stopped) = oneshot::channel();
    let sources = sources(1, &[record()]);
    (tokio::spawn(run(sources, interval, exporter, settings.workload, stopped)), stop, losses)
}

#[tokio::test]
async fn metrics_are_exported_at_every_interval() {
    let collector = Collector::start([Answer::Refuse]).await;
    let (exporting, _stop, losses) = exporting(&collector, "10");
    while losses.counts().metric_exports == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    exporting.abort();
    assert_eq!(losses.counts().metric_exports_failed, 1, "the refused one");
}

#[tokio::test]
async fn metrics_are_exported_a_last_time_at_the_end() {
    let collector = Collector::start([]).await;
    let (exporting, stop, losses) = exporting(&collector, "3600000");
    drop(stop);
    exporting.await.unwrap();
    let [arrived] = &collector.arrived()[..] else { panic!("one export") };
    let request = ExportMetricsServiceRequest::decode(arrived.message.clone()).unwrap();
    let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
    assert!(metrics.iter().any(|metric| metric.name == "outrigger_requests"));
    assert_eq!((losses.counts().metric_exports, losses.counts().metric_exports_failed), (1, 0));
}
