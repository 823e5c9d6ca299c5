//! The name under which a destination is asked for: `host:port`, lower case, port always there, no trailing dot.
//!
//! Made from the authority of a request, from the original destination of a captured connection, or from the setting of
//! a bound port. It is the name of a Listener on the xDS stream, so that equal destinations have equal names.

use std::fmt::Write;
use std::net::{Ipv6Addr, SocketAddr};

use http::uri::Authority;
use outrigger_core::Name;

/// Where `http` goes without a port (RFC 9110 section 4.2.1).
const HTTP_PORT: u16 = 80;

/// The longest host name that DNS allows (RFC 1035 section 2.3.4).
const MAX_HOST: usize = 253;

/// The canonical name of the destination that `authority` asks for.
///
/// `None` for what names no host: user information in front, an empty or overlong host, characters that no host
/// name has, a port that is no number or 0.
pub(crate) fn destination_name(authority: &Authority) -> Option<Name> {
    canonical_name(authority.as_str())
}

/// The canonical name of `host`, `host:port`, `ip:port` or `[ip]:port`.
pub(crate) fn canonical_name(asked: &str) -> Option<Name> {
    let (host, port) = split(asked)?;
    let mut name = String::with_capacity(host.len() + 6);
    if let Some(literal) = host.strip_prefix('[') {
        let address: Ipv6Addr = literal.strip_suffix(']')?.parse().ok()?;
        let _ = write!(name, "[{address}]");
    } else {
        let host = host.strip_suffix('.').unwrap_or(host);
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if host.is_empty() || host.len() > MAX_HOST || !host.bytes().all(legal) || host.contains("..") {
            return None;
        }
        name.extend(host.chars().map(|c| c.to_ascii_lowercase()));
    }
    let _ = write!(name, ":{port}");
    Some(name.into())
}

/// The name of an address: `10.0.0.5:80`, `[fd00::1]:80`.
pub(crate) fn address_name(address: SocketAddr) -> Name {
    address.to_string().into()
}

fn split(asked: &str) -> Option<(&str, u16)> {
    let after_literal = asked.rfind(']').map_or(0, |at| at + 1);
    let Some(colon) = asked[after_literal..].find(':') else { return Some((asked, HTTP_PORT)) };
    let (host, port) = asked.split_at(after_literal + colon);
    match &port[1..] {
        // "http://cart:" is "http://cart" (RFC 3986 section 3.2.3).
        "" => Some((host, HTTP_PORT)),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok().filter(|port| *port != 0).map(|port| (host, port))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_destinations_have_one_name() {
        for (asked, name) in [
            ("cart", "cart:80"),
            ("cart:", "cart:80"),
            ("Cart.Shop:8080", "cart.shop:8080"),
            ("cart.shop.svc.cluster.local.", "cart.shop.svc.cluster.local:80"),
            ("10.0.0.5", "10.0.0.5:80"),
            ("[FD00:0::1]:90", "[fd00::1]:90"),
            ("[::1]", "[::1]:80"),
        ] {
            assert_eq!(canonical_name(asked).as_deref(), Some(name), "{asked}");
        }
        assert_eq!(&*address_name("[fd00::1]:80".parse().unwrap()), "[fd00::1]:80");
    }

    #[test]
    fn what_names_no_host_is_refused() {
        for asked in [
            "", ":80", ".", "a..b", "user@cart", "cart:x", "cart:+80", "cart:0", "cart:65536", "ca rt", "[::1",
            "[x]:80", "::1", "cart/x", "a:1:2",
        ] {
            assert_eq!(canonical_name(asked), None, "{asked}");
        }
        assert_eq!(canonical_name(&"a".repeat(254)), None);
    }

    proptest! {
        #[test]
        fn a_name_is_its_own_name(asked in "\\PC{0,40}|[a-zA-Z0-9.-]{1,20}(:[0-9]{0,5})?") {
            if let Some(name) = canonical_name(&asked) {
                prop_assert_eq!(canonical_name(&name), Some(name.clone()));
            }
        }
    }
}
