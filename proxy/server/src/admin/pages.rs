//! The admin pages of the proxy.

use std::sync::Arc;

use http::header::ACCEPT;
use http::{HeaderMap, StatusCode};
use outrigger_config::publish::Published;
use outrigger_config::secrets::SecretStore;
use outrigger_core::metrics::text::{Format, encode};
use outrigger_dataplane::SharedClusters;
use outrigger_discovery::{Kind, Reader};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::{Page, PageResponse, Pages, certs, clusters, config_dump};
use crate::app_probes::AppProbes;
use crate::readiness::Readiness;
use crate::telemetry::metrics::{Mesh, MeshGauges, Sources, XdsType};
use crate::telemetry::own_log::LevelHandle;

/// The parameter of `/drain` that Envoy's `/drain_listeners` has.
const INBOUND_ONLY: &str = "inboundonly";

/// The state that the pages read.
#[derive(Clone)]
pub(crate) struct AdminState {
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Sources,
    pub(crate) published: Published,
    pub(crate) secrets: SecretStore,
    pub(crate) reader: Reader,
    pub(crate) clusters: Arc<SharedClusters>,
    pub(crate) level: LevelHandle,
    pub(crate) drain: watch::Sender<bool>,
    pub(crate) drain_inbound: watch::Sender<bool>,
}

impl AdminState {
    /// Returns the pages for scrapers and probes, which other machines may read.
    pub(crate) fn public_pages(&self, app_probes: Option<AppProbes>) -> Pages {
        let readiness = self.readiness.clone();
        let ready =
            Page::read("/ready", "whether it is ready", move || ready(&readiness.missing_names(), &[]));
        Pages::public(self.liveness_and_metrics().into_iter().chain([ready]).collect(), app_probes)
    }

    fn liveness_and_metrics(&self) -> [Page; 2] {
        let sources = self.metrics.clone();
        [
            Page::read("/healthz", "whether the control thread runs", || {
                PageResponse::text(StatusCode::OK, "ok\n")
            }),
            Page::negotiated(
                "/metrics",
                "Prometheus text format, or OpenMetrics by Accept",
                move |headers| metrics(&sources, headers),
            ),
        ]
    }

    /// Returns all pages. Their handlers run on blocking threads of the control runtime.
    pub(crate) fn pages(self) -> Pages {
        let mut pages = Vec::from(self.liveness_and_metrics());
        let Self { readiness, metrics, published, secrets, reader, clusters, level, drain, drain_inbound } =
            self;
        let workers = metrics.workers;
        let (dumped, set_level) = (published.clone(), level.clone());
        pages.extend([
            Page::read("/ready", "whether it is ready, and what is missing", move || {
                ready(&readiness.missing(), &readiness.warnings())
            }),
            Page::read("/config_dump", "xDS resources, versions, refusals (JSON, as Envoy's)", move || {
                let resources = reader.resources();
                PageResponse::json(&config_dump::config_dump(&dumped.load(), &resources, &reader.status()))
            }),
            Page::read("/clusters", "clusters, endpoints, their health and use (JSON)", move || {
                let loads = Handle::current().block_on(clusters.loads());
                let (totals, ejected) = (workers.totals(), clusters.ejected());
                let (snapshot, applications) = (published.load(), clusters.applications());
                PageResponse::json(&clusters::clusters(&snapshot, &totals, &ejected, &loads, &applications))
            }),
            Page::read("/certs", "certificate and trust roots (JSON)", move || {
                PageResponse::json(&certs::certs(&secrets))
            }),
            Page::read("/log-level", "what is logged; POST ?level=debug or a body changes it", move || {
                PageResponse::text(StatusCode::OK, &format!("{}\n", level.directives()))
            })
            .and_write(move |query, body| change_level(&set_level, query, body)),
            Page::write(
                "/drain",
                "begins the drain, as SIGTERM does; ?inboundonly asks clients to leave",
                move |query, _| {
                    let (requested, text) = match query {
                        "" => (&drain, "draining\n"),
                        INBOUND_ONLY => (&drain_inbound, "draining inbound\n"),
                        _ => {
                            return PageResponse::error(
                                StatusCode::BAD_REQUEST,
                                "the only parameter is inboundonly",
                            );
                        }
                    };
                    requested.send_replace(true);
                    PageResponse::text(StatusCode::ACCEPTED, text)
                },
            ),
        ]);
        Pages::new(pages)
    }
}

fn metrics(sources: &Sources, headers: &HeaderMap) -> PageResponse {
    let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::negotiated(accept);
    PageResponse::typed(StatusCode::OK, format.content_type(), encode(&sources.families(), format))
}

fn ready(missing: &[String], warnings: &[String]) -> PageResponse {
    let (status, mut text) = match missing.is_empty() {
        true => (StatusCode::OK, "ready\n".to_owned()),
        false => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", missing.join(", "))),
    };
    for warning in warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    PageResponse::text(status, &text)
}

fn change_level(level: &LevelHandle, query: &str, body: &[u8]) -> PageResponse {
    let said = query.split('&').find_map(|pair| pair.strip_prefix("level="));
    let said = said.map_or_else(|| String::from_utf8_lossy(body).trim().to_owned(), str::to_owned);
    if said.is_empty() {
        return PageResponse::error(
            StatusCode::BAD_REQUEST,
            "a level is required: ?level=debug, or directives in the body",
        );
    }
    match level.set(&said) {
        Ok(()) => {
            tracing::info!(level = said, "log level changed");
            PageResponse::text(StatusCode::OK, &format!("{said}\n"))
        }
        Err(problem) => PageResponse::error(StatusCode::BAD_REQUEST, &format!("`{said}`: {problem}")),
    }
}

/// Returns the gauges for control plane, configuration and certificate.
pub(crate) fn gauges(reader: Reader, readiness: Readiness) -> MeshGauges {
    MeshGauges(Arc::new(move || mesh(&reader, &readiness)))
}

fn mesh(reader: &Reader, readiness: &Readiness) -> Mesh {
    let status = reader.status();
    let of = |kind: Kind| {
        let of = status.kinds.get(&kind).cloned().unwrap_or_default();
        XdsType {
            kind: kind.service(),
            resources: of.held as u64,
            acknowledged: of.acknowledged,
            refused: of.refused,
        }
    };
    Mesh {
        ready: readiness.is_ready(),
        connected: status.stream.connected_since.is_some(),
        xds: Kind::ALL.into_iter().map(of).collect(),
        last_update: status.last_published,
        certificate: status.identity.certificate.map(|of| of.not_before..of.not_after),
    }
}
