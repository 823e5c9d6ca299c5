//! `/metrics`: all counters of the process, merged over the workers at each scrape.
//!
//! The collector keeps no state. It reads the workers' counters, the losses and the discovery state, and writes OpenMetrics
//! text. docs/metrics.md lists every name; a test compares the two.

mod families;

use std::fmt::{self, Write as _};
use std::sync::Arc;

use outrigger_core::record::Direction;
use outrigger_dataplane::metrics::{Registry as WorkerRegistry, RequestLabels, Totals};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::registry::Registry;

use self::families::Families;
use crate::telemetry::local_identity::LocalIdentity;
use crate::telemetry::losses::Losses;

/// Content type of `/metrics` (OpenMetrics 1.0, section "Text format").
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The sources of a scrape.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    /// The workers' counters.
    pub(crate) workers: Arc<WorkerRegistry>,
    /// Delivered and lost telemetry.
    pub(crate) losses: Arc<Losses>,
    /// The `source` label of outbound traffic.
    pub(crate) identity: LocalIdentity,
    /// Configuration, certificates, readiness.
    pub(crate) mesh: MeshGauges,
}

/// Reads the discovery state at each scrape.
#[derive(Clone)]
pub(crate) struct MeshGauges(pub(crate) Arc<dyn Fn() -> Mesh + Send + Sync>);

impl fmt::Debug for MeshGauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeshGauges")
    }
}

/// The state of the control plane connection, configuration and certificate.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Mesh {
    /// Whether the proxy is ready.
    pub(crate) ready: bool,
    /// Whether a stream to the control plane is established.
    pub(crate) connected: bool,
    /// One entry per resource type.
    pub(crate) xds: Vec<XdsType>,
    /// Seconds until the workload's certificate expires; negative if it has expired.
    pub(crate) certificate_remaining_seconds: Option<f64>,
}

/// The state of one xDS resource type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct XdsType {
    /// `cds`, `eds`, `lds`, `rds`.
    pub(crate) kind: &'static str,
    /// Accepted resources.
    pub(crate) resources: u64,
    /// Responses acknowledged.
    pub(crate) acknowledged: u64,
    /// Rejected responses.
    pub(crate) refused: u64,
}

/// Returns all metrics as text.
pub(crate) fn scrape(sources: &Sources) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(sources.clone()));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Totals { process, requests, clusters, ejections } = self.workers.totals();
        let identity = self.identity.get();
        let local = identity.as_ref().map_or("unknown", |identity| identity.as_str());
        let mut families = Families::new(&mut encoder);
        families.requests(
            &requests.iter().map(|(labels, totals)| (Labels { labels, local }, totals)).collect::<Vec<_>>(),
        )?;
        families.process(&process)?;
        families.clusters(
            &clusters.iter().map(|(name, totals)| ([("cluster", &**name)], totals)).collect::<Vec<_>>(),
        )?;
        families.ejections(
            &ejections
                .iter()
                .map(|((cluster, kind), count)| ([("cluster", &**cluster), ("kind", *kind)], count))
                .collect::<Vec<_>>(),
        )?;
        families.telemetry(&process, self.losses.counts())?;
        families.mesh(&(self.mesh.0)())
    }
}

/// The labels of a request series. The source of outbound traffic is this workload.
struct Labels<'a> {
    labels: &'a RequestLabels,
    local: &'a str,
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let RequestLabels { direction, source, destination, route, protocol, status, reason } = self.labels;
        let unknown_source = if *direction == Direction::Outbound { self.local } else { "unknown" };
        let mut label = |name: &str, value: &str| {
            let mut label = encoder.encode_label();
            let mut key = label.encode_label_key()?;
            key.write_str(name)?;
            let mut encoded = key.encode_label_value()?;
            encoded.write_str(&escaped(value))?;
            encoded.finish()
        };
        label("direction", direction.as_str())?;
        label("source", source.as_deref().unwrap_or(unknown_source))?;
        label("destination", destination.as_deref().unwrap_or("unknown"))?;
        label("route", route.as_deref().unwrap_or("none"))?;
        label("protocol", protocol.as_str())?;
        label("status", &status.to_string())?;
        label("flag", reason.map_or("-", |reason| reason.flag()))
    }
}

/// Escapes a label value. Parsed names contain no such characters, but the output must not depend on that.
fn escaped(value: &str) -> std::borrow::Cow<'_, str> {
    if value.contains(['"', '\\', '\n']) {
        value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n").into()
    } else {
        value.into()
    }
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
        losses.exported(crate::telemetry::signal::Signal::Traces, 0, 7);
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
        let page = include_str!("../../../../../docs/metrics.md");
        let documented: std::collections::BTreeSet<_> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            // A test of the control plane compares its own metrics with the page.
            .filter(|name| name.starts_with("outrigger_") && !name.starts_with("outrigger_control_plane_"))
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
