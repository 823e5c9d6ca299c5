//! Connections that stay open and idle, each after one GET: what a proxy holds for them is measured meanwhile.
//!
//! They are opened one after the other, so that a proxy needs only one connection to the application.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::peers::Running;

const TIMEOUT: Duration = Duration::from_secs(10);

/// An idle connection. Dropping it closes it.
pub(super) enum Idle {
    Http1 {
        #[expect(dead_code, reason = "held open")]
        stream: TcpStream,
    },
    /// HTTP/2 in mutual TLS.
    Mtls {
        #[expect(dead_code, reason = "held open")]
        sender: http2::SendRequest<Empty<Bytes>>,
    },
}

/// Opens one connection and sends `GET path`. Returns an error unless it is answered by 200 within ten seconds.
pub(super) async fn open(peer: &Running, path: &str) -> Result<Idle, String> {
    tokio::time::timeout(TIMEOUT, exchange(peer, path)).await.map_err(|_| "no answer within 10 s")?
}

async fn exchange(peer: &Running, path: &str) -> Result<Idle, String> {
    let stream = TcpStream::connect(peer.address).await.map_err(text)?;
    stream.set_nodelay(true).map_err(text)?;
    match &peer.tls {
        None => http1(stream, &peer.authority, path).await,
        Some(tls) => {
            let connector = TlsConnector::from(Arc::clone(&tls.config));
            let stream = connector.connect(tls.server_name.clone(), stream).await.map_err(text)?;
            let (mut sender, connection) =
                http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(text)?;
            tokio::spawn(connection);
            let request = Request::get(format!("https://{}{path}", peer.authority)).body(Empty::new());
            let response = sender.send_request(request.map_err(text)?).await.map_err(text)?;
            if response.status() != 200 {
                return Err(format!("answered by {}", response.status()));
            }
            response.into_body().collect().await.map_err(text)?;
            Ok(Idle::Mtls { sender })
        }
    }
}

/// The response must be shorter than 4 KiB, with `content-length`.
async fn http1(mut stream: TcpStream, authority: &str, path: &str) -> Result<Idle, String> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(text)?;
    let mut read = Vec::with_capacity(4096);
    while !complete(&read) {
        if stream.read_buf(&mut read).await.map_err(text)? == 0 {
            return Err("the connection was closed".into());
        }
    }
    match read.starts_with(b"HTTP/1.1 200") {
        true => Ok(Idle::Http1 { stream }),
        false => Err(String::from_utf8_lossy(&read).into_owned()),
    }
}

/// Whether these bytes are a head and the body that it declares.
fn complete(bytes: &[u8]) -> bool {
    let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|length| length.trim().parse::<usize>().ok());
    bytes.len() >= head + 4 + length.unwrap_or_default()
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_complete_with_its_body() {
        assert!(!complete(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"));
        assert!(!complete(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na"));
        assert!(complete(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"));
    }
}
