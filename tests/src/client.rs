//! A client that speaks raw HTTP/1, or any bytes.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::application::{read_body, read_head};
use crate::patience::in_time;

/// One connection.
#[derive(Debug)]
pub struct Client {
    /// What is read and written.
    pub stream: BufReader<TcpStream>,
}

/// A response.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Status line and fields.
    pub head: String,
    /// Its body; trailers as text behind it.
    pub body: String,
}

impl Answer {
    /// The first field of that name, in lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.into_iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Status, and the name of the application that answered.
    pub fn by(&self) -> (u16, &str) {
        (self.status, self.field("x-app").unwrap_or_default())
    }

    /// Why the proxy answered in the application's place.
    pub fn reason(&self) -> &str {
        self.field("x-outrigger-reason").unwrap_or_default()
    }
}

impl Client {
    /// Connects.
    pub async fn connect(to: SocketAddr) -> Self {
        let stream = in_time("a connection", TcpStream::connect(to)).await.unwrap();
        Self { stream: BufReader::new(stream) }
    }

    /// Writes, whatever it is.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        in_time("room to write", self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// The next head; none if the connection ended instead.
    pub async fn head(&mut self) -> Option<String> {
        in_time("a head", read_head(&mut self.stream)).await
    }

    /// The next response with its body; none if the connection ended instead.
    pub async fn try_response(&mut self) -> Option<Answer> {
        let head = self.head().await?;
        let status = head[9..12].parse().unwrap();
        let body = in_time("a body", read_body(&mut self.stream, &head)).await?;
        Some(Answer { status, head, body: String::from_utf8(body).unwrap() })
    }

    /// The next response, which has to come.
    pub async fn response(&mut self) -> Answer {
        self.try_response().await.expect("a response, and the connection ended")
    }

    /// Sends a request without body and reads its response.
    pub async fn request(&mut self, method: &str, host: &str, path: &str, fields: &str) -> Answer {
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")).await;
        self.response().await
    }

    /// GET without further fields.
    pub async fn get(&mut self, host: &str, path: &str) -> Answer {
        self.request("GET", host, path, "").await
    }

    /// POST with a body of known length.
    pub async fn post(&mut self, host: &str, path: &str, body: &str) -> Answer {
        let length = body.len();
        self.send(format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}"))
            .await;
        self.response().await
    }

    /// Exactly so many bytes.
    pub async fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        in_time("bytes", self.stream.read_exact(&mut bytes)).await.unwrap();
        bytes
    }

    /// Says that nothing more comes.
    pub async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Everything until the end, be it a clean one or not.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = in_time("the end", self.stream.read_to_end(&mut rest)).await;
        rest
    }
}
