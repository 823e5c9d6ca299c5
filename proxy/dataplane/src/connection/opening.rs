//! What a connection begins with, as far as its listener's chains differ by it: TLS and what its hello asks for, or in the
//! clear the protocol.
//!
//! Called before a chain is chosen. What was read stays at hand, so that a chain that passes TLS through, or speaks any
//! other protocol, gets every byte.

use std::time::Duration;

use bytes::BytesMut;
use outrigger_config::listener::{Listener, PLAINTEXT_PROTOCOLS};
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use rustls::server::Accepted;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::detect::{Heard, Verdict, listen};
use crate::tls::handshake;

/// The first byte of a TLS record that holds a hello (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// How a connection begins.
pub(super) enum Opening {
    /// With a TLS hello, which is not answered yet.
    Tls(Box<Accepted>),
    /// In the clear. With the protocol that was detected, where the listener looks for it.
    Clear(Option<&'static [u8]>),
    /// It ended without a word, or said too little in time where that ends it.
    Nothing,
}

/// Reads as much of a connection as its listener needs. `handshake` is the longest wait for a whole hello. Fails on a
/// malformed hello.
pub(super) async fn read(
    listener: &Listener,
    stream: &mut TcpStream,
    first: &mut BytesMut,
    handshake: Duration,
) -> Result<Opening, Failure> {
    let detects = listener.needs_protocol();
    if !detects && !listener.needs_hello() {
        return Ok(Opening::Clear(None));
    }
    let deadline = Instant::now() + listener.first_bytes_timeout;
    // Where every chain speaks TLS nobody needs to look.
    if !listener.is_all_tls() {
        match tokio::time::timeout_at(deadline, stream.read_buf(first)).await {
            Ok(Ok(0) | Err(_)) => return Ok(Opening::Nothing),
            Ok(Ok(_)) => {}
            Err(_) => return Ok(silent(listener)),
        }
    }
    if first.first().is_none_or(|byte| *byte == TLS_HANDSHAKE) && listener.needs_hello() {
        let hello = tokio::time::timeout(handshake, handshake::hello(stream, first)).await;
        return hello.unwrap_or_else(|_| Err(handshake::late(handshake))).map(Box::new).map(Opening::Tls);
    }
    if !detects {
        return Ok(Opening::Clear(None));
    }
    let left = deadline.saturating_duration_since(Instant::now());
    Ok(match listen(stream, first, left).await {
        Ok(Heard::Said(verdict)) => Opening::Clear(protocol(verdict, first)),
        Ok(Heard::Silence | Heard::Ended) => silent(listener),
        Err(_) => Opening::Nothing,
    })
}

/// What becomes of a client whose first bytes did not come in time.
fn silent(listener: &Listener) -> Opening {
    if listener.continue_on_timeout { Opening::Clear(None) } else { Opening::Nothing }
}

/// A client that said no hello is refused by a chain that requires TLS.
pub(super) fn in_the_clear() -> Failure {
    Failure::downstream(Reason::DownstreamTlsFailure, "no chain takes a connection in the clear")
}

/// Envoy's names of what was detected. HTTP/1.0 is told from HTTP/1.1 by the end of the request line.
fn protocol(verdict: Verdict, first: &[u8]) -> Option<&'static [u8]> {
    let [http10, http11, h2c] = PLAINTEXT_PROTOCOLS;
    match verdict {
        Verdict::Http2 => Some(h2c),
        Verdict::Http1 => {
            let line = first.strip_prefix(b"\r\n").unwrap_or(first);
            let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            Some(if line.ends_with(b" HTTP/1.0") { http10 } else { http11 })
        }
        Verdict::Opaque => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_have_the_names_that_envoy_gives_them() {
        for (verdict, first, expected) in [
            (Verdict::Http1, &b"GET / HTTP/1.0\r\nA: b HTTP/1.1\r\n"[..], Some("http/1.0")),
            (Verdict::Http1, b"\r\nGET / HTTP/1.1\r\n", Some("http/1.1")),
            (Verdict::Http1, b"GET / HTTP/1.0\n", Some("http/1.0")),
            (Verdict::Http2, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some("h2c")),
            (Verdict::Opaque, b"*1\r\n", None),
        ] {
            assert_eq!(protocol(verdict, first), expected.map(str::as_bytes), "{first:?}");
        }
    }
}
