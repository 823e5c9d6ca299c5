//! The admin endpoint: a small HTTP/1.1 server on the control thread, on a loopback address.
//!
//! It has no authentication. Its address is loopback by type, and requests that a web page caused (a foreign `Host`, an
//! `Origin`) are refused. A second address, which other machines may reach, has only the pages for scrapers and probes.
//! Connections are bounded in number, size and time, so that no client can block the control thread; beyond the number, the client with the
//! most of them loses one, so that the kubelet's probes are served whatever others do.

pub(crate) mod pages;
mod config_dump;
mod clusters;
mod certs;
mod page;
mod response;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use outrigger_core::peer::network;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

pub(crate) use self::page::{Page, Pages};
pub(crate) use self::response::PageResponse;
use self::response::is_local_request;

/// Maximum number of concurrent connections: a scraper, probes and a few people.
const MAX_CONNECTIONS: usize = 32;

/// Time limit for receiving a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for a connection, also for clients that do not read.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// Size limits for a request's head and body. The largest expected body is a log filter.
const MAX_HEAD: usize = 16 * 1024;
const MAX_BODY: usize = 4 * 1024;

/// Pause after a failed `accept`, to avoid a busy loop when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `pages` until the runtime shuts down.
pub(crate) async fn serve(listener: TcpListener, pages: Arc<Pages>) {
    let mut connections = Connections::default();
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                connections.evict_excess();
                let serving =
                    tokio::time::timeout(CONNECTION_TIMEOUT, connection(stream, Arc::clone(&pages)));
                connections.0.push_back((network(client.ip()), tokio::spawn(serving).abort_handle()));
            }
            Err(error) => {
                tracing::warn!(%error, "admin: accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The open connections by the network of the client, the oldest first.
#[derive(Default)]
struct Connections(VecDeque<(IpAddr, AbortHandle)>);

impl Connections {
    /// Closes, if the maximum is reached, the oldest connection of the client that has the most.
    fn evict_excess(&mut self) {
        self.0.retain(|(_, connection)| !connection.is_finished());
        if self.0.len() < MAX_CONNECTIONS {
            return;
        }
        let count = |of: IpAddr| self.0.iter().filter(|(client, _)| *client == of).count();
        // The first of equals is the oldest.
        let evicted = self.0.iter().map(|(client, _)| *client).rev().max_by_key(|client| count(*client));
        let position = self.0.iter().position(|(client, _)| Some(*client) == evicted);
        if let Some((_, connection)) = position.and_then(|position| self.0.remove(position)) {
            connection.abort();
        }
    }
}

async fn connection(stream: TcpStream, pages: Arc<Pages>) {
    let service = service_fn(move |request| {
        let pages = Arc::clone(&pages);
        async move { Ok::<_, Infallible>(respond(request, pages).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "admin: connection ended");
    }
}

async fn respond(request: Request<Incoming>, pages: Arc<Pages>) -> Response<Full<bytes::Bytes>> {
    if pages.local && !is_local_request(request.headers()) {
        return PageResponse::error(StatusCode::FORBIDDEN, "only requests for this address are accepted")
            .into();
    }
    if let Some(probes) = &pages.app_probes
        && let Some(outcome) = probes.perform(request.uri().path(), request.headers()).await
    {
        return PageResponse::text(outcome.status, &format!("{}\n", outcome.text)).into();
    }
    let (head, body) = request.into_parts();
    let body = match tokio::time::timeout(HEAD_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => {
            return PageResponse::error(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large").into();
        }
        Err(_) => return PageResponse::error(StatusCode::REQUEST_TIMEOUT, "the body is too slow").into(),
    };
    // Rendering large pages takes long; other requests must not wait for it.
    let rendered = tokio::task::spawn_blocking(move || dispatch(&pages, &head, &body)).await;
    let failed = |_| PageResponse::error(StatusCode::INTERNAL_SERVER_ERROR, "the page could not be rendered");
    rendered.unwrap_or_else(failed).into()
}

fn dispatch(pages: &Pages, head: &Parts, body: &[u8]) -> PageResponse {
    let Some(page) = pages.find(head.uri.path()) else {
        return PageResponse::error(StatusCode::NOT_FOUND, "no such page");
    };
    match (head.method.as_str(), &page.read, &page.write) {
        ("GET" | "HEAD", Some(read), _) => read(&head.headers),
        ("POST", _, Some(write)) => write(head.uri.query().unwrap_or(""), body),
        _ => PageResponse::error(StatusCode::METHOD_NOT_ALLOWED, page.methods()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn pages() -> Arc<Pages> {
        let state = Arc::new(std::sync::Mutex::new("info".to_owned()));
        let (read, write) = (Arc::clone(&state), state);
        Arc::new(Pages::new(vec![
            Page::read("/ready", "whether it is ready", || PageResponse::text(StatusCode::OK, "ready\n")),
            Page::read("/clusters", "clusters", || {
                PageResponse::json(&serde_json::json!([{"name": "cart"}]))
            }),
            Page::read("/log-level", "the level", move || {
                PageResponse::text(StatusCode::OK, &read.lock().unwrap())
            })
            .and_write(move |_, body| {
                *write.lock().unwrap() = String::from_utf8_lossy(body).into_owned();
                PageResponse::text(StatusCode::OK, "set\n")
            }),
        ]))
    }

    /// Sends one request on a new connection and returns the response as text.
    async fn ask(request: &str) -> String {
        ask_for(pages(), request).await
    }

    async fn ask_for(pages: Arc<Pages>, request: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, pages));
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(request.replace("{host}", &address.to_string()).as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        server.abort();
        answer
    }

    fn get(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nhost: {{host}}\r\nconnection: close\r\n\r\n")
    }

    #[tokio::test]
    async fn pages_are_answered_and_listed() {
        assert!(ask(&get("/ready")).await.ends_with("\r\n\r\nready\n"));
        let json = ask(&get("/clusters")).await;
        assert!(
            json.contains("content-type: application/json") && json.contains(r#""name": "cart""#),
            "{json}"
        );
        let index = ask(&get("/")).await;
        assert!(index.contains("/ready") && index.contains("/log-level"), "{index}");
    }

    #[tokio::test]
    async fn a_wrong_path_or_method_is_refused() {
        assert!(ask(&get("/secret")).await.starts_with("HTTP/1.1 404 "));
        let post = get("/ready").replace("GET", "POST");
        assert!(ask(&post).await.starts_with("HTTP/1.1 405 "));
    }

    #[tokio::test]
    async fn the_public_address_serves_its_pages_to_any_host_and_has_no_other() {
        let ask = async |request: &str| {
            let page =
                Page::read("/healthz", "whether it runs", || PageResponse::text(StatusCode::OK, "ok\n"));
            ask_for(
                Arc::new(Pages::public(vec![page], None)),
                &request.replace("{host}", "web.example:15020"),
            )
            .await
        };
        assert!(ask(&get("/healthz")).await.ends_with("\r\n\r\nok\n"));
        assert!(ask(&get("/healthz").replace("GET", "HEAD")).await.starts_with("HTTP/1.1 200 "));
        assert!(ask(&get("/healthz").replace("GET", "POST")).await.starts_with("HTTP/1.1 405 "));
        for path in ["/", "/certs", "/log-level", "/drain"] {
            assert!(ask(&get(path)).await.starts_with("HTTP/1.1 404 "), "{path}");
        }
    }

    #[tokio::test]
    async fn a_post_changes_its_setting() {
        let post =
            "POST /log-level HTTP/1.1\r\nhost: {host}\r\ncontent-length: 5\r\nconnection: close\r\n\r\ndebug";
        assert!(ask(post).await.ends_with("set\n"));
    }

    #[tokio::test]
    async fn requests_from_web_pages_are_refused() {
        let rebound = get("/ready").replace("{host}", "evil.example");
        assert!(ask(&rebound).await.starts_with("HTTP/1.1 403 "));
        let foreign = get("/ready").replace("connection:", "origin: https://evil.example\r\nconnection:");
        assert!(ask(&foreign).await.starts_with("HTTP/1.1 403 "));
    }

    #[tokio::test]
    async fn a_large_body_is_refused() {
        let post = format!(
            "POST /log-level HTTP/1.1\r\nhost: {{host}}\r\ncontent-length: 5000\r\nconnection: close\r\n\r\n{}",
            "x".repeat(5000)
        );
        assert!(ask(&post).await.starts_with("HTTP/1.1 413 "));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_disconnected() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let server = tokio::spawn(serve(listener, pages()));
        client.write_all(b"GET /ready HTTP/1.1\r\n").await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
        server.abort();
    }

    #[tokio::test]
    async fn idle_connections_keep_no_probe_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, pages()));
        let mut idle = Vec::new();
        for _ in 0..2 * MAX_CONNECTIONS {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let mut probe = TcpStream::connect(address).await.unwrap();
        let host = address.to_string();
        probe.write_all(get("/ready").replace("{host}", &host).as_bytes()).await.unwrap();
        let mut answer = String::new();
        // Less than the time limit of an idle connection.
        let read = probe.read_to_string(&mut answer);
        tokio::time::timeout(HEAD_TIMEOUT / 2, read).await.expect("the probe is served at once").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        server.abort();
    }

    #[tokio::test]
    async fn a_client_with_many_connections_takes_none_from_another() {
        use tokio::net::TcpSocket;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, pages()));
        let mut probe = TcpStream::connect(address).await.unwrap();
        let mut flood = Vec::new();
        for _ in 0..2 * MAX_CONNECTIONS {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
            flood.push(socket.connect(address).await.unwrap());
        }
        // All have been accepted when the first of them is closed for the last one.
        let mut closed = [0];
        let first = MAX_CONNECTIONS;
        assert_eq!(flood[first].read(&mut closed).await.unwrap_or(0), 0);
        probe.write_all(get("/ready").replace("{host}", &address.to_string()).as_bytes()).await.unwrap();
        let mut answer = String::new();
        probe.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        server.abort();
    }
    #[tokio::test]
    async fn a_client_with_many_ipv6_addresses_takes_none_from_another() {
        let mut connections = Connections::default();
        let mut open = |address: &str| {
            connections.evict_excess();
            let connection = tokio::spawn(std::future::pending::<()>()).abort_handle();
            connections.0.push_back((network(address.parse().unwrap()), connection.clone()));
            connection
        };
        let probe = open("fd00::1");
        let flood: Vec<_> = (0..MAX_CONNECTIONS).map(|n| open(&format!("fd00:0:0:1::{n:x}"))).collect();
        tokio::task::yield_now().await;
        assert!(flood[0].is_finished() && !probe.is_finished());
    }
}
