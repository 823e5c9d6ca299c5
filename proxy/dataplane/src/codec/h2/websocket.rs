//! WebSockets over HTTP/2 (RFC 8441), converted from and to the HTTP/1 upgrade that the rest of the proxy uses.
//!
//! The key and its proof, by which HTTP/1 shows that both ends speak WebSocket, do not exist in HTTP/2 (section 5.1). An HTTP/1
//! application requires a key, so one is generated, and its proof is removed. An HTTP/1 client requires a proof, which an
//! HTTP/2 application does not send, so it is computed.

use aws_lc_rs::digest;
use http::header::{CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::codec::head::ResponseHead;
use crate::codec::upgrade;

/// The name of the protocol in `:protocol` and `Upgrade`.
pub(super) const NAME: &str = "websocket";

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Converts the fields of an extended CONNECT to those of an upgrade.
pub(super) fn asked(headers: &mut HeaderMap) {
    if let Ok(key) = HeaderValue::try_from(key(fastrand::u128(..))) {
        headers.insert(SEC_WEBSOCKET_KEY, key);
    }
}

/// Converts the fields of a 101 to those of a 200.
pub(super) fn answered(headers: &mut HeaderMap) {
    headers.remove(SEC_WEBSOCKET_ACCEPT);
}

/// Returns whether a client that offers these upgrades accepts WebSocket.
pub(super) fn is_among(offered: &HeaderValue) -> bool {
    upgrade::is_offered(offered, &HeaderValue::from_static(NAME))
}

/// Converts the fields of an upgrade to those of an extended CONNECT. Returns the proof of the key, for the client that sent
/// it.
pub(super) fn asking(headers: &mut HeaderMap) -> Option<HeaderValue> {
    proof(headers.remove(SEC_WEBSOCKET_KEY)?.as_bytes())
}

/// Converts a 200 to the 101 that the rest of the proxy expects.
pub(super) fn opened(head: &mut ResponseHead, proof: Option<HeaderValue>) {
    head.status = StatusCode::SWITCHING_PROTOCOLS;
    head.upgrade = Some(HeaderValue::from_static(NAME));
    // It has no meaning here, and a 101 has no body (RFC 9110 section 9.3.6).
    head.headers.remove(CONTENT_LENGTH);
    if let Some(proof) = proof {
        head.headers.insert(SEC_WEBSOCKET_ACCEPT, proof);
    }
}

/// Returns the proof of a key (RFC 6455 section 4.2.2).
fn proof(key: &[u8]) -> Option<HeaderValue> {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    HeaderValue::try_from(base64(hash.finish().as_ref())).ok()
}

/// Returns a new key (RFC 6455 section 4.1).
fn key(random: u128) -> String {
    base64(&random.to_be_bytes())
}

/// Encodes in base64 (RFC 4648 section 4).
fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let group =
            three.iter().fold(0, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for at in 0..4 {
            let six = (group >> (18 - 6 * at)) & 63;
            text.push(if at <= three.len() { char::from(ALPHABET[six as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6455 sections 4.1 and 1.3.
    #[test]
    fn a_key_and_its_proof_are_those_of_the_standard() {
        let key = key(u128::from_be_bytes(*b"the sample nonce"));
        assert_eq!(key, "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(proof(key.as_bytes()).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_websocket_is_found_among_other_offers() {
        for (offered, found) in
            [("WebSocket", true), ("h2c, websocket", true), ("TLS/1.2", false), ("", false)]
        {
            assert_eq!(is_among(&HeaderValue::from_static(offered)), found, "{offered}");
        }
    }
}
