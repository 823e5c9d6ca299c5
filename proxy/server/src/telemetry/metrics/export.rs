//! Metrics by OTLP: exports all families at an interval, and once more at the end.
//!
//! The families are those of a scrape. Counters and histograms are cumulative since the start of the process, so an export that
//! fails loses nothing that the next one does not carry. Names follow OpenTelemetry's rules for Prometheus' metrics
//! (specification, "Prometheus and OpenMetrics Compatibility"): without `_total`, with the unit, so that a collector's Prometheus
//! exporter restores the names of a scrape.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::{
    self as proto, AggregationTemporality, Gauge, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum, exemplar, metric::Data, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::transform::common::tonic::Attributes;
use outrigger_core::metrics::{Exemplar, Family, Histogram, Labels, Point, Points, Unit};
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;

use super::Sources;
use crate::telemetry::otlp::exporter::Exporter;
use crate::telemetry::otlp::resource::{Workload, scope};

/// Exports at each `interval`, and a last time when the sender of `stop` is dropped.
pub(crate) async fn run(
    sources: Sources,
    interval: Duration,
    exporter: Exporter,
    workload: Workload,
    mut stop: oneshot::Receiver<()>,
) {
    let started = SystemTime::now();
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stopped = false;
    while !stopped {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = &mut stop => stopped = true,
        }
        let resource = workload.resource(sources.identity.get().as_ref());
        // As for a scrape: with many series this takes longer than the control thread may be blocked.
        let read = sources.clone();
        let Ok(families) = tokio::task::spawn_blocking(move || read.families()).await else { continue };
        let request = request(families, [started, SystemTime::now()], resource);
        exporter.export(&request, 1).await;
    }
}

fn request(families: Vec<Family>, times: [SystemTime; 2], resource: Resource) -> ExportMetricsServiceRequest {
    let [start, now] = times.map(nanoseconds);
    let metrics = families.into_iter().map(|family| metric(family, start, now)).collect();
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope()), metrics, ..ScopeMetrics::default() }];
    let metrics = ResourceMetrics { resource: Some(resource), scope_metrics, ..ResourceMetrics::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![metrics] }
}

/// Times are in nanoseconds since the epoch.
fn metric(family: Family, start: u64, now: u64) -> Metric {
    // UCUM; a number without a unit has none, because `1` would become `_ratio`.
    let unit = match family.unit() {
        Some(Unit::Seconds) => "s",
        Some(Unit::Bytes) => "By",
        None => "",
    };
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    let data = match family.points {
        Points::Counter(points) => Data::Sum(Sum {
            data_points: points.into_iter().map(|point| number(point, start, now)).collect(),
            aggregation_temporality,
            is_monotonic: true,
        }),
        Points::Gauge(points) => Data::Gauge(Gauge {
            data_points: points.into_iter().map(|point| number(point, 0, now)).collect(),
        }),
        Points::Histogram(points) => Data::Histogram(proto::Histogram {
            data_points: points.into_iter().map(|point| distribution(point, start, now)).collect(),
            aggregation_temporality,
        }),
    };
    Metric {
        name: family.name.strip_suffix("_total").unwrap_or(family.name).to_owned(),
        description: family.help.to_owned(),
        unit: unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

fn number(point: Point<f64>, start_time_unix_nano: u64, time_unix_nano: u64) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(point.labels),
        start_time_unix_nano,
        time_unix_nano,
        value: Some(number_data_point::Value::AsDouble(point.value)),
        ..NumberDataPoint::default()
    }
}

fn distribution(point: Point<Histogram>, start: u64, now: u64) -> HistogramDataPoint {
    let Point { labels, value } = point;
    let exemplars = value.buckets.iter().filter_map(|bucket| bucket.exemplar);
    let bounds = value.buckets.iter().map(|bucket| bucket.upper_bound);
    HistogramDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: start,
        time_unix_nano: now,
        count: value.count(),
        sum: Some(value.sum),
        bucket_counts: value.buckets.iter().map(|bucket| bucket.count).collect(),
        // The last bucket has no bound.
        explicit_bounds: bounds.filter(|bound| bound.is_finite()).collect(),
        exemplars: exemplars.map(exemplar_of).collect(),
        ..HistogramDataPoint::default()
    }
}

fn exemplar_of(exemplar: Exemplar) -> proto::Exemplar {
    let Exemplar { trace, span, value, time } = exemplar;
    proto::Exemplar {
        time_unix_nano: nanoseconds(time),
        trace_id: trace.get().to_be_bytes().to_vec(),
        span_id: span.get().to_be_bytes().to_vec(),
        value: Some(exemplar::Value::AsDouble(value)),
        ..proto::Exemplar::default()
    }
}

fn attributes(labels: Labels) -> Vec<opentelemetry_proto::tonic::common::v1::KeyValue> {
    Attributes::from(labels.into_iter().map(|(name, value)| KeyValue::new(name, value))).0
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
