//! Applications: they speak raw HTTP/1 or bytes, so that nothing between proxy and test is ours.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// An application that runs until it is dropped.
pub struct Application {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    pub requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Application {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    pub head: String,
    pub body: Vec<u8>,
}

impl Application {
    /// Calls `serve` with each connection, its number and the count of requests.
    pub async fn raw<F, R>(serve: F) -> Self
    where
        F: Fn(TcpStream, usize, Arc<AtomicUsize>) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (connected, asked) = (connections.clone(), requests.clone());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let number = connected.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, number, asked.clone()));
            }
        });
        Self { address, connections, requests, task }
    }

    /// Answers every request with `answer`, on connections that stay.
    pub async fn http<F>(answer: F) -> Self
    where
        F: Fn(&Asked) -> String + Send + Sync + 'static,
    {
        let answer = Arc::new(answer);
        Self::raw(move |stream, _, requests| {
            let answer = answer.clone();
            async move {
                let mut stream = BufReader::new(stream);
                while let Some(asked) = read_request(&mut stream).await {
                    requests.fetch_add(1, Ordering::SeqCst);
                    let text = answer(&asked);
                    if stream.get_mut().write_all(text.as_bytes()).await.is_err() {
                        break;
                    }
                }
            }
        })
        .await
    }

    /// Answers with what it was asked: the head and the body as the response's body.
    pub async fn echo() -> Self {
        Self::http(|asked| ok(&format!("{}{}", asked.head, String::from_utf8_lossy(&asked.body)))).await
    }

    /// Answers one request of a connection, reads the next, and closes.
    pub async fn once() -> Self {
        Self::raw(|stream, _, requests| async move {
            let mut stream = BufReader::new(stream);
            if read_request(&mut stream).await.is_some() {
                requests.fetch_add(1, Ordering::SeqCst);
                stream.get_mut().write_all(ok("once").as_bytes()).await.unwrap();
                if read_request(&mut stream).await.is_some() {
                    requests.fetch_add(1, Ordering::SeqCst);
                }
            }
        })
        .await
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A 200 with this body.
pub fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// A port where nobody listens.
pub async fn dead() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Reads a request head and its body (by length or chunks).
pub async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Asked> {
    let head = read_head(stream).await?;
    let body = read_body(stream, &head).await;
    Some(Asked { head, body })
}

pub async fn read_head(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        head.push_str(&line);
        if line == "\r\n" {
            return Some(head);
        }
    }
}

pub async fn read_body(stream: &mut BufReader<TcpStream>, head: &str) -> Vec<u8> {
    let head = head.to_ascii_lowercase();
    if head.contains("transfer-encoding: chunked") {
        return read_chunks(stream).await;
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
    stream.read_exact(&mut body).await.ok();
    body
}

/// Chunks, and the trailer section as text behind them.
async fn read_chunks(stream: &mut BufReader<TcpStream>) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return body;
        }
        let size = usize::from_str_radix(line.trim(), 16).unwrap();
        if size == 0 {
            break;
        }
        let mut chunk = vec![0; size + 2];
        stream.read_exact(&mut chunk).await.unwrap();
        body.extend_from_slice(&chunk[..size]);
    }
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 || line == "\r\n" {
            return body;
        }
        body.extend_from_slice(line.as_bytes());
    }
}
