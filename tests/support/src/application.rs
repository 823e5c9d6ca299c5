//! Small applications on loopback ports.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::http1::{Request, ok, read_body, read_head};

/// An application that runs until it is dropped: then its connections are closed and its port is free.
#[derive(Debug)]
pub struct Application {
    /// Where it listens.
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

/// A connection to an application.
#[derive(Debug)]
pub struct Connection {
    /// What is read and written.
    pub stream: BufReader<TcpStream>,
    /// How many connections were accepted before it.
    pub number: usize,
    requests: Arc<AtomicUsize>,
}

impl Connection {
    /// Reads the next request with its body, and counts it. Returns None when the client has closed the connection.
    pub async fn request(&mut self) -> Option<Request> {
        let head = read_head(&mut self.stream).await?;
        let body = read_body(&mut self.stream, &head).await?;
        self.count_request();
        Some(Request { head, body })
    }

    /// Reads the head of the next request, and counts it. Returns None when the client has closed the connection.
    pub async fn head(&mut self) -> Option<String> {
        let head = read_head(&mut self.stream).await?;
        self.count_request();
        Some(head)
    }

    /// Writes any bytes. Returns an error when the client has closed the connection.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Counts a request that was read from the stream. Returns how many came before it, on all connections.
    pub fn count_request(&self) -> usize {
        self.requests.fetch_add(1, Ordering::SeqCst)
    }
}

impl Application {
    /// Passes each connection to `serve`.
    pub async fn raw<F, R>(serve: F) -> Self
    where
        F: Fn(Connection) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, requests) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (accepted, counted) = (Arc::clone(&connections), Arc::clone(&requests));
        let task = tokio::spawn(async move {
            // Aborted with this task.
            let mut running = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let number = accepted.fetch_add(1, Ordering::SeqCst);
                let (stream, requests) = (BufReader::new(stream), Arc::clone(&counted));
                running.spawn(serve(Connection { stream, number, requests }));
            }
        });
        Self { address, connections, requests, task }
    }

    /// Answers every HTTP/1 request with the bytes that `answer` returns, and keeps the connection.
    pub async fn http<F>(answer: F) -> Self
    where
        F: Fn(&Request) -> String + Send + Sync + 'static,
    {
        let answer = Arc::new(answer);
        Self::raw(move |mut connection| {
            let answer = Arc::clone(&answer);
            async move {
                while let Some(request) = connection.request().await {
                    if connection.send(answer(&request)).await.is_err() {
                        break;
                    }
                }
            }
        })
        .await
    }

    /// Answers every HTTP/1 request with its head and body as the response's body, and with `name` in `x-app`.
    pub async fn echo(name: &'static str) -> Self {
        Self::http(move |request| {
            let body = format!("{}{}", request.head, String::from_utf8_lossy(&request.body));
            let sent = if request.head.starts_with("HEAD ") { "" } else { body.as_str() };
            let length = body.len();
            format!(
                "HTTP/1.1 200 OK\r\nx-app: {name}\r\nserver: {name}\r\ncontent-length: {length}\r\n\r\n{sent}"
            )
        })
        .await
    }

    /// Answers one request on each connection, reads the next, and closes the connection.
    pub async fn closes_on_second_request() -> Self {
        Self::raw(|mut connection| async move {
            if connection.request().await.is_some() {
                connection.send(ok("first")).await.unwrap();
                connection.request().await;
            }
        })
        .await
    }

    /// Sends back the bytes that it reads, and closes its side after the last one.
    pub async fn repeater() -> Self {
        Self::raw(|connection| async move {
            let (mut read, mut write) = tokio::io::split(connection.stream);
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        })
        .await
    }

    /// Passes each HTTP/2 request, which comes with prior knowledge, to `serve`.
    pub async fn http2<F, R>(serve: F) -> Self
    where
        F: Fn(http::Request<RecvStream>, SendResponse<Bytes>) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        Self::http2_with(h2::server::Builder::new(), serve).await
    }

    /// As [`Application::http2`], with the settings of `builder`.
    pub async fn http2_with<F, R>(builder: h2::server::Builder, serve: F) -> Self
    where
        F: Fn(http::Request<RecvStream>, SendResponse<Bytes>) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let serve = Arc::new(serve);
        Self::raw(move |connection| {
            let (builder, serve) = (builder.clone(), Arc::clone(&serve));
            async move {
                let Connection { stream, requests, .. } = connection;
                let Ok(mut connection) = builder.handshake(stream).await else { return };
                let mut running = JoinSet::new();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    requests.fetch_add(1, Ordering::SeqCst);
                    running.spawn(serve(request, respond));
                }
            }
        })
        .await
    }

    /// Returns how many requests it has read.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Returns how many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns an address that refuses connections.
pub async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}
