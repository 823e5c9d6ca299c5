//! The admin pages.
//!
//! Loopback is read-only and accepts only host names of this machine: a web page in a local browser must not read it
//! through a DNS name of its own (DNS rebinding).

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use outrigger_core::identity::TrustDomain;
use outrigger_core::metrics::text::{Format, encode};
use serde::Serialize;
use tokio::sync::watch;

use crate::ca::authority::Authority;
use crate::explain::{explain, service_of};
use crate::metrics::{GaugeValues, Metrics};
use crate::model::mesh::Mesh;
use crate::source::assembler::View;
use crate::source::change::Diagnostic;
use crate::source::sync::SyncStatus;
use crate::state::{Store, StoreFailure};
use crate::status::{EndpointStatus, PodStatus, RegistrationStatus, Status};
use crate::token::{TokenError, TokenRequest, create_in};
use crate::xds::server::{Server, StreamCounts};

/// Maximum size of a request body. A token request has about 100 bytes.
const MAX_BODY: usize = 16 * 1024;
/// Number of changes that `/history` returns by default.
const DEFAULT_HISTORY_COUNT: usize = 100;

/// The answer to what only the store of the state directory has.
const NO_STORE: &str = "this control plane has no state directory: on Kubernetes, the history is in the log and the Events, and pods \
                        need no join token";

/// The interface that a request arrived on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interface {
    /// TCP on loopback: any user of this machine.
    Loopback,
    /// The Unix socket: the owner of the state directory.
    Socket,
    /// TCP on any address: scrapers and probes.
    Public,
}

/// The data that the pages show.
pub(crate) struct Pages {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The configuration.
    pub view: watch::Receiver<View>,
    /// What of it is not synced.
    pub sync: SyncStatus,
    /// The mesh that xDS serves.
    pub mesh: watch::Receiver<Arc<Mesh>>,
    /// The connected proxies.
    pub xds: Server,
    /// The persistent state. None on Kubernetes.
    pub store: Option<Store>,
    /// The pods that run without the sidecar that they are to have.
    pub pods_without_sidecar: watch::Receiver<Arc<[PodStatus]>>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The CA.
    pub authority: Arc<Authority>,
    /// Whether this replica will end soon, so that others must serve.
    pub leaving: watch::Receiver<bool>,
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pages").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

type PageResponse = Response<Full<Bytes>>;

impl Pages {
    /// Handles one request.
    pub(crate) async fn answer<B>(self: &Arc<Self>, interface: Interface, request: Request<B>) -> PageResponse
    where
        B: hyper::body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if interface == Interface::Loopback && !names_this_machine(&request) {
            return text(StatusCode::MISDIRECTED_REQUEST, "use localhost or a loopback address as the host");
        }
        let read = matches!(*request.method(), Method::GET | Method::HEAD);
        match (request.uri().path(), interface) {
            ("/healthz", _) if read => text(StatusCode::OK, "ok"),
            ("/ready", _) if read => self.ready(interface),
            ("/metrics", _) if read => self.metrics_text(request.headers()),
            ("/healthz" | "/ready" | "/metrics", _) => not_allowed(),
            (_, Interface::Public) => text(StatusCode::NOT_FOUND, "/ready /healthz /metrics"),
            ("/status", _) if read => self.status_page().await,
            ("/history", _) if read => self.history(request.uri().query()).await,
            ("/policies", _) if read => self.policies(request.uri().query()),
            ("/tokens", Interface::Socket) if request.method() == Method::POST => {
                self.create_token(request.into_body()).await
            }
            ("/tokens", Interface::Loopback) if request.method() == Method::POST => {
                text(StatusCode::FORBIDDEN, "tokens are created at the Unix socket in the state directory")
            }
            ("/status" | "/history" | "/policies" | "/tokens", _) => not_allowed(),
            _ => text(StatusCode::NOT_FOUND, "/ready /healthz /metrics /status /history /policies"),
        }
    }

    /// Returns why the control plane is not ready, one line each.
    fn not_ready(&self) -> Vec<String> {
        let waiting = self.sync.waiting();
        let unpublished = waiting.is_empty() && !self.xds.is_ready();
        let reading = unpublished.then(|| "the configuration is not read yet".to_owned());
        let leaving = self.leaving.borrow().then(|| "it is shutting down".to_owned());
        leaving.into_iter().chain(self.store_failure()).chain(waiting).chain(reading).collect()
    }

    /// Returns the current problems, one line each.
    fn problems(&self) -> Vec<String> {
        self.store_failure().into_iter().chain(self.sync.problems()).collect()
    }

    fn store_failure(&self) -> Option<String> {
        let failure = self.store.as_ref()?.failure();
        failure.map(|StoreFailure { since, error, .. }| {
            let since = jiff::Timestamp::try_from(since).map_or_else(|_| "?".into(), |since| since.to_string());
            format!(
                "the state cannot be written since {since}, so that no token, first certificate or registration is \
                 promised: {error}"
            )
        })
    }

    /// Returns whether the configuration is complete, and tokens, certificates and registrations are promised. Only this machine
    /// learns why not.
    fn ready(&self, interface: Interface) -> PageResponse {
        match self.not_ready() {
            problems if problems.is_empty() => text(StatusCode::OK, "ok"),
            _ if interface == Interface::Public => text(StatusCode::SERVICE_UNAVAILABLE, "not ready"),
            problems => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}", problems.join("; "))),
        }
    }

    /// Builds the page on a blocking thread: with many proxies it is large, and it may wait for translations.
    async fn status_page(self: &Arc<Self>) -> PageResponse {
        let pages = Arc::clone(self);
        match tokio::task::spawn_blocking(move || json(&pages.status())).await {
            Ok(page) => page,
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error),
        }
    }

    fn status(&self) -> Status {
        let mesh = Arc::clone(&self.mesh.borrow());
        let mut registrations: Vec<_> =
            mesh.registrations().workloads().map(|workload| RegistrationStatus::of(workload)).collect();
        registrations.sort_by(|a, b| (&a.identity, &a.instance).cmp(&(&b.identity, &b.instance)));
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            trust_domain: self.trust_domain.to_string(),
            services: mesh.len(),
            proxies: self.xds.status(),
            refusals: self.view.borrow().refusals.iter().map(ToString::to_string).collect(),
            ignored_fields: self.view.borrow().ignored.iter().map(ToString::to_string).collect(),
            unmet_conditions: self.unmet_conditions(),
            registrations,
            endpoints_not_ready: EndpointStatus::not_ready(&mesh),
            pods_without_sidecar: self.pods_without_sidecar.borrow().to_vec(),
            certificates_issued: self.metrics.certificates_issued(),
            problems: self.problems(),
        }
    }

    fn unmet_conditions(&self) -> Vec<String> {
        let view = self.view.borrow();
        let of = view.statuses.iter();
        of.flat_map(|(id, status)| status.unmet().map(move |unmet| format!("{id}, {unmet}"))).collect()
    }

    fn metrics_text(&self, headers: &HeaderMap) -> PageResponse {
        let StreamCounts { streams, proxies, refused } = self.xds.count();
        let families = self.metrics.families(GaugeValues {
            services: self.mesh.borrow().len(),
            proxies_connected: proxies,
            xds_streams: streams,
            xds_resources_refused: refused,
            ca_not_after: self.authority.not_after(),
            pods_without_sidecar: PodStatus::count_by_namespace(&self.pods_without_sidecar.borrow()),
            source_refusals: Diagnostic::count_resources(&self.view.borrow().refusals),
        });
        let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let format = Format::negotiated(accept);
        answer(StatusCode::OK, format.content_type(), encode(&families, format))
    }

    fn policies(&self, query: Option<&str>) -> PageResponse {
        let Some(key) = query.and_then(service_of) else {
            return text(StatusCode::BAD_REQUEST, "write ?service=NAMESPACE/NAME");
        };
        let mesh = Arc::clone(&self.mesh.borrow());
        match explain(&mesh, &key) {
            Some(page) => json(&page),
            None => text(
                StatusCode::BAD_REQUEST,
                format_args!("there is no Service {}/{}", key.namespace, key.name),
            ),
        }
    }

    async fn history(&self, query: Option<&str>) -> PageResponse {
        let asked = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("count="));
        let Ok(count) = asked.map_or(Ok(DEFAULT_HISTORY_COUNT), str::parse) else {
            return text(StatusCode::BAD_REQUEST, "count is not a number");
        };
        let Some(store) = self.store.clone() else { return text(StatusCode::NOT_FOUND, NO_STORE) };
        match tokio::task::spawn_blocking(move || store.history(count)).await {
            Ok(Ok(entries)) => json(&entries),
            Ok(Err(error)) => text(StatusCode::INTERNAL_SERVER_ERROR, error),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error),
        }
    }

    async fn create_token<B>(&self, body: B) -> PageResponse
    where
        B: hyper::body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
            return text(StatusCode::BAD_REQUEST, "the request cannot be read");
        };
        let request: TokenRequest = match serde_json::from_slice(&body.to_bytes()) {
            Ok(request) => request,
            Err(error) => return text(StatusCode::BAD_REQUEST, error),
        };
        let Some(store) = self.store.clone() else { return text(StatusCode::NOT_FOUND, NO_STORE) };
        let asked = request.clone();
        match tokio::task::spawn_blocking(move || create_in(&store, &asked)).await {
            Ok(Ok(token)) => {
                self.metrics.token_created();
                let TokenRequest { namespace, service_account, ttl_seconds } = &request;
                tracing::info!(namespace, service_account, ttl_seconds, "join token created");
                text(StatusCode::CREATED, token)
            }
            Ok(Err(error @ (TokenError::Identity(_) | TokenError::Reserved | TokenError::Ttl(_)))) => {
                text(StatusCode::BAD_REQUEST, error)
            }
            Ok(Err(error)) => text(StatusCode::INTERNAL_SERVER_ERROR, error),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error),
        }
    }
}

fn names_this_machine<B>(request: &Request<B>) -> bool {
    let Some(host) = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()) else {
        return false;
    };
    let Ok(authority) = host.parse::<http::uri::Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn json(page: &impl Serialize) -> PageResponse {
    match serde_json::to_string(page) {
        Ok(text) => answer(StatusCode::OK, "application/json", text),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

fn not_allowed() -> PageResponse {
    text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
}

fn text(status: StatusCode, text: impl std::fmt::Display) -> PageResponse {
    answer(status, "text/plain; charset=utf-8", format!("{text}\n"))
}

fn answer(status: StatusCode, kind: &'static str, text: String) -> PageResponse {
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    answer
}

#[cfg(test)]
mod tests;
