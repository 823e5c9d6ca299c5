use std::convert::Infallible;
use std::net::Ipv4Addr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::args::app_probe::parse_app_probes;

fn probes(json: &str) -> AppProbes {
    AppProbes::new(parse_app_probes(json).unwrap(), Ipv4Addr::LOCALHOST.into()).unwrap()
}

async fn status(probes: &AppProbes, path: &str) -> Option<u16> {
    let headers = HeaderMap::from_iter([(header::USER_AGENT, HeaderValue::from_static("kube-probe/1.34"))]);
    probes.perform(path, &headers).await.map(|outcome| outcome.status.as_u16())
}

/// Answers each connection with the next of `responses`. Returns the port, and what was received.
async fn application(responses: Vec<&'static str>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let mut received = Vec::new();
        for response in responses {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            received.push(String::from_utf8_lossy(&request[..length]).into_owned());
            stream.write_all(response.as_bytes()).await.unwrap();
        }
        received
    });
    (port, served)
}

#[tokio::test]
async fn an_http_probe_has_the_fields_of_the_original_and_its_status_is_passed_on() {
    let (port, served) = application(vec![
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n",
    ])
    .await;
    let probes = probes(&format!(
        r#"{{"/app-health/web/livez": {{"timeoutSeconds": 1, "httpGet": {{
            "port": {port}, "path": "live?x=1", "httpHeaders": [{{"name": "Host", "value": "shop"}}, {{"name": "A", "value": "b"}}]
        }}}}}}"#
    ));
    assert_eq!(status(&probes, "/app-health/web/livez").await, Some(200));
    assert_eq!(status(&probes, "/app-health/web/livez").await, Some(500));
    assert_eq!(status(&probes, "/app-health/web/readyz").await, None);
    let request = served.await.unwrap()[0].to_ascii_lowercase();
    assert!(request.starts_with("get /live?x=1 http/1.1\r\n"), "{request}");
    for field in ["\r\nhost: shop\r\n", "\r\na: b\r\n", "\r\nuser-agent: kube-probe/1.34\r\n"] {
        assert!(request.contains(field), "{request}");
    }
    assert_eq!(request.matches("host:").count(), 1, "{request}");
}

#[tokio::test]
async fn a_redirect_to_the_same_host_is_followed_and_one_to_another_host_is_a_success() {
    let (port, served) = application(vec![
        "HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 301 Moved\r\nlocation: https://shop.example/\r\ncontent-length: 0\r\n\r\n",
    ])
    .await;
    let probes =
        probes(&format!(r#"{{"/p": {{"timeoutSeconds": 1, "httpGet": {{"port": {port}, "path": "/"}}}}}}"#));
    assert_eq!(status(&probes, "/p").await, Some(404));
    assert_eq!(status(&probes, "/p").await, Some(200));
    let received = served.await.unwrap();
    assert!(received[1].starts_with("GET /login "), "{received:?}");
}

#[tokio::test]
async fn an_endless_redirect_and_a_silent_application_fail() {
    let location = "HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n";
    let (port, _served) = application(vec![location; 11]).await;
    let loops =
        probes(&format!(r#"{{"/p": {{"timeoutSeconds": 5, "httpGet": {{"port": {port}, "path": "/"}}}}}}"#));
    assert_eq!(status(&loops, "/p").await, Some(503));
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let silent_probe =
        probes(&format!(r#"{{"/p": {{"timeoutSeconds": 1, "httpGet": {{"port": {port}, "path": "/"}}}}}}"#));
    assert_eq!(status(&silent_probe, "/p").await, Some(504));
}

#[tokio::test]
async fn a_tcp_probe_succeeds_only_if_the_port_accepts_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let probes = probes(&format!(r#"{{"/p": {{"timeoutSeconds": 1, "tcpSocket": {{"port": {port}}}}}}}"#));
    assert_eq!(status(&probes, "/p").await, Some(200));
    drop(listener);
    assert_eq!(status(&probes, "/p").await, Some(503));
}

#[tokio::test]
async fn a_grpc_probe_asks_for_the_health_of_its_service() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        for serving in [1, 2] {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(move |request: Request<Incoming>| async move {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                let body = request.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(body, &b"\0\0\0\0\x06\x0a\x04cart"[..]);
                let message = Bytes::from(vec![0, 0, 0, 0, 2, 8, serving]);
                let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
                let frames = [Frame::data(message), Frame::trailers(trailers)].map(Ok::<_, Infallible>);
                Ok::<_, Infallible>(Response::new(StreamBody::new(tokio_stream::iter(frames))))
            });
            let server = auto::Builder::new(TokioExecutor::new());
            server.serve_connection(TokioIo::new(stream), service).await.unwrap();
        }
    });
    let probes = probes(&format!(
        r#"{{"/p": {{"timeoutSeconds": 5, "grpc": {{"port": {port}, "service": "cart"}}}}}}"#
    ));
    assert_eq!(status(&probes, "/p").await, Some(200));
    assert_eq!(status(&probes, "/p").await, Some(503));
    server.await.unwrap();
}
