//! The application of the HTTP/2 scenario: the end of each request is answered with a head, 100 bytes and a trailer.
//!
//! A server on a library costs several times what the fastest proxy costs, and would leave that proxy idle most of the time. This one
//! never decodes a request's fields, so that its cost per request is about that of its system calls. Its own fields are indexed after
//! their first use, as by most servers (RFC 9113, RFC 7541). What it does not support (a request whose body exceeds its stream's first
//! window of 64 KiB) ends the connection; the load then counts failures.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const BODY: usize = 100;
const MAX_FRAME: usize = 16_384;
/// Received bytes of bodies after which the connection's window is opened again.
const ACKNOWLEDGE_AFTER: u32 = 32 << 10;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// Starts it in a thread, which runs until this program ends, on a free port of loopback. Returns its address.
pub(super) fn start() -> Result<SocketAddr, String> {
    let text = |error: io::Error| format!("cannot start the application: {error}");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(text)?;
    listener.set_nonblocking(true).map_err(text)?;
    let address = listener.local_addr().map_err(text)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(text)?;
    let accept = async move {
        let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(serve(stream));
        }
    };
    std::thread::Builder::new().name("http2".into()).spawn(move || runtime.block_on(accept)).map_err(text)?;
    Ok(address)
}

/// Serves one connection until it is closed.
async fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut read = Vec::with_capacity(64 << 10);
    let mut connection = Connection::default();
    connection.frame(SETTINGS, 0, 0, &setting(3, 10_000));
    loop {
        let taken = connection.receive(&read).ok_or(io::ErrorKind::InvalidData)?;
        read.drain(..taken);
        if !connection.out.is_empty() {
            stream.write_all(&connection.out).await?;
            connection.out.clear();
        }
        if stream.read_buf(&mut read).await? == 0 {
            return Ok(());
        }
    }
}

fn setting(name: u16, value: u32) -> [u8; 6] {
    let mut setting = [0; 6];
    setting[..2].copy_from_slice(&name.to_be_bytes());
    setting[2..].copy_from_slice(&value.to_be_bytes());
    setting
}

struct Connection {
    started: bool,
    /// Whether the peer's table of fields holds ours (RFC 7541 section 2.3.2).
    indexed: bool,
    indexing_permitted: bool,
    /// What may still be sent on the connection.
    window: i64,
    /// Streams that wait for the window.
    waiting: VecDeque<u32>,
    received: u32,
    out: Vec<u8>,
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            started: false,
            indexed: false,
            indexing_permitted: true,
            window: 65_535,
            waiting: VecDeque::new(),
            received: 0,
            out: Vec::new(),
        }
    }
}

impl Connection {
    /// Handles all complete frames of `bytes`, and returns their length. Returns None for what this backend does not support.
    fn receive(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        if !self.started {
            if bytes.len() < PREFACE.len() {
                return PREFACE.starts_with(bytes).then_some(0);
            }
            bytes.starts_with(PREFACE).then_some(())?;
            (self.started, at) = (true, PREFACE.len());
        }
        while let Some((head, rest)) = bytes[at..].split_first_chunk::<9>() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            if length > MAX_FRAME {
                return None;
            }
            let Some(payload) = rest.get(..length) else { break };
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
            self.handle(head[3], head[4], stream, payload)?;
            at += 9 + length;
        }
        if self.received >= ACKNOWLEDGE_AFTER {
            let increment = std::mem::take(&mut self.received).to_be_bytes();
            self.frame(WINDOW_UPDATE, 0, 0, &increment);
        }
        Some(at)
    }

    fn handle(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Option<()> {
        match kind {
            DATA | HEADERS => {
                if kind == DATA {
                    self.received += payload.len() as u32;
                }
                if flags & END_STREAM != 0 {
                    self.waiting.push_back(stream);
                    self.answer();
                }
            }
            SETTINGS if flags & ACK == 0 => {
                for setting in payload.chunks_exact(6) {
                    let value = u32::from_be_bytes(setting[2..].try_into().ok()?);
                    match u16::from_be_bytes([setting[0], setting[1]]) {
                        1 => self.indexing_permitted &= value >= 4096,
                        4 => (value as usize >= BODY).then_some(())?,
                        _ => {}
                    }
                }
                self.frame(SETTINGS, ACK, 0, &[]);
            }
            PING if flags & ACK == 0 => self.frame(PING, ACK, 0, payload),
            WINDOW_UPDATE if stream == 0 => {
                self.window += i64::from(u32::from_be_bytes(payload.try_into().ok()?) & 0x7fff_ffff);
                self.answer();
            }
            RST_STREAM => self.waiting.retain(|waiting| *waiting != stream),
            GOAWAY => {}
            _ => {}
        }
        Some(())
    }

    /// Answers the streams that wait, as far as the window permits.
    fn answer(&mut self) {
        while self.window >= BODY as i64 {
            let Some(stream) = self.waiting.pop_front() else { return };
            self.window -= BODY as i64;
            // `:status: 200`, `content-type: text/plain`; then `x-checksum: 0123456789abcdef`. Once both are in the table of the
            // peer, 62 is the last one and 63 the one before (RFC 7541 section 2.3.3).
            let (head, trailer): (&[u8], &[u8]) = match (self.indexed, self.indexing_permitted) {
                (true, _) => (b"\x88\xbf", b"\xbe"),
                (false, true) => {
                    self.indexed = true;
                    (b"\x88\x5f\x0atext/plain", b"\x40\x0ax-checksum\x100123456789abcdef")
                }
                (false, false) => (b"\x88\x0f\x10\x0atext/plain", b"\x00\x0ax-checksum\x100123456789abcdef"),
            };
            self.frame(HEADERS, END_HEADERS, stream, head);
            self.frame(DATA, 0, stream, &[b'x'; BODY]);
            self.frame(HEADERS, END_HEADERS | END_STREAM, stream, trailer);
        }
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
        self.out.extend_from_slice(&[kind, flags]);
        self.out.extend_from_slice(&stream.to_be_bytes());
        self.out.extend_from_slice(payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::Request;
    use http_body_util::{BodyExt as _, Full};
    use hyper_util::rt::{TokioExecutor, TokioIo};

    #[tokio::test]
    async fn a_client_gets_body_and_trailer_for_every_request() {
        let address = start().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        // More than the first window of the connection, in both directions.
        for _ in 0..1_000 {
            let body = Full::new(Bytes::from_static(&[b'y'; BODY]));
            let request = Request::post("http://a/r19").body(body).unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()["content-type"]),
                (200, &"text/plain".parse().unwrap())
            );
            let body = answer.into_body().collect().await.unwrap();
            assert_eq!(body.trailers().unwrap()["x-checksum"], "0123456789abcdef");
            assert_eq!(body.to_bytes().len(), BODY);
        }
    }

    #[test]
    fn what_is_not_supported_ends_the_connection() {
        assert_eq!(Connection::default().receive(b"GET / HTTP/1.1\r\n\r\n"), None);
        assert_eq!(Connection::default().receive(&PREFACE[..5]), Some(0));
        let mut bytes = PREFACE.to_vec();
        bytes.extend_from_slice(&[0, 0, 6, SETTINGS, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&setting(4, 10));
        assert_eq!(Connection::default().receive(&bytes), None);
    }
}
