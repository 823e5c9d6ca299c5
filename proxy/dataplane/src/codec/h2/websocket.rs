//! WebSockets over HTTP/2 (RFC 8441): what differs from their upgrade of HTTP/1, as which the rest of the proxy knows them.
//!
//! The key and its proof, with which HTTP/1 shows that both ends mean a WebSocket, do not exist in HTTP/2 (section 5.1). An
//! application behind HTTP/1 wants a key, and so gets one; its proof ends here.

use http::header::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use http::{HeaderMap, HeaderValue};

/// What `:protocol` and `Upgrade` call it.
pub(super) const NAME: &str = "websocket";

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Turns the fields of an extended CONNECT into those of an upgrade.
pub(super) fn asked(headers: &mut HeaderMap) {
    if let Ok(key) = HeaderValue::from_bytes(&key(fastrand::u128(..))) {
        headers.insert(SEC_WEBSOCKET_KEY, key);
    }
}

/// Turns the fields of a 101 into those of a 200.
pub(super) fn answered(headers: &mut HeaderMap) {
    headers.remove(SEC_WEBSOCKET_ACCEPT);
}

/// Sixteen bytes in base64 (RFC 6455 section 4.1): 21 characters of six bits, one of two, and the padding.
fn key(random: u128) -> [u8; 24] {
    let mut key = [b'='; 24];
    for (at, character) in key[..22].iter_mut().enumerate() {
        let six = if at < 21 { random >> (122 - 6 * at) } else { random << 4 };
        *character = ALPHABET[(six & 63) as usize];
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        assert_eq!(&key(u128::from_be_bytes(*b"the sample nonce")), b"dGhlIHNhbXBsZSBub25jZQ==");
    }
}
