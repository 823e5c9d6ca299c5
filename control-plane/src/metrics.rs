//! The metrics of the control plane, served at `/metrics`.
//!
//! Label values are constants of this program, never text from clients, so that their number is bounded.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use outrigger_core::metrics::text::unix_seconds;
use outrigger_core::metrics::{Family, Labels, labels, process, single};

/// All counters, and the gauge of registrations.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    certificates_issued: AtomicU64,
    certificates_refused: CounterByLabel,
    tokens_created: AtomicU64,
    registrations: AtomicU64,
    registrations_refused: CounterByLabel,
    connections_refused: CounterByLabel,
    xds_pushes: CounterByLabel,
    xds_resources_pushed: CounterByLabel,
    xds_nacks: CounterByLabel,
    xds_streams_refused: CounterByLabel,
    pods_reviewed: CounterByLabel,
}

/// Counts by the value of one label. They are rare enough for a lock.
#[derive(Debug, Default)]
struct CounterByLabel(Mutex<BTreeMap<&'static str, u64>>);

impl Metrics {
    /// Returns all families. `at_scrape` has the gauges that are read only now.
    pub(crate) fn families(&self, at_scrape: GaugeValues) -> Vec<Family> {
        let GaugeValues {
            services,
            proxies_connected,
            xds_streams,
            xds_resources_refused,
            source_refusals,
            pods_without_sidecar,
            ca_not_after,
        } = at_scrape;
        let counter =
            |name, help, count: &AtomicU64| Family::counter(name, help, single(count.load(Relaxed) as f64));
        let gauge = |name, help, number: usize| Family::gauge(name, help, single(number as f64));
        let mut families = vec![
            gauge(
                "outrigger_control_plane_proxies_connected",
                "Proxies with an open xDS stream",
                proxies_connected,
            ),
            gauge("outrigger_control_plane_xds_streams", "Open xDS streams", xds_streams),
            Family::counter(
                "outrigger_control_plane_xds_streams_refused_total",
                "xDS streams refused because a limit was reached",
                self.xds_streams_refused.series("reason"),
            ),
            Family::counter(
                "outrigger_control_plane_xds_pushes_total",
                "Responses sent",
                self.xds_pushes.series("type"),
            ),
            Family::counter(
                "outrigger_control_plane_xds_resources_pushed_total",
                "Resources and removals in the responses sent",
                self.xds_resources_pushed.series("type"),
            ),
            Family::counter(
                "outrigger_control_plane_xds_nacks_total",
                "Responses in which a proxy refused a resource",
                self.xds_nacks.series("type"),
            ),
            gauge(
                "outrigger_control_plane_xds_resources_refused",
                "Resources that a connected proxy refuses now",
                xds_resources_refused,
            ),
            Family::gauge(
                "outrigger_control_plane_registrations",
                "Registered workloads",
                single(self.registrations.load(Relaxed) as f64),
            ),
            Family::counter(
                "outrigger_control_plane_registrations_refused_total",
                "Registrations refused",
                self.registrations_refused.series("reason"),
            ),
            counter(
                "outrigger_control_plane_certificates_issued_total",
                "Certificates signed",
                &self.certificates_issued,
            ),
            Family::counter(
                "outrigger_control_plane_certificates_refused_total",
                "Certificate requests refused",
                self.certificates_refused.series("reason"),
            ),
            Family::gauge(
                "outrigger_control_plane_ca_expiration_timestamp_seconds",
                "End of the validity of the CA's chain, as a Unix timestamp",
                ca_not_after.map(unix_seconds).into_iter().flat_map(single),
            ),
            counter(
                "outrigger_control_plane_tokens_created_total",
                "Join tokens created",
                &self.tokens_created,
            ),
            Family::counter(
                "outrigger_control_plane_connections_refused_total",
                "Connections closed before any request",
                self.connections_refused.series("reason"),
            ),
            Family::counter(
                "outrigger_control_plane_pods_reviewed_total",
                "Pods that the webhook has reviewed",
                self.pods_reviewed.series("outcome"),
            ),
            gauge("outrigger_control_plane_services", "Services of the mesh", services),
            gauge(
                "outrigger_control_plane_source_refusals",
                "Resources of the configuration that are refused now",
                source_refusals,
            ),
            Family::gauge(
                "outrigger_control_plane_pods_without_sidecar",
                "Pods that run without the sidecar that they are to have",
                pods_without_sidecar
                    .into_iter()
                    .map(|(namespace, count)| (labels([("namespace", &*namespace)]), count as f64)),
            ),
            Family::gauge(
                "outrigger_control_plane_build_info",
                "Version of the control plane",
                [(labels([("version", env!("CARGO_PKG_VERSION"))]), 1.0)],
            ),
        ];
        families.extend(process::families());
        families
    }

    /// Counts a signed certificate.
    pub(crate) fn certificate_issued(&self) {
        self.certificates_issued.fetch_add(1, Relaxed);
    }

    /// Counts a refused certificate request.
    pub(crate) fn certificate_refused(&self, reason: &'static str) {
        self.certificates_refused.add(reason, 1);
    }

    /// Returns the number of signed certificates.
    pub(crate) fn certificates_issued(&self) -> u64 {
        self.certificates_issued.load(Relaxed)
    }

    /// Returns the number of certificate requests that were refused for this reason.
    #[cfg(test)]
    pub(crate) fn certificates_refused(&self, reason: &'static str) -> u64 {
        self.certificates_refused.locked(|counts| counts.get(reason).copied().unwrap_or_default())
    }

    /// Counts a created join token.
    pub(crate) fn token_created(&self) {
        self.tokens_created.fetch_add(1, Relaxed);
    }

    /// Sets the number of registered workloads.
    pub(crate) fn set_registrations(&self, count: usize) {
        self.registrations.store(count as u64, Relaxed);
    }

    /// Counts a refused registration.
    pub(crate) fn registration_refused(&self, reason: &'static str) {
        self.registrations_refused.add(reason, 1);
    }

    /// Counts a connection that was closed before its first request.
    pub(crate) fn connection_refused(&self, reason: &'static str) {
        self.connections_refused.add(reason, 1);
    }

    /// Returns the number of connections that were closed for this reason.
    #[cfg(test)]
    pub(crate) fn connections_refused(&self, reason: &'static str) -> u64 {
        self.connections_refused.locked(|counts| counts.get(reason).copied().unwrap_or_default())
    }

    /// Counts a pod that the webhook has injected, left alone or refused.
    pub(crate) fn pod_reviewed(&self, outcome: &'static str) {
        self.pods_reviewed.add(outcome, 1);
    }

    /// Counts a response with this number of resources and removals.
    pub(crate) fn xds_pushed(&self, kind: &'static str, resources: usize) {
        self.xds_pushes.add(kind, 1);
        self.xds_resources_pushed.add(kind, resources as u64);
    }

    /// Counts a NACK.
    pub(crate) fn xds_nacked(&self, kind: &'static str) {
        self.xds_nacks.add(kind, 1);
    }

    /// Counts a refused xDS stream.
    pub(crate) fn xds_stream_refused(&self, reason: &'static str) {
        self.xds_streams_refused.add(reason, 1);
    }
}

impl CounterByLabel {
    fn add(&self, value: &'static str, count: u64) {
        self.locked(|counts| *counts.entry(value).or_default() += count);
    }

    fn series(&self, label: &'static str) -> Vec<(Labels, f64)> {
        self.locked(|counts| {
            counts.iter().map(|(value, count)| (labels([(label, value)]), *count as f64)).collect()
        })
    }

    /// A poisoned lock guards counters only: what a panicking thread left is still a valid map.
    fn locked<T>(&self, then: impl FnOnce(&mut BTreeMap<&'static str, u64>) -> T) -> T {
        then(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Values of the gauges that are read for each scrape.
#[derive(Debug, Clone)]
pub(crate) struct GaugeValues {
    /// Services of the mesh.
    pub services: usize,
    /// Proxies with an open xDS stream.
    pub proxies_connected: usize,
    /// Open xDS streams.
    pub xds_streams: usize,
    /// Rejected resources, over all open streams.
    pub xds_resources_refused: usize,
    /// Refused resources of the configuration.
    pub source_refusals: usize,
    /// Pods that run without the sidecar that they are to have, by namespace.
    pub pods_without_sidecar: BTreeMap<String, usize>,
    /// When the first certificate of the CA's chain expires.
    pub ca_not_after: Option<SystemTime>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use outrigger_core::metrics::Points;

    use super::*;

    #[test]
    fn every_metric_is_documented_with_its_kind_and_labels_and_every_documented_metric_exists() {
        let page = include_str!("../../docs/metrics.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
        let documented: BTreeSet<_> = rows
            // A test of the proxy compares the others with the page.
            .filter(|row| row.starts_with("process_") || row.starts_with("outrigger_control_plane_"))
            .map(|row| row.split('|').take(3).map(|cell| cell.trim().replace('`', "")).collect::<Vec<_>>())
            .collect();
        let metrics = Metrics::default();
        metrics.certificate_refused("weak-key");
        metrics.registration_refused("identity");
        metrics.connection_refused("limit");
        metrics.xds_pushed("cds", 1);
        metrics.xds_nacked("cds");
        metrics.xds_stream_refused("identity-limit");
        metrics.pod_reviewed("injected");
        let gauges = GaugeValues {
            services: 0,
            proxies_connected: 0,
            xds_streams: 0,
            xds_resources_refused: 0,
            source_refusals: 0,
            pods_without_sidecar: BTreeMap::from([("shop".into(), 1)]),
            ca_not_after: Some(SystemTime::UNIX_EPOCH),
        };
        let existing = metrics.families(gauges).into_iter().map(|family| {
            let (kind, points) = match family.points {
                Points::Counter(points) => ("counter", points),
                Points::Gauge(points) => ("gauge", points),
                Points::Histogram(_) => panic!("{} is a histogram", family.name),
            };
            let labels: Vec<_> = points[0].labels.iter().map(|(name, _)| *name).collect();
            vec![family.name.to_owned(), kind.to_owned(), labels.join(", ")]
        });
        assert_eq!(documented, existing.collect());
    }
}
