//! The metrics of the control plane, served at `/metrics`.
//!
//! Label values are constants of this program, never text from clients, so that their number is bounded.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

type CounterByLabel = Family<[(&'static str, &'static str); 1], Counter<u64, AtomicU64>>;

/// All metrics and their registry.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    certificates_issued: Counter,
    certificates_refused: CounterByLabel,
    tokens_created: Counter,
    registrations: Gauge,
    registrations_refused: CounterByLabel,
    connections_refused: CounterByLabel,
    xds_pushes: CounterByLabel,
    xds_resources_pushed: CounterByLabel,
    xds_nacks: CounterByLabel,
    xds_streams_refused: CounterByLabel,
    xds_streams: Gauge,
    xds_resources_refused: Gauge,
    proxies_connected: Gauge,
    services: Gauge,
    source_refusals: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Creates the metrics, all at zero.
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("outrigger_control_plane");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Version of the control plane", build);
        Self {
            certificates_issued: register(&mut registry, "certificates_issued", "Certificates signed"),
            certificates_refused: register(
                &mut registry,
                "certificates_refused",
                "Certificate requests refused, by reason",
            ),
            tokens_created: register(&mut registry, "tokens_created", "Join tokens made"),
            registrations: register(&mut registry, "registrations", "Registered workloads"),
            registrations_refused: register(
                &mut registry,
                "registrations_refused",
                "Registrations refused, by reason",
            ),
            connections_refused: register(
                &mut registry,
                "connections_refused",
                "Connections closed before any request, by reason",
            ),
            xds_pushes: register(&mut registry, "xds_pushes", "Responses sent, by resource type"),
            xds_resources_pushed: register(
                &mut registry,
                "xds_resources_pushed",
                "Resources and removals in the responses sent, by resource type",
            ),
            xds_nacks: register(
                &mut registry,
                "xds_nacks",
                "Responses of which a proxy refused a part, by resource type",
            ),
            xds_streams_refused: register(
                &mut registry,
                "xds_streams_refused",
                "xDS streams refused because a limit was reached, by reason",
            ),
            xds_streams: register(&mut registry, "xds_streams", "Open xDS streams"),
            xds_resources_refused: register(
                &mut registry,
                "xds_resources_refused",
                "Resources whose refusal by a connected proxy stands",
            ),
            proxies_connected: register(
                &mut registry,
                "proxies_connected",
                "Proxies with an open xDS stream",
            ),
            services: register(&mut registry, "services", "Services of the mesh"),
            source_refusals: register(
                &mut registry,
                "source_refusals",
                "Resources of the configuration that are refused now",
            ),
            registry,
        }
    }

    /// Returns the text exposition format. `at_scrape` has the gauges that are read only at a scrape.
    pub(crate) fn text(&self, at_scrape: GaugeValues) -> String {
        let GaugeValues { services, proxies_connected, xds_streams, xds_resources_refused, source_refusals } =
            at_scrape;
        for (gauge, number) in [
            (&self.services, services),
            (&self.proxies_connected, proxies_connected),
            (&self.xds_streams, xds_streams),
            (&self.xds_resources_refused, xds_resources_refused),
            (&self.source_refusals, source_refusals),
        ] {
            set(gauge, number);
        }
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// Counts a signed certificate.
    pub(crate) fn certificate_issued(&self) {
        self.certificates_issued.inc();
    }

    /// Counts a refused certificate request.
    pub(crate) fn certificate_refused(&self, reason: &'static str) {
        self.certificates_refused.get_or_create(&[("reason", reason)]).inc();
    }

    /// Returns the number of signed certificates.
    pub(crate) fn certificates_issued(&self) -> u64 {
        self.certificates_issued.get()
    }

    /// Returns the number of certificate requests that were refused for this reason.
    #[cfg(test)]
    pub(crate) fn certificates_refused(&self, reason: &'static str) -> u64 {
        self.certificates_refused.get_or_create(&[("reason", reason)]).get()
    }

    /// Counts a created join token.
    pub(crate) fn token_created(&self) {
        self.tokens_created.inc();
    }

    /// Sets the number of registered workloads.
    pub(crate) fn set_registrations(&self, count: usize) {
        set(&self.registrations, count);
    }

    /// Counts a refused registration.
    pub(crate) fn registration_refused(&self, reason: &'static str) {
        self.registrations_refused.get_or_create(&[("reason", reason)]).inc();
    }

    /// Counts a connection that was closed before its first request.
    pub(crate) fn connection_refused(&self, reason: &'static str) {
        self.connections_refused.get_or_create(&[("reason", reason)]).inc();
    }

    /// Counts a response with this number of resources and removals.
    pub(crate) fn xds_pushed(&self, kind: &'static str, resources: usize) {
        self.xds_pushes.get_or_create(&[("type", kind)]).inc();
        let resources = u64::try_from(resources).unwrap_or(u64::MAX);
        self.xds_resources_pushed.get_or_create(&[("type", kind)]).inc_by(resources);
    }

    /// Counts a NACK.
    pub(crate) fn xds_nacked(&self, kind: &'static str) {
        self.xds_nacks.get_or_create(&[("type", kind)]).inc();
    }

    /// Counts a refused xDS stream.
    pub(crate) fn xds_stream_refused(&self, reason: &'static str) {
        self.xds_streams_refused.get_or_create(&[("reason", reason)]).inc();
    }
}

fn register<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

fn set(gauge: &Gauge, number: usize) {
    gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
}

/// Values of the gauges that are read for each scrape.
#[derive(Debug, Clone, Copy, Default)]
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
}
