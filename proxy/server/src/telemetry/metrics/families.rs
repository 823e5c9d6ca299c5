//! The metric families of `/metrics`: name, help, kind and values.
//!
//! Counters are destructured, so that a new one does not compile until it is exported or skipped.

use std::fmt;

use outrigger_dataplane::metrics::{ClusterTotals, DURATION_BUCKETS_MICROS, ProcessTotals, RequestTotals};
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::{Labels, Mesh};
use crate::telemetry::losses::Counts;

/// Writes metric families; each method covers one subject.
pub(super) struct Families<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl<'a, 'b> Families<'a, 'b> {
    /// Returns a writer to `encoder`.
    pub(super) fn new(encoder: &'a mut DescriptorEncoder<'b>) -> Self {
        Self(encoder)
    }

    pub(super) fn requests(&mut self, series: &[(Labels<'_>, &RequestTotals)]) -> Result<(), fmt::Error> {
        let name = "outrigger_requests";
        self.counters(name, "Finished requests and TCP connections", series, |totals| totals.count)?;
        self.counters("outrigger_request_bytes", "Body bytes read from clients", series, |totals| {
            totals.bytes_received
        })?;
        self.counters("outrigger_response_bytes", "Body bytes sent to clients", series, |totals| {
            totals.bytes_sent
        })?;
        let help = "From the first byte of a request to the last byte in either direction";
        let mut family = self.0.encode_descriptor(
            "outrigger_request_duration_seconds",
            help,
            None,
            MetricType::Histogram,
        )?;
        for (labels, totals) in series {
            histogram(&mut family.encode_family(labels)?, totals)?;
        }
        Ok(())
    }

    pub(super) fn process(&mut self, totals: &ProcessTotals) -> Result<(), fmt::Error> {
        let ProcessTotals {
            in_flight,
            // In flight are the requests that have begun and not ended; finished ones are in `outrigger_requests`.
            begun: _,
            downstream_connections,
            downstream_connections_total,
            downstream_tls_ok,
            downstream_tls_failed,
            downstream_connections_refused,
            accept_errors,
            bodies_beyond_limit,
            bodies_beyond_worker,
            log_records_dropped: _,
            otlp_log_records_dropped: _,
            span_records_dropped: _,
            mirrored,
            mirrors_failed,
            mirrors_dropped,
        } = *totals;
        self.gauge("outrigger_requests_in_flight", "Requests and TCP connections being served", in_flight)?;
        self.gauge(
            "outrigger_downstream_connections",
            "Accepted connections that are open",
            downstream_connections,
        )?;
        self.counter(
            "outrigger_downstream_connections_accepted",
            "Accepted connections",
            downstream_connections_total,
        )?;
        self.counter(
            "outrigger_downstream_connections_refused",
            "Connections refused because a limit was reached",
            downstream_connections_refused,
        )?;
        self.counters(
            "outrigger_request_bodies_not_kept",
            "Request bodies that were too long to be kept for another attempt",
            &[([("bound", "request")], &bodies_beyond_limit), ([("bound", "worker")], &bodies_beyond_worker)],
            |count| *count,
        )?;
        self.counter("outrigger_accept_errors", "Calls of accept that failed", accept_errors)?;
        self.counters(
            "outrigger_downstream_tls_handshakes",
            "TLS handshakes with clients",
            &[([("outcome", "ok")], &downstream_tls_ok), ([("outcome", "failed")], &downstream_tls_failed)],
            |count| *count,
        )?;
        self.counters(
            "outrigger_mirrored_requests",
            "Mirrored requests",
            &[
                ([("outcome", "sent")], &mirrored),
                ([("outcome", "failed")], &mirrors_failed),
                ([("outcome", "dropped")], &mirrors_dropped),
            ],
            |count| *count,
        )
    }

    pub(super) fn clusters(
        &mut self,
        series: &[([(&'static str, &str); 1], &ClusterTotals)],
    ) -> Result<(), fmt::Error> {
        // Destructured, so that a new counter is exported or skipped explicitly.
        let _ = |totals: &ClusterTotals| {
            let ClusterTotals {
                attempts: _,
                retries: _,
                budget_exhausted: _,
                overflow: _,
                connections_open: _,
                connections_active: _,
                connections_idle: _,
                pending: _,
                connections_total: _,
                connect_failed: _,
                tls_ok: _,
                tls_failed: _,
            } = totals;
        };
        self.counters("outrigger_upstream_attempts", "Attempts begun", series, |totals| totals.attempts)?;
        self.counters("outrigger_upstream_retries", "Attempts after the first", series, |totals| {
            totals.retries
        })?;
        self.counters(
            "outrigger_upstream_retry_budget_exhausted",
            "Safe retries that the retry budget did not permit",
            series,
            |totals| totals.budget_exhausted,
        )?;
        self.counters(
            "outrigger_upstream_overflow",
            "Requests refused because a bound was reached",
            series,
            |totals| totals.overflow,
        )?;
        self.counters("outrigger_upstream_connections_opened", "Connections made", series, |totals| {
            totals.connections_total
        })?;
        self.counters(
            "outrigger_upstream_connect_failures",
            "Connection attempts that failed",
            series,
            |totals| totals.connect_failed,
        )?;
        self.counters(
            "outrigger_upstream_tls_handshakes",
            "TLS handshakes with endpoints that succeeded",
            series,
            |totals| totals.tls_ok,
        )?;
        self.counters(
            "outrigger_upstream_tls_failures",
            "TLS handshakes with endpoints that failed, wrong identities included",
            series,
            |totals| totals.tls_failed,
        )?;
        self.gauges(
            "outrigger_upstream_connections_open",
            "Connections that are open or being made",
            series,
            |totals| totals.connections_open,
        )?;
        self.gauges(
            "outrigger_upstream_connections_active",
            "Connections that carry at least one request, or opaque bytes",
            series,
            |totals| totals.connections_active,
        )?;
        self.gauges(
            "outrigger_upstream_connections_idle",
            "Open connections that carry no request",
            series,
            |totals| totals.connections_idle,
        )?;
        self.gauges(
            "outrigger_upstream_requests_pending",
            "Requests that wait for a connection or for a stream of one",
            series,
            |totals| totals.pending,
        )
    }

    pub(super) fn telemetry(&mut self, totals: &ProcessTotals, counts: Counts) -> Result<(), fmt::Error> {
        let Counts {
            own_lines_lost,
            log_lines_written,
            log_lines_lost,
            spans_exported,
            spans_lost,
            log_records_exported,
            log_records_lost,
        } = counts;
        self.counter(
            "outrigger_log_dropped",
            "Lines of the proxy's own log that were not written",
            own_lines_lost,
        )?;
        self.counter("outrigger_access_log_lines", "Access log lines written", log_lines_written)?;
        let queue = [("cause", "queue_full")];
        self.counters(
            "outrigger_access_log_dropped",
            "Access log lines that were not written",
            &[(queue, &totals.log_records_dropped), ([("cause", "write_failed")], &log_lines_lost)],
            |count| *count,
        )?;
        let failed = [("cause", "export_failed")];
        self.counter(
            "outrigger_log_records_exported",
            "Access log records that the collector accepted",
            log_records_exported,
        )?;
        self.counters(
            "outrigger_log_records_dropped",
            "Access log records that were not exported",
            &[(queue, &totals.otlp_log_records_dropped), (failed, &log_records_lost)],
            |count| *count,
        )?;
        self.counter("outrigger_spans_exported", "Spans that the collector accepted", spans_exported)?;
        self.counters(
            "outrigger_spans_dropped",
            "Spans that were not exported; queue_full counts requests, each with all its spans",
            &[(queue, &totals.span_records_dropped), (failed, &spans_lost)],
            |count| *count,
        )
    }

    pub(super) fn mesh(&mut self, mesh: &Mesh) -> Result<(), fmt::Error> {
        let Mesh { ready, connected, xds, certificate_remaining_seconds } = mesh;
        self.gauge("outrigger_ready", "Whether the proxy is ready", u64::from(*ready))?;
        self.gauge(
            "outrigger_xds_connected",
            "Whether a stream to the control plane is up",
            u64::from(*connected),
        )?;
        let series: Vec<_> = xds.iter().map(|of| ([("type", of.kind)], of)).collect();
        self.gauges("outrigger_xds_resources", "Resources held", &series, |of| of.resources)?;
        self.counters("outrigger_xds_acks", "Responses acknowledged", &series, |of| of.acknowledged)?;
        self.counters("outrigger_xds_nacks", "Responses of which a part was refused", &series, |of| {
            of.refused
        })?;
        if let Some(seconds) = certificate_remaining_seconds {
            let help = "Seconds until the workload's certificate expires; negative if it has expired";
            let name = "outrigger_certificate_remaining_seconds";
            self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(seconds)?;
        }
        let help = "The version of this proxy";
        let mut info = self.0.encode_descriptor("outrigger_build", help, None, MetricType::Info)?;
        info.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> Result<(), fmt::Error> {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> Result<(), fmt::Error> {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    pub(super) fn ejections(
        &mut self,
        series: &[([(&'static str, &str); 2], &u64)],
    ) -> Result<(), fmt::Error> {
        self.counters("outrigger_upstream_ejections", "Endpoints ejected", series, |count| *count)
    }

    fn counters<L: EncodeLabelSet, T>(
        &mut self,
        name: &str,
        help: &str,
        series: &[(L, &T)],
        value: impl Fn(&T) -> u64,
    ) -> Result<(), fmt::Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, totals) in series {
            family.encode_family(labels)?.encode_counter::<NoLabelSet, _, f64>(&value(totals), None)?;
        }
        Ok(())
    }

    fn gauges<L: EncodeLabelSet, T>(
        &mut self,
        name: &str,
        help: &str,
        series: &[(L, &T)],
        value: impl Fn(&T) -> u64,
    ) -> Result<(), fmt::Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, totals) in series {
            family.encode_family(labels)?.encode_gauge(&value(totals))?;
        }
        Ok(())
    }
}

/// The encoder makes the buckets cumulative.
fn histogram(encoder: &mut MetricEncoder<'_>, totals: &RequestTotals) -> Result<(), fmt::Error> {
    let bounds = DURATION_BUCKETS_MICROS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
    let buckets: Vec<_> = bounds.zip(totals.buckets).collect();
    let seconds = totals.duration_micros as f64 / 1e6;
    encoder.encode_histogram::<NoLabelSet>(seconds, totals.count, &buckets, None)
}
