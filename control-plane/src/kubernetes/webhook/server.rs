//! The HTTPS server of the webhook. The API server does not authenticate itself, so every caller is handled like it: a response
//! depends on the request alone, and connections, times and sizes are bounded.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use outrigger_core::peer::network;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::review::{Outcome, Reviewed, review};
use crate::fair_slots::{FairSlot, FairSlots};
use crate::injection::Settings;
use crate::metrics::Metrics;

/// The path of the webhook.
const PATH: &str = "/inject";
/// Maximum size of a request: a pod of the largest size that the API server stores (1.5 MiB), with its facts.
const MAX_BODY: usize = 3 * 1024 * 1024;
/// Maximum number of reviews at once. JSON takes many times its size in memory.
const MAX_REVIEWS: usize = 2;
/// Maximum number of connections. One more evicts the oldest of the network that has the most.
const MAX_CONNECTIONS: usize = 256;
/// Time limits for a handshake, for the header section of a request, and for its body.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// What the webhook needs for a response.
#[derive(Debug)]
pub(super) struct Injector {
    pub(super) settings: Settings,
    pub(super) metrics: Arc<Metrics>,
    pub(super) reviews: Semaphore,
    /// Whether this replica will end soon. Then each response closes its connection, so that the next request goes to another replica.
    pub(super) leaving: watch::Receiver<bool>,
}

impl Injector {
    pub(super) fn new(settings: Settings, metrics: Arc<Metrics>, leaving: watch::Receiver<bool>) -> Self {
        Self { settings, metrics, reviews: Semaphore::new(MAX_REVIEWS), leaving }
    }
}

/// Serves the webhook for as long as it is polled.
pub(super) async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, injector: Arc<Injector>) {
    let slots = FairSlots::new(MAX_CONNECTIONS);
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, address)) => {
                let slot = slots.acquire(network(address.ip()));
                let acceptor = TlsAcceptor::from(Arc::clone(&tls));
                connections.spawn(connection(stream, address, acceptor, slot, Arc::clone(&injector)));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of the webhook");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    mut slot: FairSlot<IpAddr>,
    injector: Arc<Injector>,
) {
    let _ = stream.set_nodelay(true);
    let exchange = async {
        let tls = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(tls)) => tls,
            // The API server that does not trust our certificate yet is such a client.
            Ok(Err(error)) => {
                return tracing::debug!(%error, from = %address, "no TLS with a client of the webhook");
            }
            Err(_) => return,
        };
        let service = service_fn(|request| {
            let injector = Arc::clone(&injector);
            async move {
                let mut response = answer(request, Arc::clone(&injector)).await;
                if *injector.leaving.borrow() {
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            }
        });
        // A client that disconnects needs no error.
        let _ = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(tls), service)
            .await;
    };
    tokio::select! {
        () = exchange => {}
        () = slot.evicted() => {}
    }
}

async fn answer(request: Request<Incoming>, injector: Arc<Injector>) -> Response<Full<Bytes>> {
    if request.uri().path() != PATH {
        return text(StatusCode::NOT_FOUND, "the webhook is at /inject");
    }
    if request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "the webhook accepts POST");
    }
    let body = Limited::new(request.into_body(), MAX_BODY).collect();
    let body = match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return text(StatusCode::PAYLOAD_TOO_LARGE, "the request is too large, or incomplete"),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the request is too slow"),
    };
    let Ok(_permit) = injector.reviews.acquire().await else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "the webhook is ending");
    };
    // A large pod must not delay the streams of proxies.
    let reviewer = Arc::clone(&injector);
    let reviewed = tokio::task::spawn_blocking(move || reviewer.review(&body)).await;
    match reviewed {
        Ok(Ok(response)) => json(response),
        Ok(Err(problem)) => text(StatusCode::BAD_REQUEST, &problem),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the review failed"),
    }
}

impl Injector {
    fn review(&self, body: &[u8]) -> Result<String, String> {
        let Reviewed { pod, outcome, response } = review(body, &self.settings)?;
        match &outcome {
            Outcome::Injected => tracing::debug!(pod, "injected"),
            Outcome::Skipped(reason) => tracing::info!(pod, reason, "not injected"),
            Outcome::Refused(refusal) => tracing::warn!(pod, %refusal, "a pod is refused"),
        }
        self.metrics.pod_reviewed(match outcome {
            Outcome::Injected => "injected",
            Outcome::Skipped(_) => "skipped",
            Outcome::Refused(_) => "refused",
        });
        Ok(response.to_string())
    }
}

fn json(body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, reason: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(format!("{reason}\n").into()));
    *response.status_mut() = status;
    response
}
