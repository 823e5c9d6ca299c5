//! HTTP/2 frames that are made and read by hand, for applications that break rules.

use std::net::SocketAddr;

use outrigger_config::cluster::{Cluster, UpstreamProtocol};
use outrigger_test_support::application::Connection;
use tokio::io::AsyncReadExt;

use super::{cluster, endpoint};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
/// HEADERS that are a whole message.
pub const WHOLE: u8 = END_HEADERS | END_STREAM;
/// `:status: 200`.
pub const OK: &[u8] = &[0x88];

/// A frame that was read.
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A literal field that is not indexed. Name and value are shorter than 127 bytes.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap();
    [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

/// A GOAWAY with this last stream and code.
pub fn goaway(last: u32, code: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

/// A cluster `name` with an HTTP/2 application.
pub fn http2(name: &str, application: SocketAddr) -> Cluster {
    Cluster { protocol: UpstreamProtocol::Http2, ..cluster(name, [endpoint(application)]) }
}

/// Reads the client's preface.
pub async fn preface(connection: &mut Connection) {
    connection.stream.read_exact(&mut [0; 24]).await.unwrap();
}

/// Reads the next frame. Returns None at the end of the connection.
pub async fn next_frame(connection: &mut Connection) -> Option<Frame> {
    let mut head = [0; 9];
    connection.stream.read_exact(&mut head).await.ok()?;
    let [a, b, c, kind, flags, stream @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    connection.stream.read_exact(&mut payload).await.ok()?;
    Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
}

/// Returns the stream of the next request.
pub async fn next_request(connection: &mut Connection) -> Option<u32> {
    loop {
        let frame = next_frame(connection).await?;
        if frame.kind == HEADERS {
            return Some(frame.stream);
        }
    }
}

/// The names of the error codes (RFC 9113 section 7).
pub fn code_name(payload: &[u8]) -> &'static str {
    const NAMES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    NAMES.get(u32::from_be_bytes(payload.try_into().unwrap()) as usize).unwrap_or(&"unknown")
}
