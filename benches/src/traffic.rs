//! Load over keep-alive connections, and a small application that answers it: HTTP/1.1 or HTTP/2, bodies of 200 bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Size of a response's body.
const BODY: usize = 200;
/// Number of connections.
const CONNECTIONS: usize = 32;

/// Answers all requests on `listen` until the program ends.
pub(crate) async fn application(listen: SocketAddr) -> Result<(), String> {
    let listener = TcpListener::bind(listen).await.map_err(|error| format!("{listen}: {error}"))?;
    let body = "x".repeat(BODY);
    let answer: Arc<str> =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {BODY}\r\n\r\n{body}").into();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&answer)));
        }
    });
    Ok(())
}

async fn serve(mut stream: TcpStream, answer: Arc<str>) -> Result<(), String> {
    let mut read = Vec::new();
    loop {
        take_head(&mut stream, &mut read).await?;
        stream.write_all(answer.as_bytes()).await.map_err(|error| error.to_string())?;
    }
}

/// Sends `requests` for `host` to the proxy at `proxy`, each connection as fast as it is answered, and returns the
/// duration. Returns an error for the first response that is not 200.
pub(crate) async fn drive(proxy: SocketAddr, host: &str, requests: usize) -> Result<Duration, String> {
    let left = Arc::new(AtomicUsize::new(requests));
    let begin = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.spawn(client(proxy, host.to_owned(), Arc::clone(&left)));
    }
    while let Some(ended) = clients.join_next().await {
        ended.map_err(|error| error.to_string())??;
    }
    Ok(begin.elapsed())
}

/// Like [`application`], in HTTP/2 with prior knowledge.
pub(crate) async fn http2_application(listen: SocketAddr) -> Result<(), String> {
    let listener = TcpListener::bind(listen).await.map_err(|error| format!("{listen}: {error}"))?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let service = service_fn(async |_| {
                    Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from_static(
                        &[b'x'; BODY],
                    ))))
                });
                // A client that disconnects ends its connection.
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    Ok(())
}

/// Sends `requests` for `host` one after the other over one connection, in HTTP/2 if `http2`. Returns an error for the
/// first response that is not 200.
pub(crate) async fn in_turn(
    proxy: SocketAddr,
    host: &str,
    http2: bool,
    requests: usize,
) -> Result<(), String> {
    if !http2 {
        let left = Arc::new(AtomicUsize::new(requests));
        return client(proxy, host.to_owned(), left).await;
    }
    let text = |error: hyper::Error| error.to_string();
    let stream = TcpStream::connect(proxy).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(text)?;
    tokio::spawn(connection);
    for _ in 0..requests {
        let request = Request::get(format!("http://{host}/items"))
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(text)?;
        if response.status() != 200 {
            return Err(format!("{host}: {}", response.status()));
        }
        response.into_body().collect().await.map_err(text)?;
    }
    Ok(())
}

async fn client(proxy: SocketAddr, host: String, left: Arc<AtomicUsize>) -> Result<(), String> {
    let mut stream = TcpStream::connect(proxy).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let request =
        format!("GET /items HTTP/1.1\r\nhost: {host}\r\nuser-agent: benches\r\naccept: */*\r\n\r\n");
    let mut read = Vec::new();
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
        let head = take_head(&mut stream, &mut read).await?;
        if !head.starts_with(b"HTTP/1.1 200") {
            return Err(format!("{host}: {}", String::from_utf8_lossy(&head)));
        }
        while read.len() < BODY {
            more(&mut stream, &mut read).await?;
        }
        read.drain(..BODY);
    }
    Ok(())
}

/// Returns the next head and removes it from `read`.
async fn take_head(stream: &mut TcpStream, read: &mut Vec<u8>) -> Result<Vec<u8>, String> {
    loop {
        if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            return Ok(read.drain(..end + 4).collect());
        }
        more(stream, read).await?;
    }
}

async fn more(stream: &mut TcpStream, read: &mut Vec<u8>) -> Result<(), String> {
    read.reserve(4096);
    match stream.read_buf(read).await {
        Ok(0) => Err("the connection was closed".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
