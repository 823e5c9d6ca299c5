//! What the HTTP samples share: a server, a client, propagation of trace headers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;

/// The headers that a service propagates so that its calls join the caller's trace, and that of the canary.
const PROPAGATED: [HeaderName; 7] = [
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("b3"),
    HeaderName::from_static("x-b3-traceid"),
    HeaderName::from_static("x-b3-spanid"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-canary"),
];

/// Serves `handler` on `listen` until SIGTERM, then drains.
pub(super) async fn serve<H, F>(listen: SocketAddr, handler: H) -> Result<(), String>
where
    H: Fn(Request<Incoming>) -> F + Clone + 'static,
    F: Future<Output = Response<Full<Bytes>>> + 'static,
{
    let listener =
        TcpListener::bind(listen).await.map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    let graceful = GracefulShutdown::new();
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new());
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, _)) => stream,
                        Err(_) => { tokio::time::sleep(Duration::from_millis(20)).await; continue; }
                    },
                    () = crate::runtime::terminated() => break,
                };
                let _ = stream.set_nodelay(true);
                let handler = handler.clone();
                let service = service_fn(move |request| {
                    let answer = handler(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
                tokio::task::spawn_local(connection);
            }
            let _ = tokio::time::timeout(Duration::from_secs(10), graceful.shutdown()).await;
        })
        .await;
    Ok(())
}

/// A client of services by name.
#[derive(Clone)]
pub(super) struct Services {
    client: Client<HttpConnector, Full<Bytes>>,
    sidecar: Option<SocketAddr>,
}

impl Services {
    /// A client that sends requests to the outbound port `sidecar`, or, without it, to the addresses of the services.
    pub(super) fn new(sidecar: Option<SocketAddr>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { client: Client::builder(TokioExecutor::new()).build(connector), sidecar }
    }

    /// Calls `service` and reads the whole response. Returns transport errors as text.
    pub(super) async fn call(
        &self,
        method: Method,
        service: &str,
        path: &str,
        caller: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Bytes>, String> {
        let authority = self.sidecar.map_or_else(|| service.to_owned(), |sidecar| sidecar.to_string());
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{authority}{path}"))
            .header(header::HOST, service)
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        for name in PROPAGATED {
            if let Some(value) = caller.get(&name) {
                request.headers_mut().insert(name, value.clone());
            }
        }
        let answer = self.client.request(request).await.map_err(|error| format!("{service}: {error}"))?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(|error| format!("{service}: {error}"))?.to_bytes();
        Ok(Response::from_parts(head, body))
    }
}

/// Returns the trace headers of `caller`, for protocols that carry them elsewhere (gRPC metadata).
pub(super) fn propagated(caller: &HeaderMap) -> impl Iterator<Item = (HeaderName, &http::HeaderValue)> {
    PROPAGATED.into_iter().filter_map(|name| caller.get(&name).map(|value| (name, value)))
}

/// Makes a JSON response.
pub(super) fn json(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

/// Makes the response to a request whose upstream failed.
pub(super) fn bad_gateway(why: &str) -> Response<Full<Bytes>> {
    json(StatusCode::BAD_GATEWAY, &serde_json::json!({ "error": why }))
}

/// Returns the response of an upstream, or an error with the reason if its status is not 2xx.
pub(super) fn success(
    service: &str,
    answer: Result<Response<Bytes>, String>,
) -> Result<Response<Bytes>, String> {
    let answer = answer?;
    if answer.status().is_success() {
        return Ok(answer);
    }
    let reason = answer.headers().get("x-outrigger-reason").and_then(|value| value.to_str().ok());
    Err(format!(
        "{service} answered {}: {}",
        answer.status().as_u16(),
        reason.map_or_else(|| String::from_utf8_lossy(answer.body()).into_owned(), str::to_owned),
    ))
}
