//! What the control plane counts, as `/metrics` shows it.
//!
//! Reasons and resource types are words of this program, never of its callers, so that labels are bounded.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type ByWord = Family<[(&'static str, &'static str); 1], Counter<u64, AtomicU64>>;

/// Every metric, in one registry.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    certificates_issued: Counter,
    certificates_refused: ByWord,
    tokens_created: Counter,
    registrations: Gauge,
    registrations_refused: ByWord,
    connections_refused: ByWord,
    xds_streams: Gauge,
    xds_nacks: Gauge,
    source_refusals: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("outrigger_control_plane"),
            certificates_issued: Counter::default(),
            certificates_refused: Family::default(),
            tokens_created: Counter::default(),
            registrations: Gauge::default(),
            registrations_refused: Family::default(),
            connections_refused: Family::default(),
            xds_streams: Gauge::default(),
            xds_nacks: Gauge::default(),
            source_refusals: Gauge::default(),
        };
        let Self {
            registry,
            certificates_issued,
            certificates_refused,
            tokens_created,
            registrations,
            registrations_refused,
            connections_refused,
            xds_streams,
            xds_nacks,
            source_refusals,
        } = &mut metrics;
        registry.register("certificates_issued", "Certificates signed", certificates_issued.clone());
        registry.register(
            "certificates_refused",
            "Certificate requests refused, by reason",
            certificates_refused.clone(),
        );
        registry.register("tokens_created", "Join tokens made", tokens_created.clone());
        registry.register("registrations", "Registered workloads", registrations.clone());
        registry.register(
            "registrations_refused",
            "Registrations refused, by reason",
            registrations_refused.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections closed before any request, by reason",
            connections_refused.clone(),
        );
        registry.register("xds_streams", "Open xDS streams", xds_streams.clone());
        registry.register(
            "xds_nacks",
            "Resources whose refusal by a connected proxy stands",
            xds_nacks.clone(),
        );
        registry.register(
            "source_refusals",
            "Resources of the configuration that are refused now",
            source_refusals.clone(),
        );
        metrics
    }

    /// The text exposition format, with the gauges that are read only when somebody looks.
    pub fn text(&self, at_scrape: Scraped) -> String {
        let Scraped { xds_streams, xds_nacks, source_refusals } = at_scrape;
        self.xds_streams.set(xds_streams);
        self.xds_nacks.set(xds_nacks);
        self.source_refusals.set(source_refusals);
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// A certificate was signed.
    pub fn certificate_issued(&self) {
        self.certificates_issued.inc();
    }

    /// A certificate was not signed.
    pub fn certificate_refused(&self, reason: &'static str) {
        self.certificates_refused.get_or_create(&[("reason", reason)]).inc();
    }

    /// How many certificates were signed.
    pub fn certificates_issued(&self) -> u64 {
        self.certificates_issued.get()
    }

    /// How many certificates were not signed for this reason.
    pub fn certificates_refused(&self, reason: &'static str) -> u64 {
        self.certificates_refused.get_or_create(&[("reason", reason)]).get()
    }

    /// A join token was made.
    pub fn token_created(&self) {
        self.tokens_created.inc();
    }

    /// So many workloads are registered.
    pub fn set_registrations(&self, count: usize) {
        self.registrations.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A registration was refused.
    pub fn registration_refused(&self, reason: &'static str) {
        self.registrations_refused.get_or_create(&[("reason", reason)]).inc();
    }

    /// A connection was closed before any request on it.
    pub fn connection_refused(&self, reason: &'static str) {
        self.connections_refused.get_or_create(&[("reason", reason)]).inc();
    }
}

/// What other parts know when `/metrics` is read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scraped {
    /// Open xDS streams.
    pub xds_streams: i64,
    /// Resources whose refusal stands, over all open streams.
    pub xds_nacks: i64,
    /// Refused resources.
    pub source_refusals: i64,
}
