//! Names on the network: one resolver for the whole process, with its cache.
//!
//! Asked by the channel for the control plane's name, and by the data path (through the server crate) for a passed-on
//! destination that is no service of the mesh. libc's resolver is not used: a static binary has none that works.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::config::{LookupIpStrategy, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{Resolver, TokioResolver};
use thiserror::Error;

/// Answers kept at most, least recently used out first: invented names must not grow the process.
const CACHED_ANSWERS: u64 = 512;

/// A name that does not exist is asked for again after this time at most, whatever its zone says: services come up late.
const ABSENT_AT_MOST: Duration = Duration::from_secs(30);
/// One server's time to answer; a question is sent once more at most.
const ANSWER: Duration = Duration::from_secs(2);

/// The shared resolver. Cheap to clone.
#[derive(Clone)]
pub struct Dns(Arc<TokioResolver>);

/// What a name stands for at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// At least one, IPv4 before IPv6.
    pub addresses: Vec<IpAddr>,
    /// When the answer's TTL ends and the name is to be asked for again; `None` for an address written as such.
    pub valid_until: Option<Instant>,
}

impl Dns {
    /// A resolver that goes by `/etc/resolv.conf` and `/etc/hosts`. A machine without a resolver gets one that knows
    /// addresses and the hosts file.
    pub fn from_system() -> Result<Self, DnsError> {
        let mut builder = Resolver::builder(TokioRuntimeProvider::default()).unwrap_or_else(|error| {
            tracing::info!(%error, "no DNS server is configured; only addresses and the hosts file will resolve");
            Resolver::builder_with_config(ResolverConfig::default(), TokioRuntimeProvider::default())
        });
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.cache_size = CACHED_ANSWERS;
        options.negative_max_ttl = Some(ABSENT_AT_MOST);
        options.timeout = options.timeout.min(ANSWER);
        options.attempts = options.attempts.min(1);
        let resolver = builder.build().map_err(|error| DnsError::Setup(error.to_string()))?;
        Ok(Self(Arc::new(resolver)))
    }

    /// The addresses of a host: itself if it is one already. Cancel-safe.
    pub async fn resolve(&self, host: &str) -> Result<Addresses, DnsError> {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse() {
            return Ok(Addresses { addresses: vec![address], valid_until: None });
        }
        let answer = self.0.lookup_ip(host).await.map_err(|error| DnsError::of(host, error))?;
        let addresses: Vec<_> = answer.iter().collect();
        if addresses.is_empty() {
            return Err(DnsError::NotFound(host.into()));
        }
        Ok(Addresses { addresses, valid_until: Some(answer.valid_until()) })
    }
}

impl std::fmt::Debug for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dns")
    }
}

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DnsError {
    /// The resolver could not be made.
    #[error("the resolver cannot be set up: {0}")]
    Setup(String),
    /// The name does not exist, or has no address.
    #[error("{0:?} does not resolve to an address")]
    NotFound(String),
    /// No answer: a later try may do better.
    #[error("{host:?} cannot be resolved now: {reason}")]
    Unavailable {
        /// What was asked for.
        host: String,
        /// What the resolver said.
        reason: String,
    },
}

impl DnsError {
    fn of(host: &str, error: hickory_resolver::net::NetError) -> Self {
        if error.is_nx_domain() || error.is_no_records_found() {
            return Self::NotFound(host.into());
        }
        Self::Unavailable { host: host.into(), reason: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_resolves_to_itself() {
        let dns = Dns::from_system().unwrap();
        for (host, address) in [("10.0.0.5", "10.0.0.5"), ("[fd00::1]", "fd00::1"), ("fd00::1", "fd00::1")] {
            let answer = dns.resolve(host).await.unwrap();
            assert_eq!(answer.addresses, [address.parse::<IpAddr>().unwrap()]);
        }
    }

    #[tokio::test]
    async fn what_is_no_name_is_an_error() {
        let dns = Dns::from_system().unwrap();
        assert!(dns.resolve("a name..with nothing right").await.is_err());
    }
}
