//! WebSockets over HTTP/2 (RFC 8441): what differs from their upgrade of HTTP/1, as which the rest of the proxy knows them.
//!
//! The key and its proof, with which HTTP/1 shows that both ends mean a WebSocket, do not exist in HTTP/2 (section 5.1). An
//! application behind HTTP/1 wants a key, and so gets one; its proof ends here. A client of HTTP/1 wants a proof, which an
//! application behind HTTP/2 does not give; so it is made here.

use aws_lc_rs::digest;
use http::header::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::codec::head::ResponseHead;
use crate::codec::upgrade;

/// What `:protocol` and `Upgrade` call it.
pub(super) const NAME: &str = "websocket";

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Turns the fields of an extended CONNECT into those of an upgrade.
pub(super) fn asked(headers: &mut HeaderMap) {
    if let Ok(key) = HeaderValue::try_from(key(fastrand::u128(..))) {
        headers.insert(SEC_WEBSOCKET_KEY, key);
    }
}

/// Turns the fields of a 101 into those of a 200.
pub(super) fn answered(headers: &mut HeaderMap) {
    headers.remove(SEC_WEBSOCKET_ACCEPT);
}

/// Returns whether a client that offers these upgrades would take a WebSocket.
pub(super) fn is_among(offered: &HeaderValue) -> bool {
    upgrade::is_offered(offered, &HeaderValue::from_static(NAME))
}

/// Turns the fields of an upgrade into those of an extended CONNECT. The proof of the key is for the client that sent it.
pub(super) fn asking(headers: &mut HeaderMap) -> Option<HeaderValue> {
    proof(headers.remove(SEC_WEBSOCKET_KEY)?.as_bytes())
}

/// Turns a 200 into the 101 as which the rest of the proxy knows it.
pub(super) fn opened(head: &mut ResponseHead, proof: Option<HeaderValue>) {
    head.status = StatusCode::SWITCHING_PROTOCOLS;
    head.upgrade = Some(HeaderValue::from_static(NAME));
    if let Some(proof) = proof {
        head.headers.insert(SEC_WEBSOCKET_ACCEPT, proof);
    }
}

/// What shows that a key was understood (RFC 6455 section 4.2.2).
fn proof(key: &[u8]) -> Option<HeaderValue> {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    HeaderValue::try_from(base64(hash.finish().as_ref())).ok()
}

/// A key (RFC 6455 section 4.1).
fn key(random: u128) -> String {
    base64(&random.to_be_bytes())
}

/// RFC 4648 section 4.
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
