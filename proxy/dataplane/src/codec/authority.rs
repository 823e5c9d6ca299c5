//! The host of a request: `Host`, `:authority` and the authority of the target, which must agree.

use bytes::Bytes;
use http::uri::Authority;

use super::head::Scheme;

/// Parses an authority: a host with an optional port, without user information (RFC 9110 sections 4.2.4 and 7.2).
pub(crate) fn parse(value: Bytes) -> Result<Authority, &'static str> {
    if value.contains(&b'@') {
        return Err("the authority holds a user");
    }
    normal(Authority::from_maybe_shared(value).map_err(|_| "the authority is malformed")?)
}

/// Checks an authority that was parsed elsewhere, and removes an empty port, which is equivalent to none (RFC 3986 section
/// 6.2.3).
pub(crate) fn normal(authority: Authority) -> Result<Authority, &'static str> {
    check(&authority)?;
    match authority.as_str().strip_suffix(':') {
        Some(host) => Authority::try_from(host).map_err(|_| "the authority is malformed"),
        None => Ok(authority),
    }
}

fn check(authority: &Authority) -> Result<(), &'static str> {
    if authority.as_str().contains('@') {
        return Err("the authority holds a user");
    }
    let host = authority.host();
    if host.is_empty() {
        return Err("the authority has no host");
    }
    // A port is digits, or absent with its colon; the http crate takes what it cannot read for part of the text.
    let rest = &authority.as_str()[host.len()..];
    let port = rest.strip_prefix(':').unwrap_or(rest);
    if (!rest.is_empty() && !rest.starts_with(':')) || (!port.is_empty() && port.parse::<u16>().is_err()) {
        return Err("the port is no number");
    }
    Ok(())
}

/// Returns whether two authorities name the same host and port; a missing port is the scheme's (RFC 9110 section 4.2.3).
pub(crate) fn agree(one: &Authority, other: &Authority, scheme: Scheme) -> bool {
    let default = match scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    };
    one.host().eq_ignore_ascii_case(other.host())
        && one.port_u16().unwrap_or(default) == other.port_u16().unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_and_without_port_are_read() {
        for value in ["cart", "cart.shop:80", "10.0.0.1:8080", "[::1]:80", "[fd00::1]", "cart:"] {
            assert!(parse(Bytes::from_static(value.as_bytes())).is_ok(), "{value}");
        }
    }

    #[test]
    fn an_empty_port_is_none() {
        for (value, normal) in [("cart:", "cart"), ("[::1]:", "[::1]"), ("cart:80", "cart:80")] {
            assert_eq!(parse(Bytes::from_static(value.as_bytes())).unwrap(), normal);
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for value in [
            "",
            ":",
            "a b",
            "u@cart",
            "cart:http",
            "cart:99999",
            ":80",
            "cart/x",
            "a,b c",
            "[::1",
            "cart:80:80",
            "cart:80:",
        ] {
            assert!(parse(Bytes::from_static(value.as_bytes())).is_err(), "{value}");
        }
    }

    #[test]
    fn a_missing_port_is_that_of_the_scheme() {
        let parse = |value: &'static str| parse(Bytes::from_static(value.as_bytes())).unwrap();
        assert!(agree(&parse("Cart"), &parse("cart:80"), Scheme::Http));
        assert!(!agree(&parse("cart"), &parse("cart:80"), Scheme::Https));
        assert!(!agree(&parse("cart"), &parse("cart.shop"), Scheme::Http));
    }
}
