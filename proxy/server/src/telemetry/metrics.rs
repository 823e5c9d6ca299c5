//! `/metrics`: every count of the process, merged over the workers at the moment of the scrape.
//!
//! Nothing is kept here: the collector reads the workers' counters, the losses and the state of the mesh, and writes
//! OpenMetrics text. docs/metrics.md lists every name; a test compares the two.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use outrigger_core::record::Direction;
use outrigger_dataplane::metrics::{
    ClusterTotals, DURATION_BUCKETS_MICROS, ProcessTotals, Registry as WorkerRegistry, RequestLabels,
    RequestTotals, Totals,
};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::destination::canonical;
use super::losses::{Counts, Losses};
use super::spans::convert::LocalIdentity;

/// What `/metrics` answers with (OpenMetrics 1.0, section "Text format").
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where a scrape looks.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    /// The workers' counters.
    pub(crate) workers: Arc<WorkerRegistry>,
    /// What telemetry delivered and lost.
    pub(crate) losses: Arc<Losses>,
    /// The source of what leaves here.
    pub(crate) identity: LocalIdentity,
    /// Configuration, certificates, readiness.
    pub(crate) mesh: MeshGauges,
}

/// Asks for the mesh's state at each scrape.
#[derive(Clone)]
pub(crate) struct MeshGauges(pub(crate) Arc<dyn Fn() -> Mesh + Send + Sync>);

impl fmt::Debug for MeshGauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeshGauges")
    }
}

/// What is known of control plane, configuration and certificate at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Mesh {
    /// Whether the proxy is ready.
    pub(crate) ready: bool,
    /// Whether a stream to the control plane is up.
    pub(crate) connected: bool,
    /// By type of resource.
    pub(crate) xds: Vec<XdsType>,
    /// Until the workload's certificate ends, in seconds; negative when it has.
    pub(crate) certificate_remaining_seconds: Option<f64>,
}

/// What is known of one type of xDS resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct XdsType {
    /// `cds`, `eds`, `lds`, `rds`.
    pub(crate) kind: &'static str,
    /// Resources held.
    pub(crate) resources: u64,
    /// Responses acknowledged.
    pub(crate) acknowledged: u64,
    /// Responses refused.
    pub(crate) refused: u64,
}

/// All metrics as text.
pub(crate) fn scrape(sources: &Sources) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(sources.clone()));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Totals { process, requests, clusters } = self.workers.totals();
        let identity = self.identity.get();
        let local = identity.as_ref().map_or("unknown", |identity| identity.as_str());
        let mut families = Families(&mut encoder);
        families.requests(
            &requests.iter().map(|(labels, totals)| (Labels { labels, local }, totals)).collect::<Vec<_>>(),
        )?;
        families.process(&process)?;
        families.clusters(
            &clusters.iter().map(|(name, totals)| ([("cluster", &**name)], totals)).collect::<Vec<_>>(),
        )?;
        families.telemetry(&process, self.losses.counts())?;
        families.mesh(&(self.mesh.0)())
    }
}

/// The labels of a request series. What leaves this workload has this workload as its source.
struct Labels<'a> {
    labels: &'a RequestLabels,
    local: &'a str,
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let RequestLabels { direction, source, destination, route, protocol, status, reason } = self.labels;
        let (direction, unknown_source) = match direction {
            Direction::Inbound => ("inbound", "unknown"),
            Direction::Outbound => ("outbound", self.local),
        };
        let mut label = |name: &str, value: &str| {
            let mut label = encoder.encode_label();
            let mut key = label.encode_label_key()?;
            key.write_str(name)?;
            let mut encoded = key.encode_label_value()?;
            encoded.write_str(&escaped(value))?;
            encoded.finish()
        };
        label("direction", direction)?;
        label("source", source.as_deref().unwrap_or(unknown_source))?;
        label("destination", destination.as_deref().map_or("unknown", canonical))?;
        label("route", route.as_deref().unwrap_or("none"))?;
        label("protocol", protocol.as_str())?;
        label("status", &status.to_string())?;
        label("flag", reason.map_or("-", |reason| reason.flag()))
    }
}

/// Quotes, backslashes and line breaks cannot occur in names that were parsed, but a label must not rest on that.
fn escaped(value: &str) -> std::borrow::Cow<'_, str> {
    if value.contains(['"', '\\', '\n']) {
        value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n").into()
    } else {
        value.into()
    }
}

/// Writes families; each method is one subject.
struct Families<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Families<'_, '_> {
    fn requests(&mut self, series: &[(Labels<'_>, &RequestTotals)]) -> Result<(), fmt::Error> {
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

    fn process(&mut self, totals: &ProcessTotals) -> Result<(), fmt::Error> {
        let ProcessTotals {
            in_flight,
            downstream_connections,
            downstream_connections_total,
            downstream_tls_ok,
            downstream_tls_failed,
            downstream_connections_refused,
            accept_errors,
            log_records_dropped: _,
            span_records_dropped: _,
            mirrored,
            mirrors_failed,
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
            &[([("outcome", "sent")], &mirrored), ([("outcome", "failed")], &mirrors_failed)],
            |count| *count,
        )
    }

    fn clusters(&mut self, series: &[([(&'static str, &str); 1], &ClusterTotals)]) -> Result<(), fmt::Error> {
        // Destructured, so that a new count is either shown or left out on purpose.
        let _ = |totals: &ClusterTotals| {
            let ClusterTotals {
                tries: _,
                retries: _,
                budget_exhausted: _,
                overflow: _,
                ejections: _,
                connections_active: _,
                connections_idle: _,
                pending: _,
                connections_total: _,
                connect_failed: _,
                tls_ok: _,
                tls_failed: _,
            } = totals;
        };
        self.counters("outrigger_upstream_tries", "Tries begun", series, |totals| totals.tries)?;
        self.counters("outrigger_upstream_retries", "Tries after the first", series, |totals| {
            totals.retries
        })?;
        self.counters(
            "outrigger_upstream_retry_budget_exhausted",
            "Safe retries for which the budget had no room",
            series,
            |totals| totals.budget_exhausted,
        )?;
        self.counters(
            "outrigger_upstream_overflow",
            "Requests refused because a bound was reached",
            series,
            |totals| totals.overflow,
        )?;
        self.counters("outrigger_upstream_ejections", "Endpoints ejected", series, |totals| {
            totals.ejections
        })?;
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
            "outrigger_upstream_connections_active",
            "Connections that carry a request",
            series,
            |totals| totals.connections_active,
        )?;
        self.gauges(
            "outrigger_upstream_connections_idle",
            "Connections that wait for a request",
            series,
            |totals| totals.connections_idle,
        )?;
        self.gauges(
            "outrigger_upstream_requests_pending",
            "Requests that wait for a connection",
            series,
            |totals| totals.pending,
        )
    }

    fn telemetry(&mut self, totals: &ProcessTotals, counts: Counts) -> Result<(), fmt::Error> {
        let Counts { log_lines_written, log_lines_lost, spans_exported, spans_lost } = counts;
        self.counter("outrigger_access_log_lines", "Access log lines written", log_lines_written)?;
        let queue = [("cause", "queue_full")];
        self.counters(
            "outrigger_access_log_dropped",
            "Access log lines that were not written",
            &[(queue, &totals.log_records_dropped), ([("cause", "write_failed")], &log_lines_lost)],
            |count| *count,
        )?;
        self.counter("outrigger_spans_exported", "Spans that the collector took", spans_exported)?;
        self.counters(
            "outrigger_spans_dropped",
            "Spans that were not exported; queue_full counts requests, each with all its spans",
            &[(queue, &totals.span_records_dropped), ([("cause", "export_failed")], &spans_lost)],
            |count| *count,
        )
    }

    fn mesh(&mut self, mesh: &Mesh) -> Result<(), fmt::Error> {
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
            let help = "Until the workload's certificate ends; negative when it has";
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

/// The encoder adds up the buckets itself.
fn histogram(encoder: &mut MetricEncoder<'_>, totals: &RequestTotals) -> Result<(), fmt::Error> {
    let bounds = DURATION_BUCKETS_MICROS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
    let buckets: Vec<_> = bounds.zip(totals.buckets).collect();
    let seconds = totals.duration_micros as f64 / 1e6;
    encoder.encode_histogram::<NoLabelSet>(seconds, totals.count, &buckets, None)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outrigger_core::identity::SpiffeId;
    use outrigger_core::reason::Reason;
    use outrigger_core::record::Protocol;

    use super::*;

    fn sources() -> Sources {
        let workers = WorkerRegistry::new();
        for _ in 0..2 {
            let worker = workers.worker();
            let labels = RequestLabels {
                direction: Direction::Outbound,
                source: None,
                destination: Some("cart.shop.svc.cluster.local:80".into()),
                route: Some("httproute/shop/cart/0/0".into()),
                protocol: Protocol::Http11,
                status: 503,
                reason: Some(Reason::UpstreamConnectionFailure),
            };
            worker.requests(&labels).finished(Duration::from_millis(3), 10, 20);
            worker.cluster(&"cart".into()).retries.increment();
            worker.process.span_records_dropped.increment();
        }
        let losses = Arc::new(Losses::default());
        losses.spans(false, 7);
        let mesh = Mesh {
            ready: true,
            connected: false,
            xds: vec![XdsType { kind: "cds", resources: 5, acknowledged: 2, refused: 1 }],
            certificate_remaining_seconds: Some(12.5),
        };
        Sources {
            workers,
            losses,
            identity: LocalIdentity::new(|| SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").ok()),
            mesh: MeshGauges(Arc::new(move || mesh.clone())),
        }
    }

    #[test]
    fn a_scrape_merges_the_workers() {
        let text = scrape(&sources()).unwrap();
        let labels = "direction=\"outbound\",source=\"spiffe://cluster.local/ns/shop/sa/web\",\
                      destination=\"cart.shop.svc.cluster.local:80\",route=\"httproute/shop/cart/0/0\",\
                      protocol=\"http/1.1\",status=\"503\",flag=\"UF\"";
        for line in [
            format!("outrigger_requests_total{{{labels}}} 2"),
            format!("outrigger_request_duration_seconds_count{{{labels}}} 2"),
            format!("outrigger_request_duration_seconds_bucket{{le=\"0.005\",{labels}}} 2"),
            format!("outrigger_request_duration_seconds_bucket{{le=\"+Inf\",{labels}}} 2"),
            "outrigger_upstream_retries_total{cluster=\"cart\"} 2".to_owned(),
            "outrigger_spans_dropped_total{cause=\"queue_full\"} 2".to_owned(),
            "outrigger_spans_dropped_total{cause=\"export_failed\"} 7".to_owned(),
            "outrigger_xds_nacks_total{type=\"cds\"} 1".to_owned(),
            "outrigger_certificate_remaining_seconds 12.5".to_owned(),
            "outrigger_ready 1".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "no `{line}` in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn every_metric_is_documented_and_every_documented_metric_exists() {
        let page = include_str!("../../../../docs/metrics.md");
        let documented: std::collections::BTreeSet<_> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .filter(|name| name.starts_with("outrigger_"))
            .collect();
        let text = scrape(&sources()).unwrap();
        let existing = text.lines().filter_map(|line| {
            let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
            Some(match kind {
                "counter" => format!("{name}_total"),
                "info" => format!("{name}_info"),
                _ => name.to_owned(),
            })
        });
        let existing: std::collections::BTreeSet<_> = existing.collect();
        assert_eq!(documented, existing.iter().map(String::as_str).collect());
    }

    #[test]
    fn label_values_cannot_break_a_line() {
        assert_eq!(escaped("a\"b\\c\nd"), r#"a\"b\\c\nd"#);
    }
}
