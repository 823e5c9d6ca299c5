//! HTTP/2 frames that are made and read by hand.

use std::time::Duration;

use tokio::io::{AsyncReadExt, DuplexStream};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// GET http://a/ as indexed fields and a literal authority.
pub(super) const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'a'];
/// POST http://a/ alike.
pub(super) const POST: &[u8] = &[0x83, 0x86, 0x84, 0x41, 1, b'a'];

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The preface and SETTINGS of a client, and then `frames`.
pub(super) fn opening(settings: &[u8], frames: &[Vec<u8>]) -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, settings), frames.concat()].concat()
}

/// A literal field that is not indexed.
pub(super) fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap();
    [&[0, length(name)], name, &[length(value)], value].concat()
}

/// The frames that come until nothing more does: kind, flags, stream, payload.
pub(super) async fn frames(stream: &mut DuplexStream) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(Duration::from_millis(500), stream.read_to_end(&mut bytes)).await;
    let (mut rest, mut frames) = (&bytes[..], Vec::new());
    while let [a, b, c, kind, flags, s0, s1, s2, s3, after @ ..] = rest {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let stream = u32::from_be_bytes([*s0, *s1, *s2, *s3]);
        frames.push((*kind, *flags, stream, after[..length].to_vec()));
        rest = &after[length..];
    }
    frames
}
