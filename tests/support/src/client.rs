//! A client that speaks raw HTTP/1, or any bytes.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::http1::{Response, read_body, read_head};
use crate::wait::in_time;

/// One connection.
#[derive(Debug)]
pub struct Client {
    /// What is read and written.
    pub stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects.
    pub async fn connect(to: SocketAddr) -> Self {
        Self::over(in_time("a connection", TcpStream::connect(to)).await.unwrap())
    }

    /// Uses a connection that was made elsewhere.
    pub fn over(stream: TcpStream) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// Writes any bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        in_time("the peer to read", self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Reads the next head.
    pub async fn head(&mut self) -> String {
        in_time("a head", read_head(&mut self.stream)).await.expect("a head before the connection ends")
    }

    /// Reads the next response with its body. Returns None if the connection ends instead.
    pub async fn try_response(&mut self) -> Option<Response> {
        let head = in_time("a head", read_head(&mut self.stream)).await?;
        let status = head[9..12].parse().unwrap();
        let body = in_time("a body", read_body(&mut self.stream, &head)).await?;
        Some(Response { status, head, body: String::from_utf8(body).unwrap() })
    }

    /// Reads the next response with its body.
    pub async fn response(&mut self) -> Response {
        self.try_response().await.expect("a response before the connection ends")
    }

    /// Sends a request with these fields and without a body, and reads its response.
    pub async fn request(&mut self, method: &str, host: &str, path: &str, fields: &str) -> Response {
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")).await;
        self.response().await
    }

    /// Sends a GET and reads its response.
    pub async fn get(&mut self, host: &str, path: &str) -> Response {
        self.request("GET", host, path, "").await
    }

    /// Sends a POST with a body of known length and reads its response.
    pub async fn post(&mut self, host: &str, path: &str, body: &str) -> Response {
        let length = body.len();
        self.send(format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}"))
            .await;
        self.response().await
    }

    /// Reads exactly this number of bytes.
    pub async fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        in_time("bytes", self.stream.read_exact(&mut bytes)).await.unwrap();
        bytes
    }

    /// Closes the client's side of the connection.
    pub async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Reads until the connection ends, by a reset too.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = in_time("the end", self.stream.read_to_end(&mut rest)).await;
        rest
    }
}
