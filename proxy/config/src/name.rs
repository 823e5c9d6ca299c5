//! Normalized names of requested destinations: lower case, no trailing dot, always with a port.
//!
//! Clients control these bytes. An invalid name is rejected here, before discovery subscribes to it.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::SocketAddr;

/// Normalizes an authority such as `Cart.shop.`, `cart:80` or `[fd00::1]:80`. Returns `None` if it is invalid: a character
/// that is not allowed in a host, an empty label, an invalid port, or a host of more than 253 bytes.
///
/// Allocates only if the authority is not normalized already, and then once.
pub fn normalized_name(authority: &str, default_port: u16) -> Option<Cow<'_, str>> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let number: u16 = match port {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().ok().filter(|port| *port > 0)?
        }
        Some(_) => return None,
        None => default_port,
    };
    let bare = host.strip_suffix('.').unwrap_or(host);
    if let Some(v6) = bare.strip_prefix('[') {
        let address: std::net::Ipv6Addr = v6.strip_suffix(']')?.parse().ok()?;
        return Some(SocketAddr::from((address, number)).to_string().into());
    }
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if bare.is_empty() || bare.len() > 253 || !bare.bytes().all(legal) || bare.split('.').any(str::is_empty) {
        return None;
    }
    let written = port.is_some_and(|digits| !digits.starts_with('0'));
    if written && bare.len() == host.len() && !bare.bytes().any(|b| b.is_ascii_uppercase()) {
        return Some(authority.into());
    }
    Some(with_port(bare, number).into())
}

/// Returns `host` in lower case with a port, in one allocation: most requests leave the port out.
fn with_port(host: &str, port: u16) -> String {
    let mut name = String::with_capacity(host.len() + ":65535".len());
    name.push_str(host);
    name.make_ascii_lowercase();
    // Writing to memory does not fail.
    let _ = write!(name, ":{port}");
    name
}

/// Returns the name of an original destination.
pub fn normalized_address(address: SocketAddr) -> String {
    SocketAddr::new(address.ip().to_canonical(), address.port()).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_spellings_of_a_name_are_normalized_to_one() {
        for (authority, expected) in [
            ("cart", "cart:80"),
            ("cart:80", "cart:80"),
            ("Cart.Shop.:8080", "cart.shop:8080"),
            ("cart.", "cart:80"),
            ("cart:080", "cart:80"),
            ("10.0.0.5", "10.0.0.5:80"),
            ("[fd00::0001]", "[fd00::1]:80"),
            ("[FD00::1]:9000", "[fd00::1]:9000"),
        ] {
            assert_eq!(normalized_name(authority, 80).as_deref(), Some(expected), "{authority}");
        }
        assert!(matches!(normalized_name("cart:80", 80), Some(Cow::Borrowed(_))));
        assert_eq!(normalized_address("[::ffff:10.0.0.5]:80".parse().unwrap()), "10.0.0.5:80");
    }

    #[test]
    fn an_invalid_name_is_rejected() {
        let long = "a".repeat(254);
        for authority in [
            "",
            ":80",
            ".",
            "a..b",
            "cart:",
            "cart:0",
            "cart:65536",
            "cart:+80",
            "a b",
            "a/b",
            "[::1",
            "::1",
            "ü",
            &long,
        ] {
            assert_eq!(normalized_name(authority, 80), None, "{authority:?}");
        }
    }

    proptest! {
        #[test]
        fn normalization_is_idempotent(authority in ".{0,40}") {
            if let Some(name) = normalized_name(&authority, 80) {
                let again = normalized_name(&name, 1);
                prop_assert_eq!(again.as_deref(), Some(&*name));
            }
        }
    }
}
