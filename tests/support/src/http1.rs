//! HTTP/1 messages as bytes. A malformed message fails the test.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    /// The request line and the fields, with the empty line that ends them.
    pub head: String,
    /// The body without its framing, followed by the trailers as text.
    pub body: Vec<u8>,
}

impl Request {
    /// Returns the target of the request line.
    pub fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }
}

/// A response as it arrived.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The status line and the fields.
    pub head: String,
    /// The body without its framing, followed by the trailers as text.
    pub body: String,
}

impl Response {
    /// Returns the value of the first field of this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Returns the status, and the name of the application that answered (see [`crate::application::Application::echo`]).
    pub fn by(&self) -> (u16, &str) {
        (self.status, self.field("x-app").unwrap_or_default())
    }

    /// Returns the reason of a response that a proxy made instead of the application.
    pub fn reason(&self) -> &str {
        self.field("x-outrigger-reason").unwrap_or_default()
    }
}

/// Returns a 200 with this body.
pub fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Returns a response with this status and an empty body.
pub fn status(code: u16) -> String {
    format!("HTTP/1.1 {code} Status\r\ncontent-length: 0\r\n\r\n")
}

/// Reads a head, with the empty line that ends it. Returns None if the connection ends before.
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

/// Reads the body that `head` announces, by chunks or by length. Returns None if the connection ends before.
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

/// Reads chunks, and appends the trailer section as text.
async fn read_chunks(stream: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = usize::from_str_radix(read_line(stream).await?.trim(), 16).unwrap();
        if size == 0 {
            break;
        }
        let mut chunk = vec![0; size + 2];
        stream.read_exact(&mut chunk).await.ok()?;
        body.extend_from_slice(&chunk[..size]);
    }
    loop {
        let line = read_line(stream).await?;
        if line == "\r\n" {
            return Some(body);
        }
        body.extend_from_slice(line.as_bytes());
    }
}

async fn read_line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|&read| read > 0)?;
    Some(line)
}
