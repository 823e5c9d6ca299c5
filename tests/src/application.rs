//! Applications: they speak raw HTTP/1 or plain bytes, so that nothing between proxy and test is the mesh's own code.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// An application that runs until it is dropped: then its connections end and its port is free.
#[derive(Debug)]
pub struct Application {
    /// Where it listens.
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

/// A request as it arrived, byte by byte.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Start line and fields, with the empty line behind them.
    pub head: String,
    /// The body without its framing; trailers as text behind it.
    pub body: Vec<u8>,
}

impl Application {
    /// Gives each connection to `serve`, with the counter of requests.
    pub async fn raw<F, R>(serve: F) -> Self
    where
        F: Fn(BufReader<TcpStream>, Arc<AtomicUsize>) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, requests) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (connected, asked) = (Arc::clone(&connections), Arc::clone(&requests));
        let task = tokio::spawn(async move {
            // Ends with this task, and every connection with it.
            let mut running = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connected.fetch_add(1, Ordering::SeqCst);
                running.spawn(serve(BufReader::new(stream), Arc::clone(&asked)));
            }
        });
        Self { address, connections, requests, task }
    }

    /// Answers every HTTP/1 request with the bytes that `answer` makes, on connections that stay.
    pub async fn http<F>(answer: F) -> Self
    where
        F: Fn(&Asked) -> String + Send + Sync + 'static,
    {
        let answer = Arc::new(answer);
        Self::raw(move |mut stream, requests| {
            let answer = Arc::clone(&answer);
            async move {
                while let Some(asked) = read_request(&mut stream).await {
                    requests.fetch_add(1, Ordering::SeqCst);
                    let text = answer(&asked);
                    if stream.write_all(text.as_bytes()).await.is_err() {
                        break;
                    }
                }
            }
        })
        .await
    }

    /// Answers with its name in `x-app`, and as the body with what it was asked.
    pub async fn echo(name: &'static str) -> Self {
        Self::http(move |asked| {
            let body = format!("{}{}", asked.head, String::from_utf8_lossy(&asked.body));
            let length = if asked.head.starts_with("HEAD ") { 0 } else { body.len() };
            format!(
                "HTTP/1.1 200 OK\r\nx-app: {name}\r\nserver: {name}\r\ncontent-length: {}\r\n\r\n{}",
                body.len(),
                &body[..length]
            )
        })
        .await
    }

    /// Repeats the bytes that it reads, with half-close.
    pub async fn repeater() -> Self {
        Self::raw(|stream, _| async move {
            let (mut read, mut write) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        })
        .await
    }

    /// How many requests it has read.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// How many connections it has taken.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A 200 with this body.
pub fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// An answer with this status and nothing else.
pub fn status(code: u16) -> String {
    format!("HTTP/1.1 {code} Said\r\ncontent-length: 0\r\n\r\n")
}

/// The next request with its body; none when the client has ended or broken off.
pub async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Asked> {
    let head = read_head(stream).await?;
    let body = read_body(stream, &head).await?;
    Some(Asked { head, body })
}

/// A head with the empty line that ends it.
pub async fn read_head(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if stream.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
        if &head[before..] == "\r\n" {
            return Some(head);
        }
    }
}

/// The body that this head announces, by chunks or by length.
pub async fn read_body(stream: &mut BufReader<TcpStream>, head: &str) -> Option<Vec<u8>> {
    let head = head.to_ascii_lowercase();
    if head.contains("transfer-encoding: chunked") {
        return read_chunks(stream).await;
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
    stream.read_exact(&mut body).await.ok()?;
    Some(body)
}

/// Chunks, and the trailer section as text behind them.
async fn read_chunks(stream: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|&read| read > 0)?;
        let size = usize::from_str_radix(line.trim(), 16).unwrap();
        if size == 0 {
            break;
        }
        let mut chunk = vec![0; size + 2];
        stream.read_exact(&mut chunk).await.ok()?;
        body.extend_from_slice(&chunk[..size]);
    }
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|&read| read > 0)?;
        if line == "\r\n" {
            return Some(body);
        }
        body.extend_from_slice(line.as_bytes());
    }
}
