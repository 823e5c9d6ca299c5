//! Reads what filter chain matching needs of a connection's first bytes: the TLS ClientHello, or the plaintext protocol.
//!
//! Called before a chain is chosen. The bytes are kept, so that a chain that passes TLS through, or speaks any other
//! protocol, gets all of them.

use std::time::Duration;

use bytes::BytesMut;
use outrigger_config::listener::{Listener, PLAINTEXT_PROTOCOLS};
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use rustls::server::Accepted;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::detect::{Detection, Verdict, detect_while_silent};
use crate::tls::handshake;

/// The first byte of a TLS record that holds a hello (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// What the first bytes of a connection are.
pub(super) enum FirstBytes {
    /// A TLS ClientHello, which is not answered yet.
    Tls(Box<Accepted>),
    /// Plaintext, with the detected protocol if the listener detects it.
    Plaintext(Option<&'static [u8]>),
    /// Nothing in time, where the listener continues then.
    Silent,
    /// Nothing: the connection ended, or timed out where the listener closes it then.
    Nothing,
}

/// Reads as much of a connection as its listener needs; `first` has what was read before. `handshake` is the longest wait for a
/// whole hello. Fails on a malformed hello.
pub(super) async fn read(
    listener: &Listener,
    stream: &mut TcpStream,
    first: &mut BytesMut,
    handshake: Duration,
) -> Result<FirstBytes, Failure> {
    let detects = listener.needs_protocol();
    if !detects && !listener.needs_hello() {
        return Ok(FirstBytes::Plaintext(None));
    }
    let deadline = Instant::now() + listener.first_bytes_timeout;
    // If every chain requires TLS, there is nothing to distinguish.
    if !listener.is_all_tls() && first.is_empty() {
        match tokio::time::timeout_at(deadline, stream.read_buf(first)).await {
            Ok(Ok(0) | Err(_)) => return Ok(FirstBytes::Nothing),
            Ok(Ok(_)) => {}
            Err(_) => return Ok(silent(listener)),
        }
    }
    if !is_plaintext(first) && listener.needs_hello() {
        let hello = tokio::time::timeout(handshake, handshake::hello(stream, first)).await;
        return hello.unwrap_or_else(|_| Err(handshake::late(handshake))).map(Box::new).map(FirstBytes::Tls);
    }
    if !detects {
        return Ok(FirstBytes::Plaintext(None));
    }
    let left = deadline.saturating_duration_since(Instant::now());
    Ok(match detect_while_silent(stream, first, left, left).await {
        Ok(Detection::Decided(verdict)) => FirstBytes::Plaintext(protocol(verdict, first)),
        Ok(Detection::TimedOut | Detection::Closed) => silent(listener),
        Err(_) => FirstBytes::Nothing,
    })
}

/// Returns true if the first bytes are not those of a TLS ClientHello.
pub(super) fn is_plaintext(first: &[u8]) -> bool {
    first.first().is_some_and(|byte| *byte != TLS_HANDSHAKE)
}

/// What becomes of a client whose first bytes did not come in time.
fn silent(listener: &Listener) -> FirstBytes {
    if listener.continue_on_timeout { FirstBytes::Silent } else { FirstBytes::Nothing }
}

/// A client that sent no ClientHello is refused by a chain that requires TLS.
pub(super) fn no_plaintext() -> Failure {
    Failure::downstream(
        Reason::DownstreamTlsFailure,
        "the port requires mTLS, and the client does not use TLS",
    )
}

/// Returns Envoy's name of the detected protocol. The end of the request line distinguishes HTTP/1.0 from HTTP/1.1.
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
