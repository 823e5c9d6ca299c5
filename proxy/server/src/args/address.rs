//! Addresses on the command line: loopback, remote and mesh destinations.

use std::fmt;
use std::net::SocketAddr;

/// A loopback address. Endpoints without authentication listen only on loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loopback(pub(super) SocketAddr);

impl Loopback {
    /// Reads `127.0.0.1:15000` or `[::1]:15000`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let address = socket(text)?;
        if !address.ip().is_loopback() {
            return Err("the address must be loopback, such as 127.0.0.1:15000".to_owned());
        }
        Ok(Self(address))
    }

    /// The address.
    pub fn get(self) -> SocketAddr {
        self.0
    }
}

/// `HOST:PORT` of a server outside the mesh: a DNS name or IP address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteAddress(String);

impl RemoteAddress {
    /// Reads `control.example:15010`, `10.0.0.1:15010` or `[fd00::1]:15010`.
    pub fn parse(text: &str) -> Result<Self, String> {
        host_port(text).map(Self)
    }

    /// `host:port`, lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A mesh destination: lower case, no trailing dot, port always present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination(String);

impl Destination {
    /// Reads `stock.shop:9000`. The port is required.
    pub fn parse(text: &str) -> Result<Self, String> {
        host_port(text).map(Self)
    }

    /// `host:port`, the form of a destination's xDS resource name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A local port bound to one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundDestination {
    /// The address that the application connects to.
    pub local: SocketAddr,
    /// The destination of every connection.
    pub destination: Destination,
}

impl BoundDestination {
    /// Reads `127.0.0.1:5000=stock.shop:9000`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (local, destination) = text
            .split_once('=')
            .ok_or("the form is IP:PORT=HOST:PORT, as in 127.0.0.1:5000=stock.shop:9000")?;
        Ok(Self { local: socket(local)?, destination: Destination::parse(destination)? })
    }
}

impl fmt::Display for BoundDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.local, self.destination.0)
    }
}

pub(super) fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is not an IP:PORT such as 127.0.0.1:8080 or [::1]:8080"))
}

/// Normalises the host and port of an authority (RFC 3986 section 3.2). User information is rejected.
fn host_port(text: &str) -> Result<String, String> {
    let (host, port) =
        text.rsplit_once(':').ok_or_else(|| format!("`{text}` is not a HOST:PORT such as cart.shop:80"))?;
    let port: u16 =
        port.parse().ok().filter(|&port| port != 0).ok_or_else(|| {
            format!("`{text}` is not a HOST:PORT: the port must be a number from 1 to 65535")
        })?;
    if let Some(v6) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let address: std::net::Ipv6Addr =
            v6.parse().map_err(|_| format!("`{text}` is not a HOST:PORT: `{v6}` is not an IPv6 address"))?;
        return Ok(format!("[{address}]:{port}"));
    }
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if !is_dns_name(&host) {
        return Err(format!("`{text}` is not a HOST:PORT: `{host}` is neither a DNS name nor an IP address"));
    }
    Ok(format!("{host}:{port}"))
}

pub(super) fn parse_dns_name(name: &str) -> Result<String, String> {
    if is_dns_name(name) { Ok(name.to_owned()) } else { Err(format!("`{name}` is not a DNS name")) }
}

/// RFC 1123 section 2.1, lower case only. Underscores are allowed, because they occur in practice.
pub(super) fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && label.bytes().all(legal)
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_normalised() {
        for (given, name) in [
            ("Cart.Shop.:80", "cart.shop:80"),
            ("10.0.0.5:80", "10.0.0.5:80"),
            ("[FD00::0001]:80", "[fd00::1]:80"),
        ] {
            assert_eq!(Destination::parse(given).unwrap().as_str(), name);
        }
    }

    #[test]
    fn what_is_no_authority_is_refused() {
        for bad in
            ["cart", "cart:", ":80", "cart:0", "cart:65536", "a..b:80", "u@cart:80", "[::1:80", "fd00::1:80"]
        {
            assert!(Destination::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_loopback_is_loopback() {
        assert!(Loopback::parse("[::1]:1").is_ok() && Loopback::parse("127.8.0.1:1").is_ok());
        assert!(Loopback::parse("10.0.0.1:1").is_err() && Loopback::parse("[::]:1").is_err());
    }
}
