//! The metrics of the service, over HTTP at `/metrics`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use outrigger_core::metrics::text::{Format, encode};
use tokio::net::TcpListener;

use super::service::Service;

/// Serves them on a task. Returns an error if it cannot listen.
pub(super) async fn serve(listen: SocketAddr, service: Arc<Service>) -> Result<(), String> {
    let listener =
        TcpListener::bind(listen).await.map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // No file descriptor is left, for example.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let service = Arc::clone(&service);
            let answer = service_fn(move |request| {
                let page = page(&service, &request);
                async move { Ok::<_, Infallible>(page) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            let connection = http.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), answer);
            tokio::spawn(async move { drop(connection.await) });
        }
    });
    Ok(())
}

fn page<B>(service: &Service, request: &Request<B>) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        let mut response = Response::new(Full::from("see /metrics\n"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    }
    let accepted = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::negotiated(accepted);
    let mut response = Response::new(Full::from(encode(&service.metrics(), format)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    response
}
