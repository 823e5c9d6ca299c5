//! What a client keeps of its session: the address of its endpoint, in the form of Envoy's cookies and headers.
//!
//! A header has the address in base64. A cookie has a message in base64: `envoy.Cookie` of Envoy's stateful session extension, with one more
//! field, which Envoy ignores. Both are readable by the client. A value that cannot be read is that of no session.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message;
use twox_hash::XxHash64;

/// The longest value that is read, in bytes. Those with an IPv6 address are below 100.
const LONGEST: usize = 256;

/// The time of day that the oldest expiry has. Older versions of Envoy count seconds from the start of their machine, so that
/// their numbers are smaller; they mean nothing here, and the client's `Max-Age` ends the session.
const OLDEST: u64 = 1_000_000_000;

/// A session's endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) address: SocketAddr,
    /// The cluster of the endpoint ([`cluster_id`]), if it is known.
    pub(super) cluster: Option<u64>,
    /// When the session ends, in seconds since 1970.
    pub(super) expires: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct WireCookie {
    #[prost(string, tag = "1")]
    address: String,
    #[prost(uint64, tag = "2")]
    expires: u64,
    #[prost(fixed64, optional, tag = "15")]
    cluster: Option<u64>,
}

/// Returns what a cookie says about a cluster: which of several it is, and not its name.
pub(super) fn cluster_id(name: &str) -> u64 {
    XxHash64::oneshot(0, name.as_bytes())
}

impl Token {
    /// Reads the value of a cookie. Envoy's older form, the address alone, is read too.
    pub(super) fn of_cookie(value: &[u8]) -> Option<Self> {
        let mut buffer = [0; LONGEST];
        let bytes = decoded(value, &mut buffer)?;
        if let Some(address) = address(bytes) {
            return Some(Self { address, cluster: None, expires: None });
        }
        let WireCookie { address: text, expires, cluster } = WireCookie::decode(bytes).ok()?;
        let expires = Some(expires).filter(|expires| *expires >= OLDEST);
        Some(Self { address: text.parse().ok()?, cluster, expires })
    }

    /// Reads the value of a header.
    pub(super) fn of_header(value: &[u8]) -> Option<Self> {
        let mut buffer = [0; LONGEST];
        let address = address(decoded(value, &mut buffer)?)?;
        Some(Self { address, cluster: None, expires: None })
    }

    /// Returns whether the session has ended.
    pub(super) fn is_over(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| since_1970(now) > expires)
    }

    /// Returns the value of a cookie.
    pub(super) fn for_cookie(&self) -> String {
        let Self { address, cluster, expires } = self;
        let expires = expires.unwrap_or_default();
        let wire = WireCookie { address: address.to_string(), expires, cluster: *cluster };
        BASE64.encode(wire.encode_to_vec())
    }
}

/// Returns the value of a header.
pub(super) fn for_header(address: SocketAddr) -> String {
    BASE64.encode(address.to_string())
}

fn decoded<'a>(value: &[u8], buffer: &'a mut [u8; LONGEST]) -> Option<&'a [u8]> {
    if value.len() > LONGEST {
        return None;
    }
    let length = BASE64.decode_slice(value, buffer).ok()?;
    buffer.get(..length)
}

fn address(bytes: &[u8]) -> Option<SocketAddr> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// Returns a time of day in seconds since 1970.
pub(super) fn since_1970(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
