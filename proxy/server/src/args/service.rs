//! `--service`: a service that this workload serves, and its addresses.

use std::fmt;
use std::net::SocketAddr;

use super::address::{is_dns_name, socket};

/// The port if none is given (the default of HTTP, RFC 9110 section 4.2.1).
const DEFAULT_PORT: u16 = 80;

/// A port of a service, with the application's address and the inbound address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The service: `cart` in the certificate's namespace, or `cart.shop`.
    pub service: String,
    /// The service's port.
    pub port: u16,
    /// The address on which the application listens.
    pub application: SocketAddr,
    /// The address on which the sidecar listens. None for redirected connections.
    pub listen: Option<SocketAddr>,
    /// The address that other proxies connect to, if it is not `listen`: `listen` is 0.0.0.0, or behind a NAT.
    pub advertise: Option<SocketAddr>,
    /// The application's protocol. If None, the Service declares it, or it is detected.
    pub protocol: Option<ServiceProtocol>,
}

/// The protocol of an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceProtocol {
    /// HTTP/1.1.
    Http,
    /// Cleartext HTTP/2 with prior knowledge.
    Http2,
    /// gRPC, over cleartext HTTP/2.
    Grpc,
    /// Opaque bytes.
    Tcp,
}

impl ServicePort {
    /// Reads `cart:80=127.0.0.1:8080,listen=127.0.0.1:9080,protocol=http`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let (service, application) = parts
            .next()
            .and_then(|first| first.split_once('='))
            .ok_or("the form is SERVICE[:PORT]=IP:PORT, as in cart:80=127.0.0.1:8080")?;
        let (service, port) = name_and_port(service)?;
        let mut parsed = Self {
            service,
            port,
            application: socket(application)?,
            listen: None,
            advertise: None,
            protocol: None,
        };
        for part in parts {
            match part.split_once('=') {
                Some(("listen", address)) if parsed.listen.is_none() => {
                    parsed.listen = Some(socket(address)?)
                }
                Some(("advertise", address)) if parsed.advertise.is_none() => {
                    parsed.advertise = Some(socket(address)?);
                }
                Some(("protocol", name)) if parsed.protocol.is_none() => {
                    parsed.protocol = Some(ServiceProtocol::parse(name)?);
                }
                Some(("listen" | "advertise" | "protocol", _)) => {
                    return Err(format!("`{part}`: given twice"));
                }
                _ => {
                    return Err(format!(
                        "`{part}` is not one of listen=IP:PORT, advertise=IP:PORT, protocol=NAME"
                    ));
                }
            }
        }
        Ok(parsed)
    }
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}={}", self.service, self.port, self.application)?;
        if let Some(listen) = self.listen {
            write!(f, ",listen={listen}")?;
        }
        if let Some(advertise) = self.advertise {
            write!(f, ",advertise={advertise}")?;
        }
        match self.protocol {
            Some(protocol) => write!(f, ",protocol={}", protocol.as_str()),
            None => Ok(()),
        }
    }
}

impl ServiceProtocol {
    fn parse(name: &str) -> Result<Self, String> {
        match name {
            "http" => Ok(Self::Http),
            "http2" => Ok(Self::Http2),
            "grpc" => Ok(Self::Grpc),
            "tcp" => Ok(Self::Tcp),
            other => Err(format!("protocol `{other}`: must be http, http2, grpc or tcp")),
        }
    }

    /// Returns the name used on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }

    /// Returns the value of a Service's `appProtocol` (KEP-3726 for cleartext HTTP/2).
    pub fn app_protocol(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Http2 => "kubernetes.io/h2c",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

fn name_and_port(text: &str) -> Result<(String, u16), String> {
    let (name, port) = match text.split_once(':') {
        None => (text, DEFAULT_PORT),
        Some((name, port)) => {
            let number = port.parse().ok().filter(|&port| port != 0);
            (
                name,
                number
                    .ok_or_else(|| format!("`{port}` is not a port: it must be a number from 1 to 65535"))?,
            )
        }
    };
    if !is_dns_name(name) {
        return Err(format!("`{name}` is not a valid service name"));
    }
    Ok((name.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_read_and_written_alike() {
        for text in [
            "cart:80=127.0.0.1:8080",
            "cart.shop:8000=[::1]:8080,listen=0.0.0.0:9080",
            "cart:80=127.0.0.1:8080,listen=0.0.0.0:9080,advertise=10.0.0.7:9080",
            "stock:9000=127.0.0.1:9000,listen=10.0.0.1:9001,protocol=tcp",
        ] {
            assert_eq!(ServicePort::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(ServicePort::parse("cart=127.0.0.1:8080").unwrap().port, 80);
    }

    #[test]
    fn repeated_or_unknown_options_are_refused() {
        for bad in [
            "cart=127.0.0.1:1,listen=127.0.0.1:2,listen=127.0.0.1:3",
            "cart=127.0.0.1:1,",
            "cart=127.0.0.1:1,listen",
            "cart:x=127.0.0.1:1",
        ] {
            assert!(ServicePort::parse(bad).is_err(), "{bad}");
        }
    }
}
