//! A client that speaks raw HTTP/1.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::application::{read_body, read_head};

pub struct Client {
    pub stream: BufReader<TcpStream>,
}

/// A response.
#[derive(Debug)]
pub struct Answered {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Client {
    pub async fn connect(to: SocketAddr) -> Self {
        Self { stream: BufReader::new(TcpStream::connect(to).await.unwrap()) }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).await.unwrap();
    }

    /// One head.
    pub async fn head(&mut self) -> String {
        timeout(Duration::from_secs(5), read_head(&mut self.stream))
            .await
            .expect("a head in time")
            .expect("a head")
    }

    /// The next response with its body.
    pub async fn response(&mut self) -> Answered {
        let head = self.head().await;
        let status = head[9..12].parse().unwrap();
        let body = timeout(Duration::from_secs(5), read_body(&mut self.stream, &head))
            .await
            .expect("a body in time");
        Answered { status, head, body: String::from_utf8(body).unwrap() }
    }

    /// A request with extra fields, without body.
    pub async fn get(&mut self, host: &str, path: &str, fields: &str) -> Answered {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")).await;
        self.response().await
    }

    pub async fn post(&mut self, host: &str, path: &str, body: &str) -> Answered {
        let length = body.len();
        self.send(format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}"))
            .await;
        self.response().await
    }

    /// Everything until the end.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = timeout(Duration::from_secs(5), self.stream.read_to_end(&mut rest))
            .await
            .expect("an end in time");
        rest
    }
}
