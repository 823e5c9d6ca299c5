//! The names of destinations, clusters and routes that clients request.
//!
//! A destination is what an application called (`cart:80`, `cart.shop:80`, `10.0.0.5:80`), resolved in the namespace of the
//! client; a cluster or route has one canonical name. The text of a name determines what it can depend on, so that a stream
//! can be woken when the resource is created.

use std::net::SocketAddr;

use outrigger_core::Name;

use crate::model::service::ServiceKey;

/// The destination that a client called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A service by name.
    Service(ServiceKey, u16),
    /// One endpoint of a headless service, by its hostname: `db-0.db.shop`.
    Instance(ServiceKey, Name, u16),
    /// An address: of a service, or of one endpoint.
    Address(SocketAddr),
}

impl Destination {
    /// Parses the name of a destination for a client in `namespace`. Returns None unless it is in the form that proxies request:
    /// lower case, no trailing dot, with a port.
    pub fn parse(name: &str, namespace: &str, cluster_domain: &str) -> Option<Self> {
        if let Ok(address) = name.parse::<SocketAddr>() {
            return (address.to_string() == name).then_some(Self::Address(address));
        }
        let (host, port) = name.rsplit_once(':')?;
        let port = read_port(port)?;
        Some(match Host::parse(host, namespace, cluster_domain)? {
            Host::Service(key) => Self::Service(key, port),
            Host::Instance(key, hostname) => Self::Instance(key, hostname, port),
        })
    }
}

/// What a host name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A service.
    Service(ServiceKey),
    /// One endpoint of a headless service, by its hostname: `db-0.db.shop`.
    Instance(ServiceKey, Name),
}

impl Host {
    /// Parses a host name for a client in `namespace`. Returns None unless it is in lower case and without trailing dot.
    pub fn parse(host: &str, namespace: &str, cluster_domain: &str) -> Option<Self> {
        let short = host
            .strip_suffix(cluster_domain)
            .and_then(|rest| rest.strip_suffix(".svc."))
            .or_else(|| host.strip_suffix(".svc"));
        let labels: Vec<_> = short.unwrap_or(host).split('.').collect();
        Some(match (labels.as_slice(), short) {
            ([hostname, service, namespace], _) => {
                let key = ServiceKey::new(label(namespace)?, label(service)?);
                Self::Instance(key, label(hostname)?.into())
            }
            ([service, namespace], _) => Self::Service(ServiceKey::new(label(namespace)?, label(service)?)),
            ([service], None) => Self::Service(ServiceKey::new(namespace, label(service)?)),
            _ => return None,
        })
    }
}

/// The target of a cluster, of its endpoints or of a route configuration: a service port, or one endpoint of it
/// (`10.0.0.5:8080@cart.shop.svc.cluster.local:80`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The service.
    pub service: ServiceKey,
    /// Its port.
    pub port: u16,
    /// The only endpoint, if the target is one.
    pub only: Option<SocketAddr>,
}

impl Target {
    /// Creates the target of all endpoints of a service port.
    pub fn service(service: ServiceKey, port: u16) -> Self {
        Self { service, port, only: None }
    }

    /// Parses a canonical name.
    pub fn parse(name: &str, cluster_domain: &str) -> Option<Self> {
        let (only, canonical) = match name.split_once('@') {
            Some((address, rest)) => {
                let read: SocketAddr = address.parse().ok()?;
                ((read.to_string() == address).then_some(Some(read))?, rest)
            }
            None => (None, name),
        };
        let (host, port) = canonical.rsplit_once(':')?;
        let service = read_key(host.strip_suffix(cluster_domain)?.strip_suffix(".svc.")?)?;
        Some(Self { service, port: read_port(port)?, only })
    }

    /// Returns the canonical name.
    pub fn name(&self, cluster_domain: &str) -> Name {
        let canonical = format!("{}:{}", host(&self.service, cluster_domain), self.port);
        match self.only {
            Some(address) => format!("{address}@{canonical}").into(),
            None => canonical.into(),
        }
    }
}

/// Returns the canonical host name of a service, as in DNS.
pub fn host(service: &ServiceKey, cluster_domain: &str) -> String {
    format!("{service}.svc.{cluster_domain}")
}

fn read_port(text: &str) -> Option<u16> {
    let port: u16 = text.parse().ok()?;
    (port != 0 && port.to_string() == text).then_some(port)
}

fn read_key(text: &str) -> Option<ServiceKey> {
    let (name, namespace) = text.split_once('.')?;
    Some(ServiceKey::new(label(namespace)?, label(name)?))
}

/// Returns the text if it is a DNS label (RFC 1123), as the names of services and namespaces are.
fn label(text: &str) -> Option<&str> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (!text.is_empty() && text.len() <= 63 && text.bytes().all(legal)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_read_in_the_namespace_of_the_caller() {
        let cart = Some(Destination::Service(ServiceKey::new("shop", "cart"), 80));
        for name in ["cart:80", "cart.shop:80", "cart.shop.svc:80", "cart.shop.svc.cluster.local:80"] {
            assert_eq!(Destination::parse(name, "shop", "cluster.local"), cart, "{name}");
        }
        assert_ne!(Destination::parse("cart:80", "other", "cluster.local"), cart);
        for name in ["10.0.0.5:80", "[fd00::1]:80"] {
            let address = Some(Destination::Address(name.parse().unwrap()));
            assert_eq!(Destination::parse(name, "shop", "cluster.local"), address);
        }
    }

    #[test]
    fn an_instance_of_a_headless_service_has_a_name_of_three_labels() {
        let first = Some(Destination::Instance(ServiceKey::new("shop", "db"), "db-0".into(), 5432));
        for name in ["db-0.db.shop:5432", "db-0.db.shop.svc:5432", "db-0.db.shop.svc.cluster.local:5432"] {
            assert_eq!(Destination::parse(name, "other", "cluster.local"), first, "{name}");
        }
    }

    #[test]
    fn no_other_spelling_is_a_name() {
        for name in [
            "",
            "cart",
            "Cart:80",
            "cart.:80",
            "cart:080",
            "cart:+80",
            "cart:0",
            "cart:65536",
            ".shop:80",
            "a.b.c.d:80",
            "cart.svc:80",
            "cart.shop.svc.example.org:80",
            "[FD00::1]:80",
            "fd00::1:80",
            "*",
            "inbound|1.2.3.4:80",
        ] {
            assert_eq!(Destination::parse(name, "shop", "cluster.local"), None, "{name}");
        }
    }

    #[test]
    fn canonical_names_survive_the_round_trip() {
        let mut target = Target::service(ServiceKey::new("shop", "cart"), 80);
        for only in [None, Some("10.0.0.5:8080".parse().unwrap()), Some("[fd00::1]:80".parse().unwrap())] {
            target.only = only;
            let name = target.name("cluster.local");
            assert_eq!(Target::parse(&name, "cluster.local"), Some(target.clone()), "{name}");
        }
        assert_eq!(Target::parse("cart.shop:80", "cluster.local"), None);
    }
}
