//! Upgrades: what a client offers, and what is left of HTTP after a 101 or a CONNECT: a raw connection, to be copied both
//! ways.

use bytes::Bytes;
use http::HeaderValue;

use crate::socket::stream::Stream;

/// A connection that no longer speaks HTTP.
#[derive(Debug)]
pub(crate) struct Upgraded {
    /// The connection.
    pub stream: Stream,
    /// Bytes that came behind the head and were read with it. They come before what `stream` yields.
    pub read: Bytes,
}

/// What is left of `offered`, a value of `Upgrade`, when only the protocols that `keep` wants are offered on; `None` if none
/// is. A server may ignore an upgrade (RFC 9110 section 7.8), so that a request with less on offer is the same request.
pub(crate) fn retain(offered: &HeaderValue, keep: impl Fn(&HeaderValue) -> bool) -> Option<HeaderValue> {
    if !offered.as_bytes().contains(&b',') {
        return (!offered.is_empty() && keep(offered)).then(|| offered.clone());
    }
    let kept: Vec<_> = protocols(offered)
        .filter(|protocol| HeaderValue::from_bytes(protocol).is_ok_and(|protocol| keep(&protocol)))
        .collect();
    if kept.is_empty() { None } else { HeaderValue::from_bytes(&kept.join(&b", "[..])).ok() }
}

/// Returns whether a tunnel of that protocol would carry requests past every policy: `h2c`, which RFC 9113 section 3.1 took away, and
/// TLS within HTTP (RFC 2817), which some clients offer with each request.
pub(crate) fn hides_requests(protocol: &HeaderValue) -> bool {
    let name = name(protocol.as_bytes());
    name.eq_ignore_ascii_case(b"h2c") || name.eq_ignore_ascii_case(b"tls")
}

/// Returns whether the protocol that a 101 switches to was among those that were offered, in whatever version.
pub(crate) fn is_offered(offered: &HeaderValue, chosen: &HeaderValue) -> bool {
    let chosen = name(chosen.as_bytes());
    protocols(offered).any(|protocol| name(protocol).eq_ignore_ascii_case(chosen))
}

/// Two fields as the one list that they are (RFC 9110 section 5.3).
pub(crate) fn both(one: &HeaderValue, other: &HeaderValue) -> HeaderValue {
    let joined = [one.as_bytes(), other.as_bytes()].join(&b", "[..]);
    HeaderValue::from_bytes(&joined).unwrap_or_else(|_| one.clone())
}

fn protocols(offered: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    offered.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|one| !one.is_empty())
}

/// A protocol without its version.
fn name(protocol: &[u8]) -> &[u8] {
    protocol.split(|byte| *byte == b'/').next().unwrap_or_default().trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(offered: &'static str) -> Option<String> {
        retain(&HeaderValue::from_static(offered), |protocol| !hides_requests(protocol))
            .map(|left| left.to_str().unwrap().to_owned())
    }

    #[test]
    fn protocols_that_hide_requests_are_removed_from_an_upgrade() {
        for (offered, expected) in [
            ("websocket", Some("websocket")),
            ("TLS/1.2", None),
            ("tls/1.3, TLS/1.2", None),
            ("H2C", None),
            ("h2c/1,websocket", Some("websocket")),
            ("a,\th2c , b/2", Some("a, b/2")),
            ("", None),
            (",", None),
        ] {
            assert_eq!(left(offered).as_deref(), expected, "{offered:?}");
        }
    }

    #[test]
    fn only_what_was_offered_may_be_chosen() {
        let offered = HeaderValue::from_static("websocket, SPDY/3.1");
        for (chosen, may) in [("WebSocket", true), ("spdy/3", true), ("h2c", false)] {
            assert_eq!(is_offered(&offered, &HeaderValue::from_static(chosen)), may, "{chosen}");
        }
    }
}
